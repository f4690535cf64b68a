"""The training loop: micro-batches in, optimiser steps out, on one process or many, and resumable anywhere.

Gradients are sums over micro-batches and ranks, never means: a trainee divides by global counts itself, so
one process and many, one batch and its accumulation, take the same step.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from secateur.engine.checkpoint import Checkpoints, Contents, Saved, read
from secateur.engine.generators import generator_states, restore_generators, seed_all
from secateur.engine.log import Log
from secateur.engine.optim import Scheduled
from secateur.engine.place import Place
from secateur.engine.progress import Clock, Display, Progress
from secateur.engine.step import Figures, one_step
from secateur.engine.tensorboard import check_tensorboard
from secateur.engine.trainee import Trainee
from secateur.errors import CheckpointError, ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long a phase runs, in what precision, and how often it logs, validates and saves."""

    steps: int
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 is autocast: weights, gradients and optimiser states stay float32."""
    log_every: int = 10
    validate_every: int = 0
    """In steps; 0 validates at the end only."""
    save_every: int = 0
    """In steps; 0 saves at the end only."""
    keep: int = 2
    """Checkpoints of the phase that are kept, the newest."""
    seed: int = 0
    """Seeds the global random generators at the start of the phase, each rank differently."""
    progress: bool = False
    """Show a progress bar in the terminal."""
    tensorboard: bool = False
    """Mirror the log's figures in `tensorboard/PHASE` of the run folder."""

    def __post_init__(self) -> None:
        least = {"steps": 1, "log_every": 1, "validate_every": 0, "save_every": 0, "keep": 1, "seed": 0}
        wrong = [
            f"{name}: got {getattr(self, name)}, allowed is {low} or more."
            for name, low in least.items()
            if getattr(self, name) < low
        ]
        if wrong:
            raise ConfigError(" ".join(wrong))


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """What a phase ended with."""

    phase: str
    steps: int
    checkpoint: Path
    """The final checkpoint, at the last step."""
    resumed_from: int | None
    """The step this process started after; None when it started at the beginning."""
    seconds: float
    """Wall-clock seconds of this process in the loop."""
    figures: dict[str, float] = field(default_factory=dict)
    """Loss and logged figures of the last step; empty when nothing was left to do."""
    validation: dict[str, float] = field(default_factory=dict)
    """The validation after the last step; empty when nothing was left to do."""


def run(
    trainee: Trainee,
    config: LoopConfig,
    *,
    phase: str,
    folder: Path,
    resume: bool,
    on_progress: Callable[[Progress], None] | None = None,
) -> LoopResult:
    """Train one phase to its end and leave a checkpoint there.

    Args:
        trainee: what is trained.
        config: lengths and intervals.
        phase: the name in log, checkpoints and progress.
        folder: the run folder; `checkpoints/`, `metrics.jsonl` and `timings.jsonl` are written into it.
        resume: continue after the newest whole checkpoint of the phase, if there is one.
        on_progress: called on the first rank after each step.

    Raises:
        CheckpointError: a checkpoint is in the way, does not fit, or cannot be written.
        ConfigError: `tensorboard` is asked for and not installed.
        NumericsError: a loss or gradient is not finite; nothing was updated and nothing was saved.
    """
    if config.tensorboard:
        check_tensorboard()
    with Place.open(trainee.module, config.precision, getattr(trainee, "module_has_unused", False)) as place:
        checkpoints = Checkpoints(folder, phase=phase, keep=config.keep)
        if place.first:
            checkpoints.clean()
        place.wait()
        optimisers = {name: Scheduled(spec) for name, spec in trainee.optimisers().items()}
        phase_run = _Phase(trainee, config, place, checkpoints, optimisers)
        resumed_from = phase_run.start(resume)
        began = time.monotonic()
        with _display(config.progress and place.first, on_progress if place.first else None) as show:
            phase_run.loop(folder, resumed_from or 0, show)
        saved = checkpoints.latest()
        assert saved is not None, "a phase ends with a checkpoint"
        return LoopResult(
            phase=phase,
            steps=config.steps,
            checkpoint=saved.path,
            resumed_from=resumed_from,
            seconds=time.monotonic() - began,
            figures=dict(phase_run.shown),
            validation=phase_run.validation,
        )


