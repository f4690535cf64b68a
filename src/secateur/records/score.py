"""Names, directions and formats of a task's scores for the report and the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Direction = Literal["lower", "higher"]


@dataclass(frozen=True, kw_only=True)
class ScoreInfo:
    """Presentation of a score.

    Attributes:
        title: Name for people, such as ``Word error rate``.
        direction: Direction in which the score improves; None where unknown.
        is_share: Whether the score is a share of one and is shown in percent; a loss is not.
    """

    title: str
    direction: Direction | None = None
    is_share: bool = True


#: Distillation loss on held-out audio, by which runs without a task are compared.
HELD_OUT_LOSS = ScoreInfo(title="Held-out loss", direction="lower", is_share=False)


def find_score_info(name: str, declared: Mapping[str, ScoreInfo], *, direction: Direction | None = None) -> ScoreInfo:
    """Return the presentation of a score, as declared by the record or derived from the name.

    Records written before tasks declared their scores have the names alone. A name that ends in ``loss`` is no share.

    Args:
        name: Name of the score in the record.
        declared: Declarations of the record, by name.
        direction: Direction of an undeclared score.
    """
    if name in declared:
        return declared[name]
    if name == "loss":
        return HELD_OUT_LOSS
    return ScoreInfo(title=name.replace("_", " "), direction=direction, is_share=not name.endswith("loss"))
