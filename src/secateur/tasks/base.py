"""What a task is to a pruning run: a loss, a metric, and which utterances can be learned from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from secateur.data.collate import AudioBatch
from secateur.data.corpus import Corpus, Skip, Utterance
from secateur.data.input_features import InputFeatures
from secateur.errors import DataError
from secateur.records.score import ScoreInfo
from secateur.structure import Structure

#: Why an utterance is left out of which no frame can be made.
TOO_SHORT = "is too short for one frame"


@dataclass(frozen=True)
class FilteredCorpus:
    """The part of a corpus that a task can learn from, or be scored on.

    Attributes:
        corpus: The utterances that remain, in their order.
        notes: What was left out or changed, each in a sentence with its count; for the log and the record.
        skipped: Every utterance that was left out, by its id.
    """

    corpus: Corpus
    notes: tuple[str, ...]
    skipped: tuple[Skip, ...]


@dataclass(frozen=True, kw_only=True)
class EncoderInfo:
    """Facts about an encoder beyond its config, for tasks that mask its inputs.

    Attributes:
        input_features: Conversion of audio to the inputs of the encoder.
        structure: Structure of the encoder.
        find_file: Function from a file name to its path beside the encoder; None where there is no such file.
    """

    input_features: InputFeatures
    structure: Structure
    find_file: Callable[[str], Path | None]


@dataclass(frozen=True)
class TaskBatch:
    """A batch as a task puts it to a model.

    Attributes:
        heard: The audio, without what the task hides of it.
        asked: What the answers are held against, as the task's loss and its scorer take it: what is said, row by row,
            where nothing is hidden.
    """

    inputs: AudioBatch
    targets: Any


class StepTargets(Protocol):
    """What a task asks in one optimiser step, or in all of the held-out audio; it knows no ranks and no micro-batches.

    Attributes:
        count: What the summed loss is divided by: tokens to be written, utterances, or hidden frames.
    """

    @property
    def count(self) -> int: ...

    def make_batch(self, audio: AudioBatch, positions: Sequence[int]) -> TaskBatch:
        """A part of it.

        Args:
            audio: Some of its utterances.
            places: Where each of them stands in the lesson.
        """


@dataclass(frozen=True)
class UtteranceTargets:
    """A lesson in what is said: all is heard."""

    utterances: Sequence[Utterance]
    count: int

    def make_batch(self, audio: AudioBatch, positions: Sequence[int]) -> TaskBatch:
        """The audio as it is, and its utterances."""
        return TaskBatch(audio, tuple(self.utterances[position] for position in positions))


class Metric(Protocol):
    """The metrics of a task, summed up batch by batch."""

    def update(self, predictions: Tensor, frames: Tensor, targets: Any, /) -> None:
        """Take in a batch: the task's answers, valid frames (B,), and what was asked."""

    def compute(self) -> dict[str, float]:
        """The metrics by name over everything taken in; a share, of one, unless its name ends in ``loss``."""


