"""A trainer that has never heard of pruning: one loop, one checkpoint, one resume for every phase."""

from secateur.engine.compiler import check_compiler
from secateur.engine.loop import LoopConfig, LoopResult, run
from secateur.engine.optim import Optimiser, Schedule
from secateur.engine.place import made_once, process
from secateur.engine.progress import Progress
from secateur.engine.tensorboard import check_tensorboard
from secateur.engine.trainee import StepLoss, Trainee

__all__ = [
    "LoopConfig",
    "LoopResult",
    "Optimiser",
    "Progress",
    "Schedule",
    "StepLoss",
    "Trainee",
    "check_compiler",
    "check_tensorboard",
    "made_once",
    "process",
    "run",
]
