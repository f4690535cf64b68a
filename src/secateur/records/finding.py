"""What `doctor` found: one line per thing examined."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["ok", "note", "problem"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing examined.

    Attributes:
        name: What was examined.
        status: ``ok``; ``note``, good to know, nothing is broken; ``problem``, something will not work.
        detail: What was found.
        remedy: What to do about it; empty where there is nothing to do.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        """Plain JSON."""
        return asdict(self)
