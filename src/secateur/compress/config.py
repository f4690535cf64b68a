"""The recipe of a pruning run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from annotated_types import Gt, Le, Lt

from secateur.bounds import (
    KeptShare,
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveInt,
    ProperShare,
    Seed,
    Share,
    ShareBelowOne,
)
from secateur.cost.latency_table import Conditions
from secateur.data.sources import DataConfig, SyntheticData
from secateur.errors import ConfigError, did_you_mean
from secateur.gates import Gate, HardConcrete
from secateur.losses.constraint import TARGET_REQUIRED, Constraint
from secateur.losses.distances import Distance, L1Cosine, LogitDistance
from secateur.losses.layer_mapping import FixedLayerMapping, LayerMapping
from secateur.surgery.unit_groups import AUTO_MULTIPLES, ROUNDABLE_KINDS
from secateur.tasks import TaskConfig


@dataclass(frozen=True, kw_only=True)
class Batching:
    """Sizes of batches and crops."""

    seconds: Positive = 32.0
    """seconds of audio in one optimizer step, over all processes and micro-batches"""
    longest: Positive = 15.6
    """longest crop, in seconds"""
    shortest: NonNegative = 1.0
    """utterances below this many seconds are never drawn"""
    accumulate: PositiveInt = 1
    """micro-batches of each process in one step"""

    def __post_init__(self) -> None:
        if self.shortest > self.longest:
            raise ConfigError(f"shortest: expected a number <= longest, {self.longest:g}, got {self.shortest:g}.")


@dataclass(frozen=True, kw_only=True)
class RegularizationConfig:
    """Randomness of the student in the training of a task; the teacher and validation have no randomness."""

    dropout: ShareBelowOne = 0.0
    """dropout rate, everywhere that the architecture has a dropout"""
    layer_drop: ShareBelowOne = 0.0
    """share of layers left out; not while gates learn. The hidden state of such a layer is its input"""
    time_masks: ShareBelowOne = 0.0
    """share of an utterance's frames behind the front end that are masked, on average (SpecAugment)"""
    time_mask_length: PositiveInt = 10
    """frames of a time mask; of an utterance at most half"""
    feature_masks: ShareBelowOne = 0.0
    """share of the features behind the front end that are masked in all frames, on average"""
    feature_mask_length: PositiveInt = 10
    """features of a feature mask"""

    @property
    def is_active(self) -> bool:
        """True if a rate is above zero."""
        return any((self.dropout, self.layer_drop, self.time_masks, self.feature_masks))


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Optimization of a phase."""

    steps: NonNegativeInt = 1000
    """optimizer steps; 0 leaves the phase out"""
    learning_rate: NonNegative = 2e-4
    """highest learning rate of AdamW on the weights"""
    head_learning_rate: NonNegative | None = None
    """learning rate of a task's head; null: that of the encoder. A new head that learns no faster than its encoder may
    spoil the encoder's features before they serve the task, above all a transducer's"""
    warmup: Share = 0.07
    """share of the steps in which the learning rate rises"""
    decay: Literal["linear", "none"] = "linear"
    """fall of the learning rate after the warmup: linear to zero, or none, which suits a learn phase that a recover
    phase goes on from"""
    weight_decay: NonNegative = 0.0
    """weight decay of AdamW"""
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.98)
    """betas of AdamW"""
    clip: Positive | None = 10.0
    """2-norm that the gradient is clipped to; null: no clipping"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """dtype of forward passes; weights, gradients and moments stay float32"""
    compile: bool = False
    """run student and teacher through torch.compile"""
    gradient_checkpointing: bool = False
    """recompute activations inside the layers in the backward pass: a third more time, far less memory"""
    regularise: RegularizationConfig = field(default_factory=RegularizationConfig)
    """randomness in the student, with a task alone"""
    freeze_frontend: bool = False
    """keep the weights of the convolutional front end; not while its channels are gated, since then they must learn"""
    log_every: PositiveInt = 10
    """steps between two lines of the log"""
    validate_every: NonNegativeInt = 0
    """steps between two validations; 0 validates at the end only"""
    save_every: NonNegativeInt = 500
    """steps between two checkpoints; 0 saves at the end only"""
    tensorboard: bool = False
    """mirror the log in ``tensorboard/`` of the run folder"""


@dataclass(frozen=True, kw_only=True)
class FreezeConfig:
    """Condition for freezing a gate at zero in the course of learning, so that the unit can be removed at once."""

    below: Annotated[float, Gt(0), Lt(0.5)] = 0.2
    """open probability below which a gate counts as closed"""
    patience: PositiveInt = 2
    """checks in a row at which the gate must have been closed"""
    every: Annotated[float, Gt(0), Le(1)] = 0.03
    """share of the steps between checks"""
    start: Share = 0.0
    """share of the steps before the first check"""
    shrink: bool = False
    """remove the units of frozen gates from the student while it learns"""
    worth: ProperShare = 0.1
    """share of the student's multiply-accumulates that must have been frozen before it is rebuilt without them"""


