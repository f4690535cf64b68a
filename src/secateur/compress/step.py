"""Train units of the phases finetune, learn and recover; the best file to start reading.

A step of the learn phase computes

    masks -> student and teacher forward -> distillation and task losses -> expected sizes -> cost -> constraint
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
from secateur.compress.targets import CostTarget
from secateur.compress.teacher import Teacher
from secateur.engine import OptimizerSpec, Schedule, StepLoss
from secateur.gates import GateSet
from secateur.hf.model_view import ModelView
from secateur.losses.constraint import Multipliers, penalty
from secateur.losses.distances import LogitDistance, sum_over
from secateur.losses.layer_mapping import match_layers
from secateur.structure import axis as names
from secateur.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The objective of a student: imitation of a teacher, a task, or a weighted sum."""

    distill: Distillation | None = field(default_factory=Distillation)
    task: Task | None = None
    task_weight: float = 1.0


class DistillUnit:
    """The train unit of the finetune and recover phases: a student learns from a teacher or a task.

    The learn phase adds gates in `PruneUnit`.
    """

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
            distiller: The student with the projections that distillation adds.
            teacher_view: The dense model, with the head if logits are imitated; frozen, and in eval mode throughout.
            feed: Training audio.
            held_out: Validation audio.
            training: Settings of the optimization.
            objective: The losses and their weights; None for the distance between hidden states.
        """
        self.teacher_view = teacher_view
        self.teacher: nn.Module = self.teacher_view.model
        self.module = distiller
        self.feed = feed
        self.held_out = held_out
        self.training = training
        self.objective = objective or Objective(distill=distiller.distill)
        self.teacher.requires_grad_(False)
        # Equal layers are paired; a learned layer mapping replaces the pairs in every step.
        self.pairs: tuple[Pair, ...] = tuple((layer, layer) for layer in distiller.layers)

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Return AdamW on the weights, with warm-up and decay."""
        self.device = next(self.module.parameters()).device
        training = self.training
        distill = self.objective.distill
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
        """Return the trainable weights; the head of a task is a second group if `head_learning_rate` is set."""
        weights = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        rate = self.training.head_learning_rate
        if rate is None:
            return [{"params": weights}]
        student = self.module.student
        # By id, since == of parameters compares values.
        encoder_ids = {id(parameter) for parameter in self.module.student_view.encoder.parameters()}
        # A task may have its head in the model, such as the linear map of CTC, or beside the model.
        all_parameters = (*student.parameters(), *self.module.head.parameters())
        head_ids = {id(parameter) for parameter in all_parameters} - encoder_ids
        encoder_weights = [parameter for parameter in weights if id(parameter) not in head_ids]
        head_weights = [parameter for parameter in weights if id(parameter) in head_ids]
        return [{"params": encoder_weights}, {"params": head_weights, "lr": rate}]

    def schedule(self) -> Schedule:
        """Return the factor on the learning rate as a function of the step."""
        warmup_steps = round(self.training.warmup * self.training.steps)
        if self.training.decay == "none":
            # From -1, so that step 0 has a learning rate above zero already.
            return Schedule(points=((-1.0, 0.0), (float(warmup_steps), 1.0)))
        return Schedule.warmup_decay(self.training.steps, warmup_steps)

    def micro_batches(self, step: int, rank: int, world: int) -> Sequence[MicroBatch]:
        """Return the audio of a rank in a step."""
        return self.feed.micro_batches(step, rank, world)

    def begin(self, step: int) -> None:
        """Set the modes of student and teacher; dropout, layer drop and masks are off unless the recipe sets a rate."""
        self.module.train(self.training.regularise.is_active)
        # After `train`, which puts BatchNorm into training mode.
        freeze_batch_norm(self.module)
        self.teacher.eval()

    def loss(self, wrapped: nn.Module, batch: MicroBatch) -> StepLoss:
        """Return the share of a micro-batch in the loss of the step.

        Losses are means over pairs of layers and over the valid frames, or the utterances, of the whole step: a
        micro-batch divides its sums by the counts of the step, so that micro-batches and ranks add up.
        """
        distill = self.objective.distill
        task = self.objective.task
        targets = None if distill is None else self.targets(batch.inputs)
        states = targets.states if targets else {}
        sums = wrapped(batch.inputs, states, self.pairs, task, batch.task_targets, masks=self._draw_masks(batch))
        self.add_distances(sums.layer_distances)
        parts: dict[str, Tensor] = {}
        if distill is not None and targets is not None:
            parts["distill"] = sums.pairs.mean() / batch.frames  # (pairs,) -> ()
            if distill.logits is not None:
                parts["logits"] = self._logit_distance(distill.logits, sums.output, targets.output, batch)
        if task is not None:
            parts["task"] = sums.task / batch.count
        weights = {
            "distill": distill.weight if distill else 0.0,
            "logits": distill.logits_weight if distill else 0.0,
            "task": self.objective.task_weight,
        }
        # A part with a weight of zero is logged only.
        total = torch.stack([weights[name] * part for name, part in parts.items() if weights[name]]).sum()
        return StepLoss(
            total=total, parts={name: part.detach() for name, part in parts.items()}, files=batch.inputs.ids
        )

    def _draw_masks(self, batch: MicroBatch) -> SpecMasks:
        """Return the SpecAugment masks of a micro-batch in training, and no masks in validation."""
        settings = self.training.regularise
        if not self.module.training or not (settings.time_masks or settings.feature_masks):
            return NO_MASKS
        frames = self.module.frame_counts(batch.inputs).tolist()
        return draw_masks(settings, batch.row_keys, frames, width=self.module.width)

    def _logit_distance(self, distance: LogitDistance, student: Tensor, teacher: Tensor, batch: MicroBatch) -> Tensor:
        """Return the share of a micro-batch in the mean distance of logits.

        The mean is over the valid frames of the step, or over the utterances if the head gives one output an utterance.
        """
        rows = distance.per_row(student, teacher)
        if rows.dim() == 1:  # (batch,), else (batch, frames)
            return rows.sum() / batch.count
        valid_frames = None if batch.inputs.mask is None else self.module.valid_frames(batch.inputs)
        return sum_over(rows, valid_frames) / batch.frames

    def add_distances(self, layer_distances: Tensor | None) -> None:
        """Take the distances between all layers in a micro-batch; only a learned layer mapping needs the distances."""

    def end(self, step: int, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return no further metrics."""
        return {}

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """Return the loss and the scores of the task on held-out audio."""
        self.module.eval()
        task = self.objective.task
        loss = sum(float(self.loss(self.module, batch).total) for batch in self.held_out)
        scores = {} if task is None else score_task(task, self.module.student_view, self.held_out)
        return {"loss": loss} | scores

    def state(self) -> dict[str, Tensor]:
        """Return the weights and projections of the student."""
        return {f"module.{name}": value for name, value in self.module.state_dict().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore the weights and projections of the student."""
        self.module.load_state_dict(_without_prefix(state, "module."))


class PruneUnit(DistillUnit):
    """The train unit of the learn phase: weights, gates and multipliers learn together.

    The masks are drawn once per optimizer step. The model sees the draw as a detached leaf. The gradient of the leaf is
    summed over micro-batches and ranks, and then goes into the gates together with the gradient of the constraints.
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
            distiller: The student with the projections that distillation adds.
            teacher_view: The dense model.
            feed: Training audio.
            held_out: Validation audio.
            training: Settings of the optimization.
            gates: Gates on axes of the student.
            student: The student at full size, masks attached.
            cost_targets: The constraints with their costs.
            objective: The losses and their weights; None for the distance between hidden states.
            progressive: Freezes gates and shrinks the student in the course of the phase; None for neither.
        """
        super().__init__(distiller, teacher_view, feed, held_out, training, objective)
        self.gates = gates
        self.student = student
        self.cost_targets = cost_targets
        self.progressive = progressive
        # Self-pinching gates depend on the weights; other gates ignore the call.
        gates.bind_weights(student.squared_norms)
        self.multipliers = Multipliers(len(cost_targets))
        self.ramps = []
        for cost_target in cost_targets:
            # A ramp point (0.25, 1.0) of a phase of 1000 steps is (250, 1.0).
            points = tuple((share * training.steps, factor) for share, factor in cost_target.constraint.ramp)
            self.ramps.append(Schedule(points=points))
        # Distances of the last step, (teacher layers, student layers)
        self.distances = torch.zeros(len(distiller.layers), distiller.depth) if distiller.has_learned_mapping else None
        self.step_distances: Tensor | None = None

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Return AdamW on the weights and Adam, without decay and clipping, on gates and multipliers."""
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
        """Draw the masks of a step, and pair layers by the distances of the step before."""
        if self.progressive is not None:
            # First, since freezing closes gates, and shrinking replaces the model that gets the masks.
            self.progressive.begin(step, self.weight_optimizer)
        super().begin(step)
        self.gate_values = self.gates.draw(step)
        # (all units,) -> (student units,); `end` reads the gradient of this leaf.
        self.mask_leaf = self.student.to_student_units(self.gate_values.detach()).to(self.device).requires_grad_()
        self.student.masking.set(self.mask_leaf)
        if self.distances is not None:
            student_layers: Sequence[int] = self.module.layers  # the first step has no distances yet
            if step:
                student_layers = match_layers(self.distances, self.module.layers, self._open_layers())
            self.pairs = tuple(zip(student_layers, self.module.layers, strict=True))
            self.step_distances = torch.zeros_like(self.distances)

    def add_distances(self, layer_distances: Tensor | None) -> None:
        """Add the distances between all layers to the sums of the step."""
        if layer_distances is not None and self.step_distances is not None and torch.is_grad_enabled():
            self.step_distances += layer_distances.cpu()

    def end(self, step: int, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Send the gradients of masks and constraints into the gates, and of the constraints into the multipliers."""
        assert self.mask_leaf.grad is not None
        # (student units,) -> (all units,), summed over ranks
        gradient = reduce(self.student.to_all_units(self.mask_leaf.grad)).to(self.gate_values)
        probability = self.gates.open_probability()
        # Expected cost over dense cost: (constraints,)
        expected_shares = torch.stack(
            [cost_target.cost.expected(probability) / cost_target.cost.dense for cost_target in self.cost_targets]
        )
        sparsities = [
            # Example: a kept share of 0.25 with a ramp factor of 0.5 gives a sparsity of 0.375.
            ramp.factor(step + 1) * (1 - cost_target.share)
            for ramp, cost_target in zip(self.ramps, self.cost_targets, strict=True)
        ]
        target_sparsity = torch.tensor(sparsities, dtype=torch.float64)
        constraint = penalty(
            1.0 - expected_shares, target_sparsity, self.multipliers.linear, self.multipliers.quadratic
        )
        # A single backward pass takes the gradients of the losses and of the constraints through the gates.
        torch.autograd.backward([self.gate_values, constraint], [gradient, torch.ones_like(constraint)])
        if self.step_distances is not None:
            self.distances = reduce(self.step_distances)
        is_logged = (step + 1) % self.training.log_every == 0 or step + 1 == self.training.steps
        if not is_logged:
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
        """Return, by layer, whether the attention block is open in the draw of the step."""
        structure = self.gates.structure
        values = self.gate_values.detach()
        blocks = [structure.axes[names.block(heads.path)] for heads in structure.axes_of_kinds(("heads",))]
        is_open = [bool(block.size and values[structure.offsets[block.name]] != 0) for block in blocks]
        return is_open[: self.module.depth]

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """Return the loss and the scores of the task under the hard decisions of the gates."""
        self.student.masking.set(self.student.to_student_units(self.gates.deterministic_mask()).to(self.device))
        return super().validate(step)

    def state(self) -> dict[str, Tensor]:
        """Return weights, projections, gates, multipliers, and the distances that pair layers in the next step."""
        tensors = self.gates.state()
        tensors |= {f"multipliers.{name}": value for name, value in self.multipliers.state_dict().items()}
        if self.distances is not None:
            tensors["distances"] = self.distances
        if self.progressive is not None:
            tensors |= self.progressive.state()
        return super().state() | tensors

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore the state; progressive shrinking comes first, since the shape of the student follows."""
        if self.progressive is not None:
            self.progressive.load(state, self.weight_optimizer)
        super().load(state)
        self.gates.load(state)
        self.multipliers.load_state_dict(_without_prefix(state, "multipliers."))
        self.distances = state.get("distances")


def _without_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors of a state with a prefix in the name, by the rest of the name."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
