"""Export target for a folder for unmodified classes of `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from secateur.export.target import Exported, ExportTarget

if TYPE_CHECKING:
    from secateur.hf.load import LoadedCheckpoint


class StockTarget(ExportTarget):
    """The stock layout, without any further cut: `secateur shrink --layout stock` with an empty selection."""

    summary: ClassVar[str] = "a folder for unmodified transformers classes, where the shape allows"

    def write(self, checkpoint: LoadedCheckpoint, folder: Path, *, source: str | Path) -> Exported:
        """Write a model into a folder in the stock layout, and prove that the outputs are equal.

        Raises:
            SelectionError: The shape does not fit the stock layout.
            SecateurError: The outputs differ.
        """
        from secateur.structure import Selection
        from secateur.surgery.cut_checkpoint import cut_checkpoint

        cut = cut_checkpoint(checkpoint, Selection(axes={}), layout="stock")
        cut.write(folder, source=source)
        return Exported(verification=cut.verification, notes=cut.notes)
