"""Optimisers as the loop sees them: a torch optimiser, a schedule as points, and a clipping norm."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A piecewise-linear factor on the base learning rate, given as (step, factor) points.

    Steps are 0-based optimiser steps. Before the first point and after the last one the factor stays
    what it is there; two points on one step make a jump, the later one holding from that step on.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        steps = [step for step, _ in self.points]
        if not steps or steps != sorted(steps):
            raise ConfigError(f"schedule points: got steps {steps}, allowed is at least one point, in ascending order.")

    def factor(self, step: float) -> float:
        """The factor at the 0-based optimiser step `step`."""
        next_index = bisect.bisect_right([position for position, _ in self.points], step)
        if next_index == 0:
            return self.points[0][1]
        if next_index == len(self.points):
            return self.points[-1][1]
        (left_step, left_factor), (right_step, right_factor) = self.points[next_index - 1], self.points[next_index]
        return left_factor + (right_factor - left_factor) * (step - left_step) / (right_step - left_step)

    @classmethod
    def constant(cls) -> Schedule:
        """A factor of 1 throughout."""
        return cls(points=((0.0, 1.0),))

    @classmethod
    def warmup_decay(cls, steps: int, warmup: int) -> Schedule:
        """A factor that rises linearly to 1 at step `warmup`, then falls linearly to 0 at step `steps`.

        The rise starts from 0 one step *before* the first, so that no step of the run has a factor of 0:
        step 0 has 1 / (warmup + 1) and the last step, `steps` - 1, has 1 / (steps - warmup).
        """
        if not 0 <= warmup <= steps:
            raise ConfigError(f"warmup: got {warmup}, allowed is 0 to the number of steps, {steps}.")
        return cls(points=((-1.0, 0.0), (float(warmup), 1.0), (float(steps), 0.0)))


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """A torch optimiser with the schedule of its learning rates and the norm its gradients are clipped to."""

    optimizer: torch.optim.Optimizer
    schedule: Schedule = field(default_factory=Schedule.constant)
    clip: float | None = None
    """Largest allowed 2-norm over all gradients of this optimiser's parameters; None does not clip."""


class ScheduledOptimizer:
    """An `Optimiser` together with the base learning rates that its schedule multiplies.

    The base rates are those the optimiser was built with: make this before a checkpoint is loaded into it.
    """

    def __init__(self, spec: OptimizerSpec) -> None:
        self.spec = spec
        self.base_rates = [group["lr"] for group in spec.optimizer.param_groups]

    def gradients(self) -> Iterator[Tensor]:
        """The gradients that are there, in the order of the parameter groups."""
        for group in self.spec.optimizer.param_groups:
            yield from (p.grad for p in group["params"] if p.grad is not None)

    def norm(self) -> Tensor:
        """The 2-norm over all gradients, a 0-dim tensor; 0 when there are none."""
        return torch.nn.utils.get_total_norm(list(self.gradients()))

    def clip(self, norm: Tensor) -> None:
        """Scale the gradients down to the clipping norm, given their present norm."""
        if self.spec.clip is not None:
            parameters = [p for group in self.spec.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grads_with_norm_(parameters, self.spec.clip, norm)

    def step(self, step: int) -> None:
        """One optimiser step at the learning rates of the 0-based step `step`."""
        factor = self.spec.schedule.factor(step)
        for group, base_rate in zip(self.spec.optimizer.param_groups, self.base_rates, strict=True):
            if isinstance(group["lr"], Tensor):  # a capturable optimiser keeps its rate on the device
                group["lr"].fill_(float(base_rate) * factor)
            else:
                group["lr"] = base_rate * factor
        self.spec.optimizer.step()
