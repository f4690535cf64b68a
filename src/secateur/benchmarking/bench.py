"""Measured time and memory of models side by side, in a common process, in turn and under the same settings.

The measuring is done by processes of its own, `python -m secateur.benchmarking.bench`.
"""

from __future__ import annotations

import json
import logging
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.benchmarking.block_timer import block_timer
from secateur.benchmarking.isolated_process import measure_in_subprocess, serve
from secateur.benchmarking.timing import interleave_timings
from secateur.errors import ConfigError
from secateur.records.bench_record import BenchRecord, BenchRow
from secateur.records.block_part import REST
from secateur.records.environment import Environment, usable_cores
from secateur.records.files import plain

if TYPE_CHECKING:
    from torch import Tensor

    from secateur.hf.model_view import ModelView
    from secateur.structure import Structure

logger = logging.getLogger(__name__)

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
FORMS = ("as it is", "for_inference")
_MAX_SECONDS = 3600.0  # seconds


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Models and cases of a benchmark."""

    models: tuple[str, ...]
    """Folders, config files or hub ids; the first is what the others are compared with. Of a folder that has no weights
    the shape is measured, with random ones."""
    forms: tuple[str, ...] = FORMS
    """``as it is``, ``for_inference``."""
    seconds: tuple[float, ...] = (10.0,)
    """Audio lengths."""
    batches: tuple[int, ...] = (1,)
    """Batch sizes."""
    dtypes: tuple[str, ...] = ("fp32",)
    """``fp32``, ``bf16``."""
    threads: tuple[int, ...] = ()
    """Numbers of CPU threads; empty for torch's default."""
    repeats: int = 9
    """Measurements of each model in each case."""
    tuned: bool = True
    """Keep large buffers in the process, and let float32 products take the faster library where that is as exact, as
    `prune` does; else leave the process as it is."""
    memory: bool = True
    """Whether peak memory is measured too, each in a process of its own."""

    def __post_init__(self) -> None:
        problems = [
            f"{name}: got {value}, allowed is above 0."
            for name, values in (("batch", self.batches), ("repeats", (self.repeats,)))
            for value in values
            if value < 1
        ]
        problems += [
            f"seconds: got {value:g}, allowed is above 0 and at most {_MAX_SECONDS:g}."
            for value in self.seconds
            if not 0 < value <= _MAX_SECONDS
        ]
        unknown_dtypes = [name for name in self.dtypes if name not in DTYPES]
        problems += [f"dtype: got {name!r}, allowed are {', '.join(DTYPES)}." for name in unknown_dtypes]
        cores = usable_cores()
        problems += [
            f"threads: got {value}, allowed is 1 to {cores}, the cores that this process may use."
            for value in self.threads
            if not 1 <= value <= cores
        ]
        # "runs/a/model" and "./runs/a/model" are the same model.
        names = [str(Path(name).resolve()) if Path(name).exists() else name for name in self.models]
        values_by_field: dict[str, Sequence[Any]] = {"model": names, "seconds": self.seconds, "batch": self.batches}
        for field_name, values in (values_by_field | {"dtype": self.dtypes, "threads": self.threads}).items():
            duplicates = sorted({str(value) for value in values if values.count(value) > 1})
            if duplicates:
                problems.append(f"{field_name}: got {duplicates[0]} twice, allowed is once.")
        if problems:
            raise ConfigError(" ".join(problems))


def bench(config: BenchConfig) -> BenchRecord:
    """Measure every model in stock and inference-only form, and record the machine.

    Returns:
        A record. Of each row `real_time_factor` is the median time over the length of one utterance, and `throughput`
        the seconds of audio in a second of time, over the whole batch.

    Raises:
        SecateurError: A model cannot be loaded, or a measuring process failed.
    """
    job = asdict(config)
    measured = _measure(config, job | {"kind": "time", "sample_rates": _check_sample_rates(config)})
    time_record = BenchRecord.from_dict(measured, path="bench")
    rows = time_record.rows
    if config.memory:
        rows = tuple(replace(row, peak_mib=_measure_peak(config, job, row)) for row in rows)
    return replace(time_record, rows=rows, config=plain(job))


