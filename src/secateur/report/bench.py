"""Measured time and memory of models side by side, and where the time goes, from the record that `bench` left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import pydantic

from secateur.records import read_json
from secateur.report.costs import Bar, Segment, stacked
from secateur.report.record import Count, checked
from secateur.report.stages import Cell
from secateur.report.words import figure, milliseconds, plural, share

Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]

#: Blocks in the order of the data; the colour of each is its place, as among the parts of a cost.
BLOCKS = ("front end", "projection", "positional conv", "attention", "feed-forward", "rest", "convolution")
COLUMNS = (
    "Model",
    "Audio",
    "Time of a pass",
    "Speed-up",
    "Real-time factor",
    "Throughput",
    "Peak memory",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model in one form and case."""

    name: str
    form: str = ""
    weights: str = ""
    seconds: Positive
    batch: Count
    dtype: str = ""
    threads: Count | None = None
    median_ms: Positive
    low_ms: Positive
    high_ms: Positive
    ratio: Positive | None = None
    real_time_factor: Positive | None = None
    throughput: Positive | None = None
    peak_mib: Amount | None = None
    blocks_ms: Mapping[str, Amount] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The model and its form."""
        random = " (random weights)" if self.weights == "random" else ""
        return ", ".join(filter(None, (self.name + random, self.form)))

    @property
    def case(self) -> str:
        """What it was measured on."""
        audio = f"{self.batch}\u00a0×\u00a0{self.seconds:g}\u00a0s"
        return ", ".join(filter(None, (audio, self.dtype, plural(self.threads, "thread") if self.threads else "")))


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The record of one `secateur bench`."""

    format: int
    rows: tuple[Row, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CaseView:
    """The time by block of every model in one case, as bars of one scale."""

    title: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, kw_only=True)
class BenchView:
    """What the section shows."""

    conditions: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    cases: tuple[CaseView, ...]
    blocks: tuple[tuple[str, int], ...]  # block, colour
    times: tuple[tuple[str, str, tuple[str, ...]], ...]  # model, case, time in each block


_BENCH = pydantic.TypeAdapter(Bench)


def read_bench(path: Path) -> Bench | None:
    """The record of what was measured; None where there is none.

    Raises:
        SecateurError: It is not JSON, is of another format, or a part is not of its shape.
    """
    return checked(_BENCH, read_json(path), path) if path.is_file() else None


def bench_view(bench: Bench) -> BenchView | None:
    """The table and the bars; None without a row."""
    if not bench.rows:
        return None
    blocks = tuple(dict.fromkeys(name for row in bench.rows for name in row.blocks_ms))
    cases = [(title, list(rows)) for title, rows in groupby(bench.rows, key=lambda row: row.case)]
    return BenchView(
        conditions=_conditions(bench),
        columns=COLUMNS,
        rows=tuple(_cells(row) for row in bench.rows),
        cases=tuple(_case(title, rows, i) for i, (title, rows) in enumerate(cases) if any(map(_total, rows))),
        blocks=tuple((name, _colour(name)) for name in blocks),
        times=tuple(
            (row.label, row.case, tuple(milliseconds(row.blocks_ms.get(name)) for name in blocks)) for row in bench.rows
        ),
    )


def _conditions(bench: Bench) -> str:
    found = bench.environment
    parts = [str(found["cpu"])] if found.get("cpu") else []
    if found.get("float32_products"):
        parts.append(f"float32 products {found['float32_products']}")
    if "malloc" in found:
        parts.append(f"large buffers {'stay in the process' if found['malloc'] else 'go back to the system'}")
    if bench.config.get("repeats"):
        parts.append(f"medians of {bench.config['repeats']} runs in turn, lowest and highest below")
    return "; ".join(parts) + "." if parts else ""


def _cells(row: Row) -> tuple[Cell, ...]:
    return (
        Cell(main=row.name, more=", ".join(filter(None, (row.form, "random weights" * (row.weights == "random"))))),
        Cell(main=row.case),
        Cell(main=milliseconds(row.median_ms), more=f"{milliseconds(row.low_ms)} to {milliseconds(row.high_ms)}"),
        Cell(main=f"{figure(row.ratio)}×" if row.ratio else "–"),
        Cell(main=figure(row.real_time_factor)),
        Cell(main=figure(row.throughput), more="s of audio per s" if row.throughput else ""),
        Cell(main=f"{figure(row.peak_mib)}\u202fMiB" if row.peak_mib is not None else "–"),
    )


def _case(title: str, rows: Sequence[Row], index: int) -> CaseView:
    """Bars of one scale, one model below the other."""
    whole = max(_total(row) for row in rows)
    bars = []
    for place, row in enumerate(rows):
        total = _total(row)
        segments = [
            Segment(
                part=name,
                colour=_colour(name),
                value=taken,
                text=f"{name}: {milliseconds(taken)} ({share(taken / total)} of this model)",
            )
            for name, taken in row.blocks_ms.items()
            if taken
        ]
        name, words = f"bench-{index}-{place}", milliseconds(total)
        bars.append(stacked(row.label, segments, whole=whole, total=words, name=name, title="Time by block,"))
    return CaseView(title=title, bars=tuple(bars))


def _total(row: Row) -> float:
    return sum(row.blocks_ms.values())


def _colour(block: str) -> int:
    return BLOCKS.index(block) if block in BLOCKS else BLOCKS.index("rest")
