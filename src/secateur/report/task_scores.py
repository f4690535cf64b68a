"""Scores of a task in words: their names, which way is better, and what was learned in which order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from secateur.report.formatting import MINUS, format_number, format_percent
from secateur.report.run_view import Direction, StageRecord, TaskRecord

#: Tasks in words.
TASK_LABELS = {
    "ctc": "Speech recognition (CTC)",
    "rnnt": "Speech recognition (RNN-T)",
    "classification": "Classification",
    "slu": "Spoken language understanding",
    "best_rq": "Self-supervision (BEST-RQ)",
}
#: Scores in words; another name stands as it is.
SCORE_LABELS = {
    "wer": "Word error rate",
    "cer": "Character error rate",
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "intent_accuracy": "Intent accuracy",
    "entity_f1": "Entity F1",
    "slu_f1": "SLU-F1",
    "loss": "Held-out loss",
    "masked_accuracy": "Accuracy under the mask",
    "masked_loss": "Loss under the mask",
}
#: Scores that are no shares.
_LOSS_NAMES = ("loss", "masked_loss")
#: Scores that are errors.
_LOWER_IS_BETTER = ("wer", "cer", *_LOSS_NAMES)
#: What was learned, in words.
_LOSS_TERM_LABELS = {
    "task": "the task",
    "hidden states": "the teacher’s hidden states",
    "logits": "the teacher’s logits",
}


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score: its name in the record, and which way is better where that is known."""

    name: str
    direction: Direction | None = None

    @property
    def title(self) -> str:
        """Its name in words."""
        return SCORE_LABELS.get(self.name, self.name.replace("_", " "))

    @property
    def phrase(self) -> str:
        """Its name within a sentence: ``word error rate``, but ``SLU-F1``."""
        return self.title if self.title[1:2].isupper() else self.title[:1].lower() + self.title[1:]

    @property
    def direction_text(self) -> str:
        """Which way is better, in words."""
        return f"{self.direction} is better" if self.direction else ""

    @property
    def is_share(self) -> bool:
        """Whether it is written as a percentage; a loss is not."""
        return self.name not in _LOSS_NAMES

    def format(self, value: float | None) -> str:
        """A value of it: ``12.30 %``."""
        return format_percent(value, 2) if self.is_share else format_number(value, 4)

    def format_difference(self, dense: float | None, value: float | None) -> str:
        """The difference to the dense model’s, in percentage points: ``+2.20 points``; nothing where one is missing."""
        if dense is None or value is None or not math.isfinite(value - dense):
            return ""
        difference = round(100 * (value - dense), 2) if self.is_share else value - dense
        sign = "+" if difference > 0 else MINUS if difference < 0 else ""
        return f"{sign}{abs(difference):.2f} points" if self.is_share else f"{sign}{format_number(abs(difference))}"

    def describe_difference(self, dense: float | None, value: float | None) -> str:
        """The same in words: ``2.20 points worse``."""
        difference = self.format_difference(dense, value)
        if not difference or not self.direction:
            return difference
        if difference[0] not in ("+", MINUS):
            return "unchanged"
        is_improvement = (difference[0] == "+") == (self.direction == "higher")
        return f"{difference[1:]} {'better' if is_improvement else 'worse'}"


def primary_score(task: TaskRecord | None) -> Score | None:
    """The main score of a task."""
    return Score(name=task.headline, direction=task.better) if task and task.headline else None


def list_scores(stages: Iterable[StageRecord], task: TaskRecord | None) -> list[Score]:
    """Every score of any stage, the main one first."""
    task_score = primary_score(task)
    names = dict.fromkeys(name for stage in stages for name in stage.scores)
    scores = [task_score] if task_score and task_score.name in names else []
    scores += [
        Score(name=name, direction=_direction(name)) for name in names if not task_score or name != task_score.name
    ]
    return scores


def _direction(name: str) -> Direction | None:
    return "lower" if name in _LOWER_IS_BETTER else "higher" if name in SCORE_LABELS else None


def describe_task(task: TaskRecord) -> str:
    """What the model was pruned for, the order of the work and what was learned, in one sentence."""
    kind = TASK_LABELS.get(task.kind, task.kind)
    parts = [", ".join(filter(None, (kind, task.order)))]
    if task.weights:
        loss_terms = [
            f"{_LOSS_TERM_LABELS.get(name, name)} (weight {weight:g})" for name, weight in task.weights.items()
        ]
        parts.append(f"learned from {join_words(loss_terms)}")
    return "; ".join(parts) + "."


def join_words(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
