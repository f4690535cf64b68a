"""Positions for inference: the positional convolution, and WavLM's bias as one vector for each head."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.inference.linear import Prepared, channels_last, convolution, is_eager
from secateur.modules.attention import bias_by_distance
from secateur.modules.positions import CutPositionalConv, gather, scatter

_LONG = 32  # taps


class PositionalConv(nn.Module):
    """What the positional convolution computes, stock or cut, its weight norm folded.

    Its many taps make it a fifth of the arithmetic of a small model. On a CPU it is done by blocks of frames in the
    frequency domain (overlap-save), with spectra of the taps computed once: twice the taps' own memory, a thirtieth
    of their products.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, stock: Any) -> None:
        """
        Args:
            stock: A positional convolution of the library or ours, with GELU behind it.
        """
        super().__init__()
        self.register_buffer("weight", channels_last(stock.conv.weight))
        self.register_buffer("bias", None if stock.conv.bias is None else stock.conv.bias.detach())
        self.padding, self.groups = stock.conv.padding[0], stock.conv.groups
        self.kept = stock.shape if isinstance(stock, CutPositionalConv) else None
        self.taps: int = stock.conv.kernel_size[0]
        self._spectra = Prepared(partial(_spectra, groups=self.groups))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        if self.kept is None:
            return self._convolved(hidden_states)
        return scatter(self._convolved(gather(hidden_states, self.kept)), self.kept)

    def _convolved(self, hidden_states: Tensor) -> Tensor:
        """The channels of the groups that are there: (B, T, K) -> (B, T, K)."""
        time = hidden_states.shape[1]
        if is_eager(hidden_states) and self.taps >= _LONG and 2 * time >= self.taps:
            return self._by_blocks(hidden_states)
        out = convolution(
            hidden_states.contiguous(),
            self.weight,
            self.bias,
            padding=self.padding,
            groups=self.groups,
            activation="gelu",
        )
        return out[:, :time]  # an even number of taps gives one frame more

    def _by_blocks(self, hidden_states: Tensor) -> Tensor:
        batch, time, width = hidden_states.shape
        exact = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
        size = 2 * self.taps
        new = size - self.taps + 1  # frames that a block gives
        blocks = -(-time // new)
        behind = blocks * new + self.taps - 1 - time - self.padding
        padded = F.pad(exact.transpose(1, 2), (self.padding, behind))
        spectrum = torch.fft.rfft(padded.unfold(2, size, new))  # (B, D, blocks, bins)
        split = spectrum.view(batch, self.groups, -1, blocks, spectrum.shape[-1])
        rows = split.permute(4, 1, 0, 3, 2).flatten(0, 1).flatten(1, 2)  # (bins x groups, B x blocks, in)
        product = torch.bmm(rows, self._spectra(self.weight))
        back = product.view(-1, self.groups, batch, blocks, product.shape[-1]).permute(2, 1, 4, 3, 0)
        out = torch.fft.irfft(back, n=size)[..., :new].reshape(batch, width, -1)[..., :time]
        dense = out.transpose(1, 2).contiguous()
        return F.gelu(dense if self.bias is None else dense.add_(self.bias)).to(hidden_states.dtype)


def _spectra(weight: Tensor, *, groups: int) -> Tensor:
    """(out, in / groups, 1, taps) -> factors for blocks of twice as many frames, (bins x groups, in, out)."""
    out, width, _, taps = weight.shape
    dtype = torch.complex128 if weight.dtype == torch.float64 else torch.complex64
    found = torch.empty(taps + 1, groups, width, out // groups, dtype=dtype)
    for group, own in enumerate(weight[:, :, 0].chunk(groups)):  # one by one: in double precision all are a lot
        # Its conjugate, as torch's convolution does not turn its taps round.
        found[:, group] = torch.fft.rfft(own.double(), n=2 * taps).conj().permute(2, 1, 0)
    return found.flatten(0, 1)


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
