"""Timer of the blocks of an encoder during a forward pass."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from secateur.structure import Block


@contextmanager
def block_timer(model: Any, blocks: Sequence[Block]) -> Iterator[dict[Block, float]]:
    """Yield a mapping that holds the seconds of each block in the last forward pass, while the context lasts.

    Args:
        model: A base model.
        blocks: Blocks of its structure, none inside another; blocks that the model has lost are left out.
    """
    block_seconds: dict[Block, float] = {}
    start_times: dict[Block, float] = {}
    modules = dict(model.named_modules())
    hooks = []
    for block in blocks:
        if block.path not in modules:
            continue

        # A default binds this block; a closure would read the block of the last iteration.
        def start_timer(*_: Any, block: Block = block) -> None:
            start_times[block] = time.perf_counter()

        def stop_timer(*_: Any, block: Block = block) -> None:
            block_seconds[block] = time.perf_counter() - start_times[block]

        module = modules[block.path]
        hooks += [module.register_forward_pre_hook(start_timer), module.register_forward_hook(stop_timer)]
    try:
        yield block_seconds
    finally:
        for hook in hooks:
            hook.remove()
