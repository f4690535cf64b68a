"""What the page of a sweep shows: the score against each cost, and the table of all runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from secateur.report.charts import Chart, Curve
from secateur.report.scatter import Mark, Series, scatter
from secateur.report.scores import Score, listed
from secateur.report.stages import Cell
from secateur.report.sweep import (
    SEED,
    Group,
    Quantity,
    Run,
    Spread,
    Sweep,
    difference,
    groups_of,
    in_words,
    score,
    share_of,
    spread_of,
    times_as_fast,
    write_difference,
    write_score,
)
from secateur.report.view import flat
from secateur.report.words import THIN, amount, milliseconds, plural

#: Costs in the order of the panels: name in the record, and in words.
COSTS = (("macs", "MACs"), ("parameters", "parameters"), ("milliseconds", "measured time"))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table: all runs of a setting, or one of them."""

    label: str
    link: str  # to the run's report; empty for several runs
    cells: tuple[Cell, ...]
    is_part: bool = False  # whether it is one run of the setting above it


@dataclass(frozen=True, kw_only=True)
class SweepView:
    """The page of a sweep; without a score, or without a run that has one, there are no panels."""

    title: str
    kind: str
    sentence: str
    heading: str
    note: str
    series: tuple[Curve, ...]
    panels: tuple[Chart, ...]
    columns: tuple[str, ...]
    dense: Row | None
    settings: tuple[tuple[Row, ...], ...]
    environment: tuple[tuple[str, str], ...]


def sweep_view(sweep: Sweep) -> SweepView:
    """What the page shows of the record of a sweep."""
    groups = groups_of(sweep)
    series = _series(sweep, groups)
    panels = _panels(sweep, series) if sweep.score else ()
    return SweepView(
        title=sweep.name or sweep.kind,
        kind=sweep.kind,
        sentence=_sentence(sweep),
        heading=f"{sweep.score.title} against cost" if sweep.score else "",
        note=_note(sweep),
        series=tuple(Curve(name=name, points=(), colour=index) for index, name in enumerate(series)),
        panels=panels,
        columns=_columns(sweep),
        dense=_dense_row(sweep),
        settings=tuple(_rows(sweep, group) for group in groups),
        environment=tuple(flat(sweep.environment)),
    )


def _sentence(sweep: Sweep) -> str:
    """How many runs there are, and how far they reach."""
    parts = [plural(len(sweep.rows), "run") + (f" over {listed(sweep.fields)}" if sweep.fields else "")]
    for cost, words in COSTS[:2]:
        ends = _ends(sweep.rows, share_of(cost))
        if ends:
            low, high = (f"{100 * end:.0f}" for end in ends)
            parts.append(
                f"{low if low == high else f'{low} to {high}'}{THIN}% of the {words}".replace(" ", "\u00a0", 2)
            )
    ends = _ends(sweep.rows, score)
    if sweep.score and ends:
        words = "\u00a0to\u00a0".join(dict.fromkeys(map(sweep.score.write, ends)))
        parts.append(f"{sweep.score.phrase} {words}")
    return ", ".join(parts) + "."


def _ends(runs: Sequence[Run], quantity: Quantity) -> tuple[float, float] | None:
    """The lowest and the highest value among the runs that have one."""
    known = [value for run in runs if (value := quantity(run)) is not None and math.isfinite(value)]
    return (min(known), max(known)) if known else None


def _note(sweep: Sweep) -> str:
    """How to read the figures."""
    sentences = [f"{sweep.score.direction.capitalize()}."] if sweep.score and sweep.score.direction else []
    if any(len(group.runs) > 1 for group in groups_of(sweep)):
        sentences.append("Means over seeds; \u00b1 and bars are the sample standard deviation.")
    sentences.append("Each run is compared with the dense model that was measured beside it.")
    for run in sweep.failed:
        values = ", ".join(f"{name}\u00a0{in_words(value)}" for name, value in run.values.items())
        sentences.append(f"Not done: {values}. {run.reason}")
    return " ".join(sentences)


def _columns(sweep: Sweep) -> tuple[str, ...]:
    length = f", {sweep.samples / sweep.sample_rate:g}\u00a0s of audio" if sweep.samples else ""
    columns = ("Setting", "Parameters", f"MACs{length}", "Measured time", "Times as fast")
    return (*columns, sweep.score.title, "Against dense") if sweep.score else columns


def _rows(sweep: Sweep, group: Group) -> tuple[Row, ...]:
    """All runs of a setting, and each of them where they are several."""
    if len(group.runs) == 1:
        run = group.runs[0]
        seed = f", seed\u00a0{in_words(run.values[SEED])}" if SEED in run.values else ""
        return (Row(label=group.label + seed, link=_link(run), cells=_cells(sweep, group.runs)),)
    parts = [Row(label=_name(run), link=_link(run), cells=_cells(sweep, [run]), is_part=True) for run in group.runs]
    return (Row(label=group.label, link="", cells=_cells(sweep, group.runs)), *parts)


def _name(run: Run) -> str:
    return f"seed\u00a0{in_words(run.values[SEED])}" if SEED in run.values else run.folder or "–"


