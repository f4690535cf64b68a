"""Word and character error rates over a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jiwer


class ErrorRate:
    """Insertions, deletions and substitutions, divided by the units of the references; may exceed 1.

    Both are summed over utterances before the division, so that a long utterance counts more than a short one.
    """

    def __init__(self, unit: Literal["word", "character"]) -> None:
        self.unit = unit
        self.edits = 0
        self.length = 0

    def update(self, references: Sequence[str], hypotheses: Sequence[str]) -> None:
        """Add pairs of texts."""
        process = jiwer.process_words if self.unit == "word" else jiwer.process_characters
        alignment = process(list(references), list(hypotheses))
        self.edits += alignment.substitutions + alignment.deletions + alignment.insertions
        # Insertions are no units of the reference.
        self.length += alignment.substitutions + alignment.deletions + alignment.hits

    @property
    def value(self) -> float:
        """Error rate so far; the number of edits where all references are empty."""
        return self.edits / max(1, self.length)
