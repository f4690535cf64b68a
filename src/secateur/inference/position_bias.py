"""Positional convolution and relative position bias for inference."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.inference.linear import CachedWeight, channels_last, convolution, is_eager
from secateur.nn.attention import bias_by_distance
from secateur.nn.positional_conv import CutPositionalConv, gather_groups, scatter_groups

_MIN_FFT_TAPS = 32  # taps


class InferencePositionalConv(nn.Module):
    """Replacement of the stock or cut positional convolution, with the weight norm folded into the weight.

    With its many taps the convolution is a fifth of the arithmetic of a small model. On a CPU it is computed by blocks
    of frames in the frequency domain (overlap-save), with spectra of the taps computed once: twice the memory of the
    taps and a thirtieth of the multiplications.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, stock: Any) -> None:
        """
        Args:
            stock: A stock or cut positional convolution, with GELU behind it.
        """
        super().__init__()
        self.register_buffer("weight", channels_last(stock.conv.weight))
        self.register_buffer("bias", None if stock.conv.bias is None else stock.conv.bias.detach())
        self.padding, self.groups = stock.conv.padding[0], stock.conv.groups
        self.cut_shape = stock.shape if isinstance(stock, CutPositionalConv) else None
        self.taps: int = stock.conv.kernel_size[0]
        self._spectra = CachedWeight(partial(_spectra, groups=self.groups))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Apply the convolution, (B, T, D) -> (B, T, D)."""
        if self.cut_shape is None:
            return self._convolve(hidden_states)
        return scatter_groups(self._convolve(gather_groups(hidden_states, self.cut_shape)), self.cut_shape)

    def _convolve(self, hidden_states: Tensor) -> Tensor:
        """Convolve the channels of the remaining groups: (B, T, K) -> (B, T, K)."""
        time = hidden_states.shape[1]
        if is_eager(hidden_states) and self.taps >= _MIN_FFT_TAPS and 2 * time >= self.taps:
            return self._convolve_by_fft(hidden_states)
        out = convolution(
            hidden_states.contiguous(),
            self.weight,
            self.bias,
            padding=self.padding,
            groups=self.groups,
            activation="gelu",
        )
        return out[:, :time]  # an even number of taps gives one frame more

    def _convolve_by_fft(self, hidden_states: Tensor) -> Tensor:
        batch, time, width = hidden_states.shape
        promoted = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
        size = 2 * self.taps
        block_frames = size - self.taps + 1  # valid output frames of a block
        blocks = -(-time // block_frames)
        # With 4 taps, blocks of 8 frames yield 5 each: 12 frames need 3 blocks, whose inputs start at 0, 5 and 10.
        right_padding = blocks * block_frames + self.taps - 1 - time - self.padding
        padded = F.pad(promoted.transpose(1, 2), (self.padding, right_padding))
        spectrum = torch.fft.rfft(padded.unfold(2, size, block_frames))  # (B, D, blocks, bins)
        split = spectrum.view(batch, self.groups, -1, blocks, spectrum.shape[-1])
        rows = split.permute(4, 1, 0, 3, 2).flatten(0, 1).flatten(1, 2)  # (bins x groups, B x blocks, in)
        product = torch.bmm(rows, self._spectra(self.weight))
        output_spectrum = product.view(-1, self.groups, batch, blocks, product.shape[-1]).permute(2, 1, 4, 3, 0)
        out = torch.fft.irfft(output_spectrum, n=size)[..., :block_frames].reshape(batch, width, -1)[..., :time]
        dense = out.transpose(1, 2).contiguous()
        return F.gelu(dense if self.bias is None else dense.add_(self.bias)).to(hidden_states.dtype)


def _spectra(weight: Tensor, *, groups: int) -> Tensor:
    """Return the spectra of the taps: (out, in / groups, 1, taps) -> (bins x groups, in, out).

    Blocks have twice as many frames as there are taps, hence taps + 1 bins.
    """
    out, width, _, taps = weight.shape
    dtype = torch.complex128 if weight.dtype == torch.float64 else torch.complex64
    spectra = torch.empty(taps + 1, groups, width, out // groups, dtype=dtype)
    # Group by group, since all groups in double precision would take much memory.
    for group, group_weight in enumerate(weight[:, :, 0].chunk(groups)):
        # The conjugate, since a convolution of torch is a correlation: it does not reverse the taps.
        spectra[:, group] = torch.fft.rfft(group_weight.double(), n=2 * taps).conj().permute(2, 1, 0)
    return spectra.flatten(0, 1)


class RelativePositionBias(nn.Module):
    """WavLM's position bias by distance for every original head, cached for recent lengths."""

    MAX_CACHED_LENGTHS = 8
    table: Tensor

    def __init__(self, table: Tensor, *, farthest: int) -> None:
        """
        Args:
            table: Bias of each bucket of distances, (buckets, H).
            farthest: Distance from which on all distances share a bucket.
        """
        super().__init__()
        self.register_buffer("table", table.detach())
        self.farthest = farthest
        self._cache: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}

    def forward(self, time: int) -> Tensor:
        """Return the bias by distance, (H, 2T - 1): element n is the bias of query i and key T - 1 - r with i + r = n.

        With the keys in reverse order the whole (T, T) bias of a head is a view of its vector: row i, column r is
        element i + r.
        """
        if torch.compiler.is_compiling():  # a lookup in the cache would compile a graph for every length
            return self._compute_bias(time)
        key = (time, self.table.device, self.table.dtype)
        bias = self._cache.get(key)
        if bias is None:
            bias = self._compute_bias(time)
            while len(self._cache) >= self.MAX_CACHED_LENGTHS:
                self._cache.pop(next(iter(self._cache)), None)
            self._cache[key] = bias
        return bias

    def _compute_bias(self, time: int) -> Tensor:
        return bias_by_distance(self.table, time, max_distance=self.farthest).flip(1).contiguous()
