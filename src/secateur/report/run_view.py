"""The record and the metrics of a run, as the report reads them: every part optional, none trusted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic

from secateur.data.corpus import SAMPLE_RATE
from secateur.errors import SecateurError
from secateur.records.files import read_json
from secateur.records.score import Direction, ScoreInfo

FORMAT = 1
Count = Annotated[int, pydantic.Field(ge=0)]
Hertz = Annotated[int, pydantic.Field(gt=0)]
Milliseconds = Annotated[float, pydantic.Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class AxisRecord:
    """One axis: its units in the first model, before this run and after it."""

    name: str
    kind: str
    layer: Count | None = None
    original: Count
    before: Count
    kept: Count
    gated: bool = False


@dataclass(frozen=True, kw_only=True)
class TimeRecord:
    """A measured time in milliseconds, its spread, and what was measured."""

    median_ms: Milliseconds
    low_ms: Milliseconds
    high_ms: Milliseconds
    seconds_of_audio: float | None = None
    batch: Count | None = None
    threads: Count | None = None


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """What was measured of the model at one stage: dense, shrunk or recovered."""

    name: str
    parameters: Count | None = None
    macs: Count | None = None
    samples: Count | None = None
    sample_rate: Hertz = SAMPLE_RATE
    time: TimeRecord | None = None
    loss: float | None = None
    cosine: tuple[float, ...] | None = None
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """Seconds of audio that the MACs are for."""
        return self.samples / self.sample_rate if self.samples else None


@dataclass(frozen=True, kw_only=True)
class ConstraintRecord:
    """One constraint: costs in its own unit, dense, allowed, expected by the gates and counted after the cut."""

    name: str
    cost: str = ""
    scope: str = ""
    label: str = ""
    unit: str = ""
    target: float | None = None
    dense: float | None = None
    limit: float | None = None
    expected: float | None = None
    verdict: float | None = None
    counted: float | None = None
    binding: bool = False


@dataclass(frozen=True, kw_only=True)
class GateCounts:
    """The gates of one kind: how many there are, are open, and have not decided."""

    gates: Count
    open: Count = 0
    undecided: Count = 0


@dataclass(frozen=True, kw_only=True)
class ShrinkRecord:
    """One time that the student became smaller while it learned: after which step, and its parameters since."""

    step: Count
    parameters: Count


@dataclass(frozen=True, kw_only=True)
class FreezingRecord:
    """Gates that were closed for good while learning went on, and the student that shrank with them."""

    gates: Count
    frozen: Count
    dense: Count
    shrunk: tuple[ShrinkRecord, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GatesRecord:
    """The state of the gates when the selection was chosen."""

    kinds: Mapping[str, GateCounts] = field(default_factory=dict)
    histogram: Mapping[str, tuple[Count, ...]] = field(default_factory=dict)
    undecided_share: float | None = None
    moved: Count | None = None
    moved_share: float | None = None
    freezing: FreezingRecord | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RoundingRecord:
    """What rounding cost: by kind, the multiple and the units that were kept and removed for it; by constraint, the
    share of the dense cost that was given up."""

    multiples: Mapping[str, Count] = field(default_factory=dict)
    opened: Mapping[str, Count] = field(default_factory=dict)
    closed: Mapping[str, Count] = field(default_factory=dict)
    given_up: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CheckRecord:
    """One line of the verification: of the proof, or of the drop-in contract."""

    name: str
    holds: bool
    detail: str = ""
    is_proof: bool = False


@dataclass(frozen=True, kw_only=True)
class VerificationRecord:
    """The proof and the contract: their lines, and the largest difference of masked and cut model per hidden state.

    `proven` is of the proof alone; older records have it under `holds`, of all lines.
    """

    holds: bool
    proven: bool | None = None
    checks: tuple[CheckRecord, ...] = ()
    differences: tuple[float, ...] = ()

    @property
    def is_proven(self) -> bool:
        """Whether the cut model equals the masked model."""
        return self.holds if self.proven is None else self.proven


@dataclass(frozen=True, kw_only=True)
class CorpusRecord:
    """A set of recordings."""

    name: str = ""
    utterances: Count = 0
    hours: float = 0.0
    sample_rate: Hertz | None = None


@dataclass(frozen=True, kw_only=True)
class SkippedFile:
    """A file that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """What was heard, and what was left out."""

    train: CorpusRecord | None = None
    validation: CorpusRecord | None = None
    skipped: tuple[SkippedFile, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CostRecord:
    """Parameters and MACs of one block, and its predicted milliseconds where there is a table of measured times."""

    parameters: Count = 0
    macs: Count = 0
    latency: Annotated[float, pydantic.Field(ge=0)] = 0.0


@dataclass(frozen=True, kw_only=True)
class BlockCosts:
    """Costs by block, before and after."""

    before: Mapping[str, CostRecord]
    after: Mapping[str, CostRecord]


@dataclass(frozen=True, kw_only=True)
class PhaseRecord:
    """A phase of the run and what it took."""

    name: str
    steps: Count | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """What the model was pruned for: its main score and the direction of it, the order of the work, and the weight of
    each thing that was learned from."""

    kind: str
    title: str = ""
    headline: str = ""
    better: Direction = "higher"
    score_info: Mapping[str, ScoreInfo] = field(default_factory=dict)
    order: str = ""
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A stage's record; a verb that does less leaves out more."""

    format: int
    kind: str = "run"
    name: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    recipe: Any = None
    task: TaskRecord | None = None
    data: DataRecord | None = None
    axes: tuple[AxisRecord, ...] = ()
    gates: GatesRecord | None = None
    constraints: tuple[ConstraintRecord, ...] = ()
    rounding: RoundingRecord | None = None
    verification: VerificationRecord | None = None
    stages: tuple[StageRecord, ...] = ()
    blocks: BlockCosts | None = None
    phases: tuple[PhaseRecord, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MetricsPoint:
    """One line of the metrics: every number in it by its name (nested names joined by a slash)."""

    phase: str
    step: int
    values: Mapping[str, float]


T = TypeVar("T")
_RECORD = pydantic.TypeAdapter(RunRecord)


def read_record(path: Path) -> RunRecord:
    """Read a record.

    Raises:
        SecateurError: It is missing, is not JSON, is of another format, or a part is not of its shape.
    """
    return parse_record(read_json(path), path)


def parse_record(data: object, path: Path) -> RunRecord:
    """Parsed JSON as a record; `path` is named in errors.

    Raises:
        SecateurError: It is of another format, or a part is not of its shape.
    """
    return validate_record(_RECORD, data, path)


def validate_record(adapter: pydantic.TypeAdapter[T], data: object, path: Path) -> T:
    """Parsed JSON as one of the dataclasses of a record; `path` is named in errors.

    Raises:
        SecateurError: It is of another format, or a part is not of its shape.
    """
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        got = repr(data.get("format")) if isinstance(data, dict) else f"a {type(data).__name__}"
        raise SecateurError(
            f'{path}: a record is a JSON object with "format": {FORMAT}; got {got}. '
            "Make the record again, or use the version of secateur that wrote it."
        )
    try:
        # An empty part says no more than a missing one.
        return adapter.validate_python({name: section for name, section in data.items() if section not in (None, {})})
    except pydantic.ValidationError as error:
        mistakes = error.errors(include_url=False, include_context=False)
        first_mistake = mistakes[0]
        location = ".".join(str(section) for section in first_mistake["loc"])
        remainder_text = f" ({len(mistakes) - 1} more like it)" if len(mistakes) > 1 else ""
        raise SecateurError(
            f"{path}: not a record that a report can be made of: at {location}, {_lower_first(first_mistake['msg'])}; "
            f"got {str(first_mistake['input'])[:60]!r}{remainder_text}."
        ) from None


def read_metrics(path: Path) -> tuple[MetricsPoint, ...]:
    """The points of a metrics file; none when there is no file, or for a last line that was cut short.

    Raises:
        SecateurError: A line is not a JSON object with a phase and a step.
    """
    if not path.is_file():
        return ()
    points: list[MetricsPoint] = []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n") and number == len(lines):
            continue  # the run is still writing, or was killed while it wrote
        try:
            entry = json.loads(line)
            points.append(
                MetricsPoint(
                    phase=str(entry["phase"]), step=int(entry["step"]), values=dict(_finite_numbers(entry, ""))
                )
            )
        except (ValueError, KeyError, TypeError):
            raise SecateurError(
                f'{path}: line {number} is not a metrics line, an object with "phase" and "step".'
            ) from None
    return tuple(points)


def _finite_numbers(entry: Mapping[str, Any], prefix: str) -> Sequence[tuple[str, float]]:
    """The finite numbers in an object, named by their way through it; what is no number is not drawn."""
    numbers: list[tuple[str, float]] = []
    for name, value in entry.items():
        if isinstance(value, Mapping):
            numbers.extend(_finite_numbers(value, f"{prefix}{name}/"))
        elif isinstance(value, bool) or not isinstance(value, int | float) or name in ("step", "phase"):
            continue
        elif math.isfinite(value):
            numbers.append((prefix + name, float(value)))
    return numbers


def _lower_first(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
