"""Record of a sweep (``sweep.json``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from secateur.records.environment import Environment
from secateur.records.files import OMITTED
from secateur.records.score import Direction, ScoreInfo
from secateur.records.section import UNRECORDED_SAMPLE_RATE, Count, Hertz, Milliseconds, Number, Record, Section


@dataclass(frozen=True, kw_only=True)
class ModelMeasurements(Section):
    """Size, MACs, time and primary metric of a model."""

    parameters: Count | None = None
    macs: Count | None = None
    milliseconds: Milliseconds | None = None
    score: Number | None = None


@dataclass(frozen=True, kw_only=True)
class SweepRun(Section):
    """Finished run of a sweep.

    Attributes:
        values: Values of the swept fields.
        folder: Name of the run folder, beside the record.
        dense: Measurements of the dense model.
        kept: Measurements of the pruned model.
        broken: Names of the checks of the drop-in contract that do not hold.
    """

    values: Mapping[str, Any]
    folder: str = ""
    dense: ModelMeasurements = field(default_factory=ModelMeasurements)
    kept: ModelMeasurements = field(default_factory=ModelMeasurements)
    broken: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FailedRun(Section):
    """Run of a sweep that failed, and the error message."""

    values: Mapping[str, Any]
    folder: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class SweepRecord(Record):
    """Record of a sweep.

    Attributes:
        name: Name of the recipe.
        fields: Dotted names of the swept fields.
        headline: Name of the metric that the runs are compared by; None where they have none in common.
        better: Direction in which the metric improves.
        score_info: Presentation of each score, by name.
        environment: Versions and machine.
        samples: Audio length that the MACs are for.
        sample_rate: Sampling rate of the audio in hertz.
        rows: Finished runs.
        failed: Failed runs.
        folder: Folder of the sweep; None in the file itself.
    """

    kind: str = "sweep"
    name: str = ""
    fields: tuple[str, ...] = ()  # ("target", "seed")
    headline: str | None = None
    better: Direction | None = None
    score_info: Mapping[str, ScoreInfo] = field(default_factory=dict)
    environment: Environment = field(default_factory=Environment)
    samples: Count | None = None
    sample_rate: Hertz = UNRECORDED_SAMPLE_RATE
    rows: tuple[SweepRun, ...] = ()
    failed: tuple[FailedRun, ...] = ()
    folder: str | None = field(default=None, metadata=OMITTED)
