"""Time spent in the blocks of an encoder while it runs, by where they lie in the stock classes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: What is no block of a layer, but is told apart too.
OUTSIDE = ("feature_extractor", "feature_projection", "encoder.pos_conv_embed")


def blocks_of(model: Any) -> dict[str, Any]:
    """The blocks of a base model by module path, in the order of the data."""
    from secateur.arch import declare

    modules = dict(model.named_modules())
    blocks = [axis.path for axis in declare(model.config).of_kinds(("block",))]
    return {path: modules[path] for path in (*OUTSIDE, *blocks) if path in modules}


@contextmanager
def watched(model: Any) -> Iterator[dict[str, float]]:
    """Seconds that each block took in the last forward pass, by module path, while the context lasts."""
    spent: dict[str, float] = {}
    started: dict[str, float] = {}
    hooks = []
    for name, module in blocks_of(model).items():

        def begin(*_: Any, name: str = name) -> None:
            started[name] = time.perf_counter()

        def end(*_: Any, name: str = name) -> None:
            spent[name] = time.perf_counter() - started[name]

        hooks += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    try:
        yield spent
    finally:
        for hook in hooks:
            hook.remove()
