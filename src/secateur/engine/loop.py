"""The training loop of a phase, for any number of processes, which can be resumed after any checkpoint.

Gradients are sums over micro-batches and ranks, never means. The train unit divides by global counts, so a step is the
same for any number of processes and micro-batches.
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

from secateur.bounds import NonNegativeInt, PositiveInt, Seed
from secateur.engine.checkpoint import CheckpointContents, Checkpoints, SavedCheckpoint, read
from secateur.engine.distributed import DistributedContext
from secateur.engine.log import Log
from secateur.engine.optim import ScheduledOptimizer
from secateur.engine.optimizer_step import Metrics, train_step
from secateur.engine.progress import Progress, ProgressDisplay, RemainingTime
from secateur.engine.rng import generator_states, restore_generators, seed_all
from secateur.engine.tensorboard import check_tensorboard
from secateur.engine.train_unit import TrainUnit
from secateur.errors import CheckpointError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Length and precision of a phase, and intervals of logging, validation and checkpoints."""

    steps: PositiveInt
    """Number of optimizer steps."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the forward passes. bf16 is autocast: weights, gradients and optimizer states stay float32."""
    log_every: PositiveInt = 10
    """Interval of log lines, in steps."""
    validate_every: NonNegativeInt = 0
    """Interval of validations, in steps; 0 validates at the end only."""
    save_every: NonNegativeInt = 0
    """Interval of checkpoints, in steps; 0 saves at the end only."""
    keep: PositiveInt = 2
    """Number of the newest checkpoints of the phase to keep."""
    seed: Seed = 0
    """Seed of the global random generators at the start of the phase; ranks have different generators."""
    progress: bool = False
    """Whether to show a progress bar in the terminal."""
    tensorboard: bool = False
    """Whether to write metrics to `tensorboard/PHASE` in the run folder."""


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """The result of a phase."""

    phase: str
    steps: int
    checkpoint: Path
    """The final checkpoint, at the last step."""
    resumed_from: int | None
    """The step that this process started after; None for a start at the beginning."""
    seconds: float
    """Wall-clock seconds of this process in the loop."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Loss and other metrics of the last step; empty if all steps were done before."""
    validation: dict[str, float] = field(default_factory=dict)
    """Metrics of the validation after the last step; empty if all steps were done before."""


