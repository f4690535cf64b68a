"""Texts about the task: names and directions of the scores, and the parts of the loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from secateur.records.run import StageRecord, TaskRecord
from secateur.records.score import Direction, ScoreInfo, find_score_info
from secateur.report.formatting import MINUS, format_number, format_percent

#: Names of the parts of the loss in a sentence.
_LOSS_TERM_LABELS = {
    "task": "the task",
    "hidden states": "the teacher’s hidden states",
    "logits": "the teacher’s logits",
}


@dataclass(frozen=True, kw_only=True)
class Score:
    """Score with the name in the record and the presentation."""

    name: str
    info: ScoreInfo

    @property
    def title(self) -> str:
        """Name for people, such as ``Word error rate``."""
        return self.info.title

    @property
    def direction(self) -> Direction | None:
        """Direction of improvement; `None` if unknown."""
        return self.info.direction

    @property
    def phrase(self) -> str:
        """Name within a sentence: ``word error rate``, but ``SLU-F1``."""
        # A second capital marks an abbreviation, which keeps its case.
        return self.title if self.title[1:2].isupper() else self.title[:1].lower() + self.title[1:]

    @property
    def direction_text(self) -> str:
        """Direction as a phrase, such as ``lower is better``; empty if unknown."""
        return f"{self.direction} is better" if self.direction else ""

    @property
    def is_share(self) -> bool:
        """True if the score is shown in percent; a loss is not."""
        return self.info.is_share

    def format(self, value: float | None) -> str:
        """Format a value of the score: ``12.30 %``."""
        return format_percent(value, 2) if self.is_share else format_number(value, 4)

    def format_difference(self, dense: float | None, value: float | None) -> str:
        """Format the difference to the score of the dense model: ``+2.20 points``; empty if a score is missing."""
        if dense is None or value is None or not math.isfinite(value - dense):
            return ""
        # Rounded before the sign is chosen, so that +0.001 points read as unchanged.
        difference = round(100 * (value - dense), 2) if self.is_share else value - dense
        sign = "+" if difference > 0 else MINUS if difference < 0 else ""
        return f"{sign}{abs(difference):.2f} points" if self.is_share else f"{sign}{format_number(abs(difference))}"

    def describe_difference(self, dense: float | None, value: float | None) -> str:
        """Describe the difference to the score of the dense model: ``2.20 points worse``."""
        difference = self.format_difference(dense, value)
        if not difference or not self.direction:
            return difference
        if difference[0] not in ("+", MINUS):
            return "unchanged"
        # A plus is an improvement if higher is better, a minus if lower is better.
        is_improvement = (difference[0] == "+") == (self.direction == "higher")
        return f"{difference[1:]} {'better' if is_improvement else 'worse'}"


def primary_score(task: TaskRecord | None) -> Score | None:
    """Return the primary score of a task."""
    if not task or not task.headline:
        return None
    return Score(name=task.headline, info=find_score_info(task.headline, task.score_info, direction=task.better))


def list_scores(stages: Iterable[StageRecord], task: TaskRecord | None) -> list[Score]:
    """Return the scores of all stages without duplicates, the primary score first."""
    primary = primary_score(task)
    declared = task.score_info if task else {}
    names = dict.fromkeys(name for stage in stages for name in stage.scores)
    scores = [Score(name=name, info=find_score_info(name, declared)) for name in names]
    if primary is None or primary.name not in names:
        return scores
    return [primary, *(score for score in scores if score.name != primary.name)]


def describe_task(task: TaskRecord) -> str:
    """Describe the task, the order of the phases and the parts of the loss in a sentence."""
    parts = [", ".join(filter(None, (task.title or task.kind, task.order)))]
    if task.weights:
        loss_terms = [
            f"{_LOSS_TERM_LABELS.get(name, name)} (weight {weight:g})" for name, weight in task.weights.items()
        ]
        parts.append(f"learned from {join_words(loss_terms)}")
    return "; ".join(parts) + "."


def join_words(words: Sequence[str]) -> str:
    """Join words to ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
