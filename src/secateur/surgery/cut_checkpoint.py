"""Cutting of a whole checkpoint: the model, its proof, and the weights beside encoder and head."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from secateur.errors import SecateurError
from secateur.hf.load import LoadedCheckpoint
from secateur.hf.model_view import ModelView
from secateur.hf.save import write_model
from secateur.records.verification import Verification
from secateur.structure import Selection, normalize
from secateur.surgery.cut import Layout, cut_view
from secateur.surgery.verify import verify

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CutCheckpoint:
    """A cut model, proven equal to the masked model, with all contents of the folder to write.

    Attributes:
        view: The cut model.
        selection: The normalized selection that made the model.
        weights: All weights of the folder by name, those beside encoder and head included.
        verification: The proof, and the drop-in contract, whose checks may fail.
        notes: Sentences about what was repaired, added or left out.
    """

    view: ModelView
    selection: Selection
    weights: dict[str, Tensor]
    verification: Verification
    notes: tuple[str, ...]

    def write(self, folder: Path, *, source: str | Path) -> None:
        """Write the model into an existing folder, with the feature extractor and the tokenizer of the source."""
        write_model(folder, self.view, source=source, selection=self.selection, weights=self.weights)


def cut_checkpoint(checkpoint: LoadedCheckpoint, selection: Selection, *, layout: Layout) -> CutCheckpoint:
    """Cut the model of a checkpoint by a selection, and prove that the result is the masked model.

    Args:
        checkpoint: The loaded model, dense or cut before.
        selection: Kept units, as original indices; an empty selection keeps all that the model has.
        layout: ``registered`` (any shape) or ``stock`` (unmodified classes, where the shape allows).

    Raises:
        SelectionError: The selection does not fit the model, or the shape does not fit the stock layout.
        SecateurError: The proof fails.
    """
    dense = checkpoint.view
    normalized = normalize(dense.structure, selection)
    for note in normalized.adjustments:
        logger.warning("%s", note)
    cut_model = cut_view(dense, normalized.selection, layout=layout)
    verification = verify(cut_model, dense, normalized.selection)
    if not verification.is_proven:
        raise SecateurError(f"{verification.refusal} Nothing was written.")
    _, dropped_weights = checkpoint.extra.select_fitting(dense, cut_model)
    for note in dropped_weights:
        logger.warning("%s", note)
    return CutCheckpoint(
        view=cut_model,
        selection=normalized.selection,
        weights=checkpoint.extra.state_dict(dense, cut_model),
        verification=verification,
        notes=(*checkpoint.notes, *normalized.adjustments, *dropped_weights),
    )
