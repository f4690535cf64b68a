"""The recipe of a pruning run."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from secateur.cost.latency_table import Conditions
from secateur.data.sources import DataConfig, SyntheticData
from secateur.errors import ConfigError, did_you_mean
from secateur.gates import Gate, HardConcrete
from secateur.losses.constraint import TARGET_REQUIRED, Constraint
from secateur.losses.distances import Distance, L1Cosine, LogitDistance
from secateur.losses.layer_mapping import FixedLayerMapping, LayerMapping
from secateur.surgery.factorize import InitialRanks
from secateur.surgery.unit_groups import AUTO_MULTIPLES, ROUNDABLE_KINDS
from secateur.tasks import TaskConfig


def _check_bounds(owner: object, **allowed: str) -> None:
    """Raise a ConfigError that names every field outside its bounds, such as ``steps=">= 1"``; null is inside."""
    comparisons = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
    problems = []
    for name, text in allowed.items():
        value = getattr(owner, name)
        values = value if isinstance(value, tuple) else (value,)
        bounds = [part.split() for part in text.split(" and ")]
        if not all(
            comparisons[sign](item, float(bound)) for item in values if item is not None for sign, bound in bounds
        ):
            problems.append(f"{name}: got {value}, allowed is {text}.")
    if problems:
        raise ConfigError(" ".join(problems))


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

    def __post_init__(self) -> None:
        _check_bounds(self, seconds="> 0", longest="> 0", shortest=f">= 0 and <= {self.longest}", accumulate=">= 1")


@dataclass(frozen=True, kw_only=True)
class RegularizationConfig:
    """What is random while a task is learned; nothing is by default, nor ever in the teacher and in validation."""

    dropout: float = 0.0
    """everywhere that the architecture has a dropout"""
    layer_drop: float = 0.0
    """share of layers left out; not while gates learn. The hidden state of such a layer is its input"""
    time_masks: float = 0.0
    """share of an utterance's frames behind the front end that are masked, on average (SpecAugment)"""
    time_mask_length: int = 10
    """frames of a mask; of an utterance at most half"""
    feature_masks: float = 0.0
    """the same for the features of all its frames"""
    feature_mask_length: int = 10

    def __post_init__(self) -> None:
        _check_bounds(
            self,
            dropout=">= 0 and < 1",
            layer_drop=">= 0 and < 1",
            time_masks=">= 0 and < 1",
            feature_masks=">= 0 and < 1",
            time_mask_length=">= 1",
            feature_mask_length=">= 1",
        )

    @property
    def is_active(self) -> bool:
        """Whether anything is random."""
        return any((self.dropout, self.layer_drop, self.time_masks, self.feature_masks))


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The optimisation of one phase."""

    steps: int = 1000
    learning_rate: float = 2e-4
    head_learning_rate: float | None = None
    """of a task's head; null: as of the encoder. A new head that learns no faster than its encoder may spoil the
    encoder before it has learned to listen, above all a transducer's"""
    warmup: float = 0.07
    """share of the steps in which the rate rises"""
    decay: Literal["linear", "none"] = "linear"
    """afterwards the rate falls to zero, or stays: a learn phase need not fall when a recover phase goes on from it"""
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float | None = 10.0
    precision: Literal["fp32", "bf16"] = "fp32"
    """of forward passes; weights, gradients and moments stay float32"""
    compile: bool = False
    """run student and teacher through torch.compile"""
    gradient_checkpointing: bool = False
    """keep no activations inside the layers for the backward pass, which computes them again: a third more time, far
    less memory"""
    regularise: RegularizationConfig = field(default_factory=RegularizationConfig)
    """with a task alone"""
    freeze_frontend: bool = False
    """keep the weights of the convolutional front end; not while its channels are gated, since then they must learn"""
    log_every: int = 10
    validate_every: int = 0
    save_every: int = 500
    tensorboard: bool = False
    """mirror the log's figures in ``tensorboard/`` of the run folder"""

    def __post_init__(self) -> None:
        _check_bounds(
            self,
            steps=">= 0",
            learning_rate=">= 0",
            head_learning_rate=">= 0",
            warmup=">= 0 and <= 1",
            weight_decay=">= 0",
            betas=">= 0 and < 1",
            clip="> 0",
            log_every=">= 1",
            validate_every=">= 0",
            save_every=">= 0",
        )


