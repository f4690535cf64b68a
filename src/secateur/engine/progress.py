"""Progress of a phase: metrics of the latest step, remaining time, and a display in the terminal."""

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
    """The state of a phase after an optimizer step."""

    phase: str
    step: int
    """Number of completed optimizer steps."""
    steps: int
    """Number of optimizer steps of the phase."""
    parts: Mapping[str, float]
    """Loss and other metrics of the step (with several processes: of the last logged step)."""
    seconds_left: float | None
    """Estimated wall-clock seconds to the end of the phase; None until two steps are done."""


class RemainingTime:
    """An estimate of the remaining time, from the mean time of the steps so far.

    The time includes validation and saving. The first step is left out, since compilation, filling of caches and the
    first read of the data make it slower.
    """

    def __init__(self, *, step: int, steps: int) -> None:
        self._first_step = step + 1
        self._steps = steps
        self._start_time: float | None = None

    def seconds_left(self, step: int) -> float | None:
        """Return the estimated seconds left after `step` steps; must be called once after each step."""
        current_time = time.monotonic()
        if self._start_time is None:
            self._start_time = current_time
            return None
        # In a run from step 0, two steps are timed after step 3: steps 2 and 3.
        seconds_per_step = (current_time - self._start_time) / (step - self._first_step)
        return seconds_per_step * (self._steps - step)


class ProgressDisplay:
    """A progress bar in the terminal, as a context manager and a callback for `run`.

    Args:
        max_metrics: Number of metrics of the step shown after the bar, the loss first.
    """

    def __init__(self, *, max_metrics: int = 4) -> None:
        self._max_metrics = max_metrics
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),  # stdout is for the record
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
            # A bar for each phase; the first call comes after a step, which may be the first of a resumed run.
            self._bar.start()
            self._tasks[progress.phase] = self._bar.add_task(
                progress.phase, total=progress.steps, completed=progress.step - 1, figures=""
            )
        # The loss first, since only the first `max_metrics` fit on the line.
        loss_items = [(name, value) for name, value in progress.parts.items() if name == "loss"]
        other_items = [(name, value) for name, value in progress.parts.items() if name != "loss"]
        metrics_text = "  ".join(
            f"{name} {value:.4g}" for name, value in (loss_items + other_items)[: self._max_metrics]
        )
        self._bar.update(self._tasks[progress.phase], completed=progress.step, figures=metrics_text)
