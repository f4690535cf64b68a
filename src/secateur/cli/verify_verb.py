"""The verb ``verify``."""

from __future__ import annotations

import argparse
from typing import Any

from secateur.cli.console_tables import print_verification
from secateur.cli.verb import BROKEN_CONTRACT, print_record

SUMMARY = "Prove that a cut model is the masked model, and check the drop-in contract."


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a run folder; or a cut model, with --against")
    parser.add_argument("--against", help="the dense model")
    parser.add_argument("--selection", help="the selection; default: the one in the cut model's folder")
    parser.add_argument("--compile", action="store_true", help="also check torch.compile (takes minutes on a CPU)")


def run(options: argparse.Namespace, fields: dict[str, Any]) -> int:
    from secateur import pipeline

    record = pipeline.verify(
        options.model, against=options.against, selection=options.selection, compile=options.compile
    )
    print_record(options, record, print_verification)
    return 0 if record.holds else BROKEN_CONTRACT
