"""Registration with `transformers` as soon as `transformers` is imported, without importing the library.

A finder on `sys.meta_path` watches imports of transformers until the module with `AutoConfig`'s mapping is loaded and
no import of transformers is in progress; then the configs of cut models are registered. Registration within an import
would be too early, because other modules of transformers cannot be imported at that time. Model classes are registered
when the first config of a family is made.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_MAPPING = "transformers.models.auto.configuration_auto"


class _CountingLoader(Loader):
    """Wrapper of a module's loader that counts nested imports."""

    def __init__(self, loader: Loader, watcher: _ImportWatcher) -> None:
        self.loader = loader
        self.watcher = watcher

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.watcher.depth += 1
        try:
            self.loader.exec_module(module)
        finally:
            self.watcher.depth -= 1
        self.watcher.register_if_ready()


class _ImportWatcher(MetaPathFinder):
    """Finder that delegates to the remaining finders and counts nested imports of transformers."""

    def __init__(self) -> None:
        self.depth = 0

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "transformers":
            return None
        for finder in sys.meta_path:
            spec = None if isinstance(finder, _ImportWatcher) else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _CountingLoader(spec.loader, self)
                return spec
        return None

    def register_if_ready(self) -> None:
        """Register and stop watching if the mapping is loaded and no import is in progress."""
        if self.depth == 0 and _MAPPING in sys.modules and self in sys.meta_path:
            sys.meta_path.remove(self)
            _register()


def _register() -> None:
    from secateur.hf.configs import register_configs

    register_configs()


def install() -> None:
    """Register now if the mapping is loaded, else as soon as the mapping is loaded."""
    if _MAPPING in sys.modules:
        _register()
    elif not any(isinstance(finder, _ImportWatcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ImportWatcher())
