"""A small train unit with dropout, a parameter outside the module and uneven micro-batches; also a script."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.engine import LoopConfig, LoopResult, OptimizerSpec, Schedule, StepLoss, checkpoint, run
from secateur.errors import CheckpointError

ITEMS = 7  # in a global step; odd, so that two ranks have different numbers of items
WIDTH = 6


class Toy:
    """Regression of y on x by an MLP times exp(gain), where gain is a parameter outside the module."""

    def __init__(self, *, dropout: float, accumulate: int = 1, steps: int = 12) -> None:
        generator = torch.Generator().manual_seed(3)
        self.module = nn.Sequential(
            nn.Linear(WIDTH, 8), nn.LayerNorm(8), nn.GELU(), nn.Dropout(dropout), nn.Linear(8, 1)
        )
        with torch.no_grad():
            for parameter in self.module.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
        self.gain = nn.Parameter(torch.zeros(3))
        self.accumulate = accumulate
        self.steps = steps
        self.gradients: dict[str, Tensor] = {}
        self.poison: Callable[[int], float] = lambda step: 0.0

    def optimizers(self) -> dict[str, OptimizerSpec]:
        weights = torch.optim.AdamW(self.module.parameters(), lr=1e-2)
        gains = torch.optim.SGD([self.gain], lr=1e-2, momentum=0.9)
        schedule = Schedule.warmup_decay(self.steps, 3)
        return {
            "weights": OptimizerSpec(optimizer=weights, schedule=schedule, clip=1.0),
            "gains": OptimizerSpec(optimizer=gains),
        }

    def micro_batches(self, step: int, rank: int, world: int) -> Sequence[tuple[Tensor, Tensor, list[int]]]:
        generator = torch.Generator().manual_seed(100 + step)
        x = torch.randn(ITEMS, WIDTH, generator=generator)
        y = torch.randn(ITEMS, 1, generator=generator)
        places = world * self.accumulate
        rows = [list(range(ITEMS))[place::places] for place in range(places)]
        return [
            (x[own_values], y[own_values], own_values)
            for own_values in rows[rank * self.accumulate : (rank + 1) * self.accumulate]
        ]

    def begin(self, step: int) -> None:
        self.step = step

    def loss(self, wrapped: nn.Module, batch: tuple[Tensor, Tensor, list[int]]) -> StepLoss:
        x, y, rows = batch
        error = (wrapped(x) * self.gain.sum().exp() - y).square().sum() / ITEMS
        total = error + self.poison(self.step)
        return StepLoss(total=total, parts={"error": error, "items": len(rows)}, files=tuple(f"{r}.wav" for r in rows))

    def end(self, step: int, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        assert self.gain.grad is not None
        self.gain.grad = reduce(self.gain.grad)
        by_name = [*self.module.named_parameters(), ("gain", self.gain)]
        self.gradients = {name: p.grad.clone() for name, p in by_name if p.grad is not None}
        return {"gain": float(self.gain.detach().sum())}

    def validate(self, step: int) -> dict[str, float]:
        self.module.eval()
        value = float(self.module(torch.ones(1, WIDTH)))
        self.module.train()
        return {
            "at_ones": value + float(torch.rand(()))
        }  # draws, so that validation changes the state of the generator

    def state(self) -> dict[str, Tensor]:
        return {**self.module.state_dict(), "gain": self.gain.detach()}

    def load(self, state: dict[str, Tensor]) -> None:
        state = dict(state)
        with torch.no_grad():
            self.gain.copy_(state.pop("gain"))
        self.module.load_state_dict(state)


def config(**changes: object) -> LoopConfig:
    """Twelve steps that log every 2, validate every 5 and save every 3."""
    values: dict[str, Any] = {"steps": 12, "log_every": 2, "validate_every": 5, "save_every": 3, **changes}
    return LoopConfig(**values)


def train(toy: Toy, folder: Path, *, resume: bool = False, phase: str = "learn", **changes: object) -> LoopResult:
    """Train a phase of the toy in this process."""
    return run(toy, config(**changes), phase=phase, folder=folder, resume=resume)


def kill_at(point: str, step: int, toy: Toy) -> None:
    """Patch a function so that this process kills itself with SIGKILL at a point of a step.

    Args:
        point: `begin` or `end` of the step, or a point in the save: `tensors` (no meta.json yet), `rename` (all
            written, not renamed yet), `removal` (an old checkpoint partly removed).
        step: The step, from 1.
        toy: The train unit.
    """

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    replaced: dict[str, tuple[Any, str, Callable[[Any], bool]]] = {
        "tensors": (checkpoint, "write_json", lambda path: f"-{step:07d}." in path.parent.name),
        "rename": (checkpoint, "_sync", lambda path: f"-{step:07d}." in path.name),
        "removal": (shutil, "rmtree", lambda path: "removed" in path.name),
        "begin": (toy, "begin", lambda current_step: current_step == step - 1),
        "end": (toy, "end", lambda current_step: current_step == step - 1),
    }
    owner, name, hit = replaced[point]
    original = getattr(owner, name)

    def wrapper(first: Any, *arguments: Any, **kwargs: Any) -> Any:
        if hit(first):
            if point == "removal":
                next(first.iterdir()).unlink()
            die()
        return original(first, *arguments, **kwargs)

    setattr(owner, name, wrapper)


def slow_saves(seconds: float) -> None:
    """Delay the write of each file of a checkpoint."""
    original = checkpoint._sync

    def wrapper(path: Path) -> None:
        time.sleep(seconds)
        original(path)

    checkpoint._sync = wrapper


def fill_disk(toy: Toy) -> None:
    """Make the operating system refuse to write files of more than 200 bytes from step 5 on."""
    original = toy.state

    def wrapper() -> dict[str, Tensor]:
        if toy.step >= 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
        return original()

    toy.state = wrapper  # type: ignore[method-assign]


def job(folder: Path, options: dict[str, Any]) -> None:
    """Train the toy in a separate process, and write the weights to final-RANK.safetensors.

    Options: `resume`, `dropout`, `accumulate`, `phases`, `kill` (point, step), `slow` (seconds), `full`, `env`.
    """
    os.environ.update(options.get("env", {}))
    torch.set_num_threads(1)
    rank = os.environ.get("RANK", "0")
    toy = Toy(dropout=options.get("dropout", 0.3), accumulate=options.get("accumulate", 1))
    if "kill" in options:
        point, step = options["kill"]
        kill_at(point, step, toy)
    if "slow" in options:
        slow_saves(options["slow"])
    if "full" in options:
        fill_disk(toy)
    try:
        for phase in options.get("phases", ["learn"]):
            train(toy, folder, resume=options.get("resume", False), phase=phase)
    except CheckpointError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        (folder / "error.txt").write_text(str(error))
        raise
    save_file({k: v.clone() for k, v in toy.state().items()}, folder / f"final-{rank}.safetensors")
    save_file(toy.gradients, folder / f"gradients-{rank}.safetensors")


if __name__ == "__main__":
    job(Path(sys.argv[1]), json.loads(sys.argv[2]))
