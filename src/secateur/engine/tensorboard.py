"""TensorBoard output: a copy of the metrics of a phase in event files.

The record of a run is metrics.jsonl; the event files are never read back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from secateur.errors import ConfigError

FOLDER = "tensorboard"


def check_tensorboard() -> None:
    """Raise a ConfigError if TensorBoard's writer is not installed; called before training."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise ConfigError(
            "tensorboard: true needs the package `tensorboard`, which is not installed. Install it (`pip install "
            "'secateur[tensorboard]'`), or set tensorboard to false."
        ) from None


class TensorBoardWriter:
    """The event files of a phase, in a separate folder, so that TensorBoard shows phases as runs to compare.

    Args:
        folder: The run folder.
        phase: The phase.
        step: The step that the phase starts or resumes after; later values are dropped.
    """

    def __init__(self, folder: Path, *, phase: str, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # `purge_step` hides the values of a run that was killed after its last checkpoint.
        self._writer = SummaryWriter(str(folder / FOLDER / phase), purge_step=step + 1)

    def show(self, step: int, values: Mapping[str, Any]) -> None:
        """Write the numbers in `values`, with names as in `flatten_numbers`."""
        for name, number in flatten_numbers(values):
            self._writer.add_scalar(name, number, step)

    def close(self) -> None:
        """Write buffered values and close the file."""
        self._writer.close()


def flatten_numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers in nested mappings and lists by path; text and the like are left out.

    {"loss": 0.5, "validation": {"wer": [0.1, 0.2]}} becomes loss, validation/wer/0 and validation/wer/1.
    """
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten_numbers(value, f"{prefix}{name}/")
        elif isinstance(value, list | tuple):
            yield from flatten_numbers({str(index): item for index, item in enumerate(value)}, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", float(value)
