"""Entity F1 of SLURP, exact or softened by the distance between predicted and reference words.

Source: Bastianelli et al., EMNLP 2020, arXiv 2011.13205, "SLU-F1", in the version of its released code:

* a pair of equal type is one true positive whatever its words, and the distance of the words is added to the false
  positives as well as to the false negatives;
* the word distance is the word error rate, which may exceed one; the character distance is divided by the longer text;
* predictions are matched with the nearest unmatched reference one after another, in the order of the prediction;
* SLU-F1 is the F1 of the summed counts of both distances, not the mean of two F1 scores.

Differs from the released code: the fillers of references and predictions are in lower case, not those of references
alone, and an utterance without a prediction counts as one without entities instead of being ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jiwer

from secateur.tasks.slurp_tags import Entity

#: Distance between the filler of a reference (first argument) and a predicted one (second).
FillerDistance = Callable[[str, str], float]


@dataclass(frozen=True)
class EntityCounts:
    """True positives, false positives and false negatives, possibly fractional."""

    matched: float = 0.0
    spurious: float = 0.0
    missed: float = 0.0

    def __add__(self, counts: EntityCounts) -> EntityCounts:
        return EntityCounts(self.matched + counts.matched, self.spurious + counts.spurious, self.missed + counts.missed)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 without true positives."""
        if self.matched == 0:
            return 0.0
        precision = self.matched / (self.matched + self.spurious)
        recall = self.matched / (self.matched + self.missed)
        return 2 * precision * recall / (precision + recall)


def exact_counts(references: Sequence[Entity], predicted: Sequence[Entity]) -> EntityCounts:
    """Return the counts where a match has equal type and words; every entity is matched at most once."""
    unmatched = _lowercase_fillers(references)  # references that no prediction has matched so far
    matched = 0
    for entity in _lowercase_fillers(predicted):
        if entity in unmatched:
            unmatched.remove(entity)
            matched += 1
    return EntityCounts(matched, len(predicted) - matched, len(unmatched))


def soft_counts(references: Sequence[Entity], predicted: Sequence[Entity], distance: FillerDistance) -> EntityCounts:
    """Return the counts where a match has equal type, and the distance of the words adds to all errors."""
    unmatched = _lowercase_fillers(references)
    counts = EntityCounts()
    for entity in _lowercase_fillers(predicted):
        candidates = [reference for reference in unmatched if reference.type == entity.type]
        if not candidates:
            counts += EntityCounts(spurious=1.0)
            continue
        distances = [distance(reference.filler, entity.filler) for reference in candidates]
        min_distance = min(distances)  # of equal distances the first reference counts
        unmatched.remove(candidates[distances.index(min_distance)])
        # A match with an error counts as one true positive and, by its distance, as an error of both kinds.
        counts += EntityCounts(1.0, min_distance, min_distance)
    return counts + EntityCounts(missed=len(unmatched))


def word_distance(reference: str, predicted: str) -> float:
    """Return the word error rate of a filler; a reference without words counts as a single word."""
    return _count_edits(jiwer.process_words(reference, predicted)) / max(1, len(reference.split()))


def character_distance(reference: str, predicted: str) -> float:
    """Return the Levenshtein distance divided by the longer length, from 0 to 1."""
    return _count_edits(jiwer.process_characters(reference, predicted)) / max(1, len(reference), len(predicted))


class EntityMetric:
    """Entity F1, exact and softened, over a corpus, micro-averaged over types."""

    def __init__(self) -> None:
        self.exact = EntityCounts()
        self.word = EntityCounts()
        self.character = EntityCounts()

    def update(self, references: Sequence[Entity], predicted: Sequence[Entity]) -> None:
        """Add the entities of an utterance."""
        self.exact += exact_counts(references, predicted)
        self.word += soft_counts(references, predicted, word_distance)
        self.character += soft_counts(references, predicted, character_distance)

    def compute(self) -> dict[str, float]:
        """Return ``slu_f1``, ``entity_f1``, ``word_f1`` and ``char_f1``."""
        return {
            "slu_f1": (self.word + self.character).f1,
            "entity_f1": self.exact.f1,
            "word_f1": self.word.f1,
            "char_f1": self.character.f1,
        }


def _lowercase_fillers(entities: Sequence[Entity]) -> list[Entity]:
    return [Entity(entity.type, " ".join(entity.filler.lower().split())) for entity in entities]


def _count_edits(alignment: jiwer.WordOutput | jiwer.CharacterOutput) -> int:
    return alignment.substitutions + alignment.deletions + alignment.insertions
