"""The verb ``profile``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from secateur.cli.console_tables import print_table
from secateur.cli.verb import print_record

if TYPE_CHECKING:
    from secateur.records.cost_record import ProfileRecord

SUMMARY = "Parameters and MACs by block."


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a model folder (config.json is enough) or hub id")
    parser.add_argument("--seconds", type=float, default=1.0, help="audio length for the MACs")
    parser.add_argument("--selection", help="count what this selection would leave")


def run(options: argparse.Namespace, fields: dict[str, Any]) -> int:
    from secateur import pipeline

    record = pipeline.profile(options.model, seconds=options.seconds, selection=options.selection)
    print_record(options, record, print_profile)
    return 0


def print_profile(record: ProfileRecord) -> None:
    """Print the costs of every block."""
    rows = [(name, f"{cost.parameters:,}", f"{cost.macs:,}") for name, cost in record.blocks.items()]
    rows.append(("all", f"{record.parameters:,}", f"{record.macs:,}"))
    print_table(f"{record.model_type}, {record.seconds:g} s of audio", ("block", "parameters", "MACs"), rows)
    print(record.convention)
    if record.head:
        print(f"Beside the encoder: {record.head:,} parameters of a transducer's head")
