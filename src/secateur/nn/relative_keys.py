"""Keys of relative positions: those of the distances that occur, made once for a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def relative_shift(logits: Tensor) -> Tensor:
    """Logits by distance, (B, heads, T, P), moved so that column j of every row is key j (Dai et al. 2019, B)."""
    batch, heads, time, distances = logits.shape
    if time == 1:
        return logits
    padded = F.pad(logits, (1, 0)).view(batch, heads, distances + 1, time)
    return padded[:, :, 1:].reshape(batch, heads, time, distances)


def relative_keys(
    module: nn.Module, project: Callable[[Tensor], Tensor], positions: Tensor, *, time: int, stream: Any
) -> Tensor:
    """Keys of the distances between T frames and all L that they attend to: (B, L + T - 1, keys), or (1, …).

    Stock classes make those of all 2L - 1 distances of L frames, in every step of a stream anew, though a step asks
    for L + T - 1 of them and those of the next step are the same as soon as the cache is full. Without dropout
    the rows of a batch are one.

    Args:
        module: The attention block, which has the keys of a stream for itself.
        project: What makes keys of positions.
        positions: (B, 2L - 1, D), of the longest distance ahead to the longest behind.
        time: T.
        stream: The cache of a streaming encoder, beside which keys are kept; None for a whole pass.
    """
    needed_positions = positions[: None if module.training else 1, : (positions.shape[1] - 1) // 2 + time]
    if stream is None or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return project(needed_positions)
    stream_cache = _STREAM_CACHES.setdefault(stream, WeakKeyDictionary())
    cache_key = positions.shape[1], time, positions.dtype, positions.device
    if module not in stream_cache or stream_cache[module][0] != cache_key:
        stream_cache[module] = cache_key, project(needed_positions)
    return stream_cache[module][1]


#: Keys by stream and attention block, as long as both live.
_STREAM_CACHES: WeakKeyDictionary[Any, WeakKeyDictionary[nn.Module, tuple[Any, Tensor]]] = WeakKeyDictionary()
