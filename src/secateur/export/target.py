"""The interface of an export target."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from secateur.hf.load import LoadedCheckpoint
    from secateur.records.verification import Verification


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Result of writing a model in the form of a target.

    Attributes:
        verification: Comparison of the written form with the source model. Its proof is the parity of the outputs.
        notes: Sentences about what was repaired or left out.
    """

    verification: Verification
    notes: tuple[str, ...] = ()


class ExportTarget(Protocol):
    """Form of a model for a program, such as a folder for unmodified classes of `transformers`.

    The module of a target imports torch, transformers and optional packages inside `write`, since the help of the
    command imports the module for its summary.
    """

    summary: ClassVar[str]
    """one line for the help of the command"""

    def write(self, checkpoint: LoadedCheckpoint, folder: Path, *, source: str | Path) -> Exported:
        """Write a model into a folder, and compare the outputs of both.

        The caller discards the folder if this method raises or if the parity fails.

        Args:
            checkpoint: The loaded model, dense or cut.
            folder: Existing empty folder.
            source: Folder or hub id of the model, for its feature extractor and its tokenizer.

        Raises:
            SecateurError: The target cannot hold the model.
        """
        ...
