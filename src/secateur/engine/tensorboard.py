"""TensorBoard: the figures of a phase, mirrored where its pages look for them.

What counts is metrics.jsonl; nothing is ever read back from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from secateur.errors import ConfigError

FOLDER = "tensorboard"


def check_tensorboard() -> None:
    """Find out whether TensorBoard's writer is there, before anything is trained.

    Raises:
        ConfigError: It is not.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise ConfigError(
            "tensorboard: true needs the package `tensorboard`, which is not installed. Install it (`pip install "
            "'secateur[tensorboard]'`), or set tensorboard to false."
        ) from None


class TensorBoardWriter:
    """The event files of one phase, one folder each, so that phases are runs that can be laid over each other.

    Args:
        folder: The run folder.
        phase: The phase.
        step: The step it starts or resumes after; what was shown beyond it is dropped.
    """

    def __init__(self, folder: Path, *, phase: str, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / FOLDER / phase), purge_step=step + 1)

    def show(self, step: int, values: Mapping[str, Any]) -> None:
        """Show the numbers among `values`, those in mappings as `name/inner`, those in lists as `name/0`."""
        for name, number in flatten_numbers(values):
            self._writer.add_scalar(name, number, step)

    def close(self) -> None:
        """Write what is left and close the file."""
        self._writer.close()


def flatten_numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in nested mappings and lists, each with its path; anything else is left out."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten_numbers(value, f"{prefix}{name}/")
        elif isinstance(value, list | tuple):
            yield from flatten_numbers({str(index): item for index, item in enumerate(value)}, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", float(value)
