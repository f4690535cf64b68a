"""Audio for distillation: the micro-batches of a step, and the held-out ones, with their global frame count."""

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

# How the names of splits start that are held out, and that nothing is learned from.
_DEV_PREFIXES = ("dev", "val")
_TEST_PREFIXES = ("test", "eval")
# What a lesson is for, part of the key of its chance.
_TRAIN_KEY, _HELD_OUT_KEY = 0, 1


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Audio of one forward pass, and how much there is in the whole optimiser step that it is a part of."""

    audio: AudioBatch
    frames: int
    """of the whole step"""
    inputs: AudioBatch
    """the audio, without what a task hides of it"""
    task_targets: Any = ()
    """what the task's loss and its scorer take beside, as `Lesson.pose` gives it"""
    count: int = 1
    """what the task's loss of the whole step is divided by"""
    row_keys: tuple[tuple[int, ...], ...] = ()
    """what chance follows from, row by row: the same whatever the ranks and the micro-batches"""


class AudioFeed:
    """Micro-batches by step, a pure function of seed, step and rank."""

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
            structure: For frame counts.
            batching: Sizes.
            seed: Of order and crops.
            hearing: How the model hears audio.
            equal: Whether all crops of a step have one length, so that nothing is padded (GroupNorm front ends see
                padding, in stock code too).
            task: What is learned; then `corpus` holds nothing that it cannot use.
            world: Processes, each of which needs a crop for every micro-batch.
        """
        self.first_step, self.task, self.seed = 0, task, seed
        self.corpus, self.structure, self.batching, self.input_features = corpus, structure, batching, input_features
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
        """The same audio from a later step on, behind what an earlier phase has had."""
        feed = copy.copy(self)
        feed.first_step = steps
        return feed

    def micro_batches(self, step: int, rank: int, world: int) -> list[MicroBatch]:
        """This rank's part of a step."""
        step += self.first_step
        crops = self.batches.step(step)
        key = self.seed, _TRAIN_KEY, step
        step_targets = make_step_targets(self.task, self.corpus, self.structure, crops, key=key)
        return make_micro_batches(
            self.corpus,
            crops,
            split_micro_batches(crops, rank=rank, world_size=world, accumulate=self.batching.accumulate),
            step_targets,
            key=key,
            frames=sum(crop_frames(self.structure, crops)),
            input_features=self.input_features,
        )


def crop_frames(structure: Structure, crops: Sequence[Crop]) -> list[int]:
    """Frames of each crop."""
    return [structure.lengths(crop.samples)[-1] for crop in crops]


def make_step_targets(
    task: Task | None, corpus: Corpus, structure: Structure, crops: Sequence[Crop], *, key: Sequence[int]
) -> StepTargets:
    """What a task asks of crops; without one nothing."""
    utterances = tuple(corpus.utterances[crop.index] for crop in crops)
    return (
        UtteranceTargets(utterances, 1)
        if task is None
        else task.step_targets(utterances, crop_frames(structure, crops), key=key)
    )


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
    """Return parts of the crops of a lesson as micro-batches, each crop with a key of its own."""
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
    """Fixed batches of one utterance each, from the start of a corpus on, until enough seconds are together.

    Utterances stand alone, so nothing is padded and every model sees the same. They are not cropped where a task needs
    them whole; what it hides follows from the seed.

    Raises:
        DataError: The corpus has no utterance long enough for one frame.
    """
    crops, total = [], 0.0
    max_samples = max_seconds * corpus.sample_rate
    for index, utterance in enumerate(corpus.utterances):
        samples = (
            utterance.samples
            if task is not None and task.needs_full_utterance
            else int(min(utterance.samples, max_samples))
        )
        if structure.lengths(samples)[-1] < 1 or total >= seconds:
            continue
        crops.append(Crop(index=index, start=0, samples=samples))
        total += samples / corpus.sample_rate
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
    """Training and held-out parts of one corpus: its own dev split, else every so manieth utterance.

    Splits are told apart by how their names start: `dev-clean`, `devel` and `validation` are held out whole, `test` and
    `eval` are left out of both, unless there is nothing else.

    Args:
        corpus: All audio.
        seconds: How much to hold out at most where there is no dev split; never more than a tenth of the corpus.
    """
    splits = sorted({utterance.split for utterance in corpus.utterances if utterance.split})
    tests = [name for name in splits if name.lower().startswith(_TEST_PREFIXES)]
    devs = [name for name in splits if name.lower().startswith(_DEV_PREFIXES)]
    other_splits = {utterance.split for utterance in corpus.utterances} - {*tests, *devs}
    if tests and (other_splits or devs):
        corpus = corpus.select(lambda utterance: utterance.split not in tests)
    if devs and other_splits:
        held_out_corpus = corpus.select(lambda utterance: utterance.split in devs)
        train = corpus.select(lambda utterance: utterance.split not in devs)
        train_name = "+".join(sorted(filter(None, other_splits))) or "train"
        return replace(train, name=f"{corpus.name}/{train_name}"), replace(
            held_out_corpus, name=f"{corpus.name}/{'+'.join(devs)}"
        )
    count = len(corpus.utterances)
    if count < 2:
        raise DataError(
            f"The corpus {corpus.name!r} has {count} usable utterances; at least 2 are needed, one held out."
        )
    held_out_seconds = min(seconds, corpus.seconds / 10)
    stride = max(2, round(count / max(1.0, held_out_seconds / (corpus.seconds / count))))
    held_out_ids = {utterance.id for utterance in corpus.utterances[::stride]}
    train = corpus.select(lambda utterance: utterance.id not in held_out_ids)
    return train, corpus.select(lambda utterance: utterance.id in held_out_ids)
