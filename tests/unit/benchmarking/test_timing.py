"""Interleaved timing, on a clock of our own."""

from __future__ import annotations

import statistics

import pytest

from secateur.benchmarking import timing
from secateur.benchmarking.timing import interleave_timings


def test_functions_are_called_in_turn_after_a_warm_up() -> None:
    calls: list[str] = []
    interleave_timings({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, warmup=2)
    assert calls == ["a", "b"] * 5


def test_median_and_spread_are_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    durations = {"slow": iter([9.0, 0.030, 0.010, 0.020]), "fast": iter([9.0, 0.001, 0.002, 0.006])}

    def wait(name: str) -> None:
        clock[0] += next(durations[name])

    timings = interleave_timings({name: lambda name=name: wait(name) for name in durations}, repeats=3)
    assert timings["slow"].median_ms == pytest.approx(20)
    assert (timings["slow"].low_ms, timings["slow"].high_ms) == (pytest.approx(10), pytest.approx(30))
    assert timings["fast"].median_ms == pytest.approx(statistics.median([1, 2, 6]))
    assert timings["fast"].repeats == 3
