"""The distributed context of a phase: rank, device and precision of the process, and communication between ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    broadcast_object_list,
    gather_object,
)
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from secateur.errors import SecateurError

T = TypeVar("T")


def process() -> PartialState:
    """Return the state of the process: `process_index`, `num_processes`, `device`.

    Joins the process group if the process was started by torchrun, `accelerate launch` or srun, which set environment
    variables.
    """
    return PartialState(cpu=not torch.accelerator.is_available())


def run_on_main_rank(make: Callable[[], T]) -> T:
    """Call `make` on the first rank and return the result on every rank.

    Raises:
        SecateurError: `make` raised this error; it is raised on every rank, so that no rank waits for a result.
    """
    # Exactly one of value and error is set, on the first rank; the pair is broadcast to all ranks.
    outcome: tuple[T | None, SecateurError | None] = (None, None)
    if process().is_main_process:
        try:
            outcome = make(), None
        except SecateurError as error:
            outcome = None, error
    value, failure = broadcast_object_list([outcome])[0]
    if failure is not None:
        raise failure
    return value  # type: ignore[no-any-return]


@dataclass(kw_only=True)
class DistributedContext:
    """The view of a rank on a phase, with the wrapped module."""

    accelerator: Accelerator
    wrapped: nn.Module
    parameters: tuple[nn.Parameter, ...]
    """Parameters of the module at the time of wrapping."""

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, module: nn.Module, precision: Literal["fp32", "bf16"], has_unused_parameters: bool
    ) -> Iterator[DistributedContext]:
        """Wrap `module`, moved to the device in place, for the time of the context.

        Args:
            module: The trained module.
            precision: Precision of the forward passes.
            has_unused_parameters: Whether a step may leave parameters without gradient.
        """
        process()
        # accelerate sets the precision once for a process; the phases of a run may have different precisions.
        AcceleratorState._reset_state()
        accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),
            mixed_precision="bf16" if precision == "bf16" else "no",
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=has_unused_parameters)],
        )
        context = cls(accelerator=accelerator, wrapped=module, parameters=())
        context._wrap(module)
        try:
            yield context
        finally:
            context._unwrap()

    def rewrap_if_changed(self) -> None:
        """Wrap the module again if parameters were replaced, since a train unit may rebuild parts of the module.

        DistributedDataParallel has hooks on the parameters at the time of wrapping.
        """
        current_parameters = tuple(self.wrapped.parameters())
        # Compared by identity, since a replaced parameter may have equal values.
        if len(current_parameters) != len(self.parameters) or any(
            a is not b for a, b in zip(current_parameters, self.parameters, strict=True)
        ):
            self._wrap(self._unwrap())

    def _wrap(self, module: nn.Module) -> None:
        self.wrapped = self.accelerator.prepare(module)
        self.parameters = tuple(module.parameters())
        if isinstance(self.wrapped, DistributedDataParallel):
            # torch inspects the annotations of a hook and cannot resolve postponed ones: a lambda has none.
            self.wrapped.register_comm_hook(None, lambda _, bucket: _sum_gradients(bucket))

    def _unwrap(self) -> nn.Module:
        """Return the module with the original `forward` and without hooks on gradients."""
        module: nn.Module = self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
        self.wrapped, self.parameters = module, ()
        self.accelerator.free_memory()
        return module

    @property
    def rank(self) -> int:
        """Index of the process, from 0."""
        return int(self.accelerator.process_index)

    @property
    def world(self) -> int:
        """Number of processes."""
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """True on the first rank, which writes files."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every rank calls `wait`."""
        self.accelerator.wait_for_everyone()

    def autocast(self) -> AbstractContextManager[Any]:
        """Return a context that runs operations in the precision of the phase."""
        context: AbstractContextManager[Any] = self.accelerator.autocast()
        return context

    def no_sync(self) -> AbstractContextManager[Any]:
        """Return a context that does not sum gradients over ranks."""
        context: AbstractContextManager[Any] = self.accelerator.no_sync(self.wrapped)
        return context

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over ranks, without a change to `tensor`."""
        total = tensor.detach().clone()
        if self.world > 1:
            original_device = total.device
            total = total.to(self.accelerator.device)  # NCCL reduces tensors on the GPU only
            dist.all_reduce(total)
            total = total.to(original_device)
        return total

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in rank order, on every rank."""
        return list(gather_object([value]))

    def broadcast_from_main(self, value: Any) -> Any:
        """Return the value of the first rank, on every rank."""
        return broadcast_object_list([value])[0]


def _sum_gradients(bucket: Any) -> torch.futures.Future[Tensor]:
    """Sum gradients over ranks, instead of the mean that DistributedDataParallel takes by default."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    # The future of all_reduce holds a list of one tensor; DistributedDataParallel expects the tensor.
    summed: torch.futures.Future[Tensor] = work.get_future().then(lambda future: future.value()[0])
    return summed
