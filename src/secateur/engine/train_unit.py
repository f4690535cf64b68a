"""What the loop trains: the protocol a method, a probe or a pre-training task fulfils."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from secateur.engine.optim import OptimizerSpec


@dataclass(frozen=True, kw_only=True)
class StepLoss:
    """The loss of one micro-batch, as its share of the loss of the whole optimiser step."""

    total: Tensor
    """0-dim; summed over the micro-batches of all ranks it is the global loss, so it is already divided
    by the *global* count (of valid frames, say)."""
    parts: Mapping[str, float | Tensor] = field(default_factory=dict)
    """Figures to log, summed over micro-batches and ranks. `Trainee.end` returns what must not be summed."""
    files: tuple[str, ...] = ()
    """The files of this micro-batch, named when a number stops being finite."""


class TrainUnit(Protocol):
    """Something with parameters that knows its data, its losses and its state, but no loop.

    The loop never switches between train and eval mode: that is the trainee's, so that a teacher stays
    in eval mode and dropout is on only where a task asks for it. Steps are 0-based except in `validate`.
    A module with parameters that a step may leave without gradient says so by an attribute
    `module_has_unused = True` (several processes only; it costs a walk over the graph each step).
    """

    @property
    def module(self) -> nn.Module:
        """What is trained and wrapped; `loss` calls it as its `wrapped` argument, once per micro-batch."""
        ...

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """The optimisers by name; called once, when `module` is on its device.

        They may hold parameters outside `module`, whose gradients `end` must make equal on all ranks.
        """
        ...

    def micro_batches(self, step: int, rank: int, world: int) -> Sequence[Any]:
        """This rank's micro-batches of a step, a pure function of its arguments; as many on every rank."""
        ...

    def begin(self, step: int) -> None:
        """Called once per optimiser step, before its micro-batches.

        It may rebuild a part of `module`, as `load` may: then it puts the new parameters into the optimisers itself.
        """
        ...

    def loss(self, wrapped: nn.Module, batch: Any) -> StepLoss:
        """The loss of one micro-batch; runs under autocast in bf16."""
        ...

    def end(self, step: int, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Called after all backward passes, before clipping and stepping; returns more figures to log.

        `reduce` returns the sum of a tensor over ranks. The gradients of `module` are already summed; those
        of anything else hold this rank's share.
        """
        ...

    def validate(self, step: int) -> dict[str, float]:
        """Figures on held-out data after `step` optimiser steps; called on every rank, without gradients."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything to checkpoint besides optimisers and random generators; equal on every rank."""
        ...

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` gave; the tensors are on the CPU."""
        ...
