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

from secateur.engine.checkpoint import CheckpointContents, Checkpoints, SavedCheckpoint, read
from secateur.engine.distributed import DistributedContext
from secateur.engine.log import Log
from secateur.engine.optim import ScheduledOptimizer
from secateur.engine.optimizer_step import Metrics, train_step
from secateur.engine.progress import Progress, ProgressDisplay, RemainingTime
from secateur.engine.rng import generator_states, restore_generators, seed_all
from secateur.engine.tensorboard import check_tensorboard
from secateur.engine.train_unit import TrainUnit
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
        min_values = {"steps": 1, "log_every": 1, "validate_every": 0, "save_every": 0, "keep": 1, "seed": 0}
        problems = [
            f"{name}: got {getattr(self, name)}, allowed is {min_value} or more."
            for name, min_value in min_values.items()
            if getattr(self, name) < min_value
        ]
        if problems:
            raise ConfigError(" ".join(problems))


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
    metrics: dict[str, float] = field(default_factory=dict)
    """Loss and logged figures of the last step; empty when nothing was left to do."""
    validation: dict[str, float] = field(default_factory=dict)
    """The validation after the last step; empty when nothing was left to do."""


def run(
    train_unit: TrainUnit,
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
    with DistributedContext.open(
        train_unit.module, config.precision, getattr(train_unit, "has_unused_parameters", False)
    ) as context:
        checkpoints = Checkpoints(folder, phase=phase, keep=config.keep)
        if context.is_main:
            checkpoints.clean()
        context.wait()
        optimizers = {name: ScheduledOptimizer(spec) for name, spec in train_unit.optimizers().items()}
        phase_run = _PhaseRun(train_unit, config, context, checkpoints, optimizers)
        resumed_from = phase_run.start(resume)
        start_time = time.monotonic()
        with _display(config.progress and context.is_main, on_progress if context.is_main else None) as on_step:
            phase_run.loop(folder, resumed_from or 0, on_step)
        final_checkpoint = checkpoints.latest()
        assert final_checkpoint is not None, "a phase ends with a checkpoint"
        return LoopResult(
            phase=phase,
            steps=config.steps,
            checkpoint=final_checkpoint.path,
            resumed_from=resumed_from,
            seconds=time.monotonic() - start_time,
            metrics=dict(phase_run.latest_metrics),
            validation=phase_run.validation,
        )


class _PhaseRun:
    """One phase on one rank: the trainee and everything the loop keeps for it."""

    def __init__(
        self,
        train_unit: TrainUnit,
        config: LoopConfig,
        context: DistributedContext,
        checkpoints: Checkpoints,
        optimizers: dict[str, ScheduledOptimizer],
    ) -> None:
        self.train_unit = train_unit
        self.config = config
        self.context = context
        self.checkpoints = checkpoints
        self.optimizers = optimizers
        self.latest_metrics: Metrics = {}
        self.validation: dict[str, float] = {}

    def start(self, resume: bool) -> int | None:
        """Seed the generators, or restore the newest checkpoint; returns the step it was saved after."""
        phase, steps = self.checkpoints.phase, self.config.steps
        latest = self.checkpoints.latest()
        if latest is None:
            seed_all(self.config.seed, phase=phase, rank=self.context.rank)
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

    def _restore(self, contents: CheckpointContents, checkpoint: SavedCheckpoint) -> None:
        states = contents.extras["optimisers"]
        if set(states) != set(self.optimizers):
            raise CheckpointError(
                f"{checkpoint.path}: got optimisers {sorted(states)}, this run has {sorted(self.optimizers)}. "
                "Resume with the recipe that started the run, or choose another run folder."
            )
        self.train_unit.load(contents.state)
        self.context.rewrap_if_changed()
        for name, scheduled in self.optimizers.items():
            try:
                scheduled.spec.optimizer.load_state_dict(states[name])
            except ValueError as error:
                raise CheckpointError(
                    f"{checkpoint.path}: the state of optimiser {name!r} does not fit this run ({error}). "
                    "Resume with the recipe that started the run, or choose another run folder."
                ) from error
        generators = contents.extras["generators"]
        if len(generators) != self.context.world:
            logger.warning(
                "%s was saved by %d processes and is resumed by %d: random draws will differ",
                checkpoint.path, len(generators), self.context.world,
            )  # fmt: skip
        if self.context.rank < len(generators):
            restore_generators(generators[self.context.rank])
        else:
            seed_all(self.config.seed + contents.step, phase=contents.phase, rank=self.context.rank)

    def loop(self, folder: Path, completed_steps: int, on_step: Callable[[Progress], None] | None) -> None:
        """All steps after the first `done` ones."""
        config, phase = self.config, self.checkpoints.phase
        clock = RemainingTime(step=completed_steps, steps=config.steps)
        log = Log(
            folder,
            phase=phase,
            step=completed_steps,
            is_active=self.context.is_main,
            describe_checkpoint=self._describe_latest,
            tensorboard=config.tensorboard,
        )
        last_log_time, last_logged_step = time.monotonic(), completed_steps
        with contextlib.closing(log):
            for step in range(completed_steps + 1, config.steps + 1):  # the count of finished steps, once this one is
                is_last = step == config.steps
                is_log_due = is_last or step % config.log_every == 0
                metrics = train_step(
                    self.train_unit,
                    self.context,
                    self.optimizers,
                    step - 1,
                    needs_metrics=is_log_due,
                    describe_checkpoint=self._describe_latest,
                )
                self.latest_metrics = metrics or self.latest_metrics
                if is_log_due:
                    log.metrics(step, metrics or {})
                    now = time.monotonic()
                    log.timing(step, (now - last_log_time) / (step - last_logged_step))
                    last_log_time, last_logged_step = now, step
                if is_last or (config.validate_every and step % config.validate_every == 0):
                    self.validation = self._validate(step)
                    log.metrics(step, {"validation": self.validation})
                if is_last or (config.save_every and step % config.save_every == 0):
                    log.sync()
                    self._save(step)
                seconds_left = clock.seconds_left(step)
                if on_step is not None:
                    on_step(
                        Progress(
                            phase=phase,
                            step=step,
                            steps=config.steps,
                            parts=self.latest_metrics,
                            seconds_left=seconds_left,
                        )
                    )

    def _describe_latest(self) -> str:
        return self.checkpoints.describe_latest()

    def _validate(self, step: int) -> dict[str, float]:
        with torch.no_grad(), self.context.autocast():
            return dict(self.train_unit.validate(step))

    def _save(self, step: int) -> None:
        """Save on the first rank; a failure there is raised on every rank, so that none waits for ever."""
        generators = self.context.gather(generator_states())
        failure: CheckpointError | None = None
        if self.context.is_main:
            states = {name: scheduled.spec.optimizer.state_dict() for name, scheduled in self.optimizers.items()}
            contents = CheckpointContents(
                phase=self.checkpoints.phase,
                step=step,
                steps=self.config.steps,
                state=self.train_unit.state(),
                extras={"optimisers": states, "generators": generators},
            )
            try:
                self.checkpoints.save(contents)
            except CheckpointError as error:
                failure = error
        message = self.context.broadcast_from_main(None if failure is None else str(failure))
        if message is not None:
            raise CheckpointError(message) from failure


@contextlib.contextmanager
def _display(
    show_bar: bool, on_progress: Callable[[Progress], None] | None
) -> Iterator[Callable[[Progress], None] | None]:
    """What is called after each step: the progress bar, the caller's function, both, or nothing."""
    if not show_bar:
        yield on_progress
        return
    with ProgressDisplay() as display:

        def update_all(progress: Progress) -> None:
            display(progress)
            if on_progress is not None:
                on_progress(progress)

        yield update_all
