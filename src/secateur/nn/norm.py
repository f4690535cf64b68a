"""Norms with statistics over the living units of a pruned axis, or over the frames that are no padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class SupportLayerNorm(nn.LayerNorm):
    """LayerNorm with mean and variance over a support, as in the norm of the cut model.

    Like `nn.LayerNorm`, but features outside the support do not count in the statistics, and their output is zero. The
    support is data: it has no gradient, and shapes stay static.
    """

    support: Tensor | None

    def __init__(self, features: int, eps: float) -> None:
        super().__init__(features, eps=eps)
        self.support = None

    @classmethod
    def from_norm(cls, norm: nn.LayerNorm) -> SupportLayerNorm:
        """Return a norm that shares the parameters of `norm`."""
        with torch.device("meta"):
            norm_copy = cls(norm.normalized_shape[0], norm.eps)
        norm_copy.weight, norm_copy.bias = norm.weight, norm.bias
        norm_copy.training = norm.training
        return norm_copy

    def forward(self, input: Tensor) -> Tensor:
        """Normalize over the support: (..., features) -> (..., features)."""
        if self.support is None:
            return super().forward(input)
        # Half precision cannot even count to 512: statistics in float32 at least, as the library norm takes them.
        values = input if input.dtype == torch.float64 else input.float()
        support = self.support.to(values.dtype)
        count = support.sum().clamp(min=1.0)  # no unit at all, in a draw while learning: nothing, not NaN
        mean = (values * support).sum(-1, keepdim=True) / count
        centered = (values - mean) * support
        variance = centered.square().sum(-1, keepdim=True) / count
        normed = (centered * torch.rsqrt(variance + self.eps)).to(self.weight.dtype)
        return (normed * self.weight + self.bias) * support.to(self.weight.dtype)


class ValidGroupNorm(nn.GroupNorm):
    """GroupNorm over time with a channel per group, and with statistics that leave padding out.

    Like the `nn.GroupNorm` behind the first convolution of a Base model, but with `lengths` set each utterance of a
    padded batch comes out as it would alone; the stock one mixes padding into mean and variance.
    """

    lengths: Tensor | None

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__(channels, channels, eps=eps)
        self.lengths = None
        self.kernel, self.stride = 1, 1

    @classmethod
    def from_conv_layer(cls, layer: Any) -> ValidGroupNorm:
        """Return a norm that shares the parameters of a convolutional layer of the library (`conv`, `layer_norm`)."""
        stock = layer.layer_norm
        with torch.device("meta"):
            norm_copy = cls(stock.num_channels, stock.eps)
        norm_copy.weight, norm_copy.bias = stock.weight, stock.bias
        norm_copy.training = stock.training
        norm_copy.kernel, norm_copy.stride = layer.conv.kernel_size[0], layer.conv.stride[0]
        return norm_copy

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (B, C, T) -> (B, C, T) over valid frames, which follow from the valid samples `lengths`, (B,)."""
        if self.lengths is None:
            return super().forward(input)
        frames = ((self.lengths.to(input.device) - self.kernel) // self.stride + 1)[:, None, None]
        valid = torch.arange(input.shape[-1], device=input.device) < frames  # (B, 1, T)
        values = input if input.dtype == torch.float64 else input.float()
        mean = values.masked_fill(~valid, 0.0).sum(-1, keepdim=True) / frames
        centered = (values - mean).masked_fill(~valid, 0.0)
        scale = torch.rsqrt(centered.square().sum(-1, keepdim=True) / frames + self.eps) * self.weight[:, None]
        return (centered * scale + self.bias[:, None]).to(input.dtype)


def replace_group_norm(base: Any) -> None:
    """Make an encoder with a GroupNorm front end able to take batches of unequal lengths, by `set_valid_lengths`."""
    if not hasattr(base, "feature_extractor"):
        return
    first_layer = base.feature_extractor.conv_layers[0]
    if type(getattr(first_layer, "layer_norm", None)) is nn.GroupNorm:
        first_layer.layer_norm = ValidGroupNorm.from_conv_layer(first_layer)


def set_valid_lengths(base: Any, lengths: Tensor | None) -> None:
    """Set the valid samples of each utterance of the next batch, (B,); None for a batch without padding."""
    front_end: Any = getattr(base, "feature_extractor", None)
    layers = getattr(front_end, "conv_layers", ())
    for module in (front_end, *(getattr(layer, "layer_norm", None) for layer in layers[:1])):
        if hasattr(module, "lengths"):
            module.lengths = lengths
