"""Measured time and memory of models side by side, and where the time goes, from the record that `bench` left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import pydantic

from secateur.records.files import read_json
from secateur.report.costs import BarSegment, StackedBar, stacked_bar
from secateur.report.formatting import format_count, format_milliseconds, format_number, format_percent
from secateur.report.run_view import Count, validate_record
from secateur.report.stages import Cell

Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]

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
class BenchRow:
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
    peak_mib: NonNegative | None = None
    blocks_ms: Mapping[str, NonNegative] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The model and its form."""
        random_note = " (random weights)" if self.weights == "random" else ""
        return ", ".join(filter(None, (self.name + random_note, self.form)))

    @property
    def case(self) -> str:
        """What it was measured on."""
        audio = f"{self.batch}\u00a0×\u00a0{self.seconds:g}\u00a0s"
        return ", ".join(
            filter(None, (audio, self.dtype, format_count(self.threads, "thread") if self.threads else ""))
        )


@dataclass(frozen=True, kw_only=True)
class BenchRecord:
    """The record of one `secateur bench`."""

    format: int
    rows: tuple[BenchRow, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CaseView:
    """The time by block of every model in one case, as bars of one scale."""

    title: str
    bars: tuple[StackedBar, ...]


@dataclass(frozen=True, kw_only=True)
class BenchView:
    """What the section shows."""

    conditions: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    cases: tuple[CaseView, ...]
    blocks: tuple[tuple[str, int], ...]  # block, colour
    times: tuple[tuple[str, str, tuple[str, ...]], ...]  # model, case, time in each block


_BENCH = pydantic.TypeAdapter(BenchRecord)


def read_bench(path: Path) -> BenchRecord | None:
    """The record of what was measured; None where there is none.

    Raises:
        SecateurError: It is not JSON, is of another format, or a part is not of its shape.
    """
    return validate_record(_BENCH, read_json(path), path) if path.is_file() else None


def build_bench_view(bench: BenchRecord) -> BenchView | None:
    """The table and the bars; None without a row."""
    if not bench.rows:
        return None
    blocks = tuple(dict.fromkeys(name for row in bench.rows for name in row.blocks_ms))
    cases = [(title, list(rows)) for title, rows in groupby(bench.rows, key=lambda row: row.case)]
    return BenchView(
        conditions=_describe_conditions(bench),
        columns=COLUMNS,
        rows=tuple(_row_cells(row) for row in bench.rows),
        cases=tuple(_case_view(title, rows, i) for i, (title, rows) in enumerate(cases) if any(map(_total_ms, rows))),
        blocks=tuple((name, _block_color(name)) for name in blocks),
        times=tuple(
            (row.label, row.case, tuple(format_milliseconds(row.blocks_ms.get(name)) for name in blocks))
            for row in bench.rows
        ),
    )


def _describe_conditions(bench: BenchRecord) -> str:
    environment = bench.environment
    parts = [str(environment["cpu"])] if environment.get("cpu") else []
    if environment.get("float32_products"):
        parts.append(f"float32 products {environment['float32_products']}")
    if "malloc" in environment:
        parts.append(f"large buffers {'stay in the process' if environment['malloc'] else 'go back to the system'}")
    if bench.config.get("repeats"):
        parts.append(f"medians of {bench.config['repeats']} runs in turn, lowest and highest below")
    return "; ".join(parts) + "." if parts else ""


def _row_cells(row: BenchRow) -> tuple[Cell, ...]:
    return (
        Cell(text=row.name, detail=", ".join(filter(None, (row.form, "random weights" * (row.weights == "random"))))),
        Cell(text=row.case),
        Cell(
            text=format_milliseconds(row.median_ms),
            detail=f"{format_milliseconds(row.low_ms)} to {format_milliseconds(row.high_ms)}",
        ),
        Cell(text=f"{format_number(row.ratio)}×" if row.ratio else "–"),
        Cell(text=format_number(row.real_time_factor)),
        Cell(text=format_number(row.throughput), detail="s of audio per s" if row.throughput else ""),
        Cell(text=f"{format_number(row.peak_mib)}\u202fMiB" if row.peak_mib is not None else "–"),
    )


def _case_view(title: str, rows: Sequence[BenchRow], index: int) -> CaseView:
    """Bars of one scale, one model below the other."""
    max_total = max(_total_ms(row) for row in rows)
    bars = []
    for row_index, row in enumerate(rows):
        total = _total_ms(row)
        segments = [
            BarSegment(
                part=name,
                color=_block_color(name),
                value=block_ms,
                text=f"{name}: {format_milliseconds(block_ms)} ({format_percent(block_ms / total)} of this model)",
            )
            for name, block_ms in row.blocks_ms.items()
            if block_ms
        ]
        name, total_text = f"bench-{index}-{row_index}", format_milliseconds(total)
        bars.append(
            stacked_bar(
                row.label, segments, full_width_value=max_total, total=total_text, name=name, title="Time by block,"
            )
        )
    return CaseView(title=title, bars=tuple(bars))


def _total_ms(row: BenchRow) -> float:
    return sum(row.blocks_ms.values())


def _block_color(block: str) -> int:
    return BLOCKS.index(block) if block in BLOCKS else BLOCKS.index("rest")
