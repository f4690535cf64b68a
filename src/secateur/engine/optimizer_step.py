"""The optimizer step: gradients are summed over micro-batches and ranks, checked, clipped and applied."""

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
    """Take an optimizer step.

    Args:
        train_unit: The module, data and loss.
        context: This rank.
        optimizers: The optimizers of the train unit, by name.
        step: The step, from 0.
        needs_metrics: Whether to return metrics even if this requires communication between ranks.
        describe_checkpoint: Returns a phrase with the last good checkpoint, for the error message.

    Returns:
        The global loss, the summed parts, the metrics of `TrainUnit.end` and the gradient norm of each optimizer; None
        with several ranks if `needs_metrics` is False.

    Raises:
        NumericsError: The loss or a gradient is not finite; raised on every rank, before anything is updated.
    """
    # None instead of zeros: optimizers leave parameters without gradient unchanged.
    train_unit.module.zero_grad(set_to_none=True)
    for scheduled in optimizers.values():
        scheduled.spec.optimizer.zero_grad(set_to_none=True)
    # `begin` may rebuild parts of the module, so the module is wrapped after it and before the forward passes.
    train_unit.begin(step)
    context.rewrap_if_changed()
    losses = _backward(train_unit, context, train_unit.micro_batches(step, context.rank, context.world))
    files = [name for loss in losses for name in loss.files]

    # The loss is checked before `end`, which may change state beyond the gradients, such as multipliers.
    totals = torch.stack([loss.total.to(torch.float64) for loss in losses])  # (micro-batches,)
    loss = float(context.sum(totals.sum()))
    if not math.isfinite(loss):
        nonfinite_files = [name for part in losses if not torch.isfinite(part.total) for name in part.files]
        raise _nonfinite_error(f"a loss of {loss}", step, context.gather(nonfinite_files), describe_checkpoint)

    # `end` adds gradients of penalties and sums gradients outside the module over ranks, so norms are taken after it.
    extra_metrics = train_unit.end(step, context.sum)
    norms = {name: scheduled.norm() for name, scheduled in optimizers.items()}
    nonfinite_norms = {name: float(norm) for name, norm in norms.items() if not torch.isfinite(norm)}
    if nonfinite_norms:
        problem = " and ".join(
            f"a gradient norm of {norm} in optimizer {name!r}" for name, norm in nonfinite_norms.items()
        )
        raise _nonfinite_error(problem, step, context.gather(files), describe_checkpoint)
    # Nothing was updated up to here, so that an error leaves the last checkpoint as the latest valid state.
    for name, scheduled in optimizers.items():
        scheduled.clip(norms[name])
        scheduled.step(step)
    if context.world > 1 and not needs_metrics:
        return None
    return _merge_metrics(loss, _sum_parts(losses, context), extra_metrics, norms)


def _backward(train_unit: TrainUnit, context: DistributedContext, batches: Sequence[Any]) -> list[StepLoss]:
    """Run forward and backward passes of all micro-batches, and return the losses without graph.

    Gradients accumulate on the rank and are summed over ranks in the backward pass of the last micro-batch.
    """
    assert batches, "micro_batches must return at least one micro-batch on every rank"
    losses = []
    for index, batch in enumerate(batches):
        is_last = index == len(batches) - 1
        # DistributedDataParallel sums gradients during a backward pass; once for each step is enough.
        with contextlib.nullcontext() if is_last else context.no_sync():
            with context.autocast():
                loss = train_unit.loss(context.wrapped, batch)
            torch.autograd.backward(loss.total)
        # Detached, so that the graph of a micro-batch is freed before the next forward pass.
        parts = {name: _detach(value) for name, value in loss.parts.items()}
        losses.append(StepLoss(total=loss.total.detach(), parts=parts, files=loss.files))
    return losses


def _detach(value: float | Tensor) -> float | Tensor:
    return value.detach() if isinstance(value, Tensor) else value


def _sum_parts(losses: Sequence[StepLoss], context: DistributedContext) -> Metrics:
    """Return the parts of the loss summed over micro-batches and ranks, in order of first appearance."""
    sums: Metrics = {}
    # float() waits for the device, so it comes after all passes of the step are queued.
    local_parts = [{name: float(value) for name, value in loss.parts.items()} for loss in losses]
    for rank_parts in context.gather(local_parts):
        for parts in rank_parts:
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value
    return sums


def _merge_metrics(
    loss: float, parts: Metrics, extra_metrics: Mapping[str, float], norms: Mapping[str, Tensor]
) -> Metrics:
    gradient_norms = {f"gradient_norm.{name}": float(norm) for name, norm in norms.items()}
    names = [*RESERVED_NAMES, *parts, *extra_metrics, *gradient_norms]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    assert not duplicates, f"metrics with the same name or a reserved name: {duplicates}"
    extras = {name: float(value) for name, value in extra_metrics.items()}
    return {"loss": loss, **parts, **extras, **gradient_norms}


def _nonfinite_error(
    problem: str, step: int, files: Sequence[Sequence[str]], describe_checkpoint: Callable[[], str]
) -> NumericsError:
    """Return the error for a step that is not finite, with the files of the batch on each rank."""
    names = sorted({name for rank_files in files for name in rank_files})
    listed_names = ", ".join(names[:_MAX_LISTED_FILES]) or "unknown"
    omitted_count = f" and {len(names) - _MAX_LISTED_FILES} more" if len(names) > _MAX_LISTED_FILES else ""
    # Messages count steps from 1, as the log does.
    return NumericsError(
        f"Step {step + 1}: got {problem}, expected finite numbers; nothing was updated, {describe_checkpoint()}. Files "
        f"of the batch: {listed_names}{omitted_count}. Check these files, or resume with a lower learning rate or in "
        "fp32."
    )
