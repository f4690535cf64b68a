"""One step of learning what to prune: start reading here.

masks -> student and teacher forward -> distillation and task losses -> expected sizes -> cost -> constraint -> scalar
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from secateur.compress.audio_batches import AudioFeed, MicroBatch
from secateur.compress.config import Distillation, LearnConfig, TrainingConfig
from secateur.compress.distiller import DistillationModel, Pair
from secateur.compress.fidelity import score_task
from secateur.compress.progressive import ProgressiveShrinking
from secateur.compress.regularization import freeze_batch_norm
from secateur.compress.spec_augment import NO_MASKS, SpecMasks, draw_masks
from secateur.compress.student import Student
from secateur.compress.teacher import Teacher
from secateur.cost import Cost
from secateur.engine import OptimizerSpec, Schedule, StepLoss
from secateur.gates import GateSet
from secateur.hf.model_view import ModelView
from secateur.losses.constraint import Constraint, Multipliers, penalty
from secateur.losses.distances import LogitDistance, sum_over
from secateur.losses.layer_mapping import match_layers
from secateur.structure import axis as names
from secateur.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a student learns: to imitate its teacher, to do a task, or both."""

    distill: Distillation | None = field(default_factory=Distillation)
    task: Task | None = None
    task_weight: float = 1.0