@dataclass(frozen=True, kw_only=True)
class LearnConfig(TrainingConfig):
    """The learn phase: weights and gates together, with separate optimizers."""

    steps: PositiveInt = 1000
    """optimizer steps"""
    gate_learning_rate: NonNegative = 2e-2
    """learning rate of Adam on the gates"""
    gate_betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.98)
    """betas of Adam on the gates; with the usual 0.999 the constraints' first swings drown the distillation's gradient
    for a thousand steps, and gates stay undecided"""
    multiplier_learning_rates: tuple[NonNegative, NonNegative] = (2e-2, 2e-1)
    """learning rates of lambda1 and lambda2. Published runs give both the same; over hundreds of steps instead of tens
    of thousands a stiffer lambda2 keeps the cost from swinging past its target"""
    gate_schedule: Literal["constant", "weights"] = "constant"
    """schedule of gates and multipliers: constant, or that of the weights, as in the released code of the papers"""
    freeze: FreezeConfig | None = None
    """close gates for good while learning goes on; null lets every gate reopen until the last step"""


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Imitation of the teacher by the student."""

    distance: Distance = field(default_factory=L1Cosine)
    """distance between hidden states"""
    pairing: LayerMapping = field(default_factory=FixedLayerMapping)
    """hidden states of the student that imitate hidden states of the teacher"""
    weight: NonNegative = 1.0
    """weight of the distance between hidden states in the loss"""
    logits: LogitDistance | None = None
    """distance between the outputs of the task heads of student and teacher; null: they are not compared"""
    logits_weight: NonNegative = 1.0
    """weight of the distance between the heads' outputs in the loss"""

    @property
    def has_loss(self) -> bool:
        """True if a distance has a weight above zero."""
        return self.weight > 0 or (self.logits is not None and self.logits_weight > 0)


@dataclass(frozen=True, kw_only=True)
class RoundingConfig:
    """Rounding of sizes to multiples that the hardware is fast with."""

    round_to: Literal["auto"] | dict[str, PositiveInt | Literal["auto"]] = field(default_factory=dict)
    """multiples of kept sizes by kind: channels, qk, vo, units, rank, predictor, joiner; ``auto``, for one of them or
    for all, is the multiple that the device gains from, if any"""
    device: Literal["cpu", "cuda"] = "cpu"
    """device that the model is meant for, which ``auto`` depends on"""

    def __post_init__(self) -> None:
        for kind in self.round_to if isinstance(self.round_to, dict) else ():  # "auto" names no kind
            if kind not in ROUNDABLE_KINDS:
                hint = did_you_mean(kind, ROUNDABLE_KINDS)
                raise ConfigError(f"round_to: expected a kind of {', '.join(ROUNDABLE_KINDS)}, got {kind!r}.{hint}")

    def multiples(self, kinds: Sequence[str]) -> dict[str, int]:
        """Return the multiple of each rounded kind, or 1 if the device does not gain from a multiple.

        Args:
            kinds: The kinds that are pruned.

        Raises:
            ConfigError: A kind is to be rounded that is not pruned.
        """
        auto_multiples = AUTO_MULTIPLES[self.device]
        if isinstance(self.round_to, str):  # "auto" for all kinds
            return {kind: auto_multiples.get(kind, 1) for kind in ROUNDABLE_KINDS if kind in kinds}
        unpruned_kinds = [kind for kind in self.round_to if kind not in kinds]
        if unpruned_kinds:
            raise ConfigError(
                f"choose.round_to names {unpruned_kinds[0]!r}, which this run does not prune; "
                f"it prunes {', '.join(kinds)}."
            )
        return {kind: auto_multiples.get(kind, 1) if m == "auto" else m for kind, m in self.round_to.items()}


@dataclass(frozen=True, kw_only=True)
class FactorizationConfig:
    """Linear maps that the student holds as two maps, from the singular values, so that ranks can be pruned."""

    linears: tuple[str, ...]
    """paths, or the last words of them: q_proj, k_proj, v_proj, out_proj, intermediate_dense, output_dense"""
    start: Literal["full", "break_even"] | PositiveInt = "full"
    """ranks to begin with: ``full``, from where gates choose among all and the student begins above the dense cost;
    ``break_even``, the largest that cost no more than the dense maps; or a number"""

    def __post_init__(self) -> None:
        if not self.linears:
            raise ConfigError("linears: got none; name some, such as [q_proj, k_proj, v_proj, out_proj].")


@dataclass(frozen=True, kw_only=True)
class FromGates(RoundingConfig):
    """Learn gates, then choose by the hard decisions of the gates."""

    kind: Literal["gates"] = "gates"
    """gates: choose by learned gates"""


