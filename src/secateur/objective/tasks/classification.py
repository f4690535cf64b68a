"""Classification of whole utterances, scored by accuracy and macro-averaged F1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from secateur.data.corpus import Corpus, Utterance
from secateur.errors import DataError
from secateur.objective.tasks.task import TOO_SHORT, Lesson, Scorer, Told, Usable, keeps, logits_of, sift

_SHOWN = 10  # classes in a message


@dataclass(frozen=True, kw_only=True)
class Classification:
    """One class for each utterance."""

    kind: Literal["classification"] = "classification"
    label: Literal["label", "speaker"] = "label"
    """which field of the manifest is the class"""


class ClassificationTask:
    """Tells classes apart, by cross-entropy."""

    ending: str = "ForSequenceClassification"
    headline: str = "accuracy"
    better: Literal["lower", "higher"] = "higher"
    whole: bool = True
    notes: tuple[str, ...] = ()

    def __init__(self, labels: Sequence[str], *, field: Literal["label", "speaker"], new_head: bool) -> None:
        """
        Args:
            labels: Names of the classes, in the order of the head's outputs.
            field: Of an utterance, that holds its class.
            new_head: Whether the head starts from nothing.
        """
        self.labels = tuple(labels)
        self.field = field
        self.new_head = new_head
        self.head = nn.Module()
        self.numbers = {label: number for number, label in enumerate(self.labels)}

    def fields(self) -> dict[str, Any]:
        """Names of the classes, both ways, and how many there are."""
        return {
            "id2label": dict(enumerate(self.labels)),
            "label2id": dict(self.numbers),
            "num_labels": len(self.labels),
        }

    def begin(self, model: Any) -> None:
        """A new head knows nothing."""

    def usable(self, corpus: Corpus, frames: Callable[[int], int]) -> Usable:
        """Utterances of a known class whose audio gives at least one frame.

        Raises:
            DataError: Nothing is left.
        """

        def problem(utterance: Utterance) -> str | None:
            label = getattr(utterance, self.field)
            if not label:
                return f"has no {self.field}"
            if label not in self.numbers:
                return f"has a {self.field} that the head does not know: {label!r}, it knows {self._shown}"
            return None if frames(utterance.samples) > 0 else TOO_SHORT

        return sift(corpus, problem)

    @property
    def _shown(self) -> str:
        """The first of the names that the head knows."""
        names = list(self.numbers)
        return ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")

    def lesson(self, utterances: Sequence[Utterance], frames: Sequence[int], *, key: Sequence[int] = ()) -> Lesson:
        """The classes of whole utterances."""
        return Told(utterances, len(utterances))

    def sums(self, output: Tensor, frames: Tensor, utterances: Sequence[Utterance], *, model: Any = None) -> Tensor:
        """The sum of cross-entropies, in float32 or better; `output` is logits (B, classes)."""
        exact = output.to(torch.promote_types(output.dtype, torch.float32))
        classes = torch.tensor(self.classes(utterances), device=output.device)
        with torch.autocast(output.device.type, enabled=False):
            return F.cross_entropy(exact, classes, reduction="sum")

    def answers(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits, (B, classes)."""
        return logits_of(model, inputs)

    def classes(self, utterances: Sequence[Utterance]) -> list[int]:
        """Numbers of the utterances' classes."""
        return [self.numbers[getattr(utterance, self.field)] for utterance in utterances]

    def scorer(self) -> Scorer:
        """Accuracy and macro-averaged F1."""
        return ClassScorer(self)

    def save(self, folder: Path) -> None:
        """Nothing: the model's config holds the names."""

    def restore(self, folder: Path) -> None:
        """Nothing: the model has the head."""


class ClassScorer:
    """Accuracy, and F1 averaged over the classes that occur, said or predicted, whatever their frequency."""

    def __init__(self, task: ClassificationTask) -> None:
        self.task = task
        self.said: list[int] = []
        self.predicted: list[int] = []

    def add(self, answers: Tensor, frames: Tensor, utterances: Sequence[Utterance]) -> None:
        """Take in a batch: logits (B, classes)."""
        self.said += self.task.classes(utterances)
        self.predicted += answers.argmax(-1).tolist()

    def figures(self) -> dict[str, float]:
        """``accuracy`` and ``macro_f1``."""
        from sklearn.metrics import accuracy_score, f1_score

        return {
            "accuracy": float(accuracy_score(self.said, self.predicted)),
            "macro_f1": float(f1_score(self.said, self.predicted, average="macro", zero_division=0)),
        }


def build_classification(
    config: Classification, *, model_config: PreTrainedConfig, corpus: Corpus
) -> ClassificationTask:
    """The task for a model: with its own classes where it has a head, else with those of the corpus, sorted.

    Raises:
        DataError: The corpus has fewer than two classes.
    """
    settings: Any = model_config
    if keeps(settings.architectures, "ForSequenceClassification"):
        named = {int(number): str(label) for number, label in settings.id2label.items()}
        return ClassificationTask([named[number] for number in sorted(named)], field=config.label, new_head=False)
    found = {getattr(utterance, config.label) for utterance in corpus.utterances}
    labels = sorted(label for label in found if label)
    if len(labels) < 2:
        raise DataError(
            f"Corpus {corpus.name!r} has {len(labels)} different values of {config.label!r}, and a classification "
            f"needs two; {'label: speaker' if config.label == 'label' else 'label: label'} takes the other field."
        )
    return ClassificationTask(labels, field=config.label, new_head=True)
