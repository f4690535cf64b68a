"""Times of every block of every shape that a latency table is fitted to, measured in a separate process.

Shapes take turns, round by round, so that a stretch in which the machine is slow falls on all of them alike; a block's
time is the median over rounds, as `bench` takes it, whose sums are near the medians of sums (those of minima are not).
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from secateur.benchmarking.bench import make_audio
from secateur.benchmarking.block_timer import block_timer
from secateur.benchmarking.isolated_process import report_step, serve
from secateur.benchmarking.latency.shapes import ModelShape, architecture_view, shapes_to_measure, time_key
from secateur.records.block_part import REST

if TYPE_CHECKING:
    from secateur.hf.model_view import ModelView

ROUNDS = 7
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def measure(job: Mapping[str, Any]) -> dict[str, Any]:
    """Measure the milliseconds of every block of every shape, and of the rest of the model.

    Args:
        job: ``architecture``, ``sample_rate`` and the fields of `Conditions`.

    Returns:
        ``rows``: of each shape its widths, and ``ms`` by part and layer (`time_key`), with ``rest`` and ``whole``.
    """
    import torch

    measured_shapes = shapes_to_measure(job["architecture"])
    views = [build_model_of_shape(shape, job["architecture"], job["dtype"]) for shape in measured_shapes]
    audio = make_audio(views[0].structure, job["sample_rate"], job["seconds"], job["batch"], job["dtype"])
    times: list[dict[str, list[float]]] = [{} for _ in views]
    rounds, step = job.get("rounds", ROUNDS), 0
    with torch.inference_mode():
        for round_index in range(rounds + 1):  # the first one warms up
            for view, block_times in zip(views, times, strict=True):
                for name, seconds in _forward(view, audio).items():
                    block_times.setdefault(name, []).extend([1e3 * seconds] if round_index else [])
                step += 1
                report_step(step, len(views) * (rounds + 1))
    rows = [
        {
            "name": shape.name,
            "channels": shape.channels,
            "groups": shape.groups,
            "heads": shape.heads,
            "units": shape.units,
            "ms": {name: statistics.median(values) for name, values in block_times.items()},
        }
        for shape, block_times in zip(measured_shapes, times, strict=True)
    ]
    return {"rows": rows}


def build_model_of_shape(shape: ModelShape, architecture: Mapping[str, Any], dtype: str) -> ModelView:
    """Build a model of a shape with random weights, in inference-only form."""
    import torch

    from secateur.hf.model_view import ModelView
    from secateur.hf.models import build_model
    from secateur.inference import inference_view
    from secateur.structure import normalize
    from secateur.surgery.cut import cut_config

    fields = dict(architecture) | {"num_hidden_layers": len(shape.units)}
    if shape.name == "front end":  # what stands behind it is not measured, and need not fill the memory
        fields |= {"num_conv_pos_embeddings": 2}
    if shape.name in ("front end", "positions"):
        fields |= {"intermediate_size": 1}
    dense = architecture_view(fields)
    structure = dense.structure
    cut_config_view = cut_config(dense, structure, normalize(structure, shape.selection(structure)).selection)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(cut_config_view.config)
    return inference_view(ModelView(model.eval().requires_grad_(False).to(getattr(torch, DTYPES[dtype]))))


def _forward(view: ModelView, audio: Any) -> dict[str, float]:
    """Return the seconds of one forward pass by block, of the rest, and of the whole pass."""
    with block_timer(view.model, view.structure.timed_blocks) as block_seconds:
        start = time.perf_counter()
        view.model(audio)
        total_seconds = time.perf_counter() - start
    times = {time_key(block.part, block.layer): seconds for block, seconds in block_seconds.items()}
    return {**times, REST: total_seconds - sum(times.values()), "whole": total_seconds}


if __name__ == "__main__":
    sys.exit(serve(measure))
