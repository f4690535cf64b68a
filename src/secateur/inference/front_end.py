"""Convolutional front end for inference: channels last, utterance by utterance, first layer as a matrix product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.inference.linear import (
    BLOCK_ROWS,
    Activation,
    CachedWeight,
    channels_last,
    convolution,
    fused_linear,
    is_eager,
    is_fused,
    linear_activation,
    pack,
)
from secateur.nn.norm import ValidGroupNorm

_MIN_MATMUL_CHANNELS = (
    400  # channels from which on products are faster than oneDNN's convolution (`benchmarks/convolution.py`)
)


class FrontEnd(nn.Module):
    """Replacement of the stock feature extractor with the same outputs.

    Layer 0 of a Base model is bound by memory traffic: its GroupNorm needs the mean and the variance over time of every
    channel before the first output can be written. The mean and variance of a linear map follow from the mean and the
    covariance of its ten inputs, so that convolution, norm and activation become one matrix product.
    """

    def __init__(self, stock: Any) -> None:
        """
        Args:
            stock: A feature extractor of transformers, with GELU after each layer.
        """
        super().__init__()
        first_layer = stock.conv_layers[0]
        self.leaves_padding_out = isinstance(_layer_norm(first_layer), ValidGroupNorm)
        self.lengths: Tensor | None = None
        self.first = (
            _FirstGroupNorm(first_layer)
            if isinstance(_layer_norm(first_layer), nn.GroupNorm)
            else _ConvLayer(first_layer)
        )
        self.later_layers = nn.ModuleList([_ConvLayer(layer) for layer in stock.conv_layers[1:]])

    def forward(self, input_values: Tensor) -> Tensor:
        """Compute features, (B, S) -> (B, C, T), channels last in memory.

        Where `lengths`, (B,), is set, padding is left out of the norm's statistics, as by `ValidGroupNorm`.
        """
        if self.leaves_padding_out and self.lengths is not None:
            samples = zip(input_values, self.lengths.tolist(), strict=True)
            valid = [self._features(values[None, :length])[0] for values, length in samples]
            return nn.utils.rnn.pad_sequence(valid, batch_first=True).transpose(1, 2)
        if not is_eager(input_values):
            return self._features(input_values).transpose(1, 2)
        utterances = [self._features(values[None]) for values in input_values]
        return (utterances[0] if len(utterances) == 1 else torch.cat(utterances)).transpose(1, 2)

    def _freeze_parameters(self) -> None:
        """Do nothing: task heads of transformers call the method, and the parameters are never trained."""

    def _features(self, values: Tensor) -> Tensor:
        """Compute features, (B, S) -> (B, T, C)."""
        hidden: Tensor = self.first(values[:, :, None])
        for layer in self.later_layers:
            hidden = layer(hidden)
        return hidden


class _ConvLayer(nn.Module):
    """Convolution with or without a LayerNorm over channels, and GELU."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, stock: Any) -> None:
        super().__init__()
        convolution_ = stock.conv
        self.register_buffer("weight", channels_last(convolution_.weight))
        self.register_buffer("bias", None if convolution_.bias is None else convolution_.bias.detach())
        self.stride: int = convolution_.stride[0]
        self.norm = _layer_norm(stock)
        self._packed = CachedWeight(_pack_conv_weight)

    def forward(self, values: Tensor) -> Tensor:
        """Apply the layer, (B, T, in) -> (B, T', out)."""
        if self.norm is None:
            return self._convolve(values, "gelu")
        hidden: Tensor = self.norm(self._convolve(values, "none"))
        return F.gelu(hidden)

    def _convolve(self, values: Tensor, activation: Activation) -> Tensor:
        if self.weight.shape[1] >= _MIN_MATMUL_CHANNELS and is_fused(values):
            products = [self._convolve_by_matmul(frames, activation) for frames in values.contiguous()]
            return torch.stack(products) if len(products) > 1 else products[0][None]
        return convolution(values, self.weight, self.bias, stride=self.stride, activation=activation)

    def _convolve_by_matmul(self, frames: Tensor, activation: Activation) -> Tensor:
        """Convolve by a matrix product of overlapping windows and weights: (T, in) -> (T', out).

        With 2 taps, stride 2 and frames a, b, c, d of width 3 the windows are the rows [a b] and [c d], (2, 6): views
        of the frames' memory without a copy.
        """
        time, width = frames.shape
        taps = self.weight.shape[-1]
        windows = frames.as_strided(((time - taps) // self.stride + 1, taps * width), (self.stride * width, 1))
        weight = self._packed(self.weight)
        out = frames.new_empty(len(windows), len(self.weight))
        for window_block, out_block in zip(windows.split(BLOCK_ROWS), out.split(BLOCK_ROWS), strict=True):
            out_block.copy_(fused_linear(window_block.contiguous(), weight, self.bias, activation))
        return out


def _pack_conv_weight(weight: Tensor) -> Tensor:
    """Return the weights of the matrix product, (out, in, 1, taps) -> (out, taps x in), in oneDNN's layout."""
    return pack(weight[:, :, 0].transpose(1, 2).flatten(1))


class _FirstGroupNorm(nn.Module):
    """Convolution, GroupNorm with a single channel per group, and GELU."""

    weight: Tensor
    gain: Tensor
    shift: Tensor

    def __init__(self, stock: Any) -> None:
        super().__init__()
        norm = _layer_norm(stock)
        self.register_buffer("weight", stock.conv.weight.detach()[:, 0])  # (C, taps); a bias would not pass the norm
        self.register_buffer("gain", norm.weight.detach())
        self.register_buffer("shift", norm.bias.detach())
        self.taps, self.stride, self.eps = stock.conv.kernel_size[0], stock.conv.stride[0], norm.eps

    def forward(self, values: Tensor) -> Tensor:
        """Apply the layer, (B, S, 1) -> (B, T, C)."""
        windows = values[:, :, 0].unfold(1, self.taps, self.stride).contiguous()  # (B, T, taps)
        centered, weight = self._normalize(windows)
        if len(windows) == 1 and is_fused(windows):
            return linear_activation(centered, weight[0], self.shift, "gelu")
        return F.gelu(torch.baddbmm(self.shift, centered, weight.transpose(1, 2)))

    def _normalize(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Return centered windows, (B, T, taps), and weights, (B, C, taps), of outputs with the norm's scale.

        The output c of centered windows x with weights w has variance w_c' Cov(x) w_c, with Cov(x) of taps x taps only.
        """
        dtype = torch.promote_types(windows.dtype, torch.float32)
        promoted = windows.to(dtype)
        centered = promoted - promoted.mean(dim=1, keepdim=True)
        covariance = torch.bmm(centered.transpose(1, 2), centered) / windows.shape[1]
        rows = self.weight.to(dtype)
        variance = torch.einsum("ci,bij,cj->bc", rows, covariance, rows)
        scale = self.gain * torch.rsqrt(variance + self.eps)  # (B, C)
        return centered.to(windows.dtype), (scale[:, :, None] * rows).to(windows.dtype)


def _layer_norm(layer: Any) -> Any:
    return getattr(layer, "layer_norm", None)