@dataclass(frozen=True, kw_only=True)
class FreezeConfig:
    """When a gate has closed for good: it is frozen at zero from then on, and its unit can be removed at once."""

    below: float = 0.2
    """open probability under which a gate counts as closed"""
    patience: int = 2
    """checks in a row at which it must have been closed"""
    every: float = 0.03
    """share of the steps between checks"""
    start: float = 0.0
    """share of the steps before the first check"""
    shrink: bool = False
    """remove the units of frozen gates from the student while it learns"""
    worth: float = 0.1
    """share of the student's multiply-accumulates that must have been frozen before it is rebuilt without them"""

    def __post_init__(self) -> None:
        _check_bounds(
            self,
            below="> 0 and < 0.5",
            patience=">= 1",
            every="> 0 and <= 1",
            start=">= 0 and <= 1",
            worth="> 0 and < 1",
        )


@dataclass(frozen=True, kw_only=True)
class LearnConfig(TrainingConfig):
    """The learn phase: weights and gates together, each with an optimiser of its own."""

    gate_learning_rate: float = 2e-2
    gate_betas: tuple[float, float] = (0.9, 0.98)
    """of Adam on the gates; with the usual 0.999 the constraints' first swings drown the distillation's gradient for
    a thousand steps, and gates stay undecided"""
    multiplier_learning_rates: tuple[float, float] = (2e-2, 2e-1)
    """of lambda1 and lambda2. Published runs give both the same; over hundreds of steps instead of tens of thousands a
    stiffer lambda2 keeps the cost from swinging past its target"""
    gate_schedule: Literal["constant", "weights"] = "constant"
    """``weights``: gates and multipliers follow the schedule of the weights, as in the released codes"""
    freeze: FreezeConfig | None = None
    """close gates for good while learning goes on; null lets every gate reopen until the last step"""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_bounds(
            self,
            steps=">= 1",
            gate_learning_rate=">= 0",
            gate_betas=">= 0 and < 1",
            multiplier_learning_rates=">= 0",
        )


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """What the student imitates."""

    distance: Distance = field(default_factory=L1Cosine)
    pairing: LayerMapping = field(default_factory=FixedLayerMapping)
    weight: float = 1.0
    """of the distance between hidden states"""
    logits: LogitDistance | None = None
    """what the student's task head imitates of the teacher's; null for nothing"""
    logits_weight: float = 1.0

    def __post_init__(self) -> None:
        _check_bounds(self, weight=">= 0", logits_weight=">= 0")

    @property
    def has_loss(self) -> bool:
        """Whether there is anything in it to learn."""
        return self.weight > 0 or (self.logits is not None and self.logits_weight > 0)


