"""View of a sweep: charts of the score against each cost, and the table of all runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from secateur.records.sweep_record import SweepRecord, SweepRun
from secateur.report.charts import Chart, ChartCurve
from secateur.report.formatting import THIN, format_count, format_milliseconds, format_si
from secateur.report.scatter import ScatterMark, ScatterSeries, scatter_chart
from secateur.report.stages import Cell
from secateur.report.sweep_table import (
    SEED_FIELD,
    MeanStd,
    Quantity,
    SeedGroup,
    format_score,
    format_score_difference,
    format_value,
    group_by_seed,
    kept_share,
    mean_std,
    score,
    score_difference,
    speedup,
    sweep_score,
)
from secateur.report.task_scores import Score, join_words
from secateur.report.view import flatten_rows

#: Attribute of `ModelMeasurements` and name for people of each cost, in the order of the panels.
COSTS = (("macs", "MACs"), ("parameters", "parameters"), ("milliseconds", "measured time"))


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """Row of the table: all runs of a setting, or a single run."""

    label: str
    link: str  # relative URL of the report; empty for several runs
    cells: tuple[Cell, ...]
    is_single_run: bool = False  # whether the row is a run of the setting above


@dataclass(frozen=True, kw_only=True)
class SweepView:
    """Content of the page of a sweep; `panels` is empty if no run has a score."""

    title: str
    kind: str
    sentence: str
    heading: str
    note: str
    series: tuple[ChartCurve, ...]
    panels: tuple[Chart, ...]
    columns: tuple[str, ...]
    dense: SweepRow | None
    settings: tuple[tuple[SweepRow, ...], ...]
    environment: tuple[tuple[str, str], ...]


def build_sweep_view(sweep: SweepRecord) -> SweepView:
    """Build the view of a sweep."""
    groups = group_by_seed(sweep)
    series = _series(sweep, groups)
    metric = sweep_score(sweep)
    panels = _panels(sweep, metric, series) if metric else ()
    return SweepView(
        title=sweep.name or sweep.kind,
        kind=sweep.kind,
        sentence=_describe_sweep(sweep),
        heading=f"{metric.title} against cost" if metric else "",
        note=_describe_reading(sweep),
        series=tuple(ChartCurve(name=name, points=(), color=index) for index, name in enumerate(series)),
        panels=panels,
        columns=_column_titles(sweep),
        dense=_dense_row(sweep),
        settings=tuple(_setting_rows(sweep, group) for group in groups),
        environment=tuple(flatten_rows(sweep.environment.to_dict())),
    )


def _describe_sweep(sweep: SweepRecord) -> str:
    """Describe the number of runs and the ranges of costs and scores in a sentence."""
    parts = [format_count(len(sweep.rows), "run") + (f" over {join_words(sweep.fields)}" if sweep.fields else "")]
    for cost, words in COSTS[:2]:
        value_range = _value_range(sweep.rows, kept_share(cost))
        if value_range:
            low, high = (f"{100 * end:.0f}" for end in value_range)
            parts.append(
                f"{low if low == high else f'{low} to {high}'}{THIN}% of the {words}".replace(" ", "\u00a0", 2)
            )
    value_range = _value_range(sweep.rows, score)
    metric = sweep_score(sweep)
    if metric and value_range:
        words = "\u00a0to\u00a0".join(dict.fromkeys(map(metric.format, value_range)))
        parts.append(f"{metric.phrase} {words}")
    return ", ".join(parts) + "."


def _value_range(runs: Sequence[SweepRun], quantity: Quantity) -> tuple[float, float] | None:
    """Return the minimum and maximum over the runs with a finite value."""
    finite_values = [value for run in runs if (value := quantity(run)) is not None and math.isfinite(value)]
    return (min(finite_values), max(finite_values)) if finite_values else None


def _describe_reading(sweep: SweepRecord) -> str:
    """Describe how to read the table and the charts, and list the failed runs."""
    metric = sweep_score(sweep)
    sentences = [f"{metric.direction_text.capitalize()}."] if metric and metric.direction_text else []
    if any(len(group.runs) > 1 for group in group_by_seed(sweep)):
        sentences.append("Means over seeds; \u00b1 and bars are the sample standard deviation.")
    sentences.append("Each run is compared with the dense model that was measured in the same run.")
    for run in sweep.failed:
        values = ", ".join(f"{name}\u00a0{format_value(value)}" for name, value in run.values.items())
        sentences.append(f"Failed: {values}. {run.reason}")
    return " ".join(sentences)


def _column_titles(sweep: SweepRecord) -> tuple[str, ...]:
    length = f", {sweep.samples / sweep.sample_rate:g}\u00a0s of audio" if sweep.samples else ""
    columns = ("Setting", "Parameters", f"MACs{length}", "Measured time", "Times as fast")
    metric = sweep_score(sweep)
    return (*columns, metric.title, "Against dense") if metric else columns


def _setting_rows(sweep: SweepRecord, group: SeedGroup) -> tuple[SweepRow, ...]:
    """Build the row of a setting, followed by a row per run if the setting has several runs."""
    if len(group.runs) == 1:
        run = group.runs[0]
        seed = f", seed\u00a0{format_value(run.values[SEED_FIELD])}" if SEED_FIELD in run.values else ""
        return (SweepRow(label=group.label + seed, link=_report_link(run), cells=_row_cells(sweep, group.runs)),)
    parts = [
        SweepRow(label=_run_label(run), link=_report_link(run), cells=_row_cells(sweep, [run]), is_single_run=True)
        for run in group.runs
    ]
    return (SweepRow(label=group.label, link="", cells=_row_cells(sweep, group.runs)), *parts)


def _run_label(run: SweepRun) -> str:
    return f"seed\u00a0{format_value(run.values[SEED_FIELD])}" if SEED_FIELD in run.values else run.folder or "–"


def _report_link(run: SweepRun) -> str:
    """Return the relative URL of a run's report; empty if the folder is not beside the record."""
    # Only a plain folder name becomes a link: not ".." and not "a/b".
    if not run.folder.strip(".") or "/" in run.folder or "\\" in run.folder:
        return ""
    return f"./{quote(run.folder, safe='=,+')}/report.html"


