"""Timing of several functions on the same work in turn, so that noise of the machine falls on all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Median and spread over repeats, in milliseconds."""

    median_ms: float
    low_ms: float
    high_ms: float
    repeats: int


def interleave_timings(
    functions: Mapping[str, Callable[[], object]], *, repeats: int, warmup: int = 1
) -> dict[str, Timing]:
    """Time functions in turn, A B A B …, after a warm-up of each.

    Args:
        functions: By name; each call is one measurement.
        repeats: Measurements of each.
        warmup: Calls of each that are not measured.

    Returns:
        Median, lowest and highest time of each.
    """
    for _ in range(warmup):
        for function in functions.values():
            function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {
        name: Timing(
            median_ms=statistics.median(durations), low_ms=min(durations), high_ms=max(durations), repeats=repeats
        )
        for name, durations in times.items()
    }
