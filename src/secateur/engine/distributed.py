"""Where a phase runs: this process's rank, device and precision, and what ranks say to each other."""

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
    """This process among those of the run: `process_index`, `num_processes`, `device`.

    Joins the process group when started by torchrun, `accelerate launch` or srun with their variables.
    """
    return PartialState(cpu=not torch.accelerator.is_available())


def run_on_main_rank(make: Callable[[], T]) -> T:
    """What the first rank makes, on every rank; its mistakes too.

    Raises:
        SecateurError: Whatever `make` raised of this kind.
    """
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
    """One rank's view of a phase, its module wrapped."""

    accelerator: Accelerator
    wrapped: nn.Module
    parameters: tuple[nn.Parameter, ...]
    """of the module, when it was wrapped"""

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, module: nn.Module, precision: Literal["fp32", "bf16"], has_unused_parameters: bool
    ) -> Iterator[DistributedContext]:
        """Wrap `module`, in place on its device, for the time of the context.

        Args:
            module: what is trained.
            precision: of the forward passes.
            unused: whether a step may leave parameters without gradient.
        """
        process()
        # accelerate fixes the precision of a process once; phases of one run may differ.
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
        """Wrap the module anew where it has other parameters than before: a trainee may have rebuilt a part of it."""
        current_parameters = tuple(self.wrapped.parameters())
        if len(current_parameters) != len(self.parameters) or any(
            a is not b for a, b in zip(current_parameters, self.parameters, strict=True)
        ):
            self._wrap(self._unwrap())

    def _wrap(self, module: nn.Module) -> None:
        self.wrapped = self.accelerator.prepare(module)
        self.parameters = tuple(module.parameters())
        if isinstance(self.wrapped, DistributedDataParallel):
            # torch reads a hook's annotations and cannot read postponed ones: a lambda has none
            self.wrapped.register_comm_hook(None, lambda _, bucket: _sum_gradients(bucket))

    def _unwrap(self) -> nn.Module:
        """The module with its `forward` as it was; nothing listens to its gradients any more."""
        module: nn.Module = self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
        self.wrapped, self.parameters = module, ()
        self.accelerator.free_memory()
        return module

    @property
    def rank(self) -> int:
        """This process, from 0."""
        return int(self.accelerator.process_index)

    @property
    def world(self) -> int:
        """How many processes there are."""
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every rank is here."""
        self.accelerator.wait_for_everyone()

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which bf16 runs compute in bf16."""
        context: AbstractContextManager[Any] = self.accelerator.autocast()
        return context

    def no_sync(self) -> AbstractContextManager[Any]:
        """The context in which gradients stay on their rank."""
        context: AbstractContextManager[Any] = self.accelerator.no_sync(self.wrapped)
        return context

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over ranks; the tensor itself is left alone."""
        total = tensor.detach().clone()
        if self.world > 1:
            original_device = total.device
            total = total.to(self.accelerator.device)
            dist.all_reduce(total)
            total = total.to(original_device)
        return total

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order, on every rank."""
        return list(gather_object([value]))

    def broadcast_from_main(self, value: Any) -> Any:
        """The first rank's value, on every rank."""
        return broadcast_object_list([value])[0]


def _sum_gradients(bucket: Any) -> torch.futures.Future[Tensor]:
    """Sum gradients over ranks, where DistributedDataParallel by itself takes their mean."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    summed: torch.futures.Future[Tensor] = work.get_future().then(lambda future: future.value()[0])
    return summed
