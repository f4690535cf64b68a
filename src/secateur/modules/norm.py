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
        support = self.support.to(input.dtype)
        count = support.sum()
        kept = input * support
        mean = kept.sum(-1, keepdim=True) / count
        centred = (input - mean) * support
        variance = centred.square().sum(-1, keepdim=True) / count
        return (centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias) * support
