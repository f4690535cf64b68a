"""Record of a pruning run (``record.json``), which `secateur prune` writes and the report reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from secateur.records.block_part import part_of_path
from secateur.records.choice import RoundingCost
from secateur.records.cost_record import BlockCosts, LatencyRecord
from secateur.records.environment import Environment
from secateur.records.files import EMPTY_IF_NONE, OMITTED
from secateur.records.score import Direction, ScoreInfo
from secateur.records.section import UNRECORDED_SAMPLE_RATE, Count, Hertz, Milliseconds, Number, Record, Section
from secateur.records.verification import Verification


@dataclass(frozen=True, kw_only=True)
class AxisRecord(Section):
    """Number of units of an axis.

    Attributes:
        name: Name of the axis in the selection.
        kind: Kind of the axis, such as ``heads``.
        layer: Index of the layer, or of the convolution in the front end; None outside of both.
        original: Units in the stock model.
        before: Units before this run.
        kept: Units after this run.
        gated: Whether the run had gates on the axis.
        part: Part of the encoder that the axis belongs to, such as ``attention``.
    """

    name: str
    kind: str
    layer: Count | None = None
    original: Count  # for example 12 heads
    before: Count  # 10, if an earlier run removed 2
    kept: Count  # 6, if this run removes 4
    gated: bool = False
    part: str | None = field(default=None, metadata=OMITTED)

    def __post_init__(self) -> None:
        """Fill in the part, which old records lack."""
        if self.part is None:
            object.__setattr__(self, "part", part_of_path(self.name)[0])


@dataclass(frozen=True, kw_only=True)
class TimeRecord(Section):
    """Measured time of a forward pass in milliseconds: median, minimum and maximum over the repeats."""

    median_ms: Milliseconds  # over all repeats
    low_ms: Milliseconds
    high_ms: Milliseconds
    repeats: Count | None = None
    seconds_of_audio: Number | None = None
    batch: Count | None = None
    threads: Count | None = None


@dataclass(frozen=True, kw_only=True)
class StageRecord(Section):
    """Measurements of the model at a stage of a run.

    Attributes:
        name: ``dense``, ``shrunk`` or ``recovered``.
        parameters: Parameters of the encoder.
        head: Parameters of the model outside of the encoder.
        time: Time of a forward pass of the encoder.
        loss: Held-out distillation loss; None without a teacher.
        cosine: Mean cosine similarity of each hidden state with the teacher's.
        scores: Scores of the task on held-out audio, by name.
        macs: Multiply-accumulates at `samples` samples.
        samples: Audio length that the MACs are for.
        sample_rate: Sampling rate of the audio in hertz.
    """

    name: str
    parameters: Count | None = None
    head: Count | None = None
    time: TimeRecord | None = None
    loss: Number | None = field(default=None, metadata=OMITTED)
    cosine: tuple[Number, ...] | None = field(default=None, metadata=OMITTED)
    scores: Mapping[str, Number] = field(default_factory=dict, metadata=OMITTED)
    macs: Count | None = field(default=None, metadata=OMITTED)
    samples: Count | None = field(default=None, metadata=OMITTED)
    sample_rate: Hertz | None = field(default=None, metadata=OMITTED)

    @property
    def seconds(self) -> float | None:
        """Seconds of audio that the MACs are for."""
        return self.samples / (self.sample_rate or UNRECORDED_SAMPLE_RATE) if self.samples else None


@dataclass(frozen=True, kw_only=True)
class ConstraintRecord(Section):
    """Costs under a constraint, in the unit of the cost.

    Attributes:
        name: Name of the constraint, unique in its run.
        cost: ``parameters``, ``macs`` or ``latency``.
        scope: Part of the model that the cost is counted over.
        unit: Unit of the cost.
        target: Share of the dense cost that may stay.
        dense: Cost of the dense model.
        limit: Cost that may stay.
        expected: Expected cost under the gates' open probabilities at the end of the learn phase.
        verdict: Cost of the gates' hard decisions.
        counted: Cost of the cut model.
        binding: Whether the constraint has the least room left of all.
        label: Cost and scope in words.
    """

    name: str
    cost: str = ""
    scope: str = ""
    unit: str = ""
    target: Number | None = None  # 0.3: 30 % of the dense cost may stay
    dense: Number | None = None
    limit: Number | None = None
    expected: Number | None = None
    verdict: Number | None = None
    counted: Number | None = None
    binding: bool = False
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class GateCounts(Section):
    """Number of gates of a kind, of open gates, and of gates with an open probability far from 0 and 1."""

    gates: Count
    open: Count = 0
    undecided: Count = 0


@dataclass(frozen=True, kw_only=True)
class ShrinkEvent(Section):
    """Shrink of the student during the learn phase: step, and parameters of the student afterwards."""

    step: Count
    parameters: Count


@dataclass(frozen=True, kw_only=True)
class FreezingRecord(Section):
    """Gates that were closed for good during the learn phase.

    Attributes:
        gates: Number of gates.
        frozen: Number of gates that were closed for good.
        dense: Parameters of the student at the first step.
        shrunk: Steps at which the student was made smaller.
    """

    gates: Count
    frozen: Count
    dense: Count
    shrunk: tuple[ShrinkEvent, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GatesRecord(Section):
    """State of the gates when the selection was made.

    Attributes:
        kinds: Counts by kind of axis.
        histogram: Number of gates in bins of the open probability from 0 to 1, by kind.
        undecided_share: Share of the gates with an open probability far from 0 and 1.
        moved: Units that the repair opened or closed.
        moved_share: Share of the gated units that the repair opened or closed.
        notes: Units that were added to make the selection consistent, in words.
        freezing: Gates that were closed for good during the learn phase.
    """

    kinds: Mapping[str, GateCounts] = field(default_factory=dict)
    histogram: Mapping[str, tuple[Count, ...]] = field(default_factory=dict)
    undecided_share: Number | None = None  # open probability between 0.05 and 0.95
    moved: Count | None = None
    moved_share: Number | None = None
    notes: tuple[str, ...] = ()
    freezing: FreezingRecord | None = field(default=None, metadata=OMITTED)


@dataclass(frozen=True, kw_only=True)
class CorpusRecord(Section):
    """Size of a set of recordings."""

    name: str = ""
    utterances: Count = 0
    hours: Number = 0.0
    sample_rate: Hertz | None = None


@dataclass(frozen=True, kw_only=True)
class SkippedFile(Section):
    """File that was left out of the data, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class DataRecord(Section):
    """Data of a run: training and held-out recordings, the files that were left out, and warnings about the data."""

    train: CorpusRecord | None = None
    validation: CorpusRecord | None = None
    skipped: tuple[SkippedFile, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PhaseRecord(Section):
    """Steps and seconds of a training phase."""

    name: str
    steps: Count | None = None
    seconds: Number | None = None


@dataclass(frozen=True, kw_only=True)
class TaskRecord(Section):
    """Task that the model was pruned for.

    Attributes:
        kind: Name of the task in the recipe.
        title: Name of the task for people.
        headline: Name of the primary metric.
        better: Direction in which the primary metric improves.
        score_info: Presentation of each score, by name.
        order: Order of fine-tuning and pruning, in words.
        weights: Weight of each part of the loss.
    """

    kind: str
    title: str = ""
    headline: str = ""
    better: Direction | None = "higher"
    score_info: Mapping[str, ScoreInfo] = field(default_factory=dict)
    order: str = ""
    weights: Mapping[str, Number] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunRecord(Record):
    """Record of a run; the report also reads the records of shorter commands with the same class.

    Attributes:
        kind: Command that wrote the record.
        name: Name of the recipe.
        environment: Versions and machine.
        recipe: Resolved recipe.
        data: Training and held-out data.
        task: Task; None where the encoder was pruned without one.
        axes: Kept units of each axis.
        gates: State of the gates; None where the selection was not made from gates.
        constraints: Costs under each constraint.
        latency: Predicted time; None without a constraint on latency.
        rounding: Cost of rounding; None where nothing was rounded.
        verification: Verification of the cut model.
        stages: Measurements of the dense, the shrunk and the recovered model.
        blocks: Cost by block.
        phases: Training phases.
        folder: Run folder; None in the file itself.
    """

    kind: str = "run"
    name: str = ""
    environment: Environment = field(default_factory=Environment)
    recipe: Any = None
    data: DataRecord | None = None
    task: TaskRecord | None = field(default=None, metadata=EMPTY_IF_NONE)
    axes: tuple[AxisRecord, ...] = ()
    gates: GatesRecord | None = field(default=None, metadata=EMPTY_IF_NONE)
    constraints: tuple[ConstraintRecord, ...] = ()
    latency: LatencyRecord | None = field(default=None, metadata=EMPTY_IF_NONE)
    rounding: RoundingCost | None = field(default=None, metadata=EMPTY_IF_NONE)
    verification: Verification | None = field(default=None, metadata=EMPTY_IF_NONE)
    stages: tuple[StageRecord, ...] = ()
    blocks: BlockCosts | None = None
    phases: tuple[PhaseRecord, ...] = ()
    folder: str | None = field(default=None, metadata=OMITTED)
