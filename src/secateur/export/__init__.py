"""Registry of export targets, which are forms of a model for programs such as `transformers`.

A new target is a file in this folder with a subclass of `ExportTarget`, and a line in `TARGETS`.
"""

from __future__ import annotations

import importlib

from secateur.errors import ConfigError, did_you_mean
from secateur.export.target import Exported, ExportTarget

__all__ = ["TARGETS", "ExportTarget", "Exported", "find_target"]

#: Class of each target by the target's name, as ``module:class``; the module is imported when the target is used.
TARGETS: dict[str, str] = {
    "stock": "secateur.export.stock:StockTarget",
}


def find_target(name: str) -> ExportTarget:
    """Return the target of a name.

    Raises:
        ConfigError: There is no such target.
    """
    if name not in TARGETS:
        allowed = ", ".join(TARGETS)
        raise ConfigError(f"Unknown export target {name!r}; allowed: {allowed}.{did_you_mean(name, TARGETS)}")
    module_name, class_name = TARGETS[name].split(":")
    target: ExportTarget = getattr(importlib.import_module(module_name), class_name)()
    return target
