"""Scores of a task in words: their names, which way is better, and what was learned in which order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from secateur.report.record import Better, Stage, Task
from secateur.report.words import MINUS, figure, share

#: Tasks in words.
KINDS = {
    "ctc": "Speech recognition (CTC)",
    "rnnt": "Speech recognition (RNN-T)",
    "classification": "Classification",
    "slu": "Spoken language understanding",
    "best_rq": "Self-supervision (BEST-RQ)",
}
#: Scores in words; another name stands as it is.
NAMES = {
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
_LOSSES = ("loss", "masked_loss")
#: Scores that are errors.
_LOWER = ("wer", "cer", *_LOSSES)
#: What was learned, in words.
_LEARNED = {
    "task": "the task",
    "hidden states": "the teacher’s hidden states",
    "logits": "the teacher’s logits",
}


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score: its name in the record, and which way is better where that is known."""

    name: str
    better: Better | None = None

    @property
    def title(self) -> str:
        """Its name in words."""
        return NAMES.get(self.name, self.name.replace("_", " "))

    @property
    def phrase(self) -> str:
        """Its name within a sentence: ``word error rate``, but ``SLU-F1``."""
        return self.title if self.title[1:2].isupper() else self.title[:1].lower() + self.title[1:]

    @property
    def direction(self) -> str:
        """Which way is better, in words."""
        return f"{self.better} is better" if self.better else ""

    @property
    def is_share(self) -> bool:
        """Whether it is written as a percentage; a loss is not."""
        return self.name not in _LOSSES

    def write(self, value: float | None) -> str:
        """A value of it: ``12.30 %``."""
        return share(value, 2) if self.is_share else figure(value, 4)

    def against(self, dense: float | None, value: float | None) -> str:
        """The difference to the dense model’s, in percentage points: ``+2.20 points``; nothing where one is missing."""
        if dense is None or value is None or not math.isfinite(value - dense):
            return ""
        gap = round(100 * (value - dense), 2) if self.is_share else value - dense
        sign = "+" if gap > 0 else MINUS if gap < 0 else ""
        return f"{sign}{abs(gap):.2f} points" if self.is_share else f"{sign}{figure(abs(gap))}"

    def judged(self, dense: float | None, value: float | None) -> str:
        """The same in words: ``2.20 points worse``."""
        difference = self.against(dense, value)
        if not difference or not self.better:
            return difference
        if difference[0] not in ("+", MINUS):
            return "unchanged"
        is_better = (difference[0] == "+") == (self.better == "higher")
        return f"{difference[1:]} {'better' if is_better else 'worse'}"


def headline_of(task: Task | None) -> Score | None:
    """The main score of a task."""
    return Score(name=task.headline, better=task.better) if task and task.headline else None


def scores_of(stages: Iterable[Stage], task: Task | None) -> list[Score]:
    """Every score of any stage, the main one first."""
    main = headline_of(task)
    names = dict.fromkeys(name for stage in stages for name in stage.scores)
    found = [main] if main and main.name in names else []
    found += [Score(name=name, better=_direction(name)) for name in names if not main or name != main.name]
    return found


def _direction(name: str) -> Better | None:
    return "lower" if name in _LOWER else "higher" if name in NAMES else None


def order_of(task: Task) -> str:
    """What the model was pruned for, the order of the work and what was learned, in one sentence."""
    kind = KINDS.get(task.kind, task.kind)
    parts = [", ".join(filter(None, (kind, task.order)))]
    if task.weights:
        learned = [f"{_LEARNED.get(name, name)} (weight {weight:g})" for name, weight in task.weights.items()]
        parts.append(f"learned from {listed(learned)}")
    return "; ".join(parts) + "."


def listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
