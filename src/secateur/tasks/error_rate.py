"""Word and character error rates over a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jiwer


class ErrorRate:
    """Insertions, deletions and substitutions over all units of the references; it may be above one.

    Sums over utterances come before the division, so a long utterance counts for more than a short one.
    """

    def __init__(self, unit: Literal["word", "character"]) -> None:
        self.unit = unit
        self.edits = self.length = 0

    def update(self, references: Sequence[str], hypotheses: Sequence[str]) -> None:
        """Take in pairs of texts."""
        process = jiwer.process_words if self.unit == "word" else jiwer.process_characters
        alignment = process(list(references), list(hypotheses))
        self.edits += alignment.substitutions + alignment.deletions + alignment.insertions
        self.length += alignment.substitutions + alignment.deletions + alignment.hits

    @property
    def value(self) -> float:
        """The rate; of empty references alone, the number of edits."""
        return self.edits / max(1, self.length)
