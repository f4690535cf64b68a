"""Positional convolution of a cut model: fewer groups, and the original width of the residual stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from secateur.structure.encoder_shape import PositionalConvShape


class CutPositionalConv(nn.Module):
    """Positional convolution with the groups that are left, and zero in the channels of removed groups.

    Parameter names are those of the stock classes, weight norm included. Unlike in the stock classes, the output of a
    group is multiplied by a constant of the shape, the folded mask.
    """

    def __init__(self, stock: Any, shape: PositionalConvShape) -> None:
        """
        Args:
            stock: The library's module for the original number of groups.
            shape: Groups that are left.
        """
        super().__init__()
        stock_conv = stock.conv
        channels = stock_conv.out_channels // stock_conv.groups * len(shape.groups)
        conv = nn.Conv1d(
            channels, channels, stock_conv.kernel_size[0], padding=stock_conv.padding[0], groups=len(shape.groups)
        )
        self.conv = weight_norm(conv, dim=2)
        self.activation = stock.activation
        self.shape = shape

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Convolve the kept groups: (B, T, D) -> (B, T, D)."""
        kept_channels = gather_groups(hidden_states, self.shape).transpose(1, 2)  # (B, K, T)
        convolved = self.conv(kept_channels)[
            :, :, : kept_channels.shape[2]
        ]  # an even number of taps gives one frame more
        return scatter_groups(self.activation(convolved).transpose(1, 2), self.shape)


def resize_positional_conv(block: nn.Module, shape: PositionalConvShape) -> nn.Module:
    """Return the positional convolution of a shape: the stock module, or a `CutPositionalConv`."""
    return block if shape.is_stock else CutPositionalConv(block, shape)


def gather_groups(values: Tensor, shape: PositionalConvShape) -> Tensor:
    """Return the channels of the groups that are left: (B, T, D) -> (B, T, K).

    Example with 6 channels, 3 groups and groups 0 and 2 left: channels 0, 1, 4, 5.
    """
    pieces = values.chunk(shape.original_groups, dim=-1)
    return torch.cat([pieces[group] for group in shape.groups], dim=-1)


def scatter_groups(values: Tensor, shape: PositionalConvShape) -> Tensor:
    """Scale groups and put zeros in the channels of removed groups: (B, T, K) -> (B, T, D)."""
    pieces = values.chunk(len(shape.groups), dim=-1)
    scaled = {
        group: piece if scale == 1.0 else piece * scale
        for group, piece, scale in zip(shape.groups, pieces, shape.scales, strict=True)
    }
    zeros = values.new_zeros(1).expand_as(pieces[0])
    return torch.cat([scaled.get(group, zeros) for group in range(shape.original_groups)], dim=-1)


def direction_norm(direction: Tensor, magnitude: Tensor) -> Tensor:
    """Return the divisor of a direction in weight norm, in float64: the norm over dimensions without magnitude."""
    dims = [dim for dim, size in enumerate(magnitude.shape) if size == 1]
    norm: Tensor = torch.linalg.vector_norm(direction.double(), dim=dims, keepdim=True)
    return norm
