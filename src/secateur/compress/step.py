"""One step of learning what to prune: start reading here.

masks -> student and teacher forward -> distillation and task losses -> expected sizes -> cost -> constraint -> scalar
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from secateur.compress.batches import Feed, MicroBatch
from secateur.compress.config import Distillation, Learning, Training
from secateur.compress.fidelity import score
from secateur.compress.imitate import Imitator, Pair
from secateur.compress.progressive import Progressive
from secateur.compress.regularise import keep_statistics
from secateur.compress.spec_augment import NOTHING, SpecMasks, draw_masks
from secateur.compress.student import Student
from secateur.compress.teacher import Teacher
from secateur.cost import Cost
from secateur.engine import Optimiser, Schedule, StepLoss
from secateur.gates import GateSet
from secateur.masking.attach import base_of
from secateur.objective.constraint import Constraint, Multipliers, penalty
from secateur.objective.distill import LogitDistance, sum_over
from secateur.objective.pairing import match
from secateur.objective.tasks import Task
from secateur.structure import axis as names


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a student learns: to imitate its teacher, to do a task, or both."""

    distill: Distillation | None = field(default_factory=Distillation)
    task: Task | None = None
    task_weight: float = 1.0


class Imitation:
    """A student learns to imitate a frozen teacher, or a task: the finetune and recover phases, the ground of learn."""

    module: Imitator
    module_has_unused = True  # a final norm behind the last hidden state gets no gradient

    def __init__(
        self,
        imitator: Imitator,
        teacher: nn.Module,
        feed: Feed,
        held_out: Sequence[MicroBatch],
        training: Training,
        objective: Objective | None = None,
    ) -> None:
        """
        Args:
            imitator: The student with its maps.
            teacher: The dense model, with its head where logits are imitated; frozen, and in eval mode throughout.
            feed: Training audio.
            held_out: Validation audio.
            training: The phase's optimisation.
            objective: What is learned; None: to imitate hidden states.
        """
        self.module, self.teacher, self.feed, self.held_out, self.training = (
            imitator,
            teacher,
            feed,
            held_out,
            training,
        )
        self.objective = objective or Objective(distill=imitator.distill)
        self.teacher.requires_grad_(False)
        self.pairs: tuple[Pair, ...] = tuple((layer, layer) for layer in imitator.layers)

    def optimisers(self) -> dict[str, Optimiser]:
        """AdamW on the weights, with warm-up and decay."""
        self.device = next(self.module.parameters()).device
        training, distill = self.training, self.objective.distill
        if distill is not None:
            self.targets = Teacher(
                self.teacher.to(self.device) if distill.logits else base_of(self.teacher.to(self.device)),
                self.module.layers,
                precision=training.precision,
                compile=training.compile,
            )
        adam = torch.optim.AdamW(
            self._groups(),
            lr=training.learning_rate,
            betas=training.betas,
            weight_decay=training.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),  # one pass over memory: a third of the time on a CPU
        )
        return {"weights": Optimiser(optimiser=adam, schedule=self.schedule(), clip=training.clip)}

    def _groups(self) -> list[dict[str, Any]]:
        """The weights that learn; those of a task's head by themselves where they have a rate of their own."""
        weights = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        rate = self.training.head_learning_rate
        if rate is None:
            return [{"params": weights}]
        student = self.module.student
        inside = {id(parameter) for parameter in base_of(student).parameters()}
        head = {id(parameter) for parameter in (*student.parameters(), *self.module.head.parameters())} - inside
        parts = [[parameter for parameter in weights if (id(parameter) in head) is own] for own in (False, True)]
        return [{"params": parts[0]}, {"params": parts[1], "lr": rate}]

    def schedule(self) -> Schedule:
        """The factor on the learning rate."""
        rise = round(self.training.warmup * self.training.steps)
        if self.training.decay == "none":
            return Schedule(points=((-1.0, 0.0), (float(rise), 1.0)))
        return Schedule.warmup_decay(self.training.steps, rise)

    def micro_batches(self, step: int, rank: int, world: int) -> Sequence[MicroBatch]:
        """This rank's audio of a step."""
        return self.feed.micro_batches(step, rank, world)

    def begin(self, step: int) -> None:
        """Dropout, layer-drop and masks are off, in the student too, unless its training turns one on by name."""
        self.module.train(self.training.regularise.any)
        keep_statistics(self.module)
        self.teacher.eval()

    def loss(self, wrapped: nn.Module, batch: MicroBatch) -> StepLoss:
        """This micro-batch's share of the loss of the whole step: means over pairs, valid frames and labels."""
        distill, task = self.objective.distill, self.objective.task
        targets = None if distill is None else self.targets(batch.heard)
        states = targets.states if targets else {}
        sums = wrapped(batch.heard, states, self.pairs, task, batch.asked, masks=self._masks(batch))
        self.seen(sums.every)
        parts: dict[str, Tensor] = {}
        if distill is not None and targets is not None:
            parts["distill"] = sums.pairs.mean() / batch.frames
            if distill.logits is not None:
                parts["logits"] = self._logits(distill.logits, sums.output, targets.output, batch)
        if task is not None:
            parts["task"] = sums.task / batch.count
        weights = {
            "distill": distill.weight if distill else 0.0,
            "logits": distill.logits_weight if distill else 0.0,
            "task": self.objective.task_weight,
        }
        total = torch.stack([weights[name] * part for name, part in parts.items() if weights[name]]).sum()
        return StepLoss(total=total, parts={name: part.detach() for name, part in parts.items()}, files=batch.heard.ids)

    def _masks(self, batch: MicroBatch) -> SpecMasks:
        """What is masked of a micro-batch while its training is random; nothing in validation."""
        settings = self.training.regularise
        if not self.module.training or not (settings.time_masks or settings.feature_masks):
            return NOTHING
        frames = self.module.frames(batch.heard).tolist()
        return draw_masks(settings, batch.keys, frames, width=self.module.width)

    def _logits(self, distance: LogitDistance, student: Tensor, teacher: Tensor, batch: MicroBatch) -> Tensor:
        """Mean distance of logits over all valid frames of the step, or over its utterances."""
        rows = distance.per_row(student, teacher)
        if rows.dim() == 1:
            return rows.sum() / batch.count
        return sum_over(rows, None if batch.heard.mask is None else self.module.valid(batch.heard)) / batch.frames

    def seen(self, every: Tensor | None) -> None:
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
        return {"loss": loss} | ({} if task is None else score(task, self.module.student, self.held_out))

    def state(self) -> dict[str, Tensor]:
        """The student's weights and maps."""
        return {f"module.{name}": value for name, value in self.module.state_dict().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore them."""
        self.module.load_state_dict(
            {name.removeprefix("module."): value for name, value in state.items() if name.startswith("module.")}
        )


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A constraint and the cost it is on."""

    constraint: Constraint
    cost: Cost
    share: float
    """share of the dense cost that may stay"""


class Pruning(Imitation):
    """The learn phase: weights, gates and multipliers together.

    One draw of the masks per optimiser step. The model sees it as a detached leaf; the leaf's gradient is summed over
    micro-batches and ranks, and only then sent into log alpha, together with the constraints'.
    """

    training: Learning

    def __init__(
        self,
        imitator: Imitator,
        teacher: nn.Module,
        feed: Feed,
        held_out: Sequence[MicroBatch],
        training: Learning,
        *,
        gates: GateSet,
        student: Student,
        bounds: Sequence[Bound],
        objective: Objective | None = None,
        progressive: Progressive | None = None,
    ) -> None:
        """
        Args:
            imitator: The student with its maps.
            teacher: The dense encoder.
            feed: Training audio.
            held_out: Validation audio.
            training: The phase's optimisation.
            gates: On the student's axes.
            student: At full size, masks attached.
            bounds: The constraints.
            objective: What is learned; None: to imitate hidden states.
            progressive: What freezes gates and shrinks the student meanwhile; None leaves both as they are.
        """
        super().__init__(imitator, teacher, feed, held_out, training, objective)
        self.gates, self.student, self.bounds, self.progressive = gates, student, bounds, progressive
        self.multipliers = Multipliers(len(bounds))
        self.ramps = [Schedule(points=tuple((x * training.steps, y) for x, y in b.constraint.ramp)) for b in bounds]
        self.distances = torch.zeros(len(imitator.layers), imitator.depth) if imitator.learned else None
        self.seen_now: Tensor | None = None

    def optimisers(self) -> dict[str, Optimiser]:
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
        weights = super().optimisers()
        self.adam = weights["weights"].optimiser
        return weights | {
            "gates": Optimiser(optimiser=gates, schedule=schedule),
            "multipliers": Optimiser(optimiser=ascent, schedule=schedule),
        }

    def begin(self, step: int) -> None:
        """Draw the masks of this step, and pair layers by the distances of the last."""
        if self.progressive is not None:
            self.progressive.begin(step, self.adam)
        super().begin(step)
        self.drawn = self.gates.draw(step)
        self.leaf = self.student.own(self.drawn.detach()).to(self.device).requires_grad_()
        self.student.masking.set(self.leaf)
        if self.distances is not None:
            taken = match(self.distances, self.module.layers, self._open_layers()) if step else self.module.layers
            self.pairs = tuple(zip(taken, self.module.layers, strict=True))
            self.seen_now = torch.zeros_like(self.distances)

    def seen(self, every: Tensor | None) -> None:
        """Add up the distances between all layers."""
        if every is not None and self.seen_now is not None and torch.is_grad_enabled():
            self.seen_now += every.cpu()

    def end(self, step: int, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Send the masks' gradient and the constraints' into the gates, and the constraints' into the multipliers."""
        assert self.leaf.grad is not None
        gradient = reduce(self.student.spread(self.leaf.grad)).to(self.drawn)
        probability = self.gates.open_probability()
        # Expected share of each dense cost, (constraints,).
        kept = torch.stack([bound.cost.expected(probability) / bound.cost.dense for bound in self.bounds])
        goals = [ramp.factor(step + 1) * (1 - b.share) for ramp, b in zip(self.ramps, self.bounds, strict=True)]
        goal = torch.tensor(goals, dtype=torch.float64)
        constraint = penalty(1.0 - kept, goal, self.multipliers.linear, self.multipliers.quadratic)
        torch.autograd.backward([self.drawn, constraint], [gradient, torch.ones_like(constraint)])
        if self.seen_now is not None:
            self.distances = reduce(self.seen_now)
        if (step + 1) % self.training.log_every and step + 1 != self.training.steps:
            return {}
        return {"constraint": float(constraint.detach())} | self._figures(kept.detach(), goal)

    def _figures(self, kept: Tensor, goal: Tensor) -> dict[str, float]:
        figures: dict[str, float] = {}
        for index, bound in enumerate(self.bounds):
            name = bound.constraint.name
            figures[f"kept/{name}"] = float(kept[index])
            figures[f"target/{name}"] = float(1.0 - goal[index])
            figures[f"lambda1/{name}"] = float(self.multipliers.linear.detach()[index])
            figures[f"lambda2/{name}"] = float(self.multipliers.quadratic.detach()[index])
        figures |= {f"open/{kind}": value for kind, value in self.gates.open_shares().items()}
        figures |= {} if self.progressive is None else self.progressive.figures()
        return figures | {"undecided": self.gates.undecided()}

    def _open_layers(self) -> list[bool]:
        """Whether each layer's attention block is open in this draw."""
        structure, values = self.gates.structure, self.drawn.detach()
        blocks = [structure.axes[names.block(heads.path)] for heads in structure.of_kinds(("heads",))]
        alive = [bool(block.size and values[structure.offsets[block.name]] != 0) for block in blocks]
        return alive[: self.module.depth]

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """The same under the gates' own verdicts."""
        self.student.masking.set(self.student.own(self.gates.typical()).to(self.device))
        return super().validate(step)

    def state(self) -> dict[str, Tensor]:
        """Weights, maps, gates, multipliers, and the distances that the next pairing is made from."""
        own = {"gates": self.gates.log_alpha.detach()}
        own |= {f"multipliers.{name}": value for name, value in self.multipliers.state_dict().items()}
        if self.distances is not None:
            own["distances"] = self.distances
        if self.progressive is not None:
            own |= self.progressive.state()
        return super().state() | own

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore them, the student's shape first."""
        if self.progressive is not None:
            self.progressive.load(state, self.adam)
        super().load(state)
        with torch.no_grad():
            self.gates.log_alpha.copy_(state["gates"])
        self.multipliers.load_state_dict(
            {
                name.removeprefix("multipliers."): value
                for name, value in state.items()
                if name.startswith("multipliers.")
            }
        )
        self.distances = state.get("distances")
