"""One optimiser step: gradients summed over micro-batches and ranks, checked, clipped and applied."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.engine.optim import Scheduled
from secateur.engine.place import Place
from secateur.engine.trainee import StepLoss, Trainee
from secateur.errors import NumericsError

Figures = dict[str, float]
RESERVED = ("phase", "step", "loss", "validation")
_NAMED_FILES = 16


def one_step(
    trainee: Trainee,
    place: Place,
    optimisers: Mapping[str, Scheduled],
    step: int,
    *,
    gather: bool,
    last_good: Callable[[], str],
) -> Figures | None:
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
    trainee.module.zero_grad(set_to_none=True)
    for scheduled in optimisers.values():
        scheduled.spec.optimiser.zero_grad(set_to_none=True)
    trainee.begin(step)
    place.follow()
    losses = _backward(trainee, place, trainee.micro_batches(step, place.rank, place.world))
    files = [name for loss in losses for name in loss.files]

    totals = torch.stack([loss.total.to(torch.float64) for loss in losses])
    loss = float(place.sum(totals.sum()))
    if not math.isfinite(loss):
        bad = [name for part in losses if not torch.isfinite(part.total) for name in part.files]
        raise _not_finite(f"a loss of {loss}", step, place.gather(bad), last_good)

    extra = trainee.end(step, place.sum)
    norms = {name: scheduled.norm() for name, scheduled in optimisers.items()}
    wrong = {name: float(norm) for name, norm in norms.items() if not torch.isfinite(norm)}
    if wrong:
        what = " and ".join(f"a gradient norm of {norm} in optimiser {name!r}" for name, norm in wrong.items())
        raise _not_finite(what, step, place.gather(files), last_good)
    for name, scheduled in optimisers.items():
        scheduled.clip(norms[name])
        scheduled.step(step)
    if place.world > 1 and not gather:
        return None
    return _figures(loss, _summed_parts(losses, place), extra, norms)


def _backward(trainee: Trainee, place: Place, batches: Sequence[Any]) -> list[StepLoss]:
    """The backward passes of all micro-batches; gradients leave the rank with the last one."""
    assert batches, "micro_batches must return at least one micro-batch on every rank"
    losses = []
    for index, batch in enumerate(batches):
        last = index == len(batches) - 1
        with contextlib.nullcontext() if last else place.no_sync():
            with place.autocast():
                loss = trainee.loss(place.wrapped, batch)
            torch.autograd.backward(loss.total)
        parts = {name: _detached(value) for name, value in loss.parts.items()}
        losses.append(StepLoss(total=loss.total.detach(), parts=parts, files=loss.files))
    return losses


def _detached(value: float | Tensor) -> float | Tensor:
    return value.detach() if isinstance(value, Tensor) else value


def _summed_parts(losses: Sequence[StepLoss], place: Place) -> Figures:
    """The parts summed over micro-batches and ranks, in the order they were first named."""
    sums: Figures = {}
    mine = [{name: float(value) for name, value in loss.parts.items()} for loss in losses]
    for parts in (parts for rank in place.gather(mine) for parts in rank):
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


def _figures(loss: float, parts: Figures, extra: Mapping[str, float], norms: Mapping[str, Tensor]) -> Figures:
    gradients = {f"gradient_norm.{name}": float(norm) for name, norm in norms.items()}
    named = [*RESERVED, *parts, *extra, *gradients]
    twice = sorted({name for name in named if named.count(name) > 1})
    assert not twice, f"figures named twice, or with a name the log reserves: {twice}"
    return {"loss": loss, **parts, **{name: float(value) for name, value in extra.items()}, **gradients}


def _not_finite(what: str, step: int, files: Sequence[Sequence[str]], last_good: Callable[[], str]) -> NumericsError:
    names = sorted({name for rank in files for name in rank})
    listed = ", ".join(names[:_NAMED_FILES]) or "none named"
    more = f" and {len(names) - _NAMED_FILES} more" if len(names) > _NAMED_FILES else ""
    return NumericsError(
        f"Step {step + 1}: got {what}, allowed are finite numbers; nothing was updated, {last_good()}. Files of the "
        f"batch: {listed}{more}. Look at these files, or resume with a lower rate or in fp32."
    )
