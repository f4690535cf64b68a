"""Positions for inference: the positional convolution, and WavLM's bias as one vector for each head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur.inference.linear import channels_last, convolution
from secateur.modules.attention import bias_by_distance


class PositionalConv(nn.Module):
    """What the stock positional convolution computes, its weight norm folded."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, stock: Any) -> None:
        """
        Args:
            stock: A positional convolution of the library, with GELU behind it.
        """
        super().__init__()
        self.register_buffer("weight", channels_last(stock.conv.weight))
        self.register_buffer("bias", None if stock.conv.bias is None else stock.conv.bias.detach())
        self.padding, self.groups = stock.conv.padding[0], stock.conv.groups

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        time = hidden_states.shape[1]
        out = convolution(
            hidden_states.contiguous(),
            self.weight,
            self.bias,
            padding=self.padding,
            groups=self.groups,
            activation="gelu",
        )
        return out[:, :time]  # an even number of taps gives one frame more


class RelativePositions(nn.Module):
    """WavLM's position bias by distance, of every original head; kept for the lengths that came last."""

    KEPT = 8
    table: Tensor

    def __init__(self, table: Tensor, *, farthest: int) -> None:
        """
        Args:
            table: (buckets, H).
            farthest: Distances from here on share a bucket.
        """
        super().__init__()
        self.register_buffer("table", table.detach())
        self.farthest = farthest
        self._seen: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}

    def forward(self, time: int) -> Tensor:
        """(H, 2T - 1): at n the bias of query i and key T - 1 - r with i + r = n.

        With the keys in reverse order the whole (T, T) bias of a head is a view of its vector: row i, column r is
        element i + r.
        """
        if torch.compiler.is_compiling():  # a dictionary would make a graph of its own for every length
            return self._values(time)
        key = (time, self.table.device, self.table.dtype)
        found = self._seen.get(key)
        if found is None:
            found = self._values(time)
            while len(self._seen) >= self.KEPT:
                self._seen.pop(next(iter(self._seen)), None)
            self._seen[key] = found
        return found

    def _values(self, time: int) -> Tensor:
        return bias_by_distance(self.table, time, farthest=self.farthest).flip(1).contiguous()
