"""Results of the training phases: files of a run folder that the run combines to a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from secateur.records.files import OMITTED
from secateur.records.run import FreezingRecord, PhaseRecord, StageRecord
from secateur.records.section import Count, Number, Section


@dataclass(frozen=True, kw_only=True)
class TrainingResult(Section):
    """Steps and seconds of a training phase (``finetuned.json``); `None` if the phase had no steps."""

    steps: Count | None = field(default=None, metadata=OMITTED)
    seconds: Number | None = field(default=None, metadata=OMITTED)

    def to_phase(self, name: str) -> PhaseRecord:
        """Return the result as a phase of the run record, named `name`."""
        return PhaseRecord(name=name, steps=self.steps, seconds=self.seconds)


@dataclass(frozen=True, kw_only=True)
class _Learned(Section):
    expected: Mapping[str, Number] = field(default_factory=dict)
    freezing: FreezingRecord | None = field(default=None, metadata=OMITTED)


@dataclass(frozen=True, kw_only=True)
class LearnResult(TrainingResult, _Learned):  # fields of the last base come first in the JSON
    """Result of the learn phase (``learned.json``): expected cost by constraint, and the gates that were frozen."""


@dataclass(frozen=True, kw_only=True)
class _Recovered(Section):
    stages: tuple[StageRecord, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RecoverResult(TrainingResult, _Recovered):  # fields of the last base come first in the JSON
    """Result of the recover phase (``stages.json``): measurements of each stage, and the weights that were dropped."""
