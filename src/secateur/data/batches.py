"""Batch sampling: the crops of every optimizer step as a pure function of seed, epoch and index.

There is no generator with a running state, so a resumed run, a run on more processes and a run with another gradient
accumulation see the same global batches.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from secateur.data.corpus import Corpus
from secateur.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

# Number of batches whose utterances are sorted by length together: large enough that the lengths within a batch are
# nearly equal, small enough that an epoch stays well mixed.
BATCHES_PER_WINDOW = 32
# Purpose of a draw. It is part of the key beside seed and epoch, so that draws are independent of one another.
_ORDER, _SHUFFLE, _START = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Crop:
    """A section of an utterance: index of the utterance in the corpus, first sample, length in samples."""

    index: int
    start: int
    samples: int


class Batches:
    """An endless sequence of global batches over a corpus, with random access by step.

    An epoch is a permutation of the utterances, split into windows. Each window is sorted by length and split into
    batches of about `seconds`; then the batches of the epoch are shuffled. Every utterance that is long enough is in
    exactly one batch of each epoch. Splits are spread evenly, so there is no smaller last batch.

    Attributes:
        steps_per_epoch: Number of batches in an epoch.
        length_warnings: A sentence on the number of utterances that are too short; empty if all are long enough.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        seconds: float,
        min_seconds: float,
        max_seconds: float,
        seed: int,
        equal_lengths: bool,
        minimum_crops: int = 1,
    ) -> None:
        """Prepare the sampler from the lengths of the utterances; no audio is decoded.

        Args:
            corpus: The utterances.
            seconds: Approximate seconds of audio in a global batch; batches are split between utterances.
            min_seconds: Utterances shorter than this are never drawn.
            max_seconds: Longer utterances are cropped to this length, from another start in each epoch.
            seed: Seed of order and crops, used together with the epoch.
            equal_lengths: Whether to crop every utterance of a batch to the length of the shortest.
            minimum_crops: Minimum number of crops in a batch: processes times accumulation.

        Raises:
            ConfigError: The seed is negative, or the lengths contradict each other.
            DataError: The corpus has fewer utterances of sufficient length than a batch needs.
        """
        if seed < 0:
            raise ConfigError(f"seed: expected an integer >= 0, got {seed}.")
        if not 0 <= min_seconds <= max_seconds or max_seconds * corpus.sample_rate < 1 or seconds <= 0:
            raise ConfigError(
                f"Got min_seconds {min_seconds}, max_seconds {max_seconds} and {seconds} s a batch; expected "
                "0 <= min_seconds <= max_seconds and a batch of more than 0 s."
            )
        lengths = np.array([utterance.samples for utterance in corpus.utterances], dtype=np.int64)
        self._eligible = np.flatnonzero(lengths >= max(1, round(min_seconds * corpus.sample_rate)))
        if len(self._eligible) < max(1, minimum_crops):
            raise DataError(
                f"Corpus {corpus.name!r} has {len(self._eligible)} utterances of at least {min_seconds:g} s; "
                f"one batch needs {max(1, minimum_crops)}. Give more speech, a lower min_seconds, or fewer "
                "processes and less accumulation."
            )
        # Lengths are indexed by member, the position among eligible utterances: with lengths 5 s, 0.1 s, 3 s and
        # min_seconds 1, eligible is [0, 2], and member 1 is the utterance 2.
        self.length_warnings: tuple[str, ...] = ()
        if len(self._eligible) < len(corpus):
            short_count_text = f"{len(corpus) - len(self._eligible)} of {len(corpus)} utterances"
            self.length_warnings = (
                f"{corpus.name}: {short_count_text} are below {min_seconds:g} s, too short to be drawn",
            )
            logger.warning("%s", self.length_warnings[0])
        self._lengths = lengths[self._eligible]
        self._crop_lengths = np.minimum(self._lengths, int(max_seconds * corpus.sample_rate))
        self._seed = seed
        self._equal_lengths = equal_lengths
        self._minimum_crops = max(1, minimum_crops)
        batches = round(self._crop_lengths.sum() / (seconds * corpus.sample_rate))
        self.steps_per_epoch = int(max(1, min(batches, len(self._eligible) // self._minimum_crops)))
        if not batches:
            logger.warning("the corpus holds less than half a batch of %g s; each step uses all of it", seconds)
        # Steps are requested in order, and validation may go back across the border of two epochs.
        self._cached_epoch_batches = lru_cache(maxsize=2)(self._epoch_batches)

    def step(self, step: int) -> tuple[Crop, ...]:
        """Return the global batch of the 0-based optimizer step `step`."""
        epoch, index = divmod(step, self.steps_per_epoch)
        members = self._cached_epoch_batches(epoch)[index]
        crops = self._crop_lengths[members]
        if self._equal_lengths:
            crops = np.full_like(crops, crops.min())
        return tuple(
            self._crop(epoch, int(member), int(samples)) for member, samples in zip(members, crops, strict=True)
        )

    def _crop(self, epoch: int, member: int, samples: int) -> Crop:
        index = int(self._eligible[member])
        # The key holds the utterance, not the batch, so the draw does not depend on how the epoch is split.
        start_count = int(self._lengths[member]) - samples + 1
        start = int(_draw(1, self._seed, epoch, _START, index)[0] % np.uint64(start_count))
        return Crop(index=index, start=start, samples=samples)

    def _epoch_batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return the members of each batch of an epoch, as positions among the eligible utterances."""
        count = len(self._eligible)
        order = np.argsort(_draw(count, self._seed, epoch, _ORDER), kind="stable")
        bounds = _part_bounds(self._crop_lengths[order], parts=self.steps_per_epoch, minimum=self._minimum_crops)
        batches: list[NDArray[np.int64]] = []
        window_count = max(1, round(self.steps_per_epoch / BATCHES_PER_WINDOW))
        # 70 batches in 2 windows of 35: the members bounds[0]:bounds[35] and bounds[35]:bounds[70] of `order`.
        windows = np.array_split(np.arange(self.steps_per_epoch), window_count)
        for window in windows:
            members = order[bounds[window[0]] : bounds[window[-1] + 1]]
            members = members[np.argsort(self._crop_lengths[members], kind="stable")]
            inner_bounds = _part_bounds(self._crop_lengths[members], parts=len(window), minimum=self._minimum_crops)
            batches += np.split(members, inner_bounds[1:-1])
        shuffled = np.argsort(_draw(len(batches), self._seed, epoch, _SHUFFLE), kind="stable")
        return [batches[position] for position in shuffled]


def split_micro_batches(
    crops: Sequence[Crop], *, rank: int, world_size: int, accumulate: int
) -> list[tuple[Crop, ...]]:
    """Return the `accumulate` micro-batches of a process from a global batch.

    The micro-batches of all processes are disjoint and together are the global batch. Crops are assigned longest first,
    each to the micro-batch with the fewest samples so far; within a micro-batch the order of the global batch is kept.

    Args:
        crops: The global batch.
        rank: This process, from 0.
        world_size: Number of processes.
        accumulate: Number of micro-batches of each process.

    Raises:
        DataError: There are fewer crops than micro-batches.
    """
    slot_count = world_size * accumulate
    if len(crops) < slot_count:
        raise DataError(
            f"A batch of {len(crops)} crops cannot be split among {world_size} processes with accumulation "
            f"{accumulate}; set more seconds a batch, or less accumulation."
        )
    slot_samples = np.zeros(slot_count, dtype=np.int64)
    slot_positions: list[list[int]] = [[] for _ in range(slot_count)]
    for position in sorted(range(len(crops)), key=lambda position: -crops[position].samples):
        slot = int(slot_samples.argmin())
        slot_samples[slot] += crops[position].samples
        slot_positions[slot].append(position)
    # Micro-batches are dealt around the ranks, so that no rank gets the longest crops of every round: of two ranks with
    # accumulation 3, rank 0 has the slots 0, 2, 4 and rank 1 has 1, 3, 5.
    rank_slots = range(rank, slot_count, world_size)
    return [tuple(crops[position] for position in sorted(slot_positions[slot])) for slot in rank_slots]


def _part_bounds(lengths: NDArray[np.int64], *, parts: int, minimum: int) -> NDArray[np.int64]:
    """Return the bounds, (parts + 1,), of contiguous parts of nearly equal total length and at least `minimum` items.

    Lengths 4, 2, 2, 4, 4 in two parts: items end at 4, 6, 8, 12, 16, the wanted end is 8, so the bounds are 0, 3, 5.
    """
    count = len(lengths)
    item_ends = np.cumsum(lengths)
    target_ends = np.arange(1, parts) * (item_ends[-1] / parts)
    # A part ends at the item end that is nearest to its target: the middle of an item is where the nearest end changes.
    bounds = np.concatenate(([0], np.searchsorted(item_ends - lengths / 2, target_ends), [count]))
    # Enforce `minimum` from the left, then from the right, since the last part must have enough items too.
    for part in range(1, parts):
        bounds[part] = max(bounds[part], bounds[part - 1] + minimum)
    for part in range(parts - 1, 0, -1):
        bounds[part] = min(bounds[part], bounds[part + 1] - minimum)
    return bounds


def _draw(count: int, *key: int) -> NDArray[np.uint64]:
    """Return random integers, (count,) uint64, as a pure function of the key.

    These are raw words of Philox, whose stream NumPy keeps stable across versions; NumPy may change the stream of
    `Generator.permutation`.
    """
    return np.random.Philox(np.random.SeedSequence(key)).random_raw(count)
