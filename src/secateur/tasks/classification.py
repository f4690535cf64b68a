"""Classification of whole utterances, scored by accuracy and macro-averaged F1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.data.corpus import Corpus, Utterance
from secateur.errors import DataError
from secateur.records.score import ScoreInfo
from secateur.tasks.task import (
    TOO_SHORT,
    BuildInputs,
    FilteredCorpus,
    Metric,
    StepTargets,
    UtteranceTargets,
    filter_utterances,
    has_task_head,
    logits_of,
)

_MAX_LISTED_CLASSES = 10  # classes in a message


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Classification of whole utterances."""

    kind: Literal["classification"] = "classification"
    head_class: ClassVar[str] = "ForSequenceClassification"
    label: Literal["label", "speaker"] = "label"
    """field of the manifest that holds the class"""

    def build(self, inputs: BuildInputs) -> ClassificationTask:
        """Return the task for a model; see `build_task`."""
        return build_classification(self, inputs)


class ClassificationTask:
    """Classification of utterances by cross-entropy."""

    head_class: str = Classification.head_class
    title: str = "Classification"
    primary_metric: str = "accuracy"
    scores: Mapping[str, ScoreInfo] = MappingProxyType(
        {
            "accuracy": ScoreInfo(title="Accuracy", direction="higher"),
            "macro_f1": ScoreInfo(title="Macro F1", direction="higher"),
        }
    )
    needs_full_utterance: bool = True
    notes: tuple[str, ...] = ()

    def __init__(self, labels: Sequence[str], *, field: Literal["label", "speaker"], new_head: bool) -> None:
        """
        Args:
            labels: Names of the classes, in the order of the head's outputs.
            field: Field of an utterance that holds its class.
            new_head: Whether the head is newly initialized.
        """
        self.labels = tuple(labels)
        self.field = field
        self.new_head = new_head
        self.head = nn.Module()
        self.label_ids = {label: number for number, label in enumerate(self.labels)}

    def fields(self) -> dict[str, Any]:
        """Return the number of classes and the maps between ids and names."""
        return {
            "id2label": dict(enumerate(self.labels)),
            "label2id": dict(self.label_ids),
            "num_labels": len(self.labels),
        }

    def init_head(self, model: Any) -> None:
        """Do nothing: a new head keeps the random weights."""

    def filter(self, corpus: Corpus, frames: Callable[[int], int]) -> FilteredCorpus:
        """Return the utterances of a known class with audio for at least a frame.

        Raises:
            DataError: No utterance is usable.
        """

        def problem(utterance: Utterance) -> str | None:
            label = getattr(utterance, self.field)
            if not label:
                return f"has no {self.field}"
            if label not in self.label_ids:
                return (
                    f"has a {self.field} outside the head's classes: {label!r}, expected {self._label_names_text}; if "
                    "the head is of another task, name the task"
                )
            return None if frames(utterance.samples) > 0 else TOO_SHORT

        return filter_utterances(corpus, problem)

    @property
    def _label_names_text(self) -> str:
        """Names of the first classes, for a message."""
        names = list(self.label_ids)
        return ", ".join(names[:_MAX_LISTED_CLASSES]) + (" …" if len(names) > _MAX_LISTED_CLASSES else "")

    def step_targets(
        self, utterances: Sequence[Utterance], frames: Sequence[int], *, key: Sequence[int] = ()
    ) -> StepTargets:
        """Return the utterances as targets, with the number of utterances as the count."""
        return UtteranceTargets(utterances, len(utterances))

    def loss(self, output: Tensor, frames: Tensor, utterances: Sequence[Utterance], *, model: Any = None) -> Tensor:
        """Return the sum of cross-entropies of logits (B, classes), computed in float32 or better."""
        exact = output.to(torch.promote_types(output.dtype, torch.float32))  # bfloat16 has too few digits for a loss
        classes = torch.tensor(self.class_ids(utterances), device=output.device)
        # (B, classes) and (B,) -> ()
        with torch.autocast(output.device.type, enabled=False):
            return F.cross_entropy(exact, classes, reduction="sum")

    def predict(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the logits of a model, (B, classes)."""
        return logits_of(model, inputs)

    def class_ids(self, utterances: Sequence[Utterance]) -> list[int]:
        """Return the class ids of utterances."""
        return [self.label_ids[getattr(utterance, self.field)] for utterance in utterances]

    def metric(self) -> Metric:
        """Return a new metric of accuracy and macro-averaged F1."""
        return ClassificationMetric(self)

    def save(self, folder: Path) -> None:
        """Write no file: the model's config holds the class names."""

    def restore(self, folder: Path) -> None:
        """Load no file: the head is part of the model."""


class ClassificationMetric:
    """Accuracy, and F1 averaged with equal weight over all classes among the references or the predictions."""

    def __init__(self, task: ClassificationTask) -> None:
        self.task = task
        self.references: list[int] = []
        self.predictions: list[int] = []

    def update(self, predictions: Tensor, frames: Tensor, utterances: Sequence[Utterance]) -> None:
        """Add a batch of logits (B, classes)."""
        self.references += self.task.class_ids(utterances)
        self.predictions += predictions.argmax(-1).tolist()  # (B, classes) -> (B,)

    def compute(self) -> dict[str, float]:
        """Return ``accuracy`` and ``macro_f1``."""
        # Imported here, because the import of scikit-learn is slow and no other task needs it.
        from sklearn.metrics import accuracy_score, f1_score

        return {
            "accuracy": float(accuracy_score(self.references, self.predictions)),
            "macro_f1": float(f1_score(self.references, self.predictions, average="macro", zero_division=0)),
        }


def build_classification(config: Classification, inputs: BuildInputs) -> ClassificationTask:
    """Return the task for a model, with the classes of the head or, for a bare encoder, of the corpus in sorted order.

    Raises:
        DataError: The corpus has fewer than two classes.
    """
    settings: Any = inputs.model_config
    corpus = inputs.corpus
    if has_task_head(settings.architectures, config.head_class):
        # The keys are strings in config.json, and need not be in the order of the outputs.
        label_names = {int(number): str(label) for number, label in settings.id2label.items()}
        return ClassificationTask(
            [label_names[number] for number in sorted(label_names)], field=config.label, new_head=False
        )
    label_values = {getattr(utterance, config.label) for utterance in corpus.utterances}
    labels = sorted(label for label in label_values if label)
    if len(labels) < 2:
        raise DataError(
            f"Corpus {corpus.name!r} has {len(labels)} different values of {config.label!r}, and a classification "
            f"needs two; {'label: speaker' if config.label == 'label' else 'label: label'} takes the other field."
        )
    return ClassificationTask(labels, field=config.label, new_head=True)