def run(
    train_unit: TrainUnit,
    config: LoopConfig,
    *,
    phase: str,
    folder: Path,
    resume: bool,
    on_progress: Callable[[Progress], None] | None = None,
) -> LoopResult:
    """Train a phase to the end and save a final checkpoint.

    Args:
        train_unit: The module, data and loss.
        config: Lengths and intervals.
        phase: Name of the phase in log, checkpoints and progress.
        folder: The run folder, for `checkpoints/`, `metrics.jsonl` and `timings.jsonl`.
        resume: Whether to continue after the newest complete checkpoint of the phase, if there is one.
        on_progress: Called on the first rank after each step.

    Raises:
        CheckpointError: A checkpoint exists and `resume` is False, does not fit, or cannot be written.
        ConfigError: `tensorboard` is set and not installed.
        NumericsError: A loss or gradient is not finite; nothing was updated or saved.
    """
    if config.tensorboard:
        check_tensorboard()
    with DistributedContext.open(
        train_unit.module, config.precision, getattr(train_unit, "has_unused_parameters", False)
    ) as context:
        checkpoints = Checkpoints(folder, phase=phase, keep=config.keep)
        if context.is_main:
            checkpoints.clean()
        context.wait()  # no rank may look for checkpoints before
        # Optimizers are made after the module is on the device, and before a checkpoint changes the learning rates.
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
    """A phase on a rank: the train unit and the state of the loop."""

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
        """Seed the generators, or restore the newest checkpoint and return the step."""
        phase = self.checkpoints.phase
        steps = self.config.steps
        latest = self.checkpoints.latest()
        if latest is None:
            seed_all(self.config.seed, phase=phase, rank=self.context.rank)
            return None
        if not resume:
            raise CheckpointError(
                f"Phase {phase!r} already has the checkpoint {latest.path}. Resume the run to continue (resume=True, "
                "or --resume), or use another run folder to start again."
            )
        if latest.step > steps:
            raise CheckpointError(
                f"{latest.path}: got a checkpoint after {latest.step} steps, but the phase has only {steps}. "
                f"Set steps to {latest.step} or more, or use another run folder."
            )
        contents = read(latest.path, phase=phase)
        if contents.steps != steps:
            logger.warning("phase %r: saved for %d steps, resumed for %d", phase, contents.steps, steps)
        self._restore(contents, latest)
        logger.info("phase %r: resumed after step %d from %s", phase, latest.step, latest.path)
        return latest.step

    def _restore(self, contents: CheckpointContents, checkpoint: SavedCheckpoint) -> None:
        states = contents.extras["optimisers"]  # the spelling is part of the checkpoint format
        if set(states) != set(self.optimizers):
            raise CheckpointError(
                f"{checkpoint.path}: expected optimizers {sorted(self.optimizers)}, got {sorted(states)}. "
                "Resume with the recipe that started the run, or use another run folder."
            )
        # `load` may rebuild parts of the module and replace parameters in the optimizers, so their state comes after
        # it.
        self.train_unit.load(contents.state)
        self.context.rewrap_if_changed()
        for name, scheduled in self.optimizers.items():
            try:
                scheduled.spec.optimizer.load_state_dict(states[name])
            except ValueError as error:
                raise CheckpointError(
                    f"{checkpoint.path}: the state of optimizer {name!r} does not fit this run ({error}). "
                    "Resume with the recipe that started the run, or use another run folder."
                ) from error
        generators = contents.extras["generators"]  # one state for each rank
        if len(generators) != self.context.world:
            logger.warning(
                "%s was saved by %d processes and is resumed by %d: random draws will differ",
                checkpoint.path, len(generators), self.context.world,
            )  # fmt: skip
        if self.context.rank < len(generators):
            restore_generators(generators[self.context.rank])
        else:
            # A rank that did not exist before: a seed by step, which differs from the seed of the start.
            seed_all(self.config.seed + contents.step, phase=contents.phase, rank=self.context.rank)

    def loop(self, folder: Path, completed_steps: int, on_step: Callable[[Progress], None] | None) -> None:
        """Run the steps after the first `completed_steps`.

        A step is train, log, validate, save: the log line of a step is on disk before a checkpoint of that step is.
        """
        config = self.config
        phase = self.checkpoints.phase
        clock = RemainingTime(step=completed_steps, steps=config.steps)
        log = Log(
            folder,
            phase=phase,
            step=completed_steps,
            is_active=self.context.is_main,
            describe_checkpoint=self._describe_latest,
            tensorboard=config.tensorboard,
        )
        last_log_time = time.monotonic()
        last_logged_step = completed_steps
        with contextlib.closing(log):
            # `step` counts completed steps, as in log and checkpoints; `train_step` takes the 0-based step.
            for step in range(completed_steps + 1, config.steps + 1):
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
                # None between log lines if there are several ranks
                self.latest_metrics = metrics or self.latest_metrics
                if is_log_due:
                    log.metrics(step, metrics or {})
                    log_time = time.monotonic()
                    log.timing(step, (log_time - last_log_time) / (step - last_logged_step))
                    last_log_time = log_time
                    last_logged_step = step
                if is_last or (config.validate_every and step % config.validate_every == 0):
                    self.validation = self._validate(step)
                    log.metrics(step, {"validation": self.validation})
                if is_last or (config.save_every and step % config.save_every == 0):
                    # A resumed run removes log lines after the checkpoint, but cannot restore lost lines before it.
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
        """Save a checkpoint on the first rank; raise a failure on every rank, so that no rank waits forever."""
        generators = self.context.gather(generator_states())  # of all ranks, in one checkpoint
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
    """Yield the function to call after each step, which updates the progress bar and calls `on_progress`."""
    if not show_bar:
        yield on_progress
        return
    with ProgressDisplay() as display:

        def update_all(progress: Progress) -> None:
            display(progress)
            if on_progress is not None:
                on_progress(progress)

        yield update_all
