"""Tasks that an encoder is pruned with, or pre-trained by: each a config, a loss and a metric.

Names load when they are used, so that BEST-RQ alone asks for none of the libraries that the others score with.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.objective.tasks.build import TaskConfig, build_task
    from secateur.objective.tasks.classification import Classification
    from secateur.objective.tasks.ctc import Ctc
    from secateur.objective.tasks.guessing import BestRq, Surroundings
    from secateur.objective.tasks.rnnt import Rnnt
    from secateur.objective.tasks.slu import Slu
    from secateur.objective.tasks.task import Lesson, Scorer, Task, Told, Usable

_HOME = {
    "BestRq": "guessing",
    "Classification": "classification",
    "Ctc": "ctc",
    "Lesson": "task",
    "Rnnt": "rnnt",
    "Scorer": "task",
    "Slu": "slu",
    "Surroundings": "guessing",
    "Task": "task",
    "TaskConfig": "build",
    "Told": "task",
    "Usable": "task",
    "build_task": "build",
}

__all__ = [
    "BestRq",
    "Classification",
    "Ctc",
    "Lesson",
    "Rnnt",
    "Scorer",
    "Slu",
    "Surroundings",
    "Task",
    "TaskConfig",
    "Told",
    "Usable",
    "build_task",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
