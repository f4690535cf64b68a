"""A sweep: runs over values of some fields of one recipe, gathered over their seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic

from secateur.data.corpus import SAMPLE_RATE
from secateur.records import plain, read_json
from secateur.report.record import Better, Count, Hertz, Milliseconds, checked
from secateur.report.scores import Score
from secateur.report.words import MINUS, THIN

#: The field over which runs are averaged.
SEED = "seed"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of one model."""

    parameters: Count | None = None
    macs: Count | None = None
    milliseconds: Milliseconds | None = None
    score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: the values of the swept fields, its folder beside the record, and its models.

    `broken` has the lines of the drop-in contract that the cut model does not keep.
    """

    values: Mapping[str, Any]
    folder: str = ""
    dense: Measured = field(default_factory=Measured)
    kept: Measured = field(default_factory=Measured)
    broken: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A run that was not done."""

    values: Mapping[str, Any]
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The record of a sweep."""

    format: int
    kind: str = "sweep"
    name: str = ""
    fields: tuple[str, ...] = ()
    headline: str | None = None
    better: Better | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    samples: Count | None = None
    sample_rate: Hertz = SAMPLE_RATE
    rows: tuple[Run, ...] = ()
    failed: tuple[Failed, ...] = ()

    @property
    def score(self) -> Score | None:
        """What the runs are judged by."""
        return Score(name=self.headline, better=self.better) if self.headline else None


@dataclass(frozen=True, kw_only=True)
class Group:
    """The runs that differ in their seed alone.

    Attributes:
        values: The other fields, in words.
        runs: One a seed.
    """

    values: Mapping[str, str]
    runs: tuple[Run, ...]

    @property
    def label(self) -> str:
        """The fields and their values: ``target 0.5, gates.kind hard_concrete``."""
        return ", ".join(f"{name}\u00a0{value}" for name, value in self.values.items()) or "all runs"


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A mean over runs and their sample standard deviation, 0 for a single run."""

    mean: float
    deviation: float
    count: int

    def write(self, *, factor: float = 1, digits: int = 2, unit: str = "", sign: bool = False) -> str:
        """The mean, and of several runs the deviation: ``12.30 ± 0.21 %``."""
        words = f"{factor * self.mean:{'+' if sign else ''}.{digits}f}"
        if self.count > 1:
            words += f"\u00a0±\u00a0{factor * self.deviation:.{digits}f}"
        return (words + unit).replace("-", MINUS)

    def percent(self, digits: int = 1) -> str:
        """The same of shares."""
        return self.write(factor=100, digits=digits, unit=f"{THIN}%")


Quantity = Callable[[Run], float | None]
_SWEEP = pydantic.TypeAdapter(Sweep)


def read_sweep(path: Path) -> Sweep:
    """Read the record of a sweep.

    Raises:
        SecateurError: It is missing, is not JSON, is of another format, or a part is not of its shape.
    """
    return checked(_SWEEP, read_json(path), path)


def groups_of(sweep: Sweep) -> list[Group]:
    """The runs by all fields but the seed, in the order in which they come."""
    found: dict[tuple[str, ...], list[Run]] = {}
    names = [name for name in sweep.fields if name != SEED]
    for run in sweep.rows:
        found.setdefault(tuple(in_words(run.values.get(name)) for name in names), []).append(run)
    return [Group(values=dict(zip(names, key, strict=True)), runs=tuple(runs)) for key, runs in found.items()]


def in_words(value: Any) -> str:
    """The value of a field: ``0.5``, ``auto``, ``{"channels": 32}``."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def spread_of(runs: Sequence[Run], quantity: Quantity) -> Spread | None:
    """Mean and deviation of a quantity; None unless every run has it, since means over other runs do not compare."""
    values = [quantity(run) for run in runs]
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known or len(known) < len(values):
        return None
    deviation = statistics.stdev(known) if len(known) > 1 else 0.0
    return Spread(mean=statistics.fmean(known), deviation=deviation, count=len(known))


def share_of(cost: str) -> Quantity:
    """The share of the run's own dense model that is kept of ``parameters``, ``macs`` or ``milliseconds``."""

    def share(run: Run) -> float | None:
        dense, kept = getattr(run.dense, cost), getattr(run.kept, cost)
        return kept / dense if dense and kept is not None else None

    return share


def times_as_fast(run: Run) -> float | None:
    """The dense model's time over the kept one's."""
    dense, kept = run.dense.milliseconds, run.kept.milliseconds
    return dense / kept if dense and kept else None


def score(run: Run) -> float | None:
    """The score of the kept model."""
    return run.kept.score


def difference(run: Run) -> float | None:
    """The kept model's score less the dense one's."""
    dense, kept = run.dense.score, run.kept.score
    return kept - dense if dense is not None and kept is not None else None


def write_score(of: Score, spread: Spread | None) -> str:
    """The score over runs: ``12.30 ± 0.21 %``."""
    if spread is None:
        return "–"
    return spread.percent(2) if of.is_share else spread.write(digits=4)


def write_difference(of: Score, spread: Spread | None) -> str:
    """The difference over runs: ``+2.20 ± 0.21 points``."""
    if spread is None:
        return "–"
    if of.is_share:
        return spread.write(factor=100, unit="\u00a0points", sign=True)
    return spread.write(digits=4, sign=True)


def sweep_table(record: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows of a sweep for a terminal, one row for all seeds of a setting.

    Args:
        record: What ``sweep.json`` holds.

    Raises:
        SecateurError: It is not the record of a sweep.
    """
    sweep = checked(_SWEEP, plain(record), Path("sweep.json"))
    names = [name for name in sweep.fields if name != SEED]
    columns = [*names, "runs", "parameters kept", "MACs kept", "time", "times as fast"]
    if sweep.score:
        columns += [sweep.score.name, "against dense"]
    return tuple(columns), [tuple(map(_ascii, _texts(sweep, group))) for group in groups_of(sweep)]


def _texts(sweep: Sweep, group: Group) -> list[str]:
    shares = [spread_of(group.runs, share_of(cost)) for cost in ("parameters", "macs", "milliseconds")]
    fast = spread_of(group.runs, times_as_fast)
    texts = [*group.values.values(), str(len(group.runs))]
    texts += [share.percent() if share else "–" for share in shares]
    texts.append(fast.write(unit="x") if fast else "–")
    if sweep.score:
        texts.append(write_score(sweep.score, spread_of(group.runs, score)))
        texts.append(write_difference(sweep.score, spread_of(group.runs, difference)))
    return texts


def _ascii(words: str) -> str:
    """Plain spaces and signs, as the other tables of a terminal have."""
    return words.translate({ord("\u202f"): " ", ord("\u00a0"): " ", ord(MINUS): "-", ord("–"): ""})
