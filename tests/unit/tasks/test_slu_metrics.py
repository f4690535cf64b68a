"""SLURP's metrics by hand. F1 is 2 TP / (2 TP + FP + FN) throughout."""

from __future__ import annotations

import pytest

from secateur.tasks.slu_metrics import (
    EntityCounts,
    EntityMetric,
    character_distance,
    exact_counts,
    soft_counts,
    word_distance,
)
from secateur.tasks.slurp_tags import Entity

Pairs = list[tuple[str, str]]


def entities(pairs: Pairs) -> list[Entity]:
    return [Entity(*pair) for pair in pairs]


CASES: dict[str, tuple[Pairs, Pairs, dict[str, float]]] = {
    "all right": (
        [("time", "five am"), ("date", "today")],
        [("date", "today"), ("time", "five am")],
        {"entity_f1": 1, "word_f1": 1, "char_f1": 1, "slu_f1": 1},
    ),
    # nothing found, one missed
    "empty prediction": ([("time", "five")], [], {"entity_f1": 0, "word_f1": 0, "char_f1": 0, "slu_f1": 0}),
    "nothing said, nothing predicted": ([], [], {"entity_f1": 0, "word_f1": 0, "char_f1": 0, "slu_f1": 0}),
    # the words are right, but of another type: one made up and one missed
    "wrong type": ([("time", "five")], [("date", "five")], {"entity_f1": 0, "word_f1": 0, "char_f1": 0, "slu_f1": 0}),
    # words: 1 of 3 lost, TP 1, FP = FN = 1/3; characters: " tomorrow", 9 of 16, TP 1, FP = FN = 9/16;
    # together TP 2, FP = FN = 1/3 + 9/16 = 43/48
    "partial overlap": (
        [("time", "five am tomorrow")],
        [("time", "five am")],
        {"entity_f1": 0, "word_f1": 1 / (1 + 1 / 3), "char_f1": 1 / (1 + 9 / 16), "slu_f1": 2 / (2 + 43 / 48)},
    ),
    # words: 3 too many against 1 said, so the distance is 3, TP 1, FP = FN = 3;
    # characters: "at half past " is 13 of the longer 17; together TP 2, FP = FN = 3 + 13/17
    "more words than were said": (
        [("time", "five")],
        [("time", "at half past five")],
        {"entity_f1": 0, "word_f1": 1 / 4, "char_f1": 1 / (1 + 13 / 17), "slu_f1": 2 / (5 + 13 / 17)},
    ),
    # said twice, predicted once: TP 1, FN 1 in every count
    "duplicate of one type": (
        [("person", "anna"), ("person", "anna")],
        [("person", "anna")],
        {"entity_f1": 2 / 3, "word_f1": 2 / 3, "char_f1": 2 / 3, "slu_f1": 2 / 3},
    ),
    # each prediction takes the nearest of its type, here both exactly
    "two of one type in another order": (
        [("date", "monday"), ("date", "sunday")],
        [("date", "sunday"), ("date", "monday")],
        {"entity_f1": 1, "word_f1": 1, "char_f1": 1, "slu_f1": 1},
    ),
    # exact: TP 1, FP 1, FN 1. Characters: "aaab" comes first and takes "aaaa" at 1/4, so "aaaa" is left with "bbbb"
    # at 1: TP 2, FP = FN = 5/4 (matched as a whole it would be 3/4). Words: "aaab" is 1 from both and takes the first,
    # "aaaa" is 1 from what is left: TP 2, FP = FN = 2. Together TP 4, FP = FN = 13/4
    "matched one after the other": (
        [("x", "aaaa"), ("x", "bbbb")],
        [("x", "aaab"), ("x", "aaaa")],
        {"entity_f1": 2 / 4, "word_f1": 2 / 4, "char_f1": 2 / (2 + 5 / 4), "slu_f1": 4 / (4 + 13 / 4)},
    ),
    "capitals do not matter": (
        [("person", "Anna")],
        [("person", "ANNA")],
        {"entity_f1": 1, "word_f1": 1, "char_f1": 1, "slu_f1": 1},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_figures_are_those_counted_by_hand(case: str) -> None:
    transcript, predicted, expected = CASES[case]
    score = EntityMetric()
    score.update(entities(transcript), entities(predicted))
    assert score.compute() == pytest.approx(expected)


def test_counts_are_summed_over_utterances_before_dividing() -> None:
    score = EntityMetric()
    score.update(entities([("time", "five am tomorrow"), ("date", "today")]), entities([("time", "five am")]))
    score.update(entities([("person", "bob")]), entities([("person", "bob"), ("date", "now")]))
    # exact: TP bob, FP "five am" and "now", FN "five am tomorrow" and "today"
    assert score.exact == EntityCounts(1, 2, 2)
    # softened: TP time and bob, FP now, FN today, and the distance of the time: 1/3 in words, 9/16 in characters
    assert score.compute()["word_f1"] == pytest.approx(2 / (2 + 1 + 1 / 3))
    assert score.compute()["char_f1"] == pytest.approx(2 / (2 + 1 + 9 / 16))
    assert score.compute()["slu_f1"] == pytest.approx(4 / (4 + 2 + 1 / 3 + 9 / 16))


def test_errors_both_ways_are_told_apart() -> None:
    transcript, predicted = entities([("a", "x"), ("b", "y")]), entities([("a", "x"), ("c", "z"), ("c", "z")])
    assert (
        exact_counts(transcript, predicted)
        == soft_counts(transcript, predicted, word_distance)
        == EntityCounts(1, 2, 1)
    )


def test_distances_of_empty_fillers_are_defined() -> None:
    assert word_distance("five am", "") == character_distance("five am", "") == 1
    assert word_distance("", "five am") == 2
    assert character_distance("", "") == word_distance("", "") == 0
