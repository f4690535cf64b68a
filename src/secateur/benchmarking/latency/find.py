"""Tables of measured latencies, kept in the cache by machine, versions, architecture and conditions."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.benchmarking.isolated_process import PROCESS_SETTINGS, StepCallback, measure_in_subprocess
from secateur.cache import cache_folder
from secateur.cost.latency_table import Conditions, LatencyTable
from secateur.data.corpus import SAMPLE_RATE
from secateur.errors import ConfigError, SecateurError
from secateur.records.block_part import ATTENTION, FEED_FORWARD, FRONT_END, POSITIONAL_CONV, PROJECTION, REST
from secateur.records.environment import Environment, usable_cores
from secateur.records.files import plain, write_json

if TYPE_CHECKING:
    from secateur.hf.model_view import ConfigView

logger = logging.getLogger(__name__)

#: Folders and files of this package whose code decides how fast a model is, or how its time is measured.
HASHED_SOURCES = (
    "architectures",
    "benchmarking/block_timer.py",
    "benchmarking/isolated_process.py",
    "benchmarking/latency",
    "benchmarking/process_settings.py",
    "hf/configs.py",
    "hf/models.py",
    "inference",
    "nn",
)
_PACKAGE_ROOT = Path(__file__).parents[2]
#: Parts of an encoder of which a table holds times.
MEASURED_PARTS = (FRONT_END, PROJECTION, POSITIONAL_CONV, ATTENTION, FEED_FORWARD, REST)
#: Fields of a config without influence on time.
_IGNORED_FIELDS = (
    "_name_or_path",
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "torch_dtype",
    "transformers_version",
)


def load_or_measure_table(
    view: ConfigView, conditions: Conditions, *, sample_rate: int = SAMPLE_RATE, on_step: StepCallback | None = None
) -> LatencyTable:
    """Return the table of a model's architecture, cut or not, from the cache or measured now.

    Args:
        view: A model of a supported family, or its config.
        conditions: Conditions of the measurement.
        sample_rate: Hertz, of the audio that the model takes.
        on_step: Called with the progress of measuring.

    Raises:
        ConfigError: The conditions are impossible on this machine, or blocks of this family are not measured.
        SecateurError: Measuring failed.
    """
    _check_blocks(view)
    conditions = _resolve_conditions(view, conditions, sample_rate)
    architecture = dense_architecture(view.config)
    key_fields = table_key_fields(architecture, conditions, sample_rate)
    path = cache_folder("latency") / f"{_hash_fields(key_fields)}.json"
    table = _load_cached(path, key_fields)
    if table is None:
        table = _measure_table(architecture, conditions, key_fields, on_step)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, table.to_json())
        except OSError as error:
            logger.warning("the table of latencies is not kept for other runs: %s", error)
    return table


def _check_blocks(view: ConfigView) -> None:
    """Raise a ConfigError if the encoder has a part that is not measured, or lacks a part that a table has.

    Measuring a part takes an inference-only form of its modules, shapes that vary its widths (`shapes_to_measure`), and
    a curve in `LatencyTable`. Convolution modules of Conformers and two-dimensional front ends have none of these.
    """
    parts = {block.part for block in view.structure.blocks}
    unmeasured = sorted(parts - set(MEASURED_PARTS)) or sorted(set(MEASURED_PARTS) - parts)
    if unmeasured:
        reason = "are not measured" if unmeasured[0] in parts else "are missing, which a table of latencies measures"
        raise ConfigError(
            f"There is no cost 'latency' for {view.model_type} models: blocks of the kind {', '.join(unmeasured)} "
            f"{reason}."
        )


def dense_architecture(config: Any) -> dict[str, Any]:
    """Return the fields of the stock config of the original dense model, equal for the dense and every cut model."""
    fields: dict[str, Any] = plain(config.to_dict())
    original = (fields.pop("secateur", None) or {}).get("original", {})
    fields |= original
    return {name: value for name, value in sorted(fields.items()) if name not in _IGNORED_FIELDS}


def table_key_fields(architecture: Mapping[str, Any], conditions: Conditions, sample_rate: int) -> dict[str, Any]:
    """Return the fields that decide the content of a table, the key of a cached table."""
    machine = Environment.current()
    versions = machine.versions or {}
    return {
        "cpu": machine.cpu,
        "cores": machine.cores,
        "platform": machine.platform,
        "versions": {name: versions[name] for name in ("torch", "transformers")},
        "code": code_hash(),
        "settings": {name: os.environ.get(name, value) for name, value in PROCESS_SETTINGS.items()},
        "conditions": asdict(conditions),
        "sample_rate": sample_rate,
        "architecture": dict(architecture),
    }


def _resolve_conditions(view: ConfigView, conditions: Conditions, sample_rate: int) -> Conditions:
    """Return the conditions with the number of threads filled in.

    Raises:
        ConfigError: More threads than cores, or audio too short for one frame.
    """
    import torch

    cores = usable_cores()
    threads = conditions.threads or torch.get_num_threads()
    if threads > cores:
        raise ConfigError(
            f"latency.threads: got {threads}, allowed is 1 to {cores}, the cores that this process may use."
        )
    min_samples = view.structure.min_samples
    if round(sample_rate * conditions.seconds) < min_samples:
        raise ConfigError(
            f"latency.seconds: got {conditions.seconds:g}, allowed is at least {min_samples / sample_rate:g}: one "
            f"frame needs {min_samples} samples."
        )
    return replace(conditions, threads=threads)


def hashed_files(package_root: Path = _PACKAGE_ROOT) -> list[Path]:
    """Return the source files that `HASHED_SOURCES` names, including all sub-folders of folders."""
    files: list[Path] = []
    for name in HASHED_SOURCES:
        source = package_root / name
        assert source.exists(), f"the cache key of latency tables hashes {name}, which is missing: was it moved?"
        files += sorted(source.rglob("*.py")) if source.is_dir() else [source]
    return files


def code_hash(package_root: Path = _PACKAGE_ROOT) -> str:
    """Return a hash of the names and contents of `hashed_files`."""
    digest = hashlib.sha256()
    for path in hashed_files(package_root):
        # Zero bytes separate names from contents, so that no two sets of files give the same bytes.
        digest.update(path.relative_to(package_root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _hash_fields(key_fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key_fields, sort_keys=True).encode()).hexdigest()[:16]


def _load_cached(path: Path, key_fields: Mapping[str, Any]) -> LatencyTable | None:
    """Load a table from the cache; return `None` without a file, or with a file that cannot be trusted."""
    if not path.exists():
        return None
    try:
        table = LatencyTable.load(path)
        if plain(table.decides) == plain(key_fields):
            return table
        reason = "it was measured for something else"
    except (SecateurError, OSError) as error:
        reason = str(error).removeprefix(f"{path}: ").rstrip(".")
    logger.warning("the cached table of latencies %s is left aside and measured anew: %s", path, reason)
    return None


def _measure_table(
    architecture: Mapping[str, Any], conditions: Conditions, key_fields: Mapping[str, Any], on_step: StepCallback | None
) -> LatencyTable:
    """Measure in a separate process and fit a table."""
    from secateur.benchmarking.latency.fit import fit_table_parts, predicted_to_measured

    logger.info("measuring the latency of blocks, %s", conditions)
    job = {"architecture": dict(architecture), "sample_rate": key_fields["sample_rate"], **asdict(conditions)}
    rows = measure_in_subprocess(
        "secateur.benchmarking.latency.measure",
        job,
        threads=conditions.threads,
        tuned=conditions.tuned,
        on_step=on_step,
    )["rows"]
    parts, errors = fit_table_parts(architecture, rows)
    table = LatencyTable(model_type=architecture["model_type"], conditions=conditions, decides=key_fields, **parts)
    return replace(table, agreement={"fitted": errors, "whole": predicted_to_measured(architecture, rows, table)})
