"""Result of a check of `secateur doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from secateur.records.section import Section

Status = Literal["ok", "note", "problem"]


@dataclass(frozen=True, kw_only=True)
class Finding(Section):
    """Result of a check of the installation.

    Attributes:
        name: Name of the check.
        status: ``ok``; ``note``, where nothing is broken but something is worth knowing; ``problem``, where something
            will not work.
        detail: Result in words.
        remedy: Command or advice that solves the problem; empty where nothing is to be done.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""