def _row_cells(sweep: SweepRecord, runs: Sequence[SweepRun]) -> tuple[Cell, ...]:
    cells = []
    for cost, format_cost in (("parameters", format_si), ("macs", _format_macs), ("milliseconds", format_milliseconds)):
        kept_share_stats = mean_std(runs, kept_share(cost))
        kept_cost = mean_std(runs, lambda run, cost=cost: getattr(run.kept, cost))  # type: ignore[misc]
        cells.append(
            Cell(
                text=kept_share_stats.format_percent() if kept_share_stats else "–",
                detail=format_cost(kept_cost.mean) if kept_cost else "",
            )
        )
    speedup_stats = mean_std(runs, speedup)
    cells.append(Cell(text=speedup_stats.format(unit="×") if speedup_stats else "–"))
    metric = sweep_score(sweep)
    if metric:
        cells.append(Cell(text=format_score(metric, mean_std(runs, score))))
        cells.append(Cell(text=format_score_difference(metric, mean_std(runs, score_difference))))
    return tuple(cells)


def _format_macs(value: float) -> str:
    return format_si(value, "MAC")


def _dense_row(sweep: SweepRecord) -> SweepRow | None:
    """Build the row of the dense model; `None` if the runs have different dense models."""
    if len(_group_by_dense(sweep)) != 1:
        return None
    dense_model = sweep.rows[0].dense
    time = mean_std(sweep.rows, lambda run: run.dense.milliseconds)
    cells = [
        Cell(text=format_si(dense_model.parameters)),
        Cell(text=format_si(dense_model.macs, "MAC")),
        Cell(text=format_milliseconds(time.mean) if time else "–"),
        Cell(text="1×"),
    ]
    metric = sweep_score(sweep)
    if metric:
        cells += [Cell(text=format_score(metric, _dense_score(sweep.rows))), Cell(text="–")]
    return SweepRow(label="dense", link="", cells=tuple(cells))


