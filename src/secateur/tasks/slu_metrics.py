"""F1 of entities as SLURP defines it: exact, or softened by how far the words are from those that were said.

Source: Bastianelli et al., EMNLP 2020, arXiv 2011.13205, "SLU-F1", by the code that was released with it. What that
code makes precise: a pair of equal type is one whole true positive whatever its words, and their distance is added to
the false positives and to the false negatives alike; the word distance is the word error rate, which may be above one;
the character distance is divided by the longer of the two; predictions choose the nearest filler one after the other,
in the order in which they were predicted; SLU-F1 is the F1 of the summed counts of both distances, not their mean.
Differs from the released code: fillers of both sides are put in lower case, not those of the reference alone, and an
utterance without a prediction counts as one with no entities instead of being left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jiwer

from secateur.tasks.slurp_tags import Entity

#: Distance of a predicted filler (second) from the one that was said (first).
FillerDistance = Callable[[str, str], float]


@dataclass(frozen=True)
class EntityCounts:
    """Entities found, made up and missed, possibly in fractions."""

    matched: float = 0.0
    spurious: float = 0.0
    missed: float = 0.0

    def __add__(self, counts: EntityCounts) -> EntityCounts:
        return EntityCounts(self.matched + counts.matched, self.spurious + counts.spurious, self.missed + counts.missed)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 where there was nothing to find and nothing made up."""
        if self.matched == 0:
            return 0.0
        precision = self.matched / (self.matched + self.spurious)
        recall = self.matched / (self.matched + self.missed)
        return 2 * precision * recall / (precision + recall)


def exact_counts(references: Sequence[Entity], predicted: Sequence[Entity]) -> EntityCounts:
    """Counts where an entity is found by its type and its very words; equal ones are matched one by one."""
    unmatched = _lowercase_fillers(references)
    matched = 0
    for entity in _lowercase_fillers(predicted):
        if entity in unmatched:
            unmatched.remove(entity)
            matched += 1
    return EntityCounts(matched, len(predicted) - matched, len(unmatched))


def soft_counts(references: Sequence[Entity], predicted: Sequence[Entity], distance: FillerDistance) -> EntityCounts:
    """Counts where an entity is found by its type, and the distance of its words is an error both ways."""
    unmatched = _lowercase_fillers(references)
    counts = EntityCounts()
    for entity in _lowercase_fillers(predicted):
        candidates = [reference for reference in unmatched if reference.type == entity.type]
        if not candidates:
            counts += EntityCounts(spurious=1.0)
            continue
        distances = [distance(reference.filler, entity.filler) for reference in candidates]
        min_distance = min(distances)
        unmatched.remove(candidates[distances.index(min_distance)])
        counts += EntityCounts(1.0, min_distance, min_distance)
    return counts + EntityCounts(missed=len(unmatched))


def word_distance(reference: str, predicted: str) -> float:
    """Word error rate of a filler; one without words is taken as one word."""
    return _count_edits(jiwer.process_words(reference, predicted)) / max(1, len(reference.split()))


def character_distance(reference: str, predicted: str) -> float:
    """Levenshtein distance over the longer length, from 0 to 1."""
    return _count_edits(jiwer.process_characters(reference, predicted)) / max(1, len(reference), len(predicted))


class EntityMetric:
    """Entity F1 and its two softened forms over a corpus, micro-averaged over types."""

    def __init__(self) -> None:
        self.exact = self.word = self.character = EntityCounts()

    def update(self, references: Sequence[Entity], predicted: Sequence[Entity]) -> None:
        """Take in the entities of an utterance."""
        self.exact += exact_counts(references, predicted)
        self.word += soft_counts(references, predicted, word_distance)
        self.character += soft_counts(references, predicted, character_distance)

    def compute(self) -> dict[str, float]:
        """``slu_f1``, ``entity_f1``, ``word_f1`` and ``char_f1``."""
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
