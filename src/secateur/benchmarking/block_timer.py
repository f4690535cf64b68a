"""Time spent in the blocks of an encoder during a forward pass, by module path."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Kinds of blocks with a time of their own, by the last part of their path.
BLOCK_KINDS = {
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
# Matches "feature_extractor", "encoder.pos_conv_embed" and "encoder.layers.3.attention", and no module inside a block.
_BLOCK_PATH = re.compile(rf"(encoder\.)?(layers\.\d+\.)?({'|'.join(BLOCK_KINDS)})")


def timed_blocks(model: Any) -> dict[str, Any]:
    """Return the blocks of a base model by module path."""
    return {path: module for path, module in model.named_modules() if _BLOCK_PATH.fullmatch(path)}


@contextmanager
def block_timer(model: Any) -> Iterator[dict[str, float]]:
    """Yield a dict of the seconds of each block in the latest forward pass, by module path."""
    block_seconds: dict[str, float] = {}
    start_times: dict[str, float] = {}
    hooks = []
    for name, module in timed_blocks(model).items():
        # A default binds the name of this block; a closure would read the name of the last.
        def start_timer(*_: Any, name: str = name) -> None:
            start_times[name] = time.perf_counter()

        def stop_timer(*_: Any, name: str = name) -> None:
            block_seconds[name] = time.perf_counter() - start_times[name]

        hooks += [module.register_forward_pre_hook(start_timer), module.register_forward_hook(stop_timer)]
    try:
        yield block_seconds
    finally:
        for hook in hooks:
            hook.remove()
