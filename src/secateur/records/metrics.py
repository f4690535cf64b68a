"""Metrics of a run over the training steps (``metrics.jsonl``)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.errors import SecateurError


@dataclass(frozen=True, kw_only=True)
class MetricsPoint:
    """Line of the metrics file: every finite number by name, nested names joined by a slash."""

    phase: str
    step: int
    values: Mapping[str, float]


def read_metrics(path: Path) -> tuple[MetricsPoint, ...]:
    """Return the points of a metrics file; empty without a file.

    The last line is left out where it has no newline yet: the run is still writing, or was killed in the middle.

    Raises:
        SecateurError: A line is not a JSON object with a phase and a step.
    """
    if not path.is_file():
        return ()
    points: list[MetricsPoint] = []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        # An incomplete last line: a reader may come while the run is writing.
        if not line.endswith(b"\n") and number == len(lines):
            continue
        try:
            entry = json.loads(line)
            values = dict(_finite_numbers(entry, ""))
            points.append(MetricsPoint(phase=str(entry["phase"]), step=int(entry["step"]), values=values))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SecateurError(
                f'{path}: line {number} is not a metrics line, an object with "phase" and "step".'
            ) from None
    return tuple(points)


def _finite_numbers(entry: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """Yield the finite numbers of an object with path-like names: ``{"kept": {"macs": 1}}`` gives ``kept/macs``."""
    for name, value in entry.items():
        if isinstance(value, Mapping):
            yield from _finite_numbers(value, f"{prefix}{name}/")
        # bool is a subclass of int, but not a measurement.
        elif isinstance(value, bool) or not isinstance(value, int | float) or name in ("step", "phase"):
            continue
        elif math.isfinite(value):
            yield prefix + name, float(value)
