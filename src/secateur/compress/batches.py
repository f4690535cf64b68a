"""Audio for distillation: the micro-batches of a step, and the held-out ones, with their global frame count."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from secateur.compress.config import Batching
from secateur.data.batches import Batches, Crop, share
from secateur.data.collate import AudioBatch, collate
from secateur.data.corpus import Corpus
from secateur.data.hearing import Hearing
from secateur.errors import DataError
from secateur.objective.tasks import Lesson, Task, Told
from secateur.structure import Structure

# How the names of splits start that are held out, and that nothing is learned from.
_DEV = ("dev", "val")
_TEST = ("test", "eval")
# What a lesson is for, part of the key of its chance.
_LEARNED, _HELD_OUT = 0, 1


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Audio of one forward pass, and how much there is in the whole optimiser step that it is a part of."""

    audio: AudioBatch
    frames: int
    """of the whole step"""
    heard: AudioBatch
    """the audio, without what a task hides of it"""
    asked: Any = ()
    """what the task's loss and its scorer take beside, as `Lesson.pose` gives it"""
    count: int = 1
    """what the task's loss of the whole step is divided by"""
    keys: tuple[tuple[int, ...], ...] = ()
    """what chance follows from, row by row: the same whatever the ranks and the micro-batches"""


class Feed:
    """Micro-batches by step, a pure function of seed, step and rank."""

    def __init__(
        self,
        corpus: Corpus,
        structure: Structure,
        batching: Batching,
        *,
        seed: int,
        hearing: Hearing,
        equal: bool,
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
        self.skip, self.task, self.seed = 0, task, seed
        self.corpus, self.structure, self.batching, self.hearing = corpus, structure, batching, hearing
        self.batches = Batches(
            corpus,
            seconds=batching.seconds,
            min_seconds=batching.shortest,
            max_seconds=batching.longest,
            seed=seed,
            equal_lengths=equal,
            minimum_crops=world * batching.accumulate,
        )

    def behind(self, steps: int) -> Feed:
        """The same audio from a later step on, behind what an earlier phase has had."""
        later = copy.copy(self)
        later.skip = steps
        return later

    def micro_batches(self, step: int, rank: int, world: int) -> list[MicroBatch]:
        """This rank's part of a step."""
        step += self.skip
        crops = self.batches.step(step)
        key = self.seed, _LEARNED, step
        lesson = lesson_of(self.task, self.corpus, self.structure, crops, key=key)
        return posed(
            self.corpus,
            crops,
            share(crops, rank=rank, world=world, accumulate=self.batching.accumulate),
            lesson,
            key=key,
            frames=sum(frames_in(self.structure, crops)),
            hearing=self.hearing,
        )


def frames_in(structure: Structure, crops: Sequence[Crop]) -> list[int]:
    """Frames of each crop."""
    return [structure.lengths(crop.samples)[-1] for crop in crops]


def lesson_of(
    task: Task | None, corpus: Corpus, structure: Structure, crops: Sequence[Crop], *, key: Sequence[int]
) -> Lesson:
    """What a task asks of crops; without one nothing."""
    utterances = tuple(corpus.utterances[crop.index] for crop in crops)
    return Told(utterances, 1) if task is None else task.lesson(utterances, frames_in(structure, crops), key=key)


def posed(
    corpus: Corpus,
    crops: Sequence[Crop],
    parts: Sequence[Sequence[Crop]],
    lesson: Lesson,
    *,
    key: Sequence[int],
    frames: int,
    hearing: Hearing,
) -> list[MicroBatch]:
    """Return parts of the crops of a lesson as micro-batches, each crop with a key of its own."""
    places = {crop: place for place, crop in enumerate(crops)}
    batches = []
    for part in parts:
        audio = collate(corpus, part, hearing=hearing)
        put = lesson.pose(audio, [places[crop] for crop in part])
        batches.append(
            MicroBatch(
                audio=audio,
                frames=frames,
                heard=put.heard,
                asked=put.asked,
                count=lesson.count,
                keys=tuple((*key, places[crop]) for crop in part),
            )
        )
    return batches


def held_out(
    corpus: Corpus,
    structure: Structure,
    *,
    seconds: float,
    longest: float,
    hearing: Hearing,
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
    most = longest * corpus.sample_rate
    for index, utterance in enumerate(corpus.utterances):
        samples = utterance.samples if task is not None and task.whole else int(min(utterance.samples, most))
        if structure.lengths(samples)[-1] < 1 or total >= seconds:
            continue
        crops.append(Crop(index=index, start=0, samples=samples))
        total += samples / corpus.sample_rate
    if not crops:
        raise DataError(f"The held-out corpus {corpus.name!r} has no utterance that is long enough for one frame.")
    key = seed, _HELD_OUT
    return posed(
        corpus,
        crops,
        [[crop] for crop in crops],
        lesson_of(task, corpus, structure, crops, key=key),
        key=key,
        frames=sum(frames_in(structure, crops)),
        hearing=hearing,
    )


def split_off(corpus: Corpus, *, seconds: float) -> tuple[Corpus, Corpus]:
    """Training and held-out parts of one corpus: its own dev split, else every so manieth utterance.

    Splits are told apart by how their names start: `dev-clean`, `devel` and `validation` are held out whole, `test` and
    `eval` are left out of both, unless there is nothing else.

    Args:
        corpus: All audio.
        seconds: How much to hold out at most where there is no dev split; never more than a tenth of the corpus.
    """
    splits = sorted({utterance.split for utterance in corpus.utterances if utterance.split})
    tests = [name for name in splits if name.lower().startswith(_TEST)]
    devs = [name for name in splits if name.lower().startswith(_DEV)]
    others = {utterance.split for utterance in corpus.utterances} - {*tests, *devs}
    if tests and (others or devs):
        corpus = corpus.select(lambda utterance: utterance.split not in tests)
    if devs and others:
        held = corpus.select(lambda utterance: utterance.split in devs)
        train = corpus.select(lambda utterance: utterance.split not in devs)
        learned = "+".join(sorted(filter(None, others))) or "train"
        return replace(train, name=f"{corpus.name}/{learned}"), replace(held, name=f"{corpus.name}/{'+'.join(devs)}")
    count = len(corpus.utterances)
    if count < 2:
        raise DataError(
            f"The corpus {corpus.name!r} has {count} usable utterances; at least 2 are needed, one held out."
        )
    wanted = min(seconds, corpus.seconds / 10)
    stride = max(2, round(count / max(1.0, wanted / (corpus.seconds / count))))
    chosen = {utterance.id for utterance in corpus.utterances[::stride]}
    train = corpus.select(lambda utterance: utterance.id not in chosen)
    return train, corpus.select(lambda utterance: utterance.id in chosen)
