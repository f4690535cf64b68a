"""Keys of relative positions, computed for the distances that occur and once per stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def relative_shift(logits: Tensor) -> Tensor:
    """Shift logits by distance, (B, heads, T, P), so that column j of every row is key j (Dai et al. 2019, appendix B).

    Example with T = 2 and P = 3 distances, the farthest behind first: rows a b c and d e f become b c 0 and d e f, of
    which columns 0 and 1 are the keys. Query 0 reads b (distance 0) and c (one frame ahead).
    """
    batch, heads, time, distances = logits.shape
    if time == 1:
        return logits
    padded = F.pad(logits, (1, 0)).view(batch, heads, distances + 1, time)
    return padded[:, :, 1:].reshape(batch, heads, time, distances)


def relative_keys(
    module: nn.Module, project: Callable[[Tensor], Tensor], positions: Tensor, *, time: int, stream: Any
) -> Tensor:
    """Return keys of the distances between T queries and L attended frames: (B, L + T - 1, keys), or (1, …).

    Stock classes compute the keys of all 2L - 1 distances of L frames at every step of a stream, though a step needs
    L + T - 1 of these keys, which are the same at the next step as soon as the cache is full. Without dropout, the
    rows of a batch are equal.

    Args:
        module: The attention block, with its own keys of a stream.
        project: Linear map from positions to keys.
        positions: (B, 2L - 1, D), from the farthest behind to the farthest ahead.
        time: T.
        stream: The cache of a streaming encoder, to which the keys belong; None for a whole pass.
    """
    needed_positions = positions[: None if module.training else 1, : (positions.shape[1] - 1) // 2 + time]
    if stream is None or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return project(needed_positions)
    stream_cache = _STREAM_CACHES.setdefault(stream, WeakKeyDictionary())
    cache_key = positions.shape[1], time, positions.dtype, positions.device
    if module not in stream_cache or stream_cache[module][0] != cache_key:
        stream_cache[module] = cache_key, project(needed_positions)
    return stream_cache[module][1]


#: Keys by stream and attention block, as long as both exist.
_STREAM_CACHES: WeakKeyDictionary[Any, WeakKeyDictionary[nn.Module, tuple[Any, Tensor]]] = WeakKeyDictionary()