@dataclass(frozen=True, kw_only=True)
class RoundingConfig:
    """Choosing sizes that the hardware likes."""

    round_to: Literal["auto"] | dict[str, int | Literal["auto"]] = field(default_factory=dict)
    """multiples of kept sizes by kind: channels, qk, vo, units, rank, predictor, joiner; ``auto``, for one of them or
    for all, is the multiple that the device gains from, if any"""
    device: Literal["cpu", "cuda"] = "cpu"
    """what the model is meant for, by which ``auto`` goes"""

    def __post_init__(self) -> None:
        for kind, multiple in self.round_to.items() if isinstance(self.round_to, dict) else ():
            if kind not in ROUNDABLE_KINDS:
                raise ConfigError(
                    f"round_to: got the kind {kind!r}, allowed are {', '.join(ROUNDABLE_KINDS)}.{did_you_mean(kind, ROUNDABLE_KINDS)}"
                )
            if multiple != "auto" and multiple < 1:
                raise ConfigError(f"round_to.{kind}: got {multiple}, allowed is 'auto' or a whole number from 1 on.")

    def multiples(self, kinds: Sequence[str]) -> dict[str, int]:
        """The multiple of each kind that is rounded; 1 where the device gains from none.

        Args:
            kinds: The kinds that are pruned.

        Raises:
            ConfigError: A kind is to be rounded that is not pruned.
        """
        auto_multiples = AUTO_MULTIPLES[self.device]
        if isinstance(self.round_to, str):
            return {kind: auto_multiples.get(kind, 1) for kind in ROUNDABLE_KINDS if kind in kinds}
        unpruned_kinds = [kind for kind in self.round_to if kind not in kinds]
        if unpruned_kinds:
            raise ConfigError(
                f"choose.round_to names {unpruned_kinds[0]!r}, which this run does not prune; it prunes {', '.join(kinds)}."
            )
        return {kind: auto_multiples.get(kind, 1) if m == "auto" else m for kind, m in self.round_to.items()}


@dataclass(frozen=True, kw_only=True)
class FactorizationConfig:
    """Linear maps that the student has as two each, from their singular values, so that their ranks can be pruned."""

    linears: tuple[str, ...]
    """paths, or the last words of them: q_proj, k_proj, v_proj, out_proj, intermediate_dense, output_dense"""
    start: InitialRanks = "full"
    """ranks to begin with: ``full``, from where gates choose among all and the student begins above the dense cost;
    ``break_even``, the largest that cost no more than the dense maps; or a number"""

    def __post_init__(self) -> None:
        if not self.linears:
            raise ConfigError("linears: got none; name some, such as [q_proj, k_proj, v_proj, out_proj].")
        if isinstance(self.start, int) and self.start < 1:
            raise ConfigError(f"start: got {self.start}, allowed are 'full', 'break_even' and whole numbers from 1 on.")


@dataclass(frozen=True, kw_only=True)
class FromGates(RoundingConfig):
    """Learn gates, then choose by their verdicts."""

    kind: Literal["gates"] = "gates"


@dataclass(frozen=True, kw_only=True)
class FromScore(RoundingConfig):
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


