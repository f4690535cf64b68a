"""Section on measured time and memory, in total and by block, from the record of `secateur bench`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from secateur.records.bench_record import BenchRecord, BenchRow
from secateur.records.block_part import PARTS, REST
from secateur.report.costs import BarSegment, StackedBar, stacked_bar
from secateur.report.formatting import format_count, format_milliseconds, format_number, format_percent
from secateur.report.stages import Cell

#: Column titles of the table, in the order of the cells of `_row_cells`.
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
class CaseView:
    """Time by block of every model in a case, as bars on a common scale."""

    title: str
    bars: tuple[StackedBar, ...]


@dataclass(frozen=True, kw_only=True)
class BenchView:
    """Content of the section: table, bars, and the numbers behind the bars."""

    conditions: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    cases: tuple[CaseView, ...]
    blocks: tuple[tuple[str, int], ...]  # block, color
    times: tuple[tuple[str, str, tuple[str, ...]], ...]  # model, case, time in each block


def build_bench_view(bench: BenchRecord) -> BenchView | None:
    """Build the section; return `None` for a record without rows."""
    if not bench.rows:
        return None
    blocks = tuple(dict.fromkeys(name for row in bench.rows for name in row.blocks_ms))
    # `groupby` joins neighbors only: bench writes all models of a case one after another.
    cases = [(title, list(rows)) for title, rows in groupby(bench.rows, key=_case_label)]
    return BenchView(
        conditions=_describe_conditions(bench),
        columns=COLUMNS,
        rows=tuple(_row_cells(row) for row in bench.rows),
        cases=tuple(_case_view(title, rows, i) for i, (title, rows) in enumerate(cases) if any(map(_total_ms, rows))),
        blocks=tuple((name, _block_color(name)) for name in blocks),
        times=tuple(
            (_row_label(row), _case_label(row), tuple(format_milliseconds(row.blocks_ms.get(name)) for name in blocks))
            for row in bench.rows
        ),
    )


def _describe_conditions(bench: BenchRecord) -> str:
    """Return the recorded processor and settings of the measurement in a sentence."""
    environment = bench.environment
    parts = [environment.cpu] if environment.cpu else []
    if environment.float32_products:
        parts.append(f"float32 products {environment.float32_products}")
    if environment.malloc is not None:
        parts.append(f"large buffers {'stay in the process' if environment.malloc else 'go back to the system'}")
    if bench.repeats:
        parts.append(f"medians of {bench.repeats} runs in turn, lowest and highest below")
    return "; ".join(parts) + "." if parts else ""


def _row_label(row: BenchRow) -> str:
    """Return the label of a model and form: ``model (random weights), for_inference``."""
    random_note = " (random weights)" if row.has_random_weights else ""
    return ", ".join(filter(None, (row.name + random_note, row.form)))


def _case_label(row: BenchRow) -> str:
    """Return the audio and settings of the measurement: ``1 × 10 s, fp32, 2 threads``."""
    # \u00a0 is a no-break space, so that a line never ends between number and unit.
    audio = f"{row.batch}\u00a0×\u00a0{row.seconds:g}\u00a0s"
    threads = format_count(row.threads, "thread") if row.threads else ""
    return ", ".join(filter(None, (audio, row.dtype, threads)))


def _row_cells(row: BenchRow) -> tuple[Cell, ...]:
    return (
        Cell(text=row.name, detail=", ".join(filter(None, (row.form, "random weights" * row.has_random_weights)))),
        Cell(text=_case_label(row)),
        Cell(
            text=format_milliseconds(row.median_ms),
            detail=f"{format_milliseconds(row.low_ms)} to {format_milliseconds(row.high_ms)}",
        ),
        Cell(text=f"{format_number(row.ratio)}×" if row.ratio else "–"),
        Cell(text=format_number(row.real_time_factor)),  # seconds of computation per second of audio
        Cell(text=format_number(row.throughput), detail="s of audio per s" if row.throughput else ""),
        Cell(text=f"{format_number(row.peak_mib)}\u202fMiB" if row.peak_mib is not None else "–"),
    )


def _case_view(title: str, rows: Sequence[BenchRow], index: int) -> CaseView:
    """Build the bars of a case, a model per row, on a common scale."""
    # The slowest model of the case fills the width of the page.
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
        # Ids such as `bench-0-1`: second model of the first case.
        name, total_text = f"bench-{index}-{row_index}", format_milliseconds(total)
        bars.append(
            stacked_bar(
                _row_label(row),
                segments,
                full_width_value=max_total,
                total=total_text,
                name=name,
                title="Time by block,",
            )
        )
    return CaseView(title=title, bars=tuple(bars))


def _total_ms(row: BenchRow) -> float:
    return sum(row.blocks_ms.values())


def _block_color(block: str) -> int:
    return PARTS.index(block if block in PARTS else REST)