def _measure_peak(config: BenchConfig, job: dict[str, Any], row: BenchRow) -> float | None:
    """Return the peak memory of the model and case of a row in MiB, measured in a separate process."""
    logger.info("memory of %s, %s", row.model, row.form)
    peak_mib: float | None = _measure(config, job | {"kind": "memory", "row": row.to_dict()})["peak_mib"]
    return peak_mib


def _check_sample_rates(config: BenchConfig) -> dict[str, int]:
    """Return the sampling rate of each model; raise a SecateurError for mistakes that can be seen before measuring."""
    from secateur.hf.feature_extractor import read_sample_rate
    from secateur.hf.load import load_config_view
    from secateur.inference import INFERENCE_MODEL_TYPES

    sample_rates: dict[str, int] = {}
    for name in config.models:
        structure = load_config_view(name).structure
        sample_rates[name] = read_sample_rate(name)
        if structure.model_type not in INFERENCE_MODEL_TYPES and FORMS[1] in config.forms:
            logger.warning("%s has no inference-only form: it is measured as it is", name)
            if FORMS[0] not in config.forms:
                raise ConfigError(f"forms: got {FORMS[1]!r}, allowed is {FORMS[0]!r}: {name!r} has no other.")
        min_samples, sample_rate = structure.min_samples, sample_rates[name]
        short_lengths = [seconds for seconds in config.seconds if round(sample_rate * seconds) < min_samples]
        if short_lengths:
            raise ConfigError(
                f"seconds: got {short_lengths[0]:g}, allowed is at least {min_samples / sample_rate:g}: one frame of "
                f"{name!r} needs {min_samples} samples."
            )
    return sample_rates


def _measure(config: BenchConfig, job: dict[str, Any]) -> dict[str, Any]:
    return measure_in_subprocess(
        "secateur.benchmarking.bench", job, threads=max(config.threads, default=None), tuned=config.tuned
    )


