"""Interface between a task and a run: head, loss, metric, and the utterances that a task can use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import PreTrainedConfig

from secateur.data.collate import AudioBatch
from secateur.data.corpus import Corpus, Skip, Utterance
from secateur.data.input_features import InputFeatures
from secateur.errors import DataError
from secateur.records.score import ScoreInfo
from secateur.structure import Structure

#: Reason to skip an utterance from which the encoder makes no frame.
TOO_SHORT = "is too short for one frame"


@dataclass(frozen=True)
class FilteredCorpus:
    """Part of a corpus that a task can learn from or be scored on.

    Attributes:
        corpus: The usable utterances, in their order.
        notes: Sentences for the log and the record: problems or changes, with the number of utterances of each.
        skipped: Skipped utterances by id, with the reason.
    """

    corpus: Corpus
    notes: tuple[str, ...]
    skipped: tuple[Skip, ...]


@dataclass(frozen=True, kw_only=True)
class EncoderInfo:
    """Facts about an encoder beyond the config, for tasks that mask the inputs.

    Attributes:
        input_features: Conversion of audio to the inputs of the encoder.
        structure: Structure of the encoder.
        find_file: Function from a file name to its path beside the encoder; None where there is no such file.
    """

    input_features: InputFeatures
    structure: Structure
    find_file: Callable[[str], Path | None]


@dataclass(frozen=True, kw_only=True)
class BuildInputs:
    """Arguments of `build_task` for the `build` method of a config.

    Attributes:
        source: Folder or hub id of the model.
        model_config: Config of the model.
        corpus: Training audio with the labels of the task.
        encoder_info: Facts about the encoder, for tasks that mask the inputs.
    """

    source: str | Path
    model_config: PreTrainedConfig
    corpus: Corpus
    encoder_info: EncoderInfo | None = None


@dataclass(frozen=True)
class TaskBatch:
    """Inputs and targets of a batch.

    Attributes:
        inputs: Audio for the model, in which a task may have masked frames.
        targets: Targets in the form that the loss and the metric of the task take: the utterances of the rows, or the
            masked frames of a task that masks its inputs.
    """

    inputs: AudioBatch
    targets: Any


class StepTargets(Protocol):
    """Targets of an optimizer step or of all held-out audio, independent of ranks and micro-batches.

    Attributes:
        count: Divisor of the summed loss: number of tokens, utterances or masked frames.
    """

    @property
    def count(self) -> int: ...

    def make_batch(self, audio: AudioBatch, positions: Sequence[int]) -> TaskBatch:
        """Return the inputs and targets of some utterances of the step.

        Args:
            audio: Audio of these utterances.
            positions: Positions of these utterances in the step.
        """


@dataclass(frozen=True)
class UtteranceTargets:
    """Labels of utterances as the targets of a step; no input is masked."""

    utterances: Sequence[Utterance]
    count: int

    def make_batch(self, audio: AudioBatch, positions: Sequence[int]) -> TaskBatch:
        """Return the audio as given, with the utterances as targets."""
        return TaskBatch(audio, tuple(self.utterances[position] for position in positions))


class Metric(Protocol):
    """Scores of a task, accumulated batch by batch."""

    def update(self, predictions: Tensor, frames: Tensor, targets: Any, /) -> None:
        """Add a batch: predictions of `Task.predict`, valid frames (B,), and the targets of the batch."""

    def compute(self) -> dict[str, float]:
        """Return the scores over all batches so far, with the names in `Task.scores`."""


class Task(Protocol):
    """Head, loss and metric of a task, independent of encoders, gates and the training loop.

    Attributes:
        head_class: Ending of the model class with the task's head, such as ``ForCTC``; empty where the model stays a
            bare encoder.
        head: Head that belongs to the task rather than to a model class, and is trained with the encoder; a module
            without parameters for most tasks.
        title: Name of the task for people.
        primary_metric: Name of the score that models are compared by.
        scores: Presentation of each score that the metric computes, by name.
        new_head: Whether the head is newly initialized, rather than the model's own with its vocabulary or labels.
        needs_full_utterance: Whether utterances must not be cropped.
        notes: Sentences about the head, for the log and the record.
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
        """Return the fields of the model's config that the head needs."""

    def init_head(self, model: Any) -> None:
        """Initialize a new head in place, beyond the library's own initialization."""

    def filter(self, corpus: Corpus, frames: Callable[[int], int]) -> FilteredCorpus:
        """Return the utterances that the task can use, with notes on skipped utterances.

        Args:
            corpus: Speech with the labels of the task.
            frames: Function from a number of samples to the number of frames of the encoder.

        Raises:
            DataError: No utterance is usable.
        """

    def step_targets(
        self, utterances: Sequence[Utterance], frames: Sequence[int], *, key: Sequence[int]
    ) -> StepTargets:
        """Return the targets of an optimizer step.

        Args:
            utterances: All utterances of the step, as `filter` returned them.
            frames: Number of frames of each utterance.
            key: Non-negative integers that seed all random draws; different in every step.
        """

    def loss(self, output: Tensor, frames: Tensor, targets: Any, /, *, model: Any) -> Tensor:
        """Return the sum of the losses of a batch, a scalar.

        Args:
            output: Output of the model: logits (B, T, V) or (B, classes); for a transducer, whose head also takes
                tokens, and for a head of the task's own, the last hidden state of the encoder, (B, T, D).
            frames: (B,), number of valid frames of each row.
            targets: Targets that `StepTargets.make_batch` returned with the inputs.
            model: Model with the head, for heads that the output has not passed through yet.
        """

    def predict(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the predictions of a model for a batch, in the form that the metric takes: logits or tokens.

        Args:
            model: Model with the task's head.
            inputs: Keyword arguments of its forward pass.
        """

    def metric(self) -> Metric:
        """Return a new, empty metric."""

    def save(self, folder: Path) -> None:
        """Write the files that belong beside a model: the tokenizer, or the task's own head."""

    def restore(self, folder: Path) -> None:
        """Load the task's own head from a folder that `save` wrote; do nothing for a head of the model."""


def logits_of(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the logits of a model's forward pass."""
    logits: Tensor = model(**inputs).logits
    return logits


def has_task_head(architectures: Sequence[str] | None, head_class: str) -> bool:
    """Return whether a model's config names a class with a head: ``Wav2Vec2ForCTC`` ends in ``ForCTC``."""
    return any(name.endswith(head_class) for name in architectures or ())


def filter_utterances(corpus: Corpus, problem: Callable[[Utterance], str | None]) -> FilteredCorpus:
    """Return the utterances without a problem, with a note for each kind of problem.

    Args:
        corpus: Utterances to check.
        problem: Function that returns None for a usable utterance, else the reason to skip it: the kind of problem
            and, after a colon, its details, such as ``is too short for its text: 3 frames for 5``.

    Raises:
        DataError: The corpus is empty, or no utterance is usable.
    """
    if not corpus.utterances:
        raise DataError(f"Corpus {corpus.name!r} has no utterances.")
    problems = ((utterance.id, problem(utterance)) for utterance in corpus.utterances)
    skipped = tuple(Skip(name, reason) for name, reason in problems if reason is not None)
    kinds = Counter(skip.reason.partition(":")[0] for skip in skipped).most_common()
    if len(skipped) == len(corpus):
        counts = "; ".join(f"{kind} ({count})" for kind, count in kinds)
        raise DataError(
            f"None of the {len(corpus)} utterances of corpus {corpus.name!r} can be used: {counts}. The first: "
            f"{skipped[0].path!r} {skipped[0].reason}."
        )
    skipped_ids = {skip.path for skip in skipped}
    notes = tuple(f"{count} of {len(corpus)} utterances left out: {kind}" for kind, count in kinds)
    return FilteredCorpus(corpus.select(lambda utterance: utterance.id not in skipped_ids), notes, skipped)


def filter_short_audio(corpus: Corpus, frames: Callable[[int], int]) -> FilteredCorpus:
    """Return the utterances of a corpus with audio for at least a frame.

    Args:
        corpus: Utterances to check.
        frames: Function from a number of samples to the number of frames of the encoder.

    Raises:
        DataError: No utterance is usable.
    """
    return filter_utterances(corpus, lambda utterance: None if frames(utterance.samples) > 0 else TOO_SHORT)
