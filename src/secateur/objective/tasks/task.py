"""What a task is to a pruning run: a loss, a metric, and which utterances can be learned from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

from secateur.data.corpus import Corpus, Skip, Utterance
from secateur.errors import DataError

#: Endings of the Hugging Face model classes with a task's head.
Ending = Literal["ForCTC", "ForSequenceClassification", "ForRNNT"]


@dataclass(frozen=True)
class Usable:
    """The part of a corpus that a task can learn from, or be scored on.

    Attributes:
        corpus: The utterances that remain, in their order.
        notes: What was left out or changed, each in a sentence with its count; for the log and the record.
        skipped: Every utterance that was left out, by its id.
    """

    corpus: Corpus
    notes: tuple[str, ...]
    skipped: tuple[Skip, ...]


class Scorer(Protocol):
    """The metrics of a task, summed up batch by batch."""

    def add(self, answers: Tensor, frames: Tensor, utterances: Sequence[Utterance]) -> None:
        """Take in a batch: the task's answers, valid frames (B,), and what is said in it."""

    def figures(self) -> dict[str, float]:
        """The metrics by name over everything taken in; every one of them a share, of one."""


class Task(Protocol):
    """A task: the head that it needs, its loss and its metric. It knows no encoder, no gates and no training loop.

    Attributes:
        ending: Ending of the model class with its head.
        headline: Name of the figure that sums a model up.
        better: Which way that figure improves.
        new_head: Whether the head starts from nothing; if not, the model's own is kept, with its vocabulary or labels.
    """

    ending: str
    headline: str
    better: Literal["lower", "higher"]
    new_head: bool

    def fields(self) -> dict[str, Any]:
        """Fields of the model's config that its head needs."""

    def begin(self, model: Any) -> None:
        """Set what a new head knows before it learns; the model is changed in place."""

    def usable(self, corpus: Corpus, frames: Callable[[int], int]) -> Usable:
        """The utterances that can be learned from; the others are counted and told.

        Args:
            corpus: Speech with what the task asks for.
            frames: Frames that the encoder gives for a number of samples.

        Raises:
            DataError: Nothing is left.
        """

    def count(self, utterances: Sequence[Utterance]) -> int:
        """What the summed loss is divided by over a global step: tokens to be written, or utterances."""

    def sums(self, output: Tensor, frames: Tensor, utterances: Sequence[Utterance], *, model: Any) -> Tensor:
        """The sum of the losses of a batch, a scalar.

        Args:
            output: Of the model's pass over audio: logits (B, T, V) or (B, classes); where the head wants tokens beside
                audio, what it gets of the encoder, (B, T, D).
            frames: (B,), valid frames of each row.
            utterances: B of them, as `usable` lets them through.
            model: The model, whose head is still to be asked in the latter case.
        """

    def answers(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """What a model says of a batch, as the scorer takes it: logits, or the tokens that it writes.

        Args:
            model: With the task's head.
            inputs: Of its forward pass, by name.
        """

    def scorer(self) -> Scorer:
        """A fresh scorer."""

    def save(self, folder: Path) -> None:
        """Write what reads the head's output beside a model: the tokenizer, where there is one."""


def logits_of(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """The answers of a head that gives logits in the model's forward pass."""
    logits: Tensor = model(**inputs).logits
    return logits


def keeps(architectures: Sequence[str] | None, ending: Ending) -> bool:
    """Whether a model's config tells of a head of this kind: ``Wav2Vec2ForCTC`` ends in ``ForCTC``."""
    return any(name.endswith(ending) for name in architectures or ())


def sift(corpus: Corpus, problem: Callable[[Utterance], str | None]) -> Usable:
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
    found = zip(corpus.utterances, problems, strict=True)
    skipped = tuple(Skip(utterance.id, reason) for utterance, reason in found if reason is not None)
    kinds = Counter(skip.reason.partition(":")[0] for skip in skipped).most_common()
    if len(skipped) == len(corpus):
        raise DataError(
            f"None of the {len(corpus)} utterances of corpus {corpus.name!r} can be used: "
            f"{'; '.join(f'{count} {kind}' for kind, count in kinds)}. The first: {skipped[0].path!r} "
            f"{skipped[0].reason}."
        )
    gone = {skip.path for skip in skipped}
    notes = tuple(f"{count} of {len(corpus)} utterances left out: {kind}" for kind, count in kinds)
    return Usable(corpus.select(lambda utterance: utterance.id not in gone), notes, skipped)