class DistillUnit:
    """A student learns to imitate a frozen teacher, or a task: the finetune and recover phases, the ground of learn."""

    module: DistillationModel
    has_unused_parameters = True  # a final norm behind the last hidden state gets no gradient

    def __init__(
        self,
        distiller: DistillationModel,
        teacher_view: ModelView,
        feed: AudioFeed,
        held_out: Sequence[MicroBatch],
        training: TrainingConfig,
        objective: Objective | None = None,
    ) -> None:
        """
        Args:
            imitator: The student with its maps.
            teacher_view: The dense model, with its head where logits are imitated; frozen, and in eval mode throughout.
            feed: Training audio.
            held_out: Validation audio.
            training: The phase's optimisation.
            objective: What is learned; None: to imitate hidden states.
        """
        self.teacher_view = teacher_view
        self.teacher: nn.Module = self.teacher_view.model
        self.module, self.feed, self.held_out, self.training = (
            distiller,
            feed,
            held_out,
            training,
        )
        self.objective = objective or Objective(distill=distiller.distill)
        self.teacher.requires_grad_(False)
        self.pairs: tuple[Pair, ...] = tuple((layer, layer) for layer in distiller.layers)

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """AdamW on the weights, with warm-up and decay."""
        self.device = next(self.module.parameters()).device
        training, distill = self.training, self.objective.distill
        if distill is not None:
            self.teacher.to(self.device)
            self.targets = Teacher(
                self.teacher_view if distill.logits else self.teacher_view.encoder_view,
                self.module.layers,
                precision=training.precision,
                compile=training.compile,
            )
        adam = torch.optim.AdamW(
            self._parameter_groups(),
            lr=training.learning_rate,
            betas=training.betas,
            weight_decay=training.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),  # one pass over memory: a third of the time on a CPU
        )
        return {"weights": OptimizerSpec(optimizer=adam, schedule=self.schedule(), clip=training.clip)}

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """The weights that learn; those of a task's head by themselves where they have a rate of their own."""
        weights = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        rate = self.training.head_learning_rate
        if rate is None:
            return [{"params": weights}]
        student = self.module.student
        encoder_ids = {id(parameter) for parameter in self.module.student_view.encoder.parameters()}
        head_ids = {
            id(parameter) for parameter in (*student.parameters(), *self.module.head.parameters())
        } - encoder_ids
        groups = [
            [parameter for parameter in weights if (id(parameter) in head_ids) is is_head] for is_head in (False, True)
        ]
        return [{"params": groups[0]}, {"params": groups[1], "lr": rate}]

    def schedule(self) -> Schedule:
        """The factor on the learning rate."""
        warmup_steps = round(self.training.warmup * self.training.steps)
        if self.training.decay == "none":
            return Schedule(points=((-1.0, 0.0), (float(warmup_steps), 1.0)))
        return Schedule.warmup_decay(self.training.steps, warmup_steps)

    def micro_batches(self, step: int, rank: int, world: int) -> Sequence[MicroBatch]:
        """This rank's audio of a step."""
        return self.feed.micro_batches(step, rank, world)

    def begin(self, step: int) -> None:
        """Dropout, layer-drop and masks are off, in the student too, unless its training turns one on by name."""
        self.module.train(self.training.regularise.is_active)
        freeze_batch_norm(self.module)
        self.teacher.eval()

    def loss(self, wrapped: nn.Module, batch: MicroBatch) -> StepLoss:
        """This micro-batch's share of the loss of the whole step: means over pairs, valid frames and labels."""
        distill, task = self.objective.distill, self.objective.task
        targets = None if distill is None else self.targets(batch.inputs)
        states = targets.states if targets else {}
        sums = wrapped(batch.inputs, states, self.pairs, task, batch.task_targets, masks=self._draw_masks(batch))
        self.add_distances(sums.layer_distances)
        parts: dict[str, Tensor] = {}
        if distill is not None and targets is not None:
            parts["distill"] = sums.pairs.mean() / batch.frames
            if distill.logits is not None:
                parts["logits"] = self._logit_distance(distill.logits, sums.output, targets.output, batch)
        if task is not None:
            parts["task"] = sums.task / batch.count
        weights = {
            "distill": distill.weight if distill else 0.0,
            "logits": distill.logits_weight if distill else 0.0,
            "task": self.objective.task_weight,
        }
        total = torch.stack([weights[name] * part for name, part in parts.items() if weights[name]]).sum()
        return StepLoss(
            total=total, parts={name: part.detach() for name, part in parts.items()}, files=batch.inputs.ids
        )

    def _draw_masks(self, batch: MicroBatch) -> SpecMasks:
        """What is masked of a micro-batch while its training is random; nothing in validation."""
        settings = self.training.regularise
        if not self.module.training or not (settings.time_masks or settings.feature_masks):
            return NO_MASKS
        frames = self.module.frame_counts(batch.inputs).tolist()
        return draw_masks(settings, batch.row_keys, frames, width=self.module.width)

    def _logit_distance(self, distance: LogitDistance, student: Tensor, teacher: Tensor, batch: MicroBatch) -> Tensor:
        """Mean distance of logits over all valid frames of the step, or over its utterances."""
        rows = distance.per_row(student, teacher)
        if rows.dim() == 1:
            return rows.sum() / batch.count
        return (
            sum_over(rows, None if batch.inputs.mask is None else self.module.valid_frames(batch.inputs)) / batch.frames
        )

    def add_distances(self, layer_distances: Tensor | None) -> None:
        """Distances between all layers in one micro-batch; of interest to a learned pairing only."""

    def end(self, step: int, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Nothing more to do."""
        return {}

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """The loss on held-out audio, and how well the task is done."""
        self.module.eval()
        task = self.objective.task
        loss = sum(float(self.loss(self.module, batch).total) for batch in self.held_out)
        return {"loss": loss} | ({} if task is None else score_task(task, self.module.student_view, self.held_out))

    def state(self) -> dict[str, Tensor]:
        """The student's weights and maps."""
        return {f"module.{name}": value for name, value in self.module.state_dict().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore them."""
        self.module.load_state_dict(
            {name.removeprefix("module."): value for name, value in state.items() if name.startswith("module.")}
        )


@dataclass(frozen=True, kw_only=True)
class CostTarget:
    """A constraint and the cost it is on."""

    constraint: Constraint
    cost: Cost
    share: float
    """share of the dense cost that may stay"""


class PruneUnit(DistillUnit):
    """The learn phase: weights, gates and multipliers together.

    One draw of the masks per optimiser step. The model sees it as a detached leaf; the leaf's gradient is summed over
    micro-batches and ranks, and only then sent into log alpha, together with the constraints'.
    """

    training: LearnConfig

    def __init__(
        self,
        distiller: DistillationModel,
        teacher_view: ModelView,
        feed: AudioFeed,
        held_out: Sequence[MicroBatch],
        training: LearnConfig,
        *,
        gates: GateSet,
        student: Student,
        cost_targets: Sequence[CostTarget],
        objective: Objective | None = None,
        progressive: ProgressiveShrinking | None = None,
    ) -> None:
        """
        Args:
            imitator: The student with its maps.
            teacher_view: The dense encoder.
            feed: Training audio.
            held_out: Validation audio.
            training: The phase's optimisation.
            gates: On the student's axes.
            student: At full size, masks attached.
            bounds: The constraints.
            objective: What is learned; None: to imitate hidden states.
            progressive: What freezes gates and shrinks the student meanwhile; None leaves both as they are.
        """
        super().__init__(distiller, teacher_view, feed, held_out, training, objective)
        self.gates, self.student, self.cost_targets, self.progressive = gates, student, cost_targets, progressive
        gates.bind_weights(student.squared_norms)
        self.multipliers = Multipliers(len(cost_targets))
        self.ramps = [
            Schedule(points=tuple((x * training.steps, y) for x, y in b.constraint.ramp)) for b in cost_targets
        ]
        self.distances = torch.zeros(len(distiller.layers), distiller.depth) if distiller.has_learned_mapping else None
        self.step_distances: Tensor | None = None

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Gates and multipliers have their own, outside weight decay and clipping; multipliers ascend."""
        training = self.training
        gates = torch.optim.Adam(self.gates.parameters(), lr=training.gate_learning_rate, betas=training.gate_betas)
        rates = training.multiplier_learning_rates
        ascent = torch.optim.Adam(
            [
                {"params": [self.multipliers.linear], "lr": rates[0]},
                {"params": [self.multipliers.quadratic], "lr": rates[1]},
            ],
            maximize=True,
        )
        schedule = self.schedule() if training.gate_schedule == "weights" else Schedule.constant()
        weights = super().optimizers()
        self.weight_optimizer = weights["weights"].optimizer
        return weights | {
            "gates": OptimizerSpec(optimizer=gates, schedule=schedule),
            "multipliers": OptimizerSpec(optimizer=ascent, schedule=schedule),
        }

    def begin(self, step: int) -> None:
        """Draw the masks of this step, and pair layers by the distances of the last."""
        if self.progressive is not None:
            self.progressive.begin(step, self.weight_optimizer)
        super().begin(step)
        self.gate_values = self.gates.draw(step)
        self.mask_leaf = self.student.to_student_units(self.gate_values.detach()).to(self.device).requires_grad_()
        self.student.masking.set(self.mask_leaf)
        if self.distances is not None:
            student_layers = (
                match_layers(self.distances, self.module.layers, self._open_layers()) if step else self.module.layers
            )
            self.pairs = tuple(zip(student_layers, self.module.layers, strict=True))
            self.step_distances = torch.zeros_like(self.distances)

    def add_distances(self, layer_distances: Tensor | None) -> None:
        """Add up the distances between all layers."""
        if layer_distances is not None and self.step_distances is not None and torch.is_grad_enabled():
            self.step_distances += layer_distances.cpu()

    def end(self, step: int, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Send the masks' gradient and the constraints' into the gates, and the constraints' into the multipliers."""
        assert self.mask_leaf.grad is not None
        gradient = reduce(self.student.to_all_units(self.mask_leaf.grad)).to(self.gate_values)
        probability = self.gates.open_probability()
        # Expected share of each dense cost, (constraints,).
        expected_shares = torch.stack(
            [cost_target.cost.expected(probability) / cost_target.cost.dense for cost_target in self.cost_targets]
        )
        sparsities = [
            ramp.factor(step + 1) * (1 - b.share) for ramp, b in zip(self.ramps, self.cost_targets, strict=True)
        ]
        target_sparsity = torch.tensor(sparsities, dtype=torch.float64)
        constraint = penalty(
            1.0 - expected_shares, target_sparsity, self.multipliers.linear, self.multipliers.quadratic
        )
        torch.autograd.backward([self.gate_values, constraint], [gradient, torch.ones_like(constraint)])
        if self.step_distances is not None:
            self.distances = reduce(self.step_distances)
        if (step + 1) % self.training.log_every and step + 1 != self.training.steps:
            return {}
        return {"constraint": float(constraint.detach())} | self._metrics(expected_shares.detach(), target_sparsity)

    def _metrics(self, expected_shares: Tensor, target_sparsity: Tensor) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for index, cost_target in enumerate(self.cost_targets):
            name = cost_target.constraint.name
            metrics[f"kept/{name}"] = float(expected_shares[index])
            metrics[f"target/{name}"] = float(1.0 - target_sparsity[index])
            metrics[f"lambda1/{name}"] = float(self.multipliers.linear.detach()[index])
            metrics[f"lambda2/{name}"] = float(self.multipliers.quadratic.detach()[index])
        metrics |= {f"open/{kind}": value for kind, value in self.gates.open_shares().items()}
        metrics |= {} if self.progressive is None else self.progressive.metrics()
        return metrics | {"undecided": self.gates.undecided_share()}

    def _open_layers(self) -> list[bool]:
        """Whether each layer's attention block is open in this draw."""
        structure, values = self.gates.structure, self.gate_values.detach()
        blocks = [structure.axes[names.block(heads.path)] for heads in structure.axes_of_kinds(("heads",))]
        is_open = [bool(block.size and values[structure.offsets[block.name]] != 0) for block in blocks]
        return is_open[: self.module.depth]

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """The same under the gates' own verdicts."""
        self.student.masking.set(self.student.to_student_units(self.gates.deterministic_mask()).to(self.device))
        return super().validate(step)

    def state(self) -> dict[str, Tensor]:
        """Weights, maps, gates, multipliers, and the distances that the next pairing is made from."""
        tensors = self.gates.state()
        tensors |= {f"multipliers.{name}": value for name, value in self.multipliers.state_dict().items()}
        if self.distances is not None:
            tensors["distances"] = self.distances
        if self.progressive is not None:
            tensors |= self.progressive.state()
        return super().state() | tensors

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore them, the student's shape first."""
        if self.progressive is not None:
            self.progressive.load(state, self.weight_optimizer)
        super().load(state)
        self.gates.load(state)
        self.multipliers.load_state_dict(
            {
                name.removeprefix("multipliers."): value
                for name, value in state.items()
                if name.startswith("multipliers.")
            }
        )
        self.distances = state.get("distances")
