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

from secateur.objective.tasks.tags import Entity

#: Distance of a predicted filler (second) from the one that was said (first).
Distance = Callable[[str, str], float]


@dataclass(frozen=True)
class Counts:
    """Entities found, made up and missed, possibly in fractions."""

    found: float = 0.0
    made_up: float = 0.0
    missed: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.found + other.found, self.made_up + other.made_up, self.missed + other.missed)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 where there was nothing to find and nothing made up."""
        if self.found == 0:
            return 0.0
        precision = self.found / (self.found + self.made_up)
        recall = self.found / (self.found + self.missed)
        return 2 * precision * recall / (precision + recall)


def exact(said: Sequence[Entity], predicted: Sequence[Entity]) -> Counts:
    """Counts where an entity is found by its type and its very words; equal ones are matched one by one."""
    left = _lowered(said)
    found = 0
    for entity in _lowered(predicted):
        if entity in left:
            left.remove(entity)
            found += 1
    return Counts(found, len(predicted) - found, len(left))


def softened(said: Sequence[Entity], predicted: Sequence[Entity], distance: Distance) -> Counts:
    """Counts where an entity is found by its type, and the distance of its words is an error both ways."""
    left = _lowered(said)
    counts = Counts()
    for entity in _lowered(predicted):
        candidates = [other for other in left if other.type == entity.type]
        if not candidates:
            counts += Counts(made_up=1.0)
            continue
        distances = [distance(other.filler, entity.filler) for other in candidates]
        least = min(distances)
        left.remove(candidates[distances.index(least)])
        counts += Counts(1.0, least, least)
    return counts + Counts(missed=len(left))


def word_distance(said: str, predicted: str) -> float:
    """Word error rate of a filler; one without words is taken as one word."""
    return _edits(jiwer.process_words(said, predicted)) / max(1, len(said.split()))


def character_distance(said: str, predicted: str) -> float:
    """Levenshtein distance over the longer length, from 0 to 1."""
    return _edits(jiwer.process_characters(said, predicted)) / max(1, len(said), len(predicted))


class EntityScore:
    """Entity F1 and its two softened forms over a corpus, micro-averaged over types."""

    def __init__(self) -> None:
        self.exact = self.word = self.character = Counts()

    def add(self, said: Sequence[Entity], predicted: Sequence[Entity]) -> None:
        """Take in the entities of an utterance."""
        self.exact += exact(said, predicted)
        self.word += softened(said, predicted, word_distance)
        self.character += softened(said, predicted, character_distance)

    def figures(self) -> dict[str, float]:
        """``slu_f1``, ``entity_f1``, ``word_f1`` and ``char_f1``."""
        return {
            "slu_f1": (self.word + self.character).f1,
            "entity_f1": self.exact.f1,
            "word_f1": self.word.f1,
            "char_f1": self.character.f1,
        }


def _lowered(entities: Sequence[Entity]) -> list[Entity]:
    return [Entity(entity.type, " ".join(entity.filler.lower().split())) for entity in entities]


def _edits(found: jiwer.WordOutput | jiwer.CharacterOutput) -> int:
    return found.substitutions + found.deletions + found.insertions