class Task(Protocol):
    """A task: the head that it needs, its loss and its metric. It knows no encoder, no gates and no training loop.

    Attributes:
        ending: Ending of the model class with its head; empty where the model is a bare encoder and stays one.
        head: A head that no model class has, which learns beside the encoder; without parameters where there is none.
        headline: Name of the figure that sums a model up.
        better: Which way that figure improves.
        new_head: Whether the head starts from nothing; if not, the model's own is kept, with its vocabulary or labels.
        whole: Whether an utterance is of use as a whole alone; else it may be cropped, all of a step to one length.
        notes: What the record should tell of the head beside that, in sentences.
    """

    head_class: str
    head: nn.Module
    title: str
    primary_metric: str
    scores: Mapping[str, ScoreInfo]
    new_head: bool
    needs_full_utterance: bool
    notes: tuple[str, ...]

    def fields(self) -> dict[str, Any]:
        """Fields of the model's config that its head needs."""

    def init_head(self, model: Any) -> None:
        """Set what a new head knows before it learns; the model is changed in place."""

    def filter(self, corpus: Corpus, frames: Callable[[int], int]) -> FilteredCorpus:
        """The utterances that can be learned from; the others are counted and told.

        Args:
            corpus: Speech with what the task asks for.
            frames: Frames that the encoder gives for a number of samples.

        Raises:
            DataError: Nothing is left.
        """

    def step_targets(
        self, utterances: Sequence[Utterance], frames: Sequence[int], *, key: Sequence[int]
    ) -> StepTargets:
        """What is asked in an optimiser step.

        Args:
            utterances: All that are heard in it, as `usable` lets them through.
            frames: How many of each.
            key: What chance follows from: whole numbers from 0 on, others in every step.
        """

    def loss(self, output: Tensor, frames: Tensor, targets: Any, /, *, model: Any) -> Tensor:
        """The sum of the losses of a batch, a scalar.

        Args:
            output: Of the model's pass over audio: logits (B, T, V) or (B, classes); where the head wants tokens beside
                audio, or is the task's own, what it gets of the encoder, (B, T, D).
            frames: (B,), valid frames of each row.
            asked: What `Lesson.pose` gave with the audio.
            model: The model, whose head is still to be asked in the latter case.
        """

    def predict(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """What a model says of a batch, as the scorer takes it: logits, or the tokens that it writes.

        Args:
            model: With the task's head.
            inputs: Of its forward pass, by name.
        """

    def metric(self) -> Metric:
        """A fresh scorer."""

    def save(self, folder: Path) -> None:
        """Write what belongs beside a model: the tokenizer that its output is read by, or the task's own head."""

    def restore(self, folder: Path) -> None:
        """Take the task's own head from where `save` wrote it; nothing where it has none."""


def logits_of(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """The answers of a head that gives logits in the model's forward pass."""
    logits: Tensor = model(**inputs).logits
    return logits


def has_task_head(architectures: Sequence[str] | None, head_class: str) -> bool:
    """Whether a model's config tells of a head of this kind: ``Wav2Vec2ForCTC`` ends in ``ForCTC``."""
    return any(name.endswith(head_class) for name in architectures or ())


def filter_utterances(corpus: Corpus, problem: Callable[[Utterance], str | None]) -> FilteredCorpus:
    """The utterances without a problem, and a note for each kind of problem.

    Args:
        corpus: All of them.
        problem: Why an utterance is left out, as words that go on from its name: what is wrong in general and, behind
            a colon, what it is here. None where it stays.

    Raises:
        DataError: Nothing is left.
    """
    if not corpus.utterances:
        raise DataError(f"Corpus {corpus.name!r} has no utterances.")
    problems = [problem(utterance) for utterance in corpus.utterances]
    reasons = zip(corpus.utterances, problems, strict=True)
    skipped = tuple(Skip(utterance.id, reason) for utterance, reason in reasons if reason is not None)
    kinds = Counter(skip.reason.partition(":")[0] for skip in skipped).most_common()
    if len(skipped) == len(corpus):
        raise DataError(
            f"None of the {len(corpus)} utterances of corpus {corpus.name!r} can be used: "
            f"{'; '.join(f'{kind} ({count})' for kind, count in kinds)}. The first: {skipped[0].path!r} "
            f"{skipped[0].reason}."
        )
    skipped_ids = {skip.path for skip in skipped}
    notes = tuple(f"{count} of {len(corpus)} utterances left out: {kind}" for kind, count in kinds)
    return FilteredCorpus(corpus.select(lambda utterance: utterance.id not in skipped_ids), notes, skipped)


def filter_short_audio(corpus: Corpus, frames: Callable[[int], int]) -> FilteredCorpus:
    """Return the utterances of a corpus whose audio gives at least one frame.

    Args:
        corpus: All of them.
        frames: Frames that the encoder gives for a number of samples.

    Raises:
        DataError: Nothing is left.
    """
    return filter_utterances(corpus, lambda utterance: None if frames(utterance.samples) > 0 else TOO_SHORT)
