"""Micro-batches of training audio by step, and of held-out audio."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from secateur.compress.config import Batching
from secateur.data.batches import Batches, Crop, split_micro_batches
from secateur.data.collate import AudioBatch, collate
from secateur.data.corpus import Corpus
from secateur.data.input_features import InputFeatures
from secateur.errors import DataError
from secateur.structure import Structure
from secateur.tasks import StepTargets, Task, UtteranceTargets

# First letters of the names of development splits, which are held out, and of test splits, which are left out.
_DEV_PREFIXES = ("dev", "val")
_TEST_PREFIXES = ("test", "eval")
# The part of a random key that separates training from held-out audio.
_TRAIN_KEY, _HELD_OUT_KEY = 0, 1


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Audio of a forward pass, with the counts of the optimizer step as divisors of losses."""

    audio: AudioBatch
    frames: int
    """valid frames of the whole step"""
    inputs: AudioBatch
    """the audio as the student gets it; a task may mask a part, such as BEST-RQ"""
    task_targets: Any = ()
    """targets for the loss and the metric of the task, from `StepTargets.make_batch`"""
    count: int = 1
    """divisor of the loss of the task, for the whole step"""
    row_keys: tuple[tuple[int, ...], ...] = ()
    """random keys of the rows, independent of how a step is split into ranks and micro-batches"""


class AudioFeed:
    """Training audio as micro-batches, a pure function of seed, step and rank."""

    def __init__(
        self,
        corpus: Corpus,
        structure: Structure,
        batching: Batching,
        *,
        seed: int,
        input_features: InputFeatures,
        equal_lengths: bool,
        task: Task | None = None,
        world: int = 1,
    ) -> None:
        """
        Args:
            corpus: Training audio.
            structure: The structure of the model, for frame counts.
            batching: Sizes of batches.
            seed: Seed of the order and the crops.
            input_features: The features that the model takes.
            equal_lengths: Whether all crops of a step have the same length, so that there is no padding. The statistics
                of GroupNorm in a front end include padding, in the stock code, too.
            task: The task; `corpus` holds only utterances that the task can use.
            world: Number of processes; each process needs a crop for every micro-batch.
        """
        self.first_step = 0  # step of the run that is step 0 of the phase
        self.task = task
        self.seed = seed
        self.corpus = corpus
        self.structure = structure
        self.batching = batching
        self.input_features = input_features
        self.batches = Batches(
            corpus,
            seconds=batching.seconds,
            min_seconds=batching.shortest,
            max_seconds=batching.longest,
            seed=seed,
            equal_lengths=equal_lengths,
            minimum_crops=world * batching.accumulate,
        )

    def starting_at(self, steps: int) -> AudioFeed:
        """Return a feed that begins at a later step, so that a phase goes on with the audio behind an earlier phase."""
        feed = copy.copy(self)
        feed.first_step = steps
        return feed

    def micro_batches(self, step: int, rank: int, world: int) -> list[MicroBatch]:
        """Return the micro-batches of a rank in a step."""
        step += self.first_step  # step of the phase -> step of the run
        crops = self.batches.step(step)  # crops of all ranks
        key = self.seed, _TRAIN_KEY, step
        step_targets = make_step_targets(self.task, self.corpus, self.structure, crops, key=key)
        return make_micro_batches(
            self.corpus,
            crops,
            split_micro_batches(crops, rank=rank, world_size=world, accumulate=self.batching.accumulate),
            step_targets,
            key=key,
            frames=sum(crop_frames(self.structure, crops)),  # of all ranks
            input_features=self.input_features,
        )


def crop_frames(structure: Structure, crops: Sequence[Crop]) -> list[int]:
    """Return the number of frames of each crop."""
    return [structure.lengths(crop.samples)[-1] for crop in crops]  # samples first, frames last


def make_step_targets(
    task: Task | None, corpus: Corpus, structure: Structure, crops: Sequence[Crop], *, key: Sequence[int]
) -> StepTargets:
    """Return the targets of a task for the crops of a step; without a task, empty targets."""
    utterances = tuple(corpus.utterances[crop.index] for crop in crops)
    if task is None:
        return UtteranceTargets(utterances, 1)  # without a task nothing is divided by the count
    return task.step_targets(utterances, crop_frames(structure, crops), key=key)


