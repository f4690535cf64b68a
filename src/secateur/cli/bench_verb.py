"""The verb ``bench``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from secateur.cli.console_tables import print_table
from secateur.cli.verb import add_settings_flag, print_record

if TYPE_CHECKING:
    from secateur.records.bench_record import BenchRecord, BenchRow

SUMMARY = "Measure time and memory of models side by side."


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", help="a model folder, a config file (random weights), a hub id, or a run folder (against its teacher)"
    )
    parser.add_argument(
        "--against", action="append", default=[], help="another model; all are compared with the first given so"
    )
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0], help="audio lengths")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="batch sizes")
    parser.add_argument("--dtype", nargs="+", default=["fp32"], help="fp32, bf16")
    parser.add_argument("--threads", type=int, nargs="+", default=[], help="CPU threads; default: as torch chooses")
    parser.add_argument("--repeats", type=int, default=9, help="measurements of each model")
    add_settings_flag(parser)
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--out", help="write the record here, as JSON; default of a run: bench.json in its folder")


def run(options: argparse.Namespace, fields: dict[str, Any]) -> int:
    from secateur import pipeline

    record = pipeline.bench(
        options.model,
        against=tuple(options.against),
        out=options.out,
        seconds=tuple(options.seconds),
        batches=tuple(options.batch),
        dtypes=tuple(options.dtype),
        threads=tuple(options.threads),
        repeats=options.repeats,
        tuned=not options.default_settings,
        memory=not options.no_memory,
    )
    print_record(options, record, print_bench)
    return 0


def print_bench(record: BenchRecord) -> None:
    """Print times and memory, times by block, and the machine of the measurement."""
    rows = []
    block_rows = []
    # Kinds of blocks of all models, in the order of first appearance.
    blocks = list(dict.fromkeys(block for row in record.rows for block in row.blocks_ms))
    for row in record.rows:
        case = (_model_label(row), row.form, _case_label(row))
        figures = (
            f"{row.median_ms:.1f} ms ({row.low_ms:.1f} to {row.high_ms:.1f})",
            "" if row.ratio is None else f"{row.ratio:.2f}x",
            "" if row.real_time_factor is None else f"{row.real_time_factor:.4f}",
            "" if row.throughput is None else f"{row.throughput:.1f}",
            "" if row.peak_mib is None else f"{row.peak_mib:.0f} MiB",
        )
        rows.append((*case, *figures))
        block_rows.append((*case, *(f"{row.blocks_ms.get(block, 0.0):.1f}" for block in blocks)))
    columns = ("model", "form", "audio", "time", "speed-up", "real-time factor", "seconds of audio per second")
    print_table("Time and memory", (*columns, "peak memory"), rows)
    print_table("Milliseconds by block", ("model", "form", "audio", *blocks), block_rows)
    environment = record.environment
    versions = environment.versions or {}
    buffers = "stay in the process" if environment.malloc else "go back to the system"
    print(
        f"{environment.cpu}; torch {versions.get('torch')}, transformers {versions.get('transformers')}; float32 "
        f"products {environment.float32_products}, large buffers {buffers}; medians of {record.repeats} "
        "interleaved runs, lowest and highest in brackets. Real-time factor: time over the length of one utterance. "
        "Seconds of audio per second: throughput of the whole batch."
    )


def _model_label(row: BenchRow) -> str:
    return f"{row.name} (random weights)" if row.has_random_weights else row.name


def _case_label(row: BenchRow) -> str:
    # "1 x 10 s, fp32, 2 threads"
    threads = f", {row.threads} thread{'s' if row.threads > 1 else ''}" if row.threads else ""
    return f"{row.batch} x {row.seconds:g} s, {row.dtype}{threads}"
