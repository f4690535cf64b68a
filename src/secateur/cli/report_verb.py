"""The verb ``report``."""

from __future__ import annotations

import argparse
from typing import Any

from secateur.cli.verb import print_record

SUMMARY = "Write the report of a run again."


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", help="a run folder")
    parser.add_argument("--out", help="where to write the page; default: report.html in the run folder")


def run(options: argparse.Namespace, fields: dict[str, Any]) -> int:
    from secateur import pipeline

    path = pipeline.report(options.folder, out=options.out)
    print_record(options, {"report": str(path)}, lambda record: print(f"The report lies in {record['report']}."))
    return 0