class _Phase:
    """One phase on one rank: the trainee and everything the loop keeps for it."""

    def __init__(
        self,
        trainee: Trainee,
        config: LoopConfig,
        place: Place,
        checkpoints: Checkpoints,
        optimisers: dict[str, Scheduled],
    ) -> None:
        self.trainee = trainee
        self.config = config
        self.place = place
        self.checkpoints = checkpoints
        self.optimisers = optimisers
        self.shown: Figures = {}
        self.validation: dict[str, float] = {}

    def start(self, resume: bool) -> int | None:
        """Seed the generators, or restore the newest checkpoint; returns the step it was saved after."""
        phase, steps = self.checkpoints.phase, self.config.steps
        latest = self.checkpoints.latest()
        if latest is None:
            seed_all(self.config.seed, phase=phase, rank=self.place.rank)
            return None
        if not resume:
            raise CheckpointError(
                f"Phase {phase!r} already has the checkpoint {latest.path}. Resume the run to go on from "
                "it (resume=True, or --resume), or choose another run folder to start again."
            )
        if latest.step > steps:
            raise CheckpointError(
                f"{latest.path}: got a checkpoint after {latest.step} steps, but the phase has only {steps}. "
                f"Set its steps to {latest.step} or more, or choose another run folder."
            )
        contents = read(latest.path, phase=phase)
        if contents.steps != steps:
            logger.warning("phase %r: saved for %d steps, resumed for %d", phase, contents.steps, steps)
        self._restore(contents, latest)
        logger.info("phase %r: resumed after step %d from %s", phase, latest.step, latest.path)
        return latest.step

    def _restore(self, contents: Contents, saved: Saved) -> None:
        states = contents.extras["optimisers"]
        if set(states) != set(self.optimisers):
            raise CheckpointError(
                f"{saved.path}: got optimisers {sorted(states)}, this run has {sorted(self.optimisers)}. "
                "Resume with the recipe that started the run, or choose another run folder."
            )
        self.trainee.load(contents.state)
        self.place.follow()
        for name, scheduled in self.optimisers.items():
            try:
                scheduled.spec.optimiser.load_state_dict(states[name])
            except ValueError as error:
                raise CheckpointError(
                    f"{saved.path}: the state of optimiser {name!r} does not fit this run ({error}). "
                    "Resume with the recipe that started the run, or choose another run folder."
                ) from error
        generators = contents.extras["generators"]
        if len(generators) != self.place.world:
            logger.warning(
                "%s was saved by %d processes and is resumed by %d: random draws will differ",
                saved.path, len(generators), self.place.world,
            )  # fmt: skip
        if self.place.rank < len(generators):
            restore_generators(generators[self.place.rank])
        else:
            seed_all(self.config.seed + contents.step, phase=contents.phase, rank=self.place.rank)

    def loop(self, folder: Path, done: int, show: Callable[[Progress], None] | None) -> None:
        """All steps after the first `done` ones."""
        config, phase = self.config, self.checkpoints.phase
        clock = Clock(step=done, steps=config.steps)
        log = Log(
            folder,
            phase=phase,
            step=done,
            active=self.place.first,
            last_good=self._last_good,
            tensorboard=config.tensorboard,
        )
        since, logged = time.monotonic(), done
        with contextlib.closing(log):
            for step in range(done + 1, config.steps + 1):  # the count of finished steps, once this one is
                last = step == config.steps
                due = last or step % config.log_every == 0
                figures = one_step(
                    self.trainee, self.place, self.optimisers, step - 1, gather=due, last_good=self._last_good
                )
                self.shown = figures or self.shown
                if due:
                    log.metrics(step, figures or {})
                    now = time.monotonic()
                    log.timing(step, (now - since) / (step - logged))
                    since, logged = now, step
                if last or (config.validate_every and step % config.validate_every == 0):
                    self.validation = self._validate(step)
                    log.metrics(step, {"validation": self.validation})
                if last or (config.save_every and step % config.save_every == 0):
                    log.sync()
                    self._save(step)
                left = clock.seconds_left(step)
                if show is not None:
                    show(Progress(phase=phase, step=step, steps=config.steps, parts=self.shown, seconds_left=left))

    def _last_good(self) -> str:
        return self.checkpoints.last_good()

    def _validate(self, step: int) -> dict[str, float]:
        with torch.no_grad(), self.place.autocast():
            return dict(self.trainee.validate(step))

    def _save(self, step: int) -> None:
        """Save on the first rank; a failure there is raised on every rank, so that none waits for ever."""
        generators = self.place.gather(generator_states())
        failure: CheckpointError | None = None
        if self.place.first:
            states = {name: scheduled.spec.optimiser.state_dict() for name, scheduled in self.optimisers.items()}
            contents = Contents(
                phase=self.checkpoints.phase,
                step=step,
                steps=self.config.steps,
                state=self.trainee.state(),
                extras={"optimisers": states, "generators": generators},
            )
            try:
                self.checkpoints.save(contents)
            except CheckpointError as error:
                failure = error
        message = self.place.from_first(None if failure is None else str(failure))
        if message is not None:
            raise CheckpointError(message) from failure


@contextlib.contextmanager
def _display(bar: bool, on_progress: Callable[[Progress], None] | None) -> Iterator[Callable[[Progress], None] | None]:
    """What is called after each step: the progress bar, the caller's function, both, or nothing."""
    if not bar:
        yield on_progress
        return
    with Display() as display:

        def both(progress: Progress) -> None:
            display(progress)
            if on_progress is not None:
                on_progress(progress)

        yield both
