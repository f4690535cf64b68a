"""Registration with `transformers` when it is there, and not before: importing us must not import it.

The two modules that hold the Auto mappings are watched; as soon as one has been imported, by whoever, the classes of cut
models are added to it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def _configs() -> None:
    from secateur.modules.configs import register_configs

    register_configs()


def _models() -> None:
    from secateur.modules.models import register

    register()


_WATCHED = {
    "transformers.models.auto.configuration_auto": _configs,
    "transformers.models.auto.modeling_auto": _models,
}


class _AfterImport(Loader):
    """A loader that calls a function once its module is there."""

    def __init__(self, loader: Loader, name: str) -> None:
        self.loader = loader
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _WATCHED[self.name]()


class _Watcher(MetaPathFinder):
    """Finds nothing itself; wraps the loaders of the watched modules."""

    def __init__(self) -> None:
        self.asking = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _WATCHED or self.asking:
            return None
        self.asking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _AfterImport(spec.loader, fullname)
        return spec


def install() -> None:
    """Register now where the mappings are loaded already, and watch for the others."""
    for name, function in _WATCHED.items():
        if name in sys.modules:
            function()
    if not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())