def _link(run: Run) -> str:
    """The way to the run's report; nothing where the folder is not one beside the record."""
    if not run.folder.strip(".") or "/" in run.folder or "\\" in run.folder:
        return ""
    return f"./{quote(run.folder, safe='=,+')}/report.html"


def _cells(sweep: Sweep, runs: Sequence[Run]) -> tuple[Cell, ...]:
    cells = []
    for cost, write in (("parameters", amount), ("macs", _macs), ("milliseconds", milliseconds)):
        share = spread_of(runs, share_of(cost))
        kept = spread_of(runs, lambda run, cost=cost: getattr(run.kept, cost))  # type: ignore[misc]
        cells.append(Cell(main=share.percent() if share else "–", more=write(kept.mean) if kept else ""))
    fast = spread_of(runs, times_as_fast)
    cells.append(Cell(main=fast.write(unit="×") if fast else "–"))
    if sweep.score:
        cells.append(Cell(main=write_score(sweep.score, spread_of(runs, score))))
        cells.append(Cell(main=write_difference(sweep.score, spread_of(runs, difference))))
    return tuple(cells)


def _macs(value: float) -> str:
    return amount(value, "MAC")


def _dense_row(sweep: Sweep) -> Row | None:
    """The dense model, where all runs have the same."""
    if len(_dense(sweep)) != 1:
        return None
    first = sweep.rows[0].dense
    time = spread_of(sweep.rows, lambda run: run.dense.milliseconds)
    cells = [
        Cell(main=amount(first.parameters)),
        Cell(main=amount(first.macs, "MAC")),
        Cell(main=milliseconds(time.mean) if time else "–"),
        Cell(main="1×"),
    ]
    if sweep.score:
        cells += [Cell(main=write_score(sweep.score, _dense_score(sweep.rows))), Cell(main="–")]
    return Row(label="dense", link="", cells=tuple(cells))


def _dense(sweep: Sweep) -> dict[tuple[int | None, int | None], list[Run]]:
    """The runs by their dense model, told apart by its size."""
    found: dict[tuple[int | None, int | None], list[Run]] = {}
    for run in sweep.rows:
        found.setdefault((run.dense.parameters, run.dense.macs), []).append(run)
    return found


def _dense_score(runs: Sequence[Run]) -> Spread | None:
    """The score of the dense models of these runs; one that is always the same has no spread to speak of."""
    spread = spread_of(runs, lambda run: run.dense.score)
    if spread and len({run.dense.score for run in runs}) == 1:
        return Spread(mean=spread.mean, deviation=0.0, count=1)
    return spread


def _series(sweep: Sweep, groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Settings that differ in their target alone, by what else was set."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        rest = [f"{name}\u00a0{value}" for name, value in group.values.items() if not _is_target(name)]
        found.setdefault(", ".join(rest) or "all targets", []).append(group)
    return found


def _is_target(name: str) -> bool:
    """Whether a field says how much is kept: ``target``, ``target_ms``, ``constraints.0.target``."""
    return name.rpartition(".")[2].startswith("target")


def _panels(sweep: Sweep, series: dict[str, list[Group]]) -> tuple[Chart, ...]:
    """The score against each cost that was measured."""
    assert sweep.score is not None
    panels = []
    for cost, words in COSTS:
        found = [
            Series(name=name, marks=tuple(_marks(sweep.score, groups, cost, words)), colour=colour)
            for colour, (name, groups) in enumerate(series.items())
        ]
        if not any(one.marks for one in found):
            continue
        title = f"Against {words}"
        svg = scatter(
            found,
            dense=_dense_marks(sweep, cost),
            name=f"score-{cost}",
            title=f"{sweep.score.title} against {words}",
            x_label=f"{words}, % of dense",
            unit=f"{THIN}%" if sweep.score.is_share else "",
        )
        panels.append(Chart(title=title, svg=svg))
    return tuple(panels)


def _marks(of: Score, groups: Sequence[Group], cost: str, words: str) -> list[Mark]:
    """The points of settings that have both the cost and the score."""
    found = []
    factor = 100 if of.is_share else 1
    for group in groups:
        x, y = spread_of(group.runs, share_of(cost)), spread_of(group.runs, score)
        if x is None or y is None:
            continue
        targets = [value for name, value in group.values.items() if _is_target(name)]
        found.append(
            Mark(
                label=", ".join(targets or group.values.values()),
                tip=f"{group.label}: {x.percent()} of the {words}, {of.title} {write_score(of, y)}",
                x=100 * x.mean,
                y=factor * y.mean,
                x_spread=100 * x.deviation,
                y_spread=factor * y.deviation,
            )
        )
    return found


def _dense_marks(sweep: Sweep, cost: str) -> list[Mark]:
    """The dense models at all of their cost, where they have a score."""
    assert sweep.score is not None
    factor = 100 if sweep.score.is_share else 1
    found = []
    for runs in _dense(sweep).values():
        y = _dense_score(runs)
        if y is not None and all(getattr(run.dense, cost) for run in runs):
            found.append(
                Mark(
                    label="dense",
                    tip=f"dense: {sweep.score.title} {write_score(sweep.score, y)}",
                    x=100.0,
                    y=factor * y.mean,
                    y_spread=factor * y.deviation,
                )
            )
    return found
