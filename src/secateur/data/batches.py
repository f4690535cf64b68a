"""Batches: which crops make up which optimiser step, as a pure function of seed, epoch and index.

Nothing is drawn from a running generator, so a run that stops and resumes, a run on more processes and
a run with other accumulation all see the same global batches.
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

# Batches whose utterances are sorted by length together: enough that neighbours are of nearly one
# length, few enough that an epoch stays well mixed.
BATCHES_PER_WINDOW = 32
# What a draw is for, part of its key beside seed and epoch.
_ORDER, _SHUFFLE, _START = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Crop:
    """A stretch of one utterance: its index in the corpus, its first sample and its length in samples."""

    index: int
    start: int
    samples: int


class Batches:
    """The endless sequence of global batches over a corpus, any of which can be asked for at any time.

    An epoch is a permutation of the utterances, cut into windows, each sorted by length and cut into
    batches of about `seconds`, which are then shuffled. Every utterance that is long enough is in
    exactly one batch of each epoch, and no batch is a remainder: the cuts are spread evenly.

    Attributes:
        notes: How many utterances are too short, in a sentence; empty where none are.
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
        """Prepare the lengths; nothing is decoded.

        Args:
            corpus: Where the utterances come from.
            seconds: Audio in one global batch, about: batches are cut between utterances.
            min_seconds: Utterances shorter than this are never drawn.
            max_seconds: Longer utterances are cropped to this, elsewhere in each epoch.
            seed: Decides order and crops, together with the epoch.
            equal_lengths: Crop every utterance of a batch to the shortest one in it.
            minimum_crops: Every batch has at least so many: processes times accumulation.

        Raises:
            ConfigError: The lengths contradict each other.
            DataError: The corpus has fewer long enough utterances than one batch needs.
        """
        if seed < 0:
            raise ConfigError(f"Got seed {seed}; it must be 0 or more.")
        if not 0 <= min_seconds <= max_seconds or max_seconds * corpus.sample_rate < 1 or seconds <= 0:
            raise ConfigError(
                f"Got min_seconds {min_seconds}, max_seconds {max_seconds} and {seconds} s a batch; needed: "
                "0 <= min_seconds <= max_seconds, and a batch above 0 s."
            )
        lengths = np.array([utterance.samples for utterance in corpus.utterances], dtype=np.int64)
        self._eligible = np.flatnonzero(lengths >= max(1, round(min_seconds * corpus.sample_rate)))
        if len(self._eligible) < max(1, minimum_crops):
            raise DataError(
                f"Corpus {corpus.name!r} has {len(self._eligible)} utterances of at least {min_seconds:g} s; "
                f"one batch needs {max(1, minimum_crops)}. Give more speech, a lower min_seconds, or fewer "
                "processes and less accumulation."
            )
        self.length_warnings: tuple[str, ...] = ()
        if len(self._eligible) < len(corpus):
            short_count_text = f"{len(corpus) - len(self._eligible)} of {len(corpus)} utterances"
            self.length_warnings = (
                f"{corpus.name}: {short_count_text} are below {min_seconds:g} s, too short to be drawn",
            )
            logger.warning("%s", self.length_warnings[0])
        self._lengths = lengths[self._eligible]
        self._crop_lengths = np.minimum(self._lengths, int(max_seconds * corpus.sample_rate))
        self._seed, self._equal_lengths, self._minimum_crops = seed, equal_lengths, max(1, minimum_crops)
        batches = round(self._crop_lengths.sum() / (seconds * corpus.sample_rate))
        self.steps_per_epoch = int(max(1, min(batches, len(self._eligible) // self._minimum_crops)))
        if not batches:
            logger.warning("the corpus holds less than half a batch of %g s; each step takes all of it", seconds)
        # Two epochs: batches are asked for in order, and validation may look back over the border.
        self._cached_epoch_batches = lru_cache(maxsize=2)(self._epoch_batches)

    def step(self, step: int) -> tuple[Crop, ...]:
        """The global batch of optimiser step `step`, from 0."""
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
        start_count = int(self._lengths[member]) - samples + 1
        start = int(_draw(1, self._seed, epoch, _START, index)[0] % np.uint64(start_count))
        return Crop(index=index, start=start, samples=samples)

    def _epoch_batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """The members of each batch of an epoch, as positions among the eligible utterances."""
        count = len(self._eligible)
        order = np.argsort(_draw(count, self._seed, epoch, _ORDER), kind="stable")
        bounds = _part_bounds(self._crop_lengths[order], parts=self.steps_per_epoch, minimum=self._minimum_crops)
        batches: list[NDArray[np.int64]] = []
        windows = np.array_split(
            np.arange(self.steps_per_epoch), max(1, round(self.steps_per_epoch / BATCHES_PER_WINDOW))
        )
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
    """The `accumulate` micro-batches of one process, out of a global batch.

    Over all processes they are disjoint and make up the batch; longest first, each crop goes where the
    fewest samples are, and stays in the batch's order there.

    Raises:
        DataError: There are fewer crops than places.
    """
    slot_count = world_size * accumulate
    if len(crops) < slot_count:
        raise DataError(
            f"A batch of {len(crops)} crops cannot be shared among {world_size} processes with accumulation "
            f"{accumulate}; ask for more seconds in a batch, or less accumulation."
        )
    slot_samples = np.zeros(slot_count, dtype=np.int64)
    slot_positions: list[list[int]] = [[] for _ in range(slot_count)]
    for position in sorted(range(len(crops)), key=lambda position: -crops[position].samples):
        slot = int(slot_samples.argmin())
        slot_samples[slot] += crops[position].samples
        slot_positions[slot].append(position)
    # Place by place around the ranks, so that no rank gets the longest crops of every round.
    rank_slots = range(rank, slot_count, world_size)
    return [tuple(crops[position] for position in sorted(slot_positions[slot])) for slot in rank_slots]


def _part_bounds(lengths: NDArray[np.int64], *, parts: int, minimum: int) -> NDArray[np.int64]:
    """Bounds, (parts + 1,), of contiguous parts of about equal total length and `minimum` items or more."""
    count = len(lengths)
    item_ends = np.cumsum(lengths)
    target_ends = np.arange(1, parts) * (item_ends[-1] / parts)
    # The end nearest to each wanted one: ends - half an item are the borders between candidates.
    bounds = np.concatenate(([0], np.searchsorted(item_ends - lengths / 2, target_ends), [count]))
    for part in range(1, parts):
        bounds[part] = max(bounds[part], bounds[part - 1] + minimum)
    for part in range(parts - 1, 0, -1):
        bounds[part] = min(bounds[part], bounds[part + 1] - minimum)
    return bounds


def _draw(count: int, *key: int) -> NDArray[np.uint64]:
    """Random integers, (count,) uint64, that depend on the key alone.

    Raw words of Philox, whose stream NumPy keeps for good; that of `Generator.permutation` it may change.
    """
    return np.random.Philox(np.random.SeedSequence(key)).random_raw(count)