ChooseConfig = FromGates | FromScore | FromFile


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Held-out audio."""

    data: DataConfig | None = None
    """None: a share of the training data is held out"""
    seconds: float = 120.0
    """how much of it is used"""

    def __post_init__(self) -> None:
        _check_bounds(self, seconds="> 0")


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
    """settings by kind of axis: channels, groups (of the positional convolution; no recipe here gates them, see
    benchmarks/README.md), heads, qk, vo, units, rank (of the maps named by `factorise`), block; of a transducer's head
    predictor and joiner, with a constraint that counts them; null leaves out a kind that a base gates"""
    factorise: FactorizationConfig | None = None
    """linear maps that are pruned by rank; null: none"""
    target: float | None = None
    """the share that is kept, of every constraint without a target of its own; without `constraints`, of the parameters
    of the whole model"""
    constraints: tuple[Constraint, ...] = ()
    latency: Conditions = field(default_factory=Conditions)
    """what the cost `latency` is measured under"""
    task: TaskConfig | None = None
    """what the model learns beside or instead of imitating its teacher; null: it stays an encoder for any task"""
    task_weight: float = 1.0
    """of the task's loss while pruning and recovering"""
    distill: Distillation | None = field(default_factory=Distillation)
    """null: the task alone"""
    choose: ChooseConfig = field(default_factory=FromGates)
    finetune: TrainingConfig | None = None
    """fine-tune the dense model for its task first, and prune the result; null: prune the model as it is"""
    learn: LearnConfig = field(default_factory=LearnConfig)
    recover: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        _check_bounds(self, seed=">= 0")
        untargeted = [constraint for constraint in self.constraints if not constraint.target_fields]
        if untargeted and self.target is None:
            raise ConfigError(f"{TARGET_REQUIRED}, or the recipe a 'target'; got none for {untargeted[0].name}.")
        if self.target is not None and self.constraints and not untargeted:
            raise ConfigError(
                "Every constraint has a target of its own, so that none would take 'target': set it to null."
            )
        names = [constraint.name for constraint in self.targeted_constraints]
        repeated_names = sorted({name for name in names if names.count(name) > 1})
        if repeated_names:
            raise ConfigError(f"Two constraints have the same cost and scope: {', '.join(repeated_names)}.")
        self._check_task()
        if isinstance(self.choose, RoundingConfig):
            self.choose.multiples(self.pruned_kinds)  # refuses a kind that is not pruned
            if self.factorise is not None and "rank" not in self.pruned_kinds:
                raise ConfigError(
                    "factorise: no ranks are pruned, so that every map would end as it began; name the kind 'rank' "
                    "under 'gates' (or under 'choose.kinds' when choosing by score)."
                )

    def _check_task(self) -> None:
        """Refuse what contradicts having a task, or having none."""
        _check_bounds(self, task_weight=">= 0")
        if self.task is None:
            task_only_fields = {
                "distill: null": self.distill is None,
                "finetune": self.finetune is not None,
                "task_weight": self.task_weight != 1.0,
                "distill.logits": self.distill is not None and self.distill.logits is not None,
            }
            for name, phase in self.phases.items():
                task_only_fields[f"{name}.regularise"] = phase.regularise.is_active
                task_only_fields[f"{name}.head_learning_rate"] = phase.head_learning_rate is not None
            for name, is_set in task_only_fields.items():
                if is_set:
                    raise ConfigError(
                        f"{name}: allowed with a task alone; name one under 'task', such as {{kind: ctc}}."
                    )
            if self.distill is not None and not self.distill.has_loss:
                raise ConfigError("distill.weight: got 0 without a task, so that nothing would be learned.")
            return
        if not self.task_weight and (self.distill is None or not self.distill.has_loss):
            raise ConfigError("task_weight: got 0 with nothing to imitate, so that nothing would be learned.")
        if self.finetune is not None and not self.finetune.steps:
            raise ConfigError("finetune.steps: got 0, allowed is >= 1; set 'finetune' to null to leave it out.")
        if self.learn.regularise.layer_drop:
            raise ConfigError("learn.regularise.layer_drop: layers are not dropped while gates learn; set it to 0.")
        if self.learn.freeze_frontend and "channels" in self.gate_configs and isinstance(self.choose, FromGates):
            raise ConfigError(
                "learn.freeze_frontend: the channels of the front end are gated, so its weights must learn; set it to "
                "false, or leave 'channels' out of 'gates'."
            )

    @property
    def phases(self) -> dict[str, TrainingConfig]:
        """The phases that may train, by name; those that the way of choosing leaves out among them."""
        phases = {"finetune": self.finetune, "learn": self.learn, "recover": self.recover}
        return {name: phase for name, phase in phases.items() if phase is not None}

    @property
    def gate_configs(self) -> dict[str, Gate]:
        """Settings of the kinds that are gated."""
        return {kind: gate for kind, gate in self.gates.items() if gate is not None}

    @property
    def pruned_kinds(self) -> tuple[str, ...]:
        """Kinds of axes that the run prunes; of a selection from a file it is not known."""
        return self.choose.kinds if isinstance(self.choose, FromScore) else tuple(self.gate_configs)

    @property
    def round_to(self) -> dict[str, int]:
        """The multiple of each kind that is rounded while choosing."""
        return self.choose.multiples(self.pruned_kinds) if isinstance(self.choose, RoundingConfig) else {}

    @property
    def targeted_constraints(self) -> tuple[Constraint, ...]:
        """The constraints with their targets; a quarter of the parameters when none is given."""
        target = 0.25 if self.target is None else self.target
        return tuple(
            constraint if constraint.target_fields else replace(constraint, target=target)
            for constraint in self.constraints or (Constraint(),)
        )
