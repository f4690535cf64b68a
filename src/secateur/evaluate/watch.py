"""Time spent in the blocks of an encoder while it runs, by where they lie in the stock classes."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Kinds of blocks whose time is told apart, by the last word of their path.
BLOCKS = {
    "feature_extractor": "front end",
    "subsampling": "front end",
    "feature_projection": "projection",
    "pos_conv_embed": "positional conv",
    "attention": "attention",
    "self_attn": "attention",
    "conv_module": "convolution",
    "conv": "convolution",
    "feed_forward": "feed-forward",
    "feed_forward1": "feed-forward",
    "feed_forward2": "feed-forward",
    "ffn1": "feed-forward",
    "ffn2": "feed-forward",
}
_BLOCK = re.compile(rf"(encoder\.)?(layers\.\d+\.)?({'|'.join(BLOCKS)})")


def blocks_of(model: Any) -> dict[str, Any]:
    """The blocks of a base model by module path."""
    return {path: module for path, module in model.named_modules() if _BLOCK.fullmatch(path)}


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
