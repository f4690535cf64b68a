"""The verb ``shrink``."""

from __future__ import annotations

import argparse
from typing import Any

from secateur.cli.tables import print_table, print_verification
from secateur.cli.verb import BROKEN_CONTRACT, print_record

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
    return 0 if record["verification"]["holds"] else BROKEN_CONTRACT


def print_shrink(record: dict[str, Any]) -> None:
    """Print the costs before and after, and the verification."""
    dense_costs = record["before"]
    cut_costs = record["after"]
    rows = [
        (name, f"{dense_costs[name]:,}", f"{cut_costs[name]:,}", f"{cut_costs[name] / dense_costs[name]:.1%}")
        for name in ("parameters", "head", "macs")
        if dense_costs[name]
    ]
    print_table(f"Shrunk model in {record['folder']}", ("", "before", "after", "kept"), rows)
    print_verification(record["verification"])
