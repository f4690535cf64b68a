"""The record of an export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from secateur.records.section import Count, Record
from secateur.records.verification import Verification


@dataclass(frozen=True, kw_only=True)
class ExportRecord(Record):
    """Record of `secateur export`.

    Attributes:
        target: Name of the export target.
        model: Folder or hub id of the source model.
        files: Size in bytes by path in the folder.
        notes: Sentences about what was repaired or left out.
        verification: Comparison of the exported model with the source model.
        folder: Folder of the exported model.
    """

    kind: str = "export"
    target: str
    model: str
    files: Mapping[str, Count]
    notes: tuple[str, ...] = ()
    verification: Verification
    folder: str = ""
