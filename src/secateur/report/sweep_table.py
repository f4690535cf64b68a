"""A sweep: runs over values of some fields of one recipe, gathered over their seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.records.score import find_score_info
from secateur.records.sweep import SweepRecord, SweepRun
from secateur.report.formatting import MINUS, THIN
from secateur.report.task_scores import Score

#: The field over which runs are averaged.
SEED_FIELD = "seed"


@dataclass(frozen=True, kw_only=True)
class SeedGroup:
    """The runs that differ in their seed alone.

    Attributes:
        values: The other fields, in words.
        runs: One a seed.
    """

    values: Mapping[str, str]
    runs: tuple[SweepRun, ...]

    @property
    def label(self) -> str:
        """The fields and their values: ``target 0.5, gates.kind hard_concrete``."""
        return ", ".join(f"{name}\u00a0{value}" for name, value in self.values.items()) or "all runs"


@dataclass(frozen=True, kw_only=True)
class MeanStd:
    """A mean over runs and their sample standard deviation, 0 for a single run."""

    mean: float
    std: float
    count: int

    def format(self, *, factor: float = 1, digits: int = 2, unit: str = "", with_sign: bool = False) -> str:
        """The mean, and of several runs the deviation: ``12.30 ± 0.21 %``."""
        text = f"{factor * self.mean:{'+' if with_sign else ''}.{digits}f}"
        if self.count > 1:
            text += f"\u00a0±\u00a0{factor * self.std:.{digits}f}"
        return (text + unit).replace("-", MINUS)

    def format_percent(self, digits: int = 1) -> str:
        """The same of shares."""
        return self.format(factor=100, digits=digits, unit=f"{THIN}%")


Quantity = Callable[[SweepRun], float | None]


def sweep_score(sweep: SweepRecord) -> Score | None:
    """Return the metric that the runs of a sweep are compared by; None where they have none in common."""
    if not sweep.headline:
        return None
    return Score(name=sweep.headline, info=find_score_info(sweep.headline, sweep.score_info, direction=sweep.better))


def group_by_seed(sweep: SweepRecord) -> list[SeedGroup]:
    """The runs by all fields but the seed, in the order in which they come."""
    runs_by_values: dict[tuple[str, ...], list[SweepRun]] = {}
    names = [name for name in sweep.fields if name != SEED_FIELD]
    for run in sweep.rows:
        runs_by_values.setdefault(tuple(format_value(run.values.get(name)) for name in names), []).append(run)
    return [
        SeedGroup(values=dict(zip(names, key, strict=True)), runs=tuple(runs)) for key, runs in runs_by_values.items()
    ]


def format_value(value: Any) -> str:
    """The value of a field: ``0.5``, ``auto``, ``{"channels": 32}``."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def mean_std(runs: Sequence[SweepRun], quantity: Quantity) -> MeanStd | None:
    """Mean and deviation of a quantity; None unless every run has it, since means over other runs do not compare."""
    values = [quantity(run) for run in runs]
    finite_values = [value for value in values if value is not None and math.isfinite(value)]
    if not finite_values or len(finite_values) < len(values):
        return None
    std = statistics.stdev(finite_values) if len(finite_values) > 1 else 0.0
    return MeanStd(mean=statistics.fmean(finite_values), std=std, count=len(finite_values))


def kept_share(cost: str) -> Quantity:
    """The share of the run's own dense model that is kept of ``parameters``, ``macs`` or ``milliseconds``."""

    def share(run: SweepRun) -> float | None:
        dense_cost, kept_cost = getattr(run.dense, cost), getattr(run.kept, cost)
        return kept_cost / dense_cost if dense_cost and kept_cost is not None else None

    return share


def speedup(run: SweepRun) -> float | None:
    """The dense model's time over the kept one's."""
    dense_ms, kept_ms = run.dense.milliseconds, run.kept.milliseconds
    return dense_ms / kept_ms if dense_ms and kept_ms else None


def score(run: SweepRun) -> float | None:
    """The score of the kept model."""
    return run.kept.score


def score_difference(run: SweepRun) -> float | None:
    """The kept model's score less the dense one's."""
    dense_score, kept_score = run.dense.score, run.kept.score
    return kept_score - dense_score if dense_score is not None and kept_score is not None else None


def format_score(metric: Score, mean_std: MeanStd | None) -> str:
    """The score over runs: ``12.30 ± 0.21 %``."""
    if mean_std is None:
        return "–"
    return mean_std.format_percent(2) if metric.is_share else mean_std.format(digits=4)


def format_score_difference(metric: Score, mean_std: MeanStd | None) -> str:
    """The difference over runs: ``+2.20 ± 0.21 points``."""
    if mean_std is None:
        return "–"
    if metric.is_share:
        return mean_std.format(factor=100, unit="\u00a0points", with_sign=True)
    return mean_std.format(digits=4, with_sign=True)


def sweep_table(sweep: SweepRecord) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return columns and rows of a sweep for a terminal, with one row for all seeds of a setting."""
    metric = sweep_score(sweep)
    names = [name for name in sweep.fields if name != SEED_FIELD]
    columns = [*names, "runs", "parameters kept", "MACs kept", "time", "times as fast"]
    if metric:
        columns += [metric.name, "against dense"]
    return tuple(columns), [tuple(map(_ascii, _group_cells(sweep, group))) for group in group_by_seed(sweep)]


def _group_cells(sweep: SweepRecord, group: SeedGroup) -> list[str]:
    shares = [mean_std(group.runs, kept_share(cost)) for cost in ("parameters", "macs", "milliseconds")]
    speedup_stats = mean_std(group.runs, speedup)
    texts = [*group.values.values(), str(len(group.runs))]
    texts += [share.format_percent() if share else "–" for share in shares]
    texts.append(speedup_stats.format(unit="x") if speedup_stats else "–")
    if metric := sweep_score(sweep):
        texts.append(format_score(metric, mean_std(group.runs, score)))
        texts.append(format_score_difference(metric, mean_std(group.runs, score_difference)))
    return texts


def _ascii(words: str) -> str:
    """Plain spaces and signs, as the other tables of a terminal have."""
    return words.translate({ord("\u202f"): " ", ord("\u00a0"): " ", ord(MINUS): "-", ord("–"): ""})
