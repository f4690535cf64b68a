"""How far a phase is: the figures of its latest step, the time left, and a display of both."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The state of a phase after an optimiser step."""

    phase: str
    step: int
    """Optimiser steps finished."""
    steps: int
    parts: Mapping[str, float]
    """The loss and the other figures of the step (with several processes: of the last logged step)."""
    seconds_left: float | None
    """Estimated wall-clock seconds to the end of the phase; None until two steps are done."""


class RemainingTime:
    """An estimate of the time left, from the steps this process has done, validation and saving included.

    The first step is left out of it: it pays for compilation, caches and the first reading of the data.
    """

    def __init__(self, *, step: int, steps: int) -> None:
        self._first_step = step + 1
        self._steps = steps
        self._start_time: float | None = None

    def seconds_left(self, step: int) -> float | None:
        """Seconds left after `step` steps; called once after each step."""
        now = time.monotonic()
        if self._start_time is None:
            self._start_time = now
            return None
        return (now - self._start_time) / (step - self._first_step) * (self._steps - step)


class ProgressDisplay:
    """A progress bar in the terminal; a callback for `run` and a context manager.

    Shows the first `shown` figures of the step behind the bar, the loss first.
    """

    def __init__(self, *, max_metrics: int = 4) -> None:
        self._max_metrics = max_metrics
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),  # what is printed is the record alone
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tasks:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Show the state after a step."""
        if progress.phase not in self._tasks:
            self._bar.start()
            self._tasks[progress.phase] = self._bar.add_task(
                progress.phase, total=progress.steps, completed=progress.step - 1, figures=""
            )
        loss_items = [(name, value) for name, value in progress.parts.items() if name == "loss"]
        other_items = [(name, value) for name, value in progress.parts.items() if name != "loss"]
        metrics_text = "  ".join(
            f"{name} {value:.4g}" for name, value in (loss_items + other_items)[: self._max_metrics]
        )
        self._bar.update(self._tasks[progress.phase], completed=progress.step, figures=metrics_text)
