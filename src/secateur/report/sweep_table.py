"""Table of a sweep: statistics of the runs of each setting over the seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.records.score import find_score_info
from secateur.records.sweep_record import SweepRecord, SweepRun
from secateur.report.formatting import MINUS, THIN
from secateur.report.task_scores import Score

#: Name of the recipe field over which runs are averaged.
SEED_FIELD = "seed"


@dataclass(frozen=True, kw_only=True)
class SeedGroup:
    """Runs with the same setting and different seeds.

    Attributes:
        values: Formatted values of the swept fields, without the seed.
        runs: Runs, a run per seed.
    """

    values: Mapping[str, str]
    runs: tuple[SweepRun, ...]

    @property
    def label(self) -> str:
        """Fields and values of the setting: ``target 0.5, gates.kind hard_concrete``."""
        return ", ".join(f"{name}\u00a0{value}" for name, value in self.values.items()) or "all runs"


@dataclass(frozen=True, kw_only=True)
class MeanStd:
    """Mean over runs and sample standard deviation, which is 0 for a single run."""

    mean: float
    std: float
    count: int

    def format(self, *, factor: float = 1, digits: int = 2, unit: str = "", with_sign: bool = False) -> str:
        """Format the mean, and the deviation of several runs: ``12.30 ± 0.21 %``."""
        # With a sign: "+2.20"; without: "12.30".
        text = f"{factor * self.mean:{'+' if with_sign else ''}.{digits}f}"
        if self.count > 1:
            text += f"\u00a0±\u00a0{factor * self.std:.{digits}f}"
        return (text + unit).replace("-", MINUS)

    def format_percent(self, digits: int = 1) -> str:
        """Format the mean and the deviation of a share in percent."""
        return self.format(factor=100, digits=digits, unit=f"{THIN}%")


#: Function of a run, such as the score or the kept share of a cost; None where the run lacks the value.
Quantity = Callable[[SweepRun], float | None]


def sweep_score(sweep: SweepRecord) -> Score | None:
    """Return the metric that the runs of a sweep are compared by; `None` if the runs have no common metric."""
    if not sweep.headline:
        return None
    return Score(name=sweep.headline, info=find_score_info(sweep.headline, sweep.score_info, direction=sweep.better))


def group_by_seed(sweep: SweepRecord) -> list[SeedGroup]:
    """Group the runs by the values of all fields except the seed, in the order of the record."""
    # Formatted values of the fields, such as ("0.5", "hard_concrete") -> runs of all seeds.
    runs_by_values: dict[tuple[str, ...], list[SweepRun]] = {}
    names = [name for name in sweep.fields if name != SEED_FIELD]
    for run in sweep.rows:
        runs_by_values.setdefault(tuple(format_value(run.values.get(name)) for name in names), []).append(run)
    return [
        SeedGroup(values=dict(zip(names, key, strict=True)), runs=tuple(runs)) for key, runs in runs_by_values.items()
    ]


def format_value(value: Any) -> str:
    """Format the value of a field: ``0.5``, ``auto``, ``{"channels": 32}``."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def mean_std(runs: Sequence[SweepRun], quantity: Quantity) -> MeanStd | None:
    """Return mean and deviation of a quantity; `None` if a run lacks the quantity, since means over different runs
    are not comparable."""
    values = [quantity(run) for run in runs]
    finite_values = [value for value in values if value is not None and math.isfinite(value)]
    if not finite_values or len(finite_values) < len(values):
        return None
    std = statistics.stdev(finite_values) if len(finite_values) > 1 else 0.0
    return MeanStd(mean=statistics.fmean(finite_values), std=std, count=len(finite_values))


def kept_share(cost: str) -> Quantity:
    """Return a function for the kept share of ``parameters``, ``macs`` or ``milliseconds`` of a run's dense model."""

    def share(run: SweepRun) -> float | None:
        dense_cost, kept_cost = getattr(run.dense, cost), getattr(run.kept, cost)
        return kept_cost / dense_cost if dense_cost and kept_cost is not None else None

    return share


def speedup(run: SweepRun) -> float | None:
    """Return the time of the dense model divided by the time of the pruned model."""
    dense_ms, kept_ms = run.dense.milliseconds, run.kept.milliseconds
    return dense_ms / kept_ms if dense_ms and kept_ms else None


def score(run: SweepRun) -> float | None:
    """Return the score of the pruned model."""
    return run.kept.score


def score_difference(run: SweepRun) -> float | None:
    """Return the score of the pruned model minus the score of the dense model."""
    dense_score, kept_score = run.dense.score, run.kept.score
    return kept_score - dense_score if dense_score is not None and kept_score is not None else None


def format_score(metric: Score, mean_std: MeanStd | None) -> str:
    """Format a score over runs: ``12.30 ± 0.21 %``."""
    if mean_std is None:
        return "–"
    return mean_std.format_percent(2) if metric.is_share else mean_std.format(digits=4)


def format_score_difference(metric: Score, mean_std: MeanStd | None) -> str:
    """Format a difference of scores over runs: ``+2.20 ± 0.21 points``."""
    if mean_std is None:
        return "–"
    if metric.is_share:
        return mean_std.format(factor=100, unit="\u00a0points", with_sign=True)
    return mean_std.format(digits=4, with_sign=True)


def sweep_table(sweep: SweepRecord) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return columns and rows of a sweep for a terminal, with a row per setting."""
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
    """Return a text with ASCII spaces and minus signs, and without dashes for missing values."""
    # Narrow and no-break spaces, minus sign and dash have no place in a fixed-width table.
    return words.translate({ord("\u202f"): " ", ord("\u00a0"): " ", ord(MINUS): "-", ord("–"): ""})
