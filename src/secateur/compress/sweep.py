"""Sweeps: runs of a recipe with all combinations of values of some fields, and the record of a sweep."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.errors import ConfigError
from secateur.records.environment import Environment
from secateur.records.run import RunRecord, StageRecord
from secateur.records.section import UNRECORDED_SAMPLE_RATE
from secateur.records.sweep_record import FailedRun, ModelMeasurements, SweepRecord, SweepRun

#: The record of a sweep, in its folder.
SWEEP_FILE = "sweep.json"
_UNSAFE_CHARACTERS = re.compile(r"[^\w.+-]")  # replaced in the names of folders


def combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return all combinations of the values of some fields; the last field changes fastest.

    Raises:
        ConfigError: A field has no values or has a value twice, or two runs would share a folder.
    """
    for name, values in grid.items():
        if not values:
            raise ConfigError(f"--sweep {name}: got no values, allowed is a list such as {name}=0.9,0.7,0.5.")
        if len({str(value) for value in values}) < len(values):
            raise ConfigError(f"--sweep {name}: got a value twice in {', '.join(map(str, values))}.")
        if name == "out":
            raise ConfigError("--sweep out: every run has a folder of its own in the sweep's --out already.")
    # Target 0.5 and 0.3 with seed 0 and 1: (0.5, 0), (0.5, 1), (0.3, 0), (0.3, 1).
    runs = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    folders: dict[str, dict[str, Any]] = {}
    for run in runs:
        # For a folder that is taken, `setdefault` returns the earlier run.
        previous_run = folders.setdefault(folder_of(run), run)
        if previous_run is not run:
            name = next(name for name in grid if run[name] != previous_run[name])
            raise ConfigError(
                f"--sweep {name}: runs of {previous_run[name]} and of {run[name]} would share the folder "
                f"{folder_of(run)!r}."
            )
    return runs


def folder_of(values: Mapping[str, Any]) -> str:
    """Return the name of the folder of a run, such as ``target=0.9,seed=0``."""
    return ",".join(f"{name}={_UNSAFE_CHARACTERS.sub('_', str(value))}" for name, value in values.items())


def sweep_record(
    name: str, folder: Path, runs: Sequence[Mapping[str, Any]], failed: Sequence[tuple[Mapping[str, Any], str]] = ()
) -> SweepRecord:
    """Return the record of a finished sweep: size, MACs, time and score of the dense and the pruned models.

    Args:
        name: Name of the recipe.
        folder: Folder of the sweep, with the folders of the runs.
        runs: Fields of each finished run, at least a single run.
        failed: Fields of each failed run, with the reason.
    """
    records = [RunRecord.read(folder / folder_of(values) / "record.json") for values in runs]
    task, first_stage = records[0].task, records[0].stages[0]
    has_loss = all(stage.loss is not None for stage in records[0].stages)
    # Without a task, models are compared by the distillation loss.
    primary_metric = task.headline if task and task.headline else "loss" if has_loss else None
    rows = [
        SweepRun(
            values=dict(values),
            folder=folder_of(values),
            dense=_measurements(record.stages[0], primary_metric),  # stages: dense, shrunk, recovered
            kept=_measurements(record.stages[-1], primary_metric),
            broken=tuple(check.name for check in record.verification.broken) if record.verification else (),
        )
        for values, record in zip(runs, records, strict=True)
    ]
    return SweepRecord(
        name=name,
        fields=tuple(runs[0]),
        headline=primary_metric,
        better=task.better if task else "lower",
        score_info=task.score_info if task else {},
        environment=Environment.current(),
        samples=first_stage.samples,
        sample_rate=first_stage.sample_rate or UNRECORDED_SAMPLE_RATE,
        rows=tuple(rows),
        failed=tuple(
            FailedRun(values=dict(values), folder=folder_of(values), reason=reason) for values, reason in failed
        ),
    )


def _measurements(stage: StageRecord, primary_metric: str | None) -> ModelMeasurements:
    score = stage.loss if primary_metric == "loss" else stage.scores.get(primary_metric or "")
    milliseconds = stage.time.median_ms if stage.time else None
    return ModelMeasurements(parameters=stage.parameters, macs=stage.macs, milliseconds=milliseconds, score=score)
