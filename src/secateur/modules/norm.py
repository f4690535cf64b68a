"""LayerNorm over the living units of a pruned axis."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SupportLayerNorm(nn.LayerNorm):
    """LayerNorm whose mean and variance are taken over a support, as the norm of the cut model takes them.

    Like `nn.LayerNorm`, but features outside the support neither count in the statistics nor leave the norm: they come
    out as zero. The support is data: no gradient flows through it, and shapes stay static.
    """

    support: Tensor | None

    def __init__(self, features: int, eps: float) -> None:
        super().__init__(features, eps=eps)
        self.support = None

    @classmethod
    def like(cls, norm: nn.LayerNorm) -> SupportLayerNorm:
        """The same norm, sharing its parameters."""
        with torch.device("meta"):
            new = cls(norm.normalized_shape[0], norm.eps)
        new.weight, new.bias = norm.weight, norm.bias
        new.training = norm.training
        return new

    def forward(self, input: Tensor) -> Tensor:
        """(..., features) -> (..., features)."""
        if self.support is None:
            return super().forward(input)
        # Half precision cannot even count to 512: statistics in float32 at least, as the library norm takes them.
        wide = input if input.dtype == torch.float64 else input.float()
        support = self.support.to(wide.dtype)
        count = support.sum().clamp(min=1.0)  # no unit at all, in a draw while learning: nothing, not NaN
        mean = (wide * support).sum(-1, keepdim=True) / count
        centred = (wide - mean) * support
        variance = centred.square().sum(-1, keepdim=True) / count
        normed = (centred * torch.rsqrt(variance + self.eps)).to(self.weight.dtype)
        return (normed * self.weight + self.bias) * support.to(self.weight.dtype)
