"""The public verbs, as the command line calls them: a config in, a record out, with late imports of torch."""

from secateur.pipeline.model_verbs import bench, doctor, evaluate, export, profile, shrink, verify
from secateur.pipeline.run_folder import RECIPES
from secateur.pipeline.run_verbs import choose, pretrain, prune, report, sweep

__all__ = [
    "RECIPES",
    "bench",
    "choose",
    "doctor",
    "evaluate",
    "export",
    "pretrain",
    "profile",
    "prune",
    "report",
    "shrink",
    "sweep",
    "verify",
]
