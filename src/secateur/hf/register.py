"""Registration with `transformers` when it is there, and not before: importing us must not import it.

The library's imports are watched until one that brought `AutoConfig`'s mapping along has ended; then the configs of
cut models are added to it. Not sooner: the library loads that mapping in the middle of loading whatever was asked for
first, when its other modules cannot be imported yet. Model classes follow when a family's first config is made.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_MAPPING = "transformers.models.auto.configuration_auto"


class _CountingLoader(Loader):
    """A module's own loader, with the imports that it is in the middle of counted."""

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
    """Finds what the other finders find, and counts how deep in the library's imports we are."""

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
        """Register, and watch no longer, once no import is under way and the mapping is there."""
        if self.depth == 0 and _MAPPING in sys.modules and self in sys.meta_path:
            sys.meta_path.remove(self)
            _register()


def _register() -> None:
    from secateur.hf.configs import register_configs

    register_configs()


def install() -> None:
    """Register now where the mapping is loaded already, else as soon as it is."""
    if _MAPPING in sys.modules:
        _register()
    elif not any(isinstance(finder, _ImportWatcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ImportWatcher())
