"""A function of a sequence in pieces, of which nothing is kept but results and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import get_device_states, set_device_states

Function = Callable[[Tensor, Tensor], Sequence[Tensor]]


def piecewise(function: Function, sequence: Tensor, other: Tensor, *, size: int) -> tuple[Tensor, ...]:
    """What a function makes of every `size` positions of a sequence, one behind the other.

    Each piece is made again in the backward pass, with the same random numbers. Like `torch.utils.checkpoint` of every
    piece and `torch.cat`, but nothing that is small and stays is made between the pieces: malloc would not use what
    lies before it again, and a long sequence would take the memory of all of its pieces.

    Args:
        function: (B, t, …) and `other` to tensors of (B, t, …), whose positions depend on no other position. What else
            it takes gradients to must be leaves, as parameters and masks are.
        sequence: (B, T, …).
        other: What every piece is made with.
        size: Positions of a piece.
    """
    learns = torch.is_grad_enabled()
    conditions = _Conditions.now(sequence)
    leaves: list[Tensor] = []
    made: tuple[Tensor, ...] = ()
    for piece in _pieces(sequence, size):
        with torch.set_grad_enabled(learns and not made):
            parts = function(sequence[:, piece].detach(), other.detach())
        if not made:
            leaves = _leaves(parts)
            made = tuple(part.new_empty(len(part), sequence.shape[1], *part.shape[2:]) for part in parts)
        for whole, part in zip(made, parts, strict=True):
            whole[:, piece] = part.detach()
        del parts, part
    job = _Job(function=function, size=size, conditions=conditions, made=made)
    found: tuple[Tensor, ...] = _Piecewise.apply(job, sequence, other, *leaves)  # type: ignore[no-untyped-call]
    return found


@dataclass(frozen=True, kw_only=True)
class _Conditions:
    """What a function may depend on beside its inputs, to be met again: random numbers to come, and autocast."""

    random: Tensor
    devices: list[int]
    states: list[Tensor]
    device: str
    autocast: tuple[bool, torch.dtype]

    @classmethod
    def now(cls, like: Tensor) -> _Conditions:
        device = like.device.type
        devices, states = get_device_states(like)
        autocast = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        return cls(random=torch.get_rng_state(), devices=devices, states=states, device=device, autocast=autocast)

    @contextmanager
    def again(self) -> Iterator[None]:
        enabled, dtype = self.autocast
        forked = torch.random.fork_rng(self.devices, device_type=self.device)
        with forked, torch.autocast(self.device, dtype, enabled, cache_enabled=False):
            torch.set_rng_state(self.random)
            set_device_states(self.devices, self.states)
            yield


@dataclass(frozen=True, kw_only=True)
class _Job:
    function: Function
    size: int
    conditions: _Conditions
    made: tuple[Tensor, ...]


class _Piecewise(torch.autograd.Function):
    """What was made already, with its gradients."""

    @staticmethod
    def forward(ctx: Any, job: _Job, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*inputs)
        ctx.again = job.function, job.size, job.conditions
        return job.made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        sequence, other, *leaves = ctx.saved_tensors
        function, size, conditions = ctx.again
        needed = ctx.needs_input_grad[1:]
        totals = [
            torch.zeros_like(each) if needs else None for each, needs in zip(ctx.saved_tensors, needed, strict=True)
        ]
        said = other.detach().requires_grad_(needed[1])
        with conditions.again():
            for piece in _pieces(sequence, size):
                heard = sequence[:, piece].detach().requires_grad_(needed[0])
                with torch.enable_grad():
                    parts = function(heard, said)
                sums = (None if totals[0] is None else totals[0][:, piece], *totals[1:])
                _accumulate(parts, [each[:, piece] for each in outer], (heard, said, *leaves), sums)
                del parts
        return None, *totals


def _accumulate(
    parts: Sequence[Tensor], outer: Sequence[Tensor], inputs: Sequence[Tensor], sums: Sequence[Tensor | None]
) -> None:
    """Gradients of inputs, added to where there is a sum for them."""
    wanted = [(each, total) for each, total in zip(inputs, sums, strict=True) if total is not None]
    found = torch.autograd.grad(parts, [each for each, _ in wanted], outer, allow_unused=True)
    for gradient, (_, total) in zip(found, wanted, strict=True):
        if gradient is not None:
            total.add_(gradient)


def _pieces(sequence: Tensor, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, sequence.shape[1], size)]


def _leaves(results: Sequence[Tensor]) -> list[Tensor]:
    """Tensors that gradients of results would be accumulated in."""
    nodes = [result.grad_fn for result in results if result.grad_fn is not None]
    seen, found = set(nodes), []
    while nodes:
        node: Any = nodes.pop()
        if hasattr(node, "variable"):
            found.append(node.variable)
        fresh = [before for before, _ in node.next_functions if before is not None and before not in seen]
        seen.update(fresh)
        nodes.extend(fresh)
    return found
