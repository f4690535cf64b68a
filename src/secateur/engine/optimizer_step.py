"""One optimiser step: gradients summed over micro-batches and ranks, checked, clipped and applied."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.engine.distributed import DistributedContext
from secateur.engine.optim import ScheduledOptimizer
from secateur.engine.train_unit import StepLoss, TrainUnit
from secateur.errors import NumericsError

Metrics = dict[str, float]
RESERVED_NAMES = ("phase", "step", "loss", "validation")
_MAX_LISTED_FILES = 16


def train_step(
    train_unit: TrainUnit,
    context: DistributedContext,
    optimizers: Mapping[str, ScheduledOptimizer],
    step: int,
    *,
    needs_metrics: bool,
    describe_checkpoint: Callable[[], str],
) -> Metrics | None:
    """Take the 0-based optimiser step `step`.

    Args:
        trainee: what is trained.
        place: this rank.
        optimisers: the trainee's, by name.
        step: 0-based.
        gather: whether the figures are wanted even where that means asking the other ranks.
        last_good: a phrase that names the last good checkpoint, for the error.

    Returns:
        The global loss, the summed parts, what `end` returned and the gradient norm of each optimiser; None
        where there are several ranks and `gather` is False.

    Raises:
        NumericsError: on every rank alike, before anything is updated.
    """
    train_unit.module.zero_grad(set_to_none=True)
    for scheduled in optimizers.values():
        scheduled.spec.optimizer.zero_grad(set_to_none=True)
    train_unit.begin(step)
    context.rewrap_if_changed()
    losses = _backward(train_unit, context, train_unit.micro_batches(step, context.rank, context.world))
    files = [name for loss in losses for name in loss.files]

    totals = torch.stack([loss.total.to(torch.float64) for loss in losses])
    loss = float(context.sum(totals.sum()))
    if not math.isfinite(loss):
        nonfinite_files = [name for part in losses if not torch.isfinite(part.total) for name in part.files]
        raise _nonfinite_error(f"a loss of {loss}", step, context.gather(nonfinite_files), describe_checkpoint)

    extra_metrics = train_unit.end(step, context.sum)
    norms = {name: scheduled.norm() for name, scheduled in optimizers.items()}
    nonfinite_norms = {name: float(norm) for name, norm in norms.items() if not torch.isfinite(norm)}
    if nonfinite_norms:
        problem = " and ".join(
            f"a gradient norm of {norm} in optimiser {name!r}" for name, norm in nonfinite_norms.items()
        )
        raise _nonfinite_error(problem, step, context.gather(files), describe_checkpoint)
    for name, scheduled in optimizers.items():
        scheduled.clip(norms[name])
        scheduled.step(step)
    if context.world > 1 and not needs_metrics:
        return None
    return _merge_metrics(loss, _sum_parts(losses, context), extra_metrics, norms)


def _backward(train_unit: TrainUnit, context: DistributedContext, batches: Sequence[Any]) -> list[StepLoss]:
    """The backward passes of all micro-batches; gradients leave the rank with the last one."""
    assert batches, "micro_batches must return at least one micro-batch on every rank"
    losses = []
    for index, batch in enumerate(batches):
        is_last = index == len(batches) - 1
        with contextlib.nullcontext() if is_last else context.no_sync():
            with context.autocast():
                loss = train_unit.loss(context.wrapped, batch)
            torch.autograd.backward(loss.total)
        parts = {name: _detach(value) for name, value in loss.parts.items()}
        losses.append(StepLoss(total=loss.total.detach(), parts=parts, files=loss.files))
    return losses


def _detach(value: float | Tensor) -> float | Tensor:
    return value.detach() if isinstance(value, Tensor) else value


def _sum_parts(losses: Sequence[StepLoss], context: DistributedContext) -> Metrics:
    """The parts summed over micro-batches and ranks, in the order they were first named."""
    sums: Metrics = {}
    local_parts = [{name: float(value) for name, value in loss.parts.items()} for loss in losses]
    for parts in (parts for rank in context.gather(local_parts) for parts in rank):
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


def _merge_metrics(
    loss: float, parts: Metrics, extra_metrics: Mapping[str, float], norms: Mapping[str, Tensor]
) -> Metrics:
    gradients = {f"gradient_norm.{name}": float(norm) for name, norm in norms.items()}
    names = [*RESERVED_NAMES, *parts, *extra_metrics, *gradients]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    assert not duplicates, f"figures named twice, or with a name the log reserves: {duplicates}"
    return {"loss": loss, **parts, **{name: float(value) for name, value in extra_metrics.items()}, **gradients}


def _nonfinite_error(
    problem: str, step: int, files: Sequence[Sequence[str]], describe_checkpoint: Callable[[], str]
) -> NumericsError:
    names = sorted({name for rank in files for name in rank})
    listed_names = ", ".join(names[:_MAX_LISTED_FILES]) or "none named"
    omitted_count = f" and {len(names) - _MAX_LISTED_FILES} more" if len(names) > _MAX_LISTED_FILES else ""
    return NumericsError(
        f"Step {step + 1}: got {problem}, allowed are finite numbers; nothing was updated, {describe_checkpoint()}. Files of the "
        f"batch: {listed_names}{omitted_count}. Look at these files, or resume with a lower rate or in fp32."
    )
