"""The recipe of a pruning run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from secateur.data.config import DataConfig, SyntheticData
from secateur.errors import ConfigError
from secateur.gates import Gate, HardConcrete
from secateur.objective.constraint import Constraint
from secateur.objective.distill import Distance, L1Cosine
from secateur.objective.pairing import Fixed, Pairing


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How audio becomes batches."""

    seconds: float = 32.0
    """audio in one optimiser step, over all processes and micro-batches"""
    longest: float = 15.6
    """longest crop, in seconds"""
    shortest: float = 1.0
    """utterances below this many seconds are never drawn"""
    accumulate: int = 1
    """micro-batches of each process in one step"""


@dataclass(frozen=True, kw_only=True)
class Training:
    """The optimisation of one phase."""

    steps: int = 1000
    learning_rate: float = 2e-4
    warmup: float = 0.07
    """share of the steps in which the rate rises; it falls to zero afterwards"""
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float | None = 10.0
    precision: Literal["fp32", "bf16"] = "fp32"
    log_every: int = 10
    validate_every: int = 0
    save_every: int = 500


@dataclass(frozen=True, kw_only=True)
class Learning(Training):
    """The learn phase: weights and gates together, each with an optimiser of its own."""

    gate_learning_rate: float = 2e-2
    gate_betas: tuple[float, float] = (0.9, 0.98)
    """of Adam on the gates; with the usual 0.999 the constraints' first swings drown the distillation's gradient for
    a thousand steps, and gates stay undecided"""
    multiplier_learning_rate: float = 2e-2
    gate_schedule: Literal["constant", "weights"] = "constant"
    """``weights``: gates and multipliers follow the schedule of the weights, as in the released codes"""


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """What the student imitates."""

    distance: Distance = field(default_factory=L1Cosine)
    pairing: Pairing = field(default_factory=Fixed)


@dataclass(frozen=True, kw_only=True)
class FromGates:
    """Learn gates, then choose by their verdicts."""

    kind: Literal["gates"] = "gates"


@dataclass(frozen=True, kw_only=True)
class FromScore:
    """No learn phase: the same share of every axis, by the size of its weights, or simply the first units."""

    kind: Literal["score"] = "score"
    score: Literal["magnitude", "first"] = "magnitude"
    kinds: tuple[str, ...] = ("qk", "vo", "units")
    """kinds of axes that are pruned"""


@dataclass(frozen=True, kw_only=True)
class FromFile:
    """No learn phase: a selection from a file."""

    kind: Literal["file"] = "file"
    path: str


Choosing = FromGates | FromScore | FromFile


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Held-out audio."""

    data: DataConfig | None = None
    """None: a share of the training data is held out"""
    seconds: float = 120.0
    """how much of it is used"""


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """A pruning run: learn, choose, shrink, recover."""

    name: str = "prune"
    model: str = "tiny"
    """a model folder, a hub id, or ``tiny``, the teacher that ships with the package"""
    out: str | None = None
    """the run folder; None: ``runs/<name>``"""
    seed: int = 0
    data: DataConfig = field(default_factory=SyntheticData)
    validation: Validation = field(default_factory=Validation)
    batching: Batching = field(default_factory=Batching)
    gates: dict[str, Gate | None] = field(
        default_factory=lambda: {kind: HardConcrete() for kind in ("channels", "heads", "units")}
    )
    """settings by kind of axis: channels, heads, qk, vo, units, block; null leaves out a kind that a base gates"""
    target: float | None = None
    """short for one constraint: this share of the parameters of the whole model is kept"""
    constraints: tuple[Constraint, ...] = ()
    distill: Distillation = field(default_factory=Distillation)
    choose: Choosing = field(default_factory=FromGates)
    learn: Learning = field(default_factory=Learning)
    recover: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        if self.target is not None and self.constraints:
            raise ConfigError("Give either 'target' or 'constraints': 'target' is short for one constraint.")
        names = [constraint.name for constraint in self.limits]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"Two constraints have the same cost and scope: {', '.join(twice)}.")

    @property
    def gated(self) -> dict[str, Gate]:
        """Settings of the kinds that are gated."""
        return {kind: gate for kind, gate in self.gates.items() if gate is not None}

    @property
    def limits(self) -> tuple[Constraint, ...]:
        """The constraints, `target` written out; a quarter of the parameters when none is given."""
        if self.constraints:
            return self.constraints
        return (Constraint(target=0.25 if self.target is None else self.target),)
