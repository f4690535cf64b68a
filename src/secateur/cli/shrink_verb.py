"""The verb ``shrink``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from secateur.cli.console_tables import print_table, print_verification
from secateur.cli.verb import BROKEN_CONTRACT, print_record

if TYPE_CHECKING:
    from secateur.records.choice import ShrinkRecord

SUMMARY = "Cut a model by a selection."


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a model folder or hub id")
    parser.add_argument("--selection", required=True, help="a selection file")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--layout", default="registered", help="registered (any shape) or stock (unmodified classes)")
    parser.add_argument("--force", action="store_true", help="replace the folder if it exists")


def run(options: argparse.Namespace, fields: dict[str, Any]) -> int:
    from secateur import pipeline

    record = pipeline.shrink(
        options.model, selection=options.selection, out=options.out, layout=options.layout, force=options.force
    )
    print_record(options, record, print_shrink)
    return 0 if record.verification.holds else BROKEN_CONTRACT


def print_shrink(record: ShrinkRecord) -> None:
    """Print the costs before and after, and the verification."""
    costs = {
        "parameters": (record.before.parameters, record.after.parameters),
        "head": (record.before.head, record.after.head),
        "macs": (record.before.macs, record.after.macs),
    }
    # The head is 0 without a transducer, and gets no row.
    rows = [(name, f"{dense:,}", f"{cut:,}", f"{cut / dense:.1%}") for name, (dense, cut) in costs.items() if dense]
    print_table(f"Shrunk model in {record.folder}", ("", "before", "after", "kept"), rows)
    print_verification(record.verification)
