"""The trainer, independent of pruning: training loop, checkpoints and resumption, shared by all phases."""

from secateur.engine.compiler import check_compiler
from secateur.engine.distributed import process, run_on_main_rank
from secateur.engine.loop import LoopConfig, LoopResult, run
from secateur.engine.optim import OptimizerSpec, Schedule
from secateur.engine.progress import Progress
from secateur.engine.tensorboard import check_tensorboard
from secateur.engine.train_unit import StepLoss, TrainUnit

__all__ = [
    "LoopConfig",
    "LoopResult",
    "OptimizerSpec",
    "Progress",
    "Schedule",
    "StepLoss",
    "TrainUnit",
    "check_compiler",
    "check_tensorboard",
    "run_on_main_rank",
    "process",
    "run",
]