def _group_by_dense(sweep: SweepRecord) -> dict[tuple[int | None, int | None], list[SweepRun]]:
    """Group the runs by parameters and MACs of the dense model."""
    runs_by_dense: dict[tuple[int | None, int | None], list[SweepRun]] = {}
    for run in sweep.rows:
        runs_by_dense.setdefault((run.dense.parameters, run.dense.macs), []).append(run)
    return runs_by_dense


def _dense_score(runs: Sequence[SweepRun]) -> MeanStd | None:
    """Return the mean score of the runs' dense models, without a spread if all scores are equal."""
    mean_score = mean_std(runs, lambda run: run.dense.score)
    # A dense model that is not trained has the same score in every run: a count of 1 omits the deviation.
    if mean_score and len({run.dense.score for run in runs}) == 1:
        return MeanStd(mean=mean_score.mean, std=0.0, count=1)
    return mean_score


def _series(sweep: SweepRecord, groups: Sequence[SeedGroup]) -> dict[str, list[SeedGroup]]:
    """Group settings that differ only in the target, by the label of all further fields."""
    # "gates.kind hard_concrete" -> settings with the same kind of gate and different targets
    groups_by_setting: dict[str, list[SeedGroup]] = {}
    for group in groups:
        other_fields = [f"{name}\u00a0{value}" for name, value in group.values.items() if not _is_target(name)]
        groups_by_setting.setdefault(", ".join(other_fields) or "all targets", []).append(group)
    return groups_by_setting


def _is_target(name: str) -> bool:
    """Return whether a field sets the target of a constraint: ``target_ms``, ``constraints.0.target``."""
    # "constraints.0.target" -> "target"
    return name.rpartition(".")[2].startswith("target")


def _panels(sweep: SweepRecord, metric: Score, series: dict[str, list[SeedGroup]]) -> tuple[Chart, ...]:
    """Draw the score against each measured cost."""
    panels = []
    for cost, words in COSTS:
        series_list = [
            ScatterSeries(name=name, marks=tuple(_marks(metric, groups, cost, words)), color=color)
            for color, (name, groups) in enumerate(series.items())
        ]
        if not any(scatter_series.marks for scatter_series in series_list):
            continue
        title = f"Against {words}"
        svg = scatter_chart(
            series_list,
            dense=_dense_marks(sweep, metric, cost),
            name=f"score-{cost}",
            title=f"{metric.title} against {words}",
            x_label=f"{words}, % of dense",
            unit=f"{THIN}%" if metric.is_share else "",
        )
        panels.append(Chart(title=title, svg=svg))
    return tuple(panels)


def _marks(metric: Score, groups: Sequence[SeedGroup], cost: str, words: str) -> list[ScatterMark]:
    """Build the points of all settings with a cost and a score."""
    marks = []
    factor = 100 if metric.is_share else 1
    for group in groups:
        x, y = mean_std(group.runs, kept_share(cost)), mean_std(group.runs, score)
        if x is None or y is None:
            continue
        targets = [value for name, value in group.values.items() if _is_target(name)]
        marks.append(
            ScatterMark(
                label=", ".join(targets or group.values.values()),
                tooltip=f"{group.label}: {x.format_percent()} of the {words}, {metric.title} {format_score(metric, y)}",
                x=100 * x.mean,
                y=factor * y.mean,
                x_std=100 * x.std,
                y_std=factor * y.std,
            )
        )
    return marks


def _dense_marks(sweep: SweepRecord, metric: Score, cost: str) -> list[ScatterMark]:
    """Build the points of all dense models with a score, at 100 % of the cost."""
    factor = 100 if metric.is_share else 1
    marks = []
    for runs in _group_by_dense(sweep).values():
        y = _dense_score(runs)
        if y is not None and all(getattr(run.dense, cost) for run in runs):
            marks.append(
                ScatterMark(
                    label="dense",
                    tooltip=f"dense: {metric.title} {format_score(metric, y)}",
                    x=100.0,
                    y=factor * y.mean,
                    y_std=factor * y.std,
                )
            )
    return marks
