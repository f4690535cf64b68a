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


def chunked_checkpoint(function: Function, sequence: Tensor, context: Tensor, *, size: int) -> tuple[Tensor, ...]:
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
    needs_grad = torch.is_grad_enabled()
    conditions = _AutogradEnvironment.capture(sequence)
    leaves: list[Tensor] = []
    outputs: tuple[Tensor, ...] = ()
    for chunk in _chunk_slices(sequence, size):
        with torch.set_grad_enabled(needs_grad and not outputs):
            chunk_outputs = function(sequence[:, chunk].detach(), context.detach())
        if not outputs:
            leaves = _leaf_tensors(chunk_outputs)
            outputs = tuple(
                chunk_output.new_empty(len(chunk_output), sequence.shape[1], *chunk_output.shape[2:])
                for chunk_output in chunk_outputs
            )
        for output, chunk_output in zip(outputs, chunk_outputs, strict=True):
            output[:, chunk] = chunk_output.detach()
        del chunk_outputs, chunk_output
    state = _CheckpointState(function=function, size=size, environment=conditions, outputs=outputs)
    result: tuple[Tensor, ...] = _ChunkedCheckpoint.apply(state, sequence, context, *leaves)  # type: ignore[no-untyped-call]
    return result


@dataclass(frozen=True, kw_only=True)
class _AutogradEnvironment:
    """What a function may depend on beside its inputs, to be met again: random numbers to come, and autocast."""

    cpu_rng_state: Tensor
    devices: list[int]
    device_rng_states: list[Tensor]
    device: str
    autocast: tuple[bool, torch.dtype]

    @classmethod
    def capture(cls, example: Tensor) -> _AutogradEnvironment:
        device = example.device.type
        devices, states = get_device_states(example)
        autocast = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        return cls(
            cpu_rng_state=torch.get_rng_state(),
            devices=devices,
            device_rng_states=states,
            device=device,
            autocast=autocast,
        )

    @contextmanager
    def restored(self) -> Iterator[None]:
        enabled, dtype = self.autocast
        forked_rng = torch.random.fork_rng(self.devices, device_type=self.device)
        with forked_rng, torch.autocast(self.device, dtype, enabled, cache_enabled=False):
            torch.set_rng_state(self.cpu_rng_state)
            set_device_states(self.devices, self.device_rng_states)
            yield


@dataclass(frozen=True, kw_only=True)
class _CheckpointState:
    function: Function
    size: int
    environment: _AutogradEnvironment
    outputs: tuple[Tensor, ...]


class _ChunkedCheckpoint(torch.autograd.Function):
    """What was made already, with its gradients."""

    @staticmethod
    def forward(ctx: Any, state: _CheckpointState, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*inputs)
        ctx.again = state.function, state.size, state.environment
        return state.outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *output_gradients: Tensor) -> tuple[Tensor | None, ...]:
        sequence, context, *leaves = ctx.saved_tensors
        function, size, conditions = ctx.again
        needs_input_grads = ctx.needs_input_grad[1:]
        input_gradients = [
            torch.zeros_like(saved_input) if needs_grad else None
            for saved_input, needs_grad in zip(ctx.saved_tensors, needs_input_grads, strict=True)
        ]
        context_leaf = context.detach().requires_grad_(needs_input_grads[1])
        with conditions.restored():
            for chunk in _chunk_slices(sequence, size):
                chunk_leaf = sequence[:, chunk].detach().requires_grad_(needs_input_grads[0])
                with torch.enable_grad():
                    chunk_outputs = function(chunk_leaf, context_leaf)
                gradient_buffers = (
                    None if input_gradients[0] is None else input_gradients[0][:, chunk],
                    *input_gradients[1:],
                )
                _accumulate(
                    chunk_outputs,
                    [output_gradient[:, chunk] for output_gradient in output_gradients],
                    (chunk_leaf, context_leaf, *leaves),
                    gradient_buffers,
                )
                del chunk_outputs
        return None, *input_gradients


def _accumulate(
    chunk_outputs: Sequence[Tensor],
    output_gradients: Sequence[Tensor],
    inputs: Sequence[Tensor],
    gradient_buffers: Sequence[Tensor | None],
) -> None:
    """Gradients of inputs, added to where there is a sum for them."""
    input_buffers = [
        (tensor, total) for tensor, total in zip(inputs, gradient_buffers, strict=True) if total is not None
    ]
    gradients = torch.autograd.grad(
        chunk_outputs, [tensor for tensor, _ in input_buffers], output_gradients, allow_unused=True
    )
    for gradient, (_, total) in zip(gradients, input_buffers, strict=True):
        if gradient is not None:
            total.add_(gradient)


def _chunk_slices(sequence: Tensor, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, sequence.shape[1], size)]


def _leaf_tensors(results: Sequence[Tensor]) -> list[Tensor]:
    """Tensors that gradients of results would be accumulated in."""
    nodes = [result.grad_fn for result in results if result.grad_fn is not None]
    visited, leaf_tensors = set(nodes), []
    while nodes:
        node: Any = nodes.pop()
        if hasattr(node, "variable"):
            leaf_tensors.append(node.variable)
        next_nodes = [
            next_node for next_node, _ in node.next_functions if next_node is not None and next_node not in visited
        ]
        visited.update(next_nodes)
        nodes.extend(next_nodes)
    return leaf_tensors
