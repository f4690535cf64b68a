"""The verb ``export``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from secateur.cli.console_tables import print_table, print_verification
from secateur.cli.verb import BROKEN_CONTRACT, print_record

if TYPE_CHECKING:
    from secateur.records.export_record import ExportRecord

SUMMARY = "Write a model in a form for other programs, proven equal to the model."


def add_flags(parser: argparse.ArgumentParser) -> None:
    from secateur.export import TARGETS, find_target

    targets = "; ".join(f"{name}: {find_target(name).summary}" for name in TARGETS)
    parser.add_argument("target", help=targets)
    parser.add_argument("model", help="a model folder or hub id")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--force", action="store_true", help="replace the folder if it exists")


def run(options: argparse.Namespace, fields: dict[str, Any]) -> int:
    from secateur import pipeline

    record = pipeline.export(options.model, target=options.target, out=options.out, force=options.force)
    print_record(options, record, print_export)
    return 0 if record.verification.holds else BROKEN_CONTRACT


def print_export(record: ExportRecord) -> None:
    """Print the files of the exported model, and the verification."""
    rows = [(name, f"{size:,}") for name, size in record.files.items()]
    print_table(f"Exported to {record.folder} ({record.target})", ("file", "bytes"), rows)
    print_verification(record.verification)
