"""Batches and shares against brute-force counts."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from secateur.data.batches import Batches, Crop, split_micro_batches
from secateur.data.corpus import Corpus, Utterance
from secateur.errors import ConfigError, DataError


def corpus_of(lengths: list[int], sample_rate: int = 16_000) -> Corpus:
    utterances = tuple(
        Utterance(id=str(index), path=str(index), samples=length) for index, length in enumerate(lengths)
    )
    return Corpus("c", utterances, (), lambda u: np.ones(u.samples, dtype=np.float32), sample_rate)


def lengths_of(count: int, *, seed: int = 0) -> list[int]:
    return [int(length) for length in np.random.default_rng(seed).integers(4_000, 200_000, size=count)]


def batches_of(
    corpus: Corpus, *, equal_lengths: bool = True, seed: int = 0, seconds: float = 20, minimum_crops: int = 1
) -> Batches:
    return Batches(
        corpus,
        seconds=seconds,
        min_seconds=0.3,
        max_seconds=4,
        seed=seed,
        equal_lengths=equal_lengths,
        minimum_crops=minimum_crops,
    )


@pytest.mark.parametrize("equal_lengths", [True, False])
def test_every_long_enough_utterance_is_drawn_once_an_epoch(equal_lengths: bool) -> None:
    corpus = corpus_of(lengths_of(500))
    batches = batches_of(corpus, equal_lengths=equal_lengths)
    eligible = {index for index, utterance in enumerate(corpus.utterances) if utterance.samples >= 4_800}
    for epoch in range(3):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        drawn = Counter(crop.index for step in steps for crop in batches.step(step))
        assert drawn == Counter(eligible)


def test_seconds_are_those_of_the_corpus() -> None:
    lengths = lengths_of(60)
    slow = batches_of(corpus_of([length // 2 for length in lengths], 8_000))
    fast = batches_of(corpus_of([length // 2 * 2 for length in lengths]))
    assert slow.steps_per_epoch == fast.steps_per_epoch
    for first_item, alternative in zip(slow.step(0), fast.step(0), strict=True):
        assert (first_item.index, 2 * first_item.samples) == (alternative.index, alternative.samples)


def test_a_step_is_the_same_whatever_was_asked_before() -> None:
    corpus = corpus_of(lengths_of(120))
    steps = list(range(5 * batches_of(corpus).steps_per_epoch))
    in_order = {step: batches_of(corpus).step(step) for step in steps}
    batches = batches_of(corpus)
    random.Random(0).shuffle(steps)
    assert {step: batches.step(step) for step in steps} == in_order


def test_the_draw_is_pinned_across_versions() -> None:
    batches = batches_of(corpus_of([16_000, 32_000, 48_000, 64_000, 80_000]), seconds=5, seed=3)
    assert batches.step(0) == (Crop(3, 0, 64_000),)
    assert batches.step(1) == (Crop(0, 0, 16_000), Crop(1, 3_990, 16_000), Crop(2, 27_158, 16_000))


def test_seeds_and_epochs_give_other_orders_and_other_crops() -> None:
    corpus = corpus_of([160_000] * 60)
    batches, other_value = batches_of(corpus), batches_of(corpus, seed=1)
    epoch = batches.steps_per_epoch
    assert [crop.index for crop in batches.step(0)] != [crop.index for crop in batches.step(epoch)]
    assert [crop.index for crop in batches.step(0)] != [crop.index for crop in other_value.step(0)]
    starts = [{c.index: c.start for s in range(e, e + epoch) for c in batches.step(s)} for e in (0, epoch)]
    assert sum(starts[0][index] == starts[1][index] for index in range(60)) <= 2


def test_crops_lie_inside_and_their_starts_are_spread_evenly() -> None:
    corpus = corpus_of([80_000] * 2_000)
    batches = batches_of(corpus, seconds=200)
    starts = [crop.start for step in range(batches.steps_per_epoch) for crop in batches.step(step)]
    assert min(starts) >= 0
    assert max(starts) + 64_000 <= 80_000
    # The mean of a uniform start on 0 ... 16000, within four standard errors.
    assert abs(np.mean(starts) - 8_000) < 4 * 16_000 / np.sqrt(12 * 2_000)


def test_equal_lengths_crop_to_the_shortest_of_the_step_and_lose_little() -> None:
    corpus = corpus_of(lengths_of(2_000))
    batches = batches_of(corpus)
    total = 0
    for step in range(batches.steps_per_epoch):
        crops = batches.step(step)
        shortest = min(corpus.utterances[crop.index].samples for crop in crops)
        assert {crop.samples for crop in crops} == {min(shortest, 64_000)}
        total += sum(crop.samples for crop in crops)
    drawable = sum(min(u.samples, 64_000) for u in corpus.utterances if u.samples >= 4_800)
    assert total > 0.95 * drawable


def test_batches_hold_about_the_seconds_asked_for_and_no_remainder() -> None:
    batches = batches_of(corpus_of(lengths_of(2_000)), equal_lengths=False)
    seconds = [sum(crop.samples for crop in batches.step(s)) / 16_000 for s in range(batches.steps_per_epoch)]
    # Off by at most one crop at either border, and by the rounding of the number of batches.
    assert min(seconds) > 20 - 4.2
    assert max(seconds) < 20 + 4.2
    assert np.mean(seconds) == pytest.approx(20, rel=0.02)


@pytest.mark.parametrize("count", [7, 50, 333])
def test_every_batch_has_the_minimum_of_crops(count: int) -> None:
    batches = batches_of(corpus_of([64_000 + index for index in range(count)]), seconds=4, minimum_crops=6)
    sizes = [len(batches.step(step)) for step in range(batches.steps_per_epoch)]
    assert min(sizes) >= 6
    assert sum(sizes) == count


def test_a_corpus_too_small_for_one_batch_is_refused_with_the_numbers() -> None:
    with pytest.raises(DataError, match=r"has 2 utterances of at least 0\.3 s; one batch needs 8"):
        batches_of(corpus_of([16_000, 16_000, 100]), minimum_crops=8)


def test_a_corpus_below_half_a_batch_is_drawn_whole_each_step(caplog: pytest.LogCaptureFixture) -> None:
    batches = batches_of(corpus_of([16_000] * 3))
    assert "less than half a batch" in caplog.text
    assert [sorted(crop.index for crop in batches.step(step)) for step in range(3)] == [[0, 1, 2]] * 3


def test_contradictory_lengths_are_refused() -> None:
    corpus = corpus_of([16_000])
    with pytest.raises(ConfigError, match="min_seconds <= max_seconds"):
        Batches(corpus, seconds=8, min_seconds=3, max_seconds=2, seed=0, equal_lengths=True)
    with pytest.raises(ConfigError, match="seed: expected an integer >= 0, got -1"):
        batches_of(corpus, seed=-1)


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 2), (3, 2), (1, 5)])
def test_shares_are_disjoint_and_make_up_the_batch(world: int, accumulate: int) -> None:
    crops = batches_of(corpus_of(lengths_of(200)), equal_lengths=False, seconds=60).step(4)
    shares = [split_micro_batches(crops, rank=rank, world_size=world, accumulate=accumulate) for rank in range(world)]
    assert all(len(micro_batches) == accumulate for micro_batches in shares)
    dealt = [crop for micro_batches in shares for crops_ in micro_batches for crop in crops_]
    assert all(crops_ for micro_batches in shares for crops_ in micro_batches)
    assert Counter(dealt) == Counter(crops)
    loads = [sum(crop.samples for crop in crops_) for micro_batches in shares for crops_ in micro_batches]
    # Each crop went to the lightest place, so no two places differ by more than the longest crop.
    assert max(loads) - min(loads) <= max(crop.samples for crop in crops)


def test_too_few_crops_for_the_places_are_refused() -> None:
    with pytest.raises(DataError, match=r"2 crops cannot be split among 3 processes with accumulation 2"):
        split_micro_batches([Crop(0, 0, 1), Crop(1, 0, 1)], rank=0, world_size=3, accumulate=2)