@dataclass(frozen=True, kw_only=True)
class FromScore(RoundingConfig):
    """No learn phase: the same share of every axis, the units with the largest weights or the first units."""

    kind: Literal["score"] = "score"
    """score: choose by a score of the dense weights"""
    score: Literal["magnitude", "first"] = "magnitude"
    """magnitude keeps the units of the largest weights, first keeps the first units"""
    kinds: tuple[str, ...] = ("qk", "vo", "units")
    """kinds of axes that are pruned"""


@dataclass(frozen=True, kw_only=True)
class FromFile:
    """No learn phase: a selection from a file."""

    kind: Literal["file"] = "file"
    """file: take a selection from a file"""
    path: str
    """selection file"""


ChooseConfig = FromGates | FromScore | FromFile


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Held-out audio."""

    data: DataConfig | None = None
    """null: a share of the training data is held out"""
    seconds: Positive = 120.0
    """seconds of audio that are used"""


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """A pruning run: learn, choose, shrink, recover."""

    name: str = "prune"
    """name of the run, of its folder and of its report"""
    model: str = "tiny"
    """a model folder, a hub id, or ``tiny``, the teacher that ships with the package"""
    out: str | None = None
    """the run folder; null: ``runs/<name>``"""
    seed: Seed = 0
    """seed of everything random"""
    data: DataConfig = field(default_factory=SyntheticData)
    """speech to train on"""
    validation: Validation = field(default_factory=Validation)
    """held-out speech"""
    batching: Batching = field(default_factory=Batching)
    """batches of audio"""
    gates: dict[str, Gate | None] = field(
        default_factory=lambda: {kind: HardConcrete() for kind in ("channels", "heads", "units")}
    )
    """gates by kind of axis: channels, groups (of the positional convolution; no recipe here gates them, see
    benchmarks/README.md), heads, qk, vo, units, rank (of the maps named by `factorise`), block; of a transducer's head
    predictor and joiner, with a constraint that counts them; null leaves out a kind that a base gates"""
    factorise: FactorizationConfig | None = None
    """linear maps that are pruned by rank; null: none"""
    target: KeptShare | None = None
    """the kept share, of each constraint without a target; without `constraints`, of the whole model's parameters"""
    constraints: tuple[Constraint, ...] = ()
    """costs that the pruned model must meet, in the place of the default one on parameters"""
    latency: Conditions = field(default_factory=Conditions)
    """conditions under which the cost `latency` is measured"""
    task: TaskConfig | None = None
    """task that the model learns beside or instead of imitating its teacher; null: it stays an encoder for any task"""
    task_weight: NonNegative = 1.0
    """weight of the task's loss while pruning and recovering"""
    distill: Distillation | None = field(default_factory=Distillation)
    """imitation of the teacher; null: the task alone"""
    choose: ChooseConfig = field(default_factory=FromGates)
    """choice of the units that are kept"""
    finetune: TrainingConfig | None = None
    """fine-tune the dense model for its task first, and prune the result; null: prune the model as it is"""
    learn: LearnConfig = field(default_factory=LearnConfig)
    """the learn phase: weights and gates together"""
    recover: TrainingConfig = field(default_factory=TrainingConfig)
    """the recover phase: the weights of the pruned model"""

    def __post_init__(self) -> None:
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
        """Raise a ConfigError if fields need a task that the recipe lacks, or contradict the task."""
        if self.task is None:
            task_only_fields = {
                "distill: null": self.distill is None,
                "finetune": self.finetune is not None,
                "task_weight": self.task_weight != 1.0,  # differs from the default
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
        """Training settings by phase, with the learn phase even if the recipe chooses without gates."""
        phases = {"finetune": self.finetune, "learn": self.learn, "recover": self.recover}
        return {name: phase for name, phase in phases.items() if phase is not None}

    @property
    def gate_configs(self) -> dict[str, Gate]:
        """Settings of the kinds that are gated."""
        return {kind: gate for kind, gate in self.gates.items() if gate is not None}

    @property
    def pruned_kinds(self) -> tuple[str, ...]:
        """Kinds of axes that the run prunes; the gated kinds for a selection from a file."""
        return self.choose.kinds if isinstance(self.choose, FromScore) else tuple(self.gate_configs)

    @property
    def round_to(self) -> dict[str, int]:
        """The multiple of each kind that is rounded while choosing."""
        return self.choose.multiples(self.pruned_kinds) if isinstance(self.choose, RoundingConfig) else {}

    @property
    def targeted_constraints(self) -> tuple[Constraint, ...]:
        """The constraints with the targets; by default a quarter of the parameters is kept."""
        target = 0.25 if self.target is None else self.target
        return tuple(
            constraint if constraint.target_fields else replace(constraint, target=target)
            for constraint in self.constraints or (Constraint(),)  # by default on the parameters of the whole model
        )
