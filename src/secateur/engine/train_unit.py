"""The protocol between the training loop and a method, a probe or a pretraining task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from secateur.engine.optim import OptimizerSpec


@dataclass(frozen=True, kw_only=True)
class StepLoss:
    """The loss of a micro-batch, as a share of the loss of the whole optimizer step."""

    total: Tensor
    """Loss, 0-dim. The sum over the micro-batches of all ranks is the global loss, so `total` is divided by the
    *global* count (of valid frames, for example)."""
    parts: Mapping[str, float | Tensor] = field(default_factory=dict)
    """Metrics to log, summed over micro-batches and ranks. Metrics that must not be summed are returned by
    `TrainUnit.end`."""
    files: tuple[str, ...] = ()
    """The files of the micro-batch, for the error message if a number is not finite."""


class TrainUnit(Protocol):
    """A module with data, loss and state, to be trained by the loop.

    In each optimizer step, the loop calls `begin`, `micro_batches`, `loss` for each micro-batch, and `end`; then it
    clips the gradients and steps the optimizers. Steps are 0-based except in `validate`.

    The loop never switches between train and eval mode. This is left to the train unit, so that a teacher stays in eval
    mode and dropout is active only if a task needs dropout. If a step may leave parameters of `module` without
    gradient, the train unit has an attribute `has_unused_parameters = True` (relevant with several processes only,
    where this costs a walk over the graph in each step).
    """

    @property
    def module(self) -> nn.Module:
        """The module to train; the loop wraps the module and passes the result to `loss` as `wrapped`."""
        ...

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Return the optimizers by name; called once, when `module` is on the device.

        Optimizers may have parameters outside `module`; `end` must make the gradients of these equal on all ranks.
        """
        ...

    def micro_batches(self, step: int, rank: int, world: int) -> Sequence[Any]:
        """Return the micro-batches of a rank in a step, a pure function of the arguments; as many on every rank."""
        ...

    def begin(self, step: int) -> None:
        """Prepare an optimizer step; called before the micro-batches of the step.

        May rebuild a part of `module`, as may `load`; then the train unit must add the new parameters to the
        optimizers.
        """
        ...

    def loss(self, wrapped: nn.Module, batch: Any) -> StepLoss:
        """Return the loss of a micro-batch; runs under autocast in bf16. Must call `wrapped` exactly once."""
        ...

    def end(self, step: int, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Complete the gradients and return further metrics; called between the backward passes and clipping.

        Args:
            step: The step, from 0.
            reduce: Returns the sum of a tensor over ranks. Gradients of `module` are summed already; all other
                gradients are the share of this rank.
        """
        ...

    def validate(self, step: int) -> dict[str, float]:
        """Return metrics on held-out data after `step` optimizer steps; called on every rank, without gradients."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return the state to save, except optimizers and random generators; must be equal on every rank."""
        ...

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore a state returned by `state`; the tensors are on the CPU."""
        ...
