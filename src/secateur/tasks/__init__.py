"""Tasks for pruning and pre-training an encoder: each a config, a loss and a metric.

Names are imported on first use, so that BEST-RQ does not require the metric libraries of the other tasks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.tasks.best_rq_task import BestRq
    from secateur.tasks.classification import Classification
    from secateur.tasks.ctc import Ctc
    from secateur.tasks.rnnt import Rnnt
    from secateur.tasks.slu import Slu
    from secateur.tasks.task import EncoderInfo, FilteredCorpus, Metric, StepTargets, Task, UtteranceTargets
    from secateur.tasks.task_config import TaskConfig, build_task

_MODULES = {
    "BestRq": "best_rq_task",
    "Classification": "classification",
    "Ctc": "ctc",
    "EncoderInfo": "task",
    "FilteredCorpus": "task",
    "Metric": "task",
    "Rnnt": "rnnt",
    "Slu": "slu",
    "StepTargets": "task",
    "Task": "task",
    "TaskConfig": "task_config",
    "UtteranceTargets": "task",
    "build_task": "task_config",
}

__all__ = [
    "BestRq",
    "Classification",
    "Ctc",
    "EncoderInfo",
    "FilteredCorpus",
    "Metric",
    "Rnnt",
    "Slu",
    "StepTargets",
    "Task",
    "TaskConfig",
    "UtteranceTargets",
    "build_task",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
