"""The verb ``prune``, for a run or a sweep."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from secateur.cli.console_tables import (
    format_fidelity,
    format_score,
    mean,
    print_broken_contract,
    print_rounding,
    print_table,
)
from secateur.cli.field_flags import parse_grid
from secateur.cli.verb import BAD_INPUT, BROKEN_CONTRACT, Recipe, add_recipe_flags, print_record

if TYPE_CHECKING:
    from secateur.records.run import RunRecord, TimeRecord
    from secateur.records.sweep_record import SweepRecord

SUMMARY = "Prune a model: learn, choose, shrink, recover, report."
RECIPE = Recipe(module="secateur.compress.config", config="PruneConfig", value_flags=("sweep",), trains=True)


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_recipe_flags(parser)
    parser.add_argument(
        "--sweep",
        action="append",
        metavar="FIELD=A,B,…",
        help="one run for each value; may be repeated, for each combination: --sweep target=0.9,0.5 --sweep seed=0,1,2",
    )


def run(options: argparse.Namespace, fields: dict[str, Any]) -> int:
    from secateur import pipeline
    from secateur.engine.progress import ProgressDisplay

    if options.sweep:
        grid = parse_grid(options.sweep)
        with ProgressDisplay() as display:
            sweep_record = pipeline.sweep(
                options.recipe, grid=grid, overrides=fields, resume=options.resume, on_progress=display
            )
        print_record(options, sweep_record, print_sweep)
        if sweep_record.failed:
            return BAD_INPUT
        return BROKEN_CONTRACT if any(row.broken for row in sweep_record.rows) else 0
    with ProgressDisplay() as display:
        record = pipeline.prune(options.recipe, overrides=fields, resume=options.resume, on_progress=display)
    print_record(options, record, print_run)
    return 0 if record.verification and record.verification.holds else BROKEN_CONTRACT


def print_run(record: RunRecord) -> None:
    """Print the models of a run side by side, and the paths of model and report."""
    stages = record.stages
    dense_time = stages[0].time  # the first stage is the dense model
    seconds = stages[0].seconds or 0.0
    timed_seconds = dense_time.seconds_of_audio if dense_time else 0.0
    measured = _measured_columns(record)
    rows = []
    for index, stage in enumerate(stages):
        # Millions of parameters, billions of multiply-accumulates.
        sizes = (f"{(stage.parameters or 0) / 1e6:.3f} M", f"{(stage.macs or 0) / 1e9:.4f} G")
        cells = [column[index] for column in measured.values()]
        rows.append((stage.name, *sizes, _format_time(stage.time, dense_time), *cells))
    columns = ("model", "parameters", f"MACs, {seconds:g} s", f"time, {timed_seconds:g} s", *measured)
    print_table("Before and after", columns, rows)
    print_rounding(record.rounding)
    dense_head = stages[0].head
    final_head = stages[-1].head
    if final_head:
        before = f", {dense_head:,} before" if dense_head != final_head else ""
        print(f"Head:   {final_head:,} parameters beside the encoder's{before}")
    print(f"Model:  {record.folder}/model")
    print(f"Report: {record.folder}/report.html")
    if record.verification:
        print_broken_contract(record.verification)


def _format_time(time: TimeRecord | None, dense_time: TimeRecord | None) -> str:
    """Return a measured time and the speed-up over the dense model: ``12.3 ms (1.50x)``."""
    if time is None or dense_time is None:
        return ""
    return f"{time.median_ms:.1f} ms ({dense_time.median_ms / time.median_ms:.2f}x)"


def _measured_columns(record: RunRecord) -> dict[str, list[str]]:
    """Return the cells of every figure that the run measured for some stage."""
    stages = record.stages
    infos = record.task.score_info if record.task else {}
    columns: dict[str, list[str]] = {}
    # Scores of any stage, each once, in the order of first appearance.
    for name in dict.fromkeys(name for stage in stages for name in stage.scores):
        columns[name] = [format_score(name, stage.scores.get(name), infos) for stage in stages]
    columns["held-out loss"] = [format_fidelity(stage.loss) for stage in stages]
    columns["cosine to teacher"] = [format_fidelity(mean(stage.cosine)) for stage in stages]
    # A figure that no stage has is a column of empty texts.
    return {name: cells for name, cells in columns.items() if any(cells)}


def print_sweep(record: SweepRecord) -> None:
    """Print a row for every run of a sweep, and the failed runs."""
    from secateur.report.sweep_table import sweep_table

    columns, rows = sweep_table(record)
    print_table("Sweep", columns, rows)
    print(f"Runs:   {record.folder}")
    print(f"Report: {record.folder}/sweep.html")
    for row in record.rows:
        for name in row.broken:
            print(f"secateur: {row.folder}: contract: {name} does not hold", file=sys.stderr)
    for failure in record.failed:
        print(f"secateur: {failure.folder} failed: {failure.reason}", file=sys.stderr)