def _measure_time(job: dict[str, Any]) -> dict[str, Any]:
    """Measure every model and form in every case, interleaved."""
    import torch

    from secateur.hf.load import load_config_view
    from secateur.inference import INFERENCE_MODEL_TYPES

    rows: list[BenchRow] = []
    environment = Environment.current()  # before threads are set
    names = short_names(job["models"])
    structures = {name: load_config_view(name).structure for name in job["models"]}
    rates = job["sample_rates"]
    cases = list(product(job["threads"] or [torch.get_num_threads()], job["seconds"], job["batches"]))
    for dtype in job["dtypes"]:
        models = {
            (name, form): _load(name, form, dtype).model
            for name in job["models"]
            for form in job["forms"]
            if form == FORMS[0] or structures[name].model_type in INFERENCE_MODEL_TYPES
        }
        for threads, seconds, batch in cases:
            torch.set_num_threads(threads)
            case: dict[str, Any] = {"seconds": seconds, "batch": batch, "dtype": dtype, "threads": threads}
            audio = {key: make_audio(structures[key[0]], rates[key[0]], seconds, batch, dtype) for key in models}
            with torch.inference_mode():
                # Names of timings are text: ('model', 'as it is') -> '["model", "as it is"]'.
                runs = {json.dumps(key): partial(_forward, model, audio[key]) for key, model in models.items()}
                timings = interleave_timings(runs, repeats=job["repeats"], warmup=2)
                blocks = {
                    key: _measure_blocks(model, structures[key[0]], audio[key], job["repeats"])
                    for key, model in models.items()
                }
            reference_ms = timings[json.dumps((job["models"][0], job["forms"][0]))].median_ms
            for key in models:
                timing = timings[json.dumps(key)]
                rows.append(
                    BenchRow(
                        model=key[0],
                        name=names[key[0]],
                        form=key[1],
                        weights="random" if _has_no_weights(key[0]) else "loaded",
                        **case,
                        sample_rate=rates[key[0]],
                        **asdict(timing),
                        # 4 utterances of 10 s in 200 ms: real-time factor 0.02, throughput 200.
                        real_time_factor=timing.median_ms / 1e3 / seconds,
                        throughput=batch * seconds / (timing.median_ms / 1e3),
                        # Above 1 where the model is faster than the first.
                        ratio=reference_ms / timing.median_ms,
                        blocks_ms=blocks[key],
                    )
                )
    return BenchRecord(rows=tuple(rows), environment=environment).to_dict()


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Return the last two or more parts of each path, as many as make the names distinct."""
    longest = max(len(Path(name).parts) for name in models)
    for count in range(2, longest + 1):
        # "runs/a/model", "runs/b/model": the last two parts, "a/model" and "b/model", are distinct.
        names = {name: "/".join(Path(name).parts[-count:]) for name in models}
        if len(set(names.values())) == len(names):
            return names
    return {name: name for name in models}


def _measure_memory(job: dict[str, Any]) -> dict[str, Any]:
    """Return the peak memory of a model in a case, above a process that has only loaded torch."""
    import torch

    row = job["row"]
    torch.set_num_threads(row["threads"])
    baseline_kib = _process_memory_kib("VmRSS")  # resident memory at this moment
    view = _load(row["model"], row["form"], row["dtype"])
    audio = make_audio(view.structure, row["sample_rate"], row["seconds"], row["batch"], row["dtype"])
    _reset_peak_memory()
    with torch.inference_mode():
        for _ in range(2):
            _forward(view.model, audio)
    peak_kib = _process_memory_kib("VmHWM")  # largest resident memory since the reset
    return {"peak_mib": None if baseline_kib is None or peak_kib is None else (peak_kib - baseline_kib) / 1024}


def _load(name: str, form: str, dtype: str) -> ModelView:
    """Load the encoder of a model in a given form."""
    import torch

    from secateur.hf.load import load_config_view, load_view
    from secateur.hf.model_view import ModelView
    from secateur.hf.models import build_model
    from secateur.inference import inference_view

    if _has_no_weights(name):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            view = ModelView(build_model(load_config_view(name).encoder_config))
    else:
        view = load_view(name)
    view = view.encoder_view
    view.model.eval().to(getattr(torch, DTYPES[dtype])).requires_grad_(False)
    return inference_view(view) if form == "for_inference" else view


def _has_no_weights(name: str) -> bool:
    from secateur.hf.weight_files import find_weights_file

    folder = Path(name)
    return folder.suffix == ".json" or (folder.is_dir() and find_weights_file(folder) is None)


def make_audio(structure: Structure, sample_rate: int, seconds: float, batch: int, dtype: str) -> Tensor:
    """Return random audio of a rate in hertz as a model's input: (B, S), or (B, positions, width) of features."""
    import torch

    shape = structure.input_shape(batch, round(sample_rate * seconds))
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return values.to(getattr(torch, DTYPES[dtype]))


def _forward(model: Any, audio: Tensor) -> Tensor:
    return model(audio).last_hidden_state  # type: ignore[no-any-return]


def _measure_blocks(model: Any, structure: Structure, audio: Tensor, repeats: int) -> dict[str, float]:
    """Return the median milliseconds in each part of the encoder, and in the rest of a pass."""
    parts = [block.part for block in structure.timed_blocks]
    passes: list[dict[str, float]] = []
    with block_timer(model, structure.timed_blocks) as block_seconds:
        for _ in range(repeats + 1):  # the first pass warms up and is left out
            start = time.perf_counter()
            _forward(model, audio)
            total_seconds = time.perf_counter() - start
            part_seconds = dict.fromkeys(parts, 0.0)
            for block, seconds in block_seconds.items():
                part_seconds[block.part] += seconds
            passes.append({**part_seconds, REST: total_seconds - sum(part_seconds.values())})
    return {part: 1e3 * statistics.median(part_times[part] for part_times in passes[1:]) for part in passes[0]}


def _process_memory_kib(field: str) -> int | None:
    """Return a memory size of the process in KiB from ``/proc``; `None` on systems without ``/proc``."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)


def _reset_peak_memory() -> None:
    """Release the memory that loading needed, and reset the recorded peak."""
    import ctypes
    import gc

    gc.collect()
    try:
        # Freed memory goes back to the system first; writing 5 then sets the peak to the resident memory.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        logger.warning("the peak memory cannot be reset on this system, so that of loading is included")


if __name__ == "__main__":
    sys.exit(serve(lambda job: (_measure_time if job["kind"] == "time" else _measure_memory)(job)))
