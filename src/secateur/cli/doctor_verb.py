"""The verb ``doctor``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from secateur.cli.verb import BROKEN_CONTRACT, print_record

if TYPE_CHECKING:
    from secateur.records.finding import Finding

SUMMARY = "Look at this machine and installation."


def add_flags(parser: argparse.ArgumentParser) -> None:
    pass


def run(options: argparse.Namespace, fields: dict[str, Any]) -> int:
    from secateur import pipeline

    findings = pipeline.doctor()
    print_record(options, findings, print_findings)
    return BROKEN_CONTRACT if any(finding.status == "problem" for finding in findings) else 0


def print_findings(findings: Sequence[Finding]) -> None:
    """Print every finding with the remedy."""
    for finding in findings:
        # A column of 8 for "ok", "note" and "problem"; the remedy starts in the column behind it.
        print(f"{finding.status:8} {finding.name}: {finding.detail}")
        if finding.remedy:
            print(f"         {finding.remedy}")
