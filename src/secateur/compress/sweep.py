"""Sweeps: runs of a recipe with all combinations of values of some fields, and the record of a sweep."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.data.corpus import SAMPLE_RATE
from secateur.errors import ConfigError
from secateur.records.files import environment, read_json

FORMAT = 1
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
    runs = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    folders: dict[str, dict[str, Any]] = {}
    for run in runs:
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
) -> dict[str, Any]:
    """Return the record of a finished sweep: size, MACs, time and score of the dense and the pruned models.

    Args:
        name: Name of the recipe.
        folder: Folder of the sweep, with the folders of the runs.
        runs: Fields of each finished run, at least a single run.
        failed: Fields of each failed run, with the reason.
    """
    records = [read_json(folder / folder_of(values) / "record.json") for values in runs]
    task = records[0].get("task") or {}
    primary_metric = task.get("headline", "loss" if all("loss" in stage for stage in records[0]["stages"]) else None)

    def summarize_stage(stage: Mapping[str, Any]) -> dict[str, Any]:
        score = stage.get("loss") if primary_metric == "loss" else stage.get("scores", {}).get(primary_metric)
        return {
            "parameters": stage["parameters"],
            "macs": stage["macs"],
            "milliseconds": stage["time"]["median_ms"],
            "score": score,
        }

    return {
        "format": FORMAT,
        "kind": "sweep",
        "name": name,
        "fields": list(runs[0]),
        "headline": primary_metric,
        "better": task.get("better", "lower"),
        "score_info": task.get("score_info", {}),
        "environment": environment(),
        "samples": records[0]["stages"][0]["samples"],
        "sample_rate": records[0]["stages"][0].get("sample_rate", SAMPLE_RATE),
        "rows": [
            {
                "values": dict(values),
                "folder": folder_of(values),
                "dense": summarize_stage(record["stages"][0]),
                "kept": summarize_stage(record["stages"][-1]),
                "broken": [check["name"] for check in record["verification"]["checks"] if not check["holds"]],
            }
            for values, record in zip(runs, records, strict=True)
        ],
        "failed": [
            {"values": dict(values), "folder": folder_of(values), "reason": reason} for values, reason in failed
        ],
    }
