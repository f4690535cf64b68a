"""Gradient checkpointing of a function over chunks of a sequence."""

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
    """Return the outputs of a function on each chunk of a sequence, concatenated over the chunks.

    Each chunk is recomputed in the backward pass with the same random numbers. Like `torch.utils.checkpoint` of each
    chunk and `torch.cat`, but no small tensor that stays alive is allocated between the chunks: malloc could not reuse
    the memory in front of such a tensor, and a long sequence would take the memory of all its chunks.

    Example: a sequence of T = 5 positions and a size of 2 give the chunks 0:2, 2:4 and 4:6, the last of which has one
    position. The first chunk runs with gradients, to find the parameters that the function uses; the later ones run
    without.

    Args:
        function: Function from (B, t, …) and `context` to tensors of shape (B, t, …), in which no position depends on
            another one. Other tensors that need gradients must be leaves, such as parameters and masks.
        sequence: (B, T, …).
        context: Second argument of the function, the same for every chunk.
        size: Positions of a chunk.
    """
    needs_grad = torch.is_grad_enabled()
    environment = _AutogradEnvironment.capture(sequence)
    leaves: list[Tensor] = []
    outputs: tuple[Tensor, ...] = ()
    for chunk in _chunk_slices(sequence, size):
        with torch.set_grad_enabled(needs_grad and not outputs):
            chunk_outputs = function(sequence[:, chunk].detach(), context.detach())
        if not outputs:
            leaves = _leaf_tensors(chunk_outputs)
            outputs = tuple(
                # (B, t, …) -> (B, T, …)
                chunk_output.new_empty(len(chunk_output), sequence.shape[1], *chunk_output.shape[2:])
                for chunk_output in chunk_outputs
            )
        for output, chunk_output in zip(outputs, chunk_outputs, strict=True):
            output[:, chunk] = chunk_output.detach()
        # Both names keep the chunk alive, also while the next chunk is computed.
        del chunk_outputs, chunk_output
    state = _CheckpointState(function=function, size=size, environment=environment, outputs=outputs)
    result: tuple[Tensor, ...] = _ChunkedCheckpoint.apply(state, sequence, context, *leaves)  # type: ignore[no-untyped-call]
    return result


@dataclass(frozen=True, kw_only=True)
class _AutogradEnvironment:
    """State that a function may depend on besides the inputs: random number generators and autocast."""

    cpu_rng_state: Tensor
    devices: list[int]
    device_rng_states: list[Tensor]
    device: str
    autocast: tuple[bool, torch.dtype]

    @classmethod
    def capture(cls, example: Tensor) -> _AutogradEnvironment:
        """Return the current state, for the device of an example tensor."""
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
        """Restore the captured state within the context, and the current state afterwards."""
        enabled, dtype = self.autocast
        forked_rng = torch.random.fork_rng(self.devices, device_type=self.device)
        with forked_rng, torch.autocast(self.device, dtype, enabled, cache_enabled=False):
            torch.set_rng_state(self.cpu_rng_state)
            set_device_states(self.devices, self.device_rng_states)
            yield


@dataclass(frozen=True, kw_only=True)
class _CheckpointState:
    """Arguments of the autograd function that are no inputs for autograd, with the outputs of the forward pass."""

    function: Function
    size: int
    environment: _AutogradEnvironment
    outputs: tuple[Tensor, ...]


class _ChunkedCheckpoint(torch.autograd.Function):
    """Identity on computed outputs, with a backward pass that recomputes the outputs chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, state: _CheckpointState, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*inputs)
        ctx.recompute = state.function, state.size, state.environment
        return state.outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *output_gradients: Tensor) -> tuple[Tensor | None, ...]:
        sequence, context, *leaves = ctx.saved_tensors
        function, size, environment = ctx.recompute
        needs_input_grads = ctx.needs_input_grad[1:]  # the first argument is the state
        input_gradients = [
            torch.zeros_like(saved_input) if needs_grad else None
            for saved_input, needs_grad in zip(ctx.saved_tensors, needs_input_grads, strict=True)
        ]
        context_leaf = context.detach().requires_grad_(needs_input_grads[1])
        with environment.restored():
            for chunk in _chunk_slices(sequence, size):
                chunk_leaf = sequence[:, chunk].detach().requires_grad_(needs_input_grads[0])
                with torch.enable_grad():
                    chunk_outputs = function(chunk_leaf, context_leaf)
                # The chunk's gradients go to its slice of the sequence's buffer; all others add up over the chunks.
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
    """Add the gradients of a chunk's inputs to the buffers; an input without a buffer needs no gradient."""
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
    """Return the slices of the second dimension into chunks."""
    return [slice(start, start + size) for start in range(0, sequence.shape[1], size)]


def _leaf_tensors(results: Sequence[Tensor]) -> list[Tensor]:
    """Return the leaf tensors of the autograd graph of some results."""
    nodes = [result.grad_fn for result in results if result.grad_fn is not None]
    visited, leaf_tensors = set(nodes), []
    while nodes:
        node: Any = nodes.pop()
        if hasattr(node, "variable"):  # AccumulateGrad, the node of a leaf
            leaf_tensors.append(node.variable)
        next_nodes = [
            next_node for next_node, _ in node.next_functions if next_node is not None and next_node not in visited
        ]
        visited.update(next_nodes)
        nodes.extend(next_nodes)
    return leaf_tensors