def make_micro_batches(
    corpus: Corpus,
    crops: Sequence[Crop],
    parts: Sequence[Sequence[Crop]],
    step_targets: StepTargets,
    *,
    key: Sequence[int],
    frames: int,
    input_features: InputFeatures,
) -> list[MicroBatch]:
    """Return the crops of a step as micro-batches, given the crops of each micro-batch."""
    positions = {crop: position for position, crop in enumerate(crops)}
    batches = []
    for part in parts:
        audio = collate(corpus, part, input_features=input_features)
        task_batch = step_targets.make_batch(audio, [positions[crop] for crop in part])
        batches.append(
            MicroBatch(
                audio=audio,
                frames=frames,
                inputs=task_batch.inputs,
                task_targets=task_batch.targets,
                count=step_targets.count,
                # such as (seed, 0, 7, 2) for the third crop of step 7 in training
                row_keys=tuple((*key, positions[crop]) for crop in part),
            )
        )
    return batches


def held_out_micro_batches(
    corpus: Corpus,
    structure: Structure,
    *,
    seconds: float,
    max_seconds: float,
    input_features: InputFeatures,
    task: Task | None = None,
    seed: int = 0,
) -> list[MicroBatch]:
    """Return held-out audio as batches of a single utterance, from the start of a corpus up to some seconds.

    A batch of a single utterance has no padding, so that all models see the same audio. Utterances are cropped to
    `max_seconds` unless the task needs full utterances. Masks of a task follow from the seed.

    Raises:
        DataError: The corpus has no utterance long enough for one frame.
    """
    crops: list[Crop] = []
    total_seconds = 0.0
    max_samples = max_seconds * corpus.sample_rate
    for index, utterance in enumerate(corpus.utterances):
        samples = utterance.samples
        if task is None or not task.needs_full_utterance:
            samples = int(min(samples, max_samples))
        if structure.lengths(samples)[-1] < 1 or total_seconds >= seconds:
            continue
        crops.append(Crop(index=index, start=0, samples=samples))
        total_seconds += samples / corpus.sample_rate
    if not crops:
        raise DataError(f"The held-out corpus {corpus.name!r} has no utterance that is long enough for one frame.")
    key = seed, _HELD_OUT_KEY
    return make_micro_batches(
        corpus,
        crops,
        [[crop] for crop in crops],
        make_step_targets(task, corpus, structure, crops, key=key),
        key=key,
        frames=sum(crop_frames(structure, crops)),
        input_features=input_features,
    )


def split_held_out(corpus: Corpus, *, seconds: float) -> tuple[Corpus, Corpus]:
    """Return the training and the held-out part of a corpus.

    Splits are recognized by the start of the name. All of `dev-clean`, `devel` or `validation` is held out; `test` and
    `eval` are in neither part, unless the corpus has no other split. Without a development split every n-th utterance
    is held out.

    Args:
        corpus: All audio.
        seconds: Seconds to hold out without a development split, at most a tenth of the corpus.

    Raises:
        DataError: The corpus has fewer than two utterances.
    """
    splits = sorted({utterance.split for utterance in corpus.utterances if utterance.split})
    tests = [name for name in splits if name.lower().startswith(_TEST_PREFIXES)]
    devs = [name for name in splits if name.lower().startswith(_DEV_PREFIXES)]
    # May hold None, for utterances without a split.
    other_splits = {utterance.split for utterance in corpus.utterances} - {*tests, *devs}
    # Test utterances are left out only if another split remains to learn from.
    if tests and (other_splits or devs):
        corpus = corpus.select(lambda utterance: utterance.split not in tests)
    if devs and other_splits:
        held_out_corpus = corpus.select(lambda utterance: utterance.split in devs)
        train = corpus.select(lambda utterance: utterance.split not in devs)
        train_name = "+".join(sorted(filter(None, other_splits))) or "train"
        train = replace(train, name=f"{corpus.name}/{train_name}")
        return train, replace(held_out_corpus, name=f"{corpus.name}/{'+'.join(devs)}")
    count = len(corpus.utterances)
    if count < 2:
        raise DataError(
            f"The corpus {corpus.name!r} has {count} usable utterances; at least 2 are needed, one held out."
        )
    held_out_seconds = min(seconds, corpus.seconds / 10)
    # Example: of 1000 utterances of 5 s, 120 s to hold out are 24 utterances, every 42nd.
    stride = max(2, round(count / max(1.0, held_out_seconds / (corpus.seconds / count))))
    held_out_ids = {utterance.id for utterance in corpus.utterances[::stride]}
    train = corpus.select(lambda utterance: utterance.id not in held_out_ids)
    return train, corpus.select(lambda utterance: utterance.id in held_out_ids)
