"""Optimizers of the training loop: a torch optimizer with a learning-rate schedule and gradient clipping."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A piecewise-linear factor on the base learning rate, given by (step, factor) points.

    Steps are 0-based optimizer steps. Before the first and after the last point the factor is constant. Two points at
    the same step make a jump, where the second point holds from that step on. The points (0, 1), (10, 1), (10, 0.1) are
    a factor of 1 up to step 9 and 0.1 from step 10 on.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        steps = [step for step, _ in self.points]
        if not steps or steps != sorted(steps):
            raise ConfigError(f"schedule points: expected at least one point, in ascending order, got steps {steps}.")

    def factor(self, step: float) -> float:
        """Return the factor at the 0-based optimizer step `step`."""
        # The first point after `step`: of points at 0, 10, 10, step 4 lies between the points 0 and 1, step 10 after 2.
        next_index = bisect.bisect_right([position for position, _ in self.points], step)
        if next_index == 0:
            return self.points[0][1]
        if next_index == len(self.points):
            return self.points[-1][1]
        left_step, left_factor = self.points[next_index - 1]
        right_step, right_factor = self.points[next_index]
        # Points (0, 1) and (10, 0.5): step 4 has the factor 1 - 0.5 * 4 / 10 = 0.8.
        return left_factor + (right_factor - left_factor) * (step - left_step) / (right_step - left_step)

    @classmethod
    def constant(cls) -> Schedule:
        """Return a schedule with a constant factor of 1."""
        return cls(points=((0.0, 1.0),))

    @classmethod
    def warmup_decay(cls, steps: int, warmup: int) -> Schedule:
        """Return a schedule that rises linearly to 1 at step `warmup`, then falls linearly to 0 at step `steps`.

        The factor is 0 a step *before* the first and after the last, so that no step of the run has a factor of 0: step
        0 has 1 / (warmup + 1) and the last step, `steps` - 1, has 1 / (steps - warmup).
        """
        if not 0 <= warmup <= steps:
            raise ConfigError(f"warmup: expected an integer from 0 to the number of steps, {steps}, got {warmup}.")
        # Warmup 3 of 10 steps: factors 1/4, 2/4, 3/4 at steps 0 to 2, 1 at step 3, then 6/7 down to 1/7 at step 9.
        return cls(points=((-1.0, 0.0), (float(warmup), 1.0), (float(steps), 0.0)))


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """A torch optimizer with a schedule of the learning rates and a clipping norm of the gradients."""

    optimizer: torch.optim.Optimizer
    schedule: Schedule = field(default_factory=Schedule.constant)
    clip: float | None = None
    """Maximum 2-norm over all gradients of the optimizer's parameters; None does not clip."""


class ScheduledOptimizer:
    """An `OptimizerSpec` with the base learning rates, which the schedule multiplies.

    The base rates are the current rates of the optimizer, so this object must be made before a checkpoint is loaded,
    whose rates are already multiplied.
    """

    def __init__(self, spec: OptimizerSpec) -> None:
        self.spec = spec
        self.base_rates = [group["lr"] for group in spec.optimizer.param_groups]

    def gradients(self) -> Iterator[Tensor]:
        """Yield the gradients of all parameters that have a gradient, in the order of the parameter groups."""
        for group in self.spec.optimizer.param_groups:
            yield from (p.grad for p in group["params"] if p.grad is not None)

    def norm(self) -> Tensor:
        """Return the 2-norm over all gradients, a 0-dim tensor; 0 without gradients."""
        return torch.nn.utils.get_total_norm(list(self.gradients()))

    def clip(self, norm: Tensor) -> None:
        """Scale the gradients with the 2-norm `norm` down to the clipping norm."""
        if self.spec.clip is not None:
            parameters = [p for group in self.spec.optimizer.param_groups for p in group["params"]]
            # The norm is given, since the training loop has computed it for the log and for the check.
            torch.nn.utils.clip_grads_with_norm_(parameters, self.spec.clip, norm)

    def step(self, step: int) -> None:
        """Take an optimizer step with the learning rates of the 0-based step `step`."""
        factor = self.spec.schedule.factor(step)
        for group, base_rate in zip(self.spec.optimizer.param_groups, self.base_rates, strict=True):
            if isinstance(group["lr"], Tensor):  # a capturable optimizer has the rate on the device
                group["lr"].fill_(float(base_rate) * factor)
            else:
                group["lr"] = base_rate * factor
        self.spec.optimizer.step()
