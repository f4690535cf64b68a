"""secateur: prune a pretrained speech encoder into a smaller and faster drop-in model.

Importing it registers the classes of cut models with `transformers`, now or as soon as that is imported, and does
nothing else; the public functions are loaded when they are first used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from secateur.errors import SecateurError
from secateur.hf.register import install

if TYPE_CHECKING:
    from secateur.inference import for_inference
    from secateur.pipeline import (
        bench,
        choose,
        doctor,
        evaluate,
        export,
        pretrain,
        profile,
        prune,
        report,
        shrink,
        sweep,
        verify,
    )

__version__ = "0.2.0"
__all__ = [
    "SecateurError",
    "bench",
    "choose",
    "doctor",
    "evaluate",
    "export",
    "for_inference",
    "pretrain",
    "profile",
    "prune",
    "report",
    "shrink",
    "sweep",
    "verify",
]

install()


class _Package(ModuleType):
    """Module type that keeps a function where a sub-package has the same name: `doctor`, `export` and `report`."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing a sub-package sets it as an attribute of its parent; `sys.modules` still has it.
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in __all__:
        module_name = "secateur.inference" if name == "for_inference" else "secateur.pipeline"
        return getattr(importlib.import_module(module_name), name)
    raise AttributeError(f"module 'secateur' has no attribute {name!r}")
