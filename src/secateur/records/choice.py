"""Choice of the units that are kept, and the records of the commands that cut a model by a selection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from secateur.records.cost_record import Breakdown
from secateur.records.files import OMITTED
from secateur.records.section import Count, Hertz, Number, Record, Section
from secateur.records.verification import Verification


@dataclass(frozen=True, kw_only=True)
class RoundingCost(Section):
    """Cost of rounding the numbers of kept units.

    Attributes:
        multiples: Multiple that the kept units are rounded to, by kind of axis.
        given_up: Share of the dense cost that is kept less because of rounding, by constraint; below zero where
            rounding keeps more.
        opened: Units that rounding kept in addition, by kind.
        closed: Units that rounding removed in addition, by kind.
    """

    multiples: Mapping[str, Count] = field(default_factory=dict)  # {"units": 32, "channels": 8}
    given_up: Mapping[str, Number] = field(default_factory=dict)  # 0.01: 1 % of the dense cost
    opened: Mapping[str, Count] = field(default_factory=dict)
    closed: Mapping[str, Count] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ChoiceRecord(Section):
    """Costs of a selection and of the gates' hard decisions behind the selection (``choice.json``).

    Attributes:
        verdict: Cost of the gates' hard decisions before any repair, by constraint.
        counted: Cost of the selection, by constraint.
        binding: Name of the constraint with the least room left.
        moved: Units that the repair opened or closed.
        gated: Units that have a gate.
        notes: Units that were added to make the selection consistent, in words.
        rounding: Cost of rounding; None where nothing was rounded.
    """

    verdict: Mapping[str, Number] = field(default_factory=dict)  # by name of the constraint, in the unit of its cost
    counted: Mapping[str, Number] = field(default_factory=dict)
    binding: str = ""
    moved: Count = 0
    gated: Count = 0
    notes: tuple[str, ...] = ()
    rounding: RoundingCost | None = None


@dataclass(frozen=True, kw_only=True)
class _ChooseHeader(Record):
    kind: str = "choose"
    constraint: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ChooseRecord(ChoiceRecord, _ChooseHeader):  # fields of the last base come first in the JSON
    """Record of `secateur choose`.

    Attributes:
        constraint: Fields of the constraint that the choice meets.
        verification: Verification of the cut model.
        folder: Folder of the selection and the cut model; None in the file itself.
    """

    verification: Verification | None = None
    folder: str | None = field(default=None, metadata=OMITTED)

    @property
    def is_time(self) -> bool:
        """True if the costs are predicted milliseconds."""
        return self.constraint.get("cost") == "latency"


@dataclass(frozen=True, kw_only=True)
class ShrinkRecord(Record):
    """Record of `secateur shrink`.

    Attributes:
        sample_rate: Sampling rate of the model in hertz.
        before: Cost of the dense model at one second of audio.
        after: Cost of the cut model.
        notes: Weights that were dropped and units that were added, in words.
        verification: Verification of the cut model.
        folder: Folder of the cut model.
    """

    kind: str = "shrink"
    sample_rate: Hertz
    before: Breakdown
    after: Breakdown
    notes: tuple[str, ...] = ()
    verification: Verification
    folder: str = ""
