"""Convolution modules of Conformers that have lost channels, all of them, or themselves."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from secateur.nn.attention import OutputBias
from secateur.structure.encoder_shape import BlockShape


class EmptyConvolution(nn.Module):
    """A convolution module without channels: its output bias where it is kept and has one, else zero."""

    def __init__(self, block: Any, *, kept: bool) -> None:
        """
        Args:
            block: The library's module.
            kept: Whether the block is kept.
        """
        super().__init__()
        last = block.pointwise_conv2
        self.pointwise_conv2 = OutputBias(last.out_channels) if kept and last.bias is not None else None

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T, D) -> a constant that broadcasts to it."""
        return hidden_states.new_zeros(1) if self.pointwise_conv2 is None else self.pointwise_conv2(hidden_states)


def fit_convolution(block: Any, shape: BlockShape, *, norm: str) -> nn.Module:
    """The module for that shape: the stock one with fewer channels, or an empty one.

    Args:
        block: The library's module.
        shape: What is left of it.
        norm: What it calls the norm behind its depthwise convolution.
    """
    channels, width = len(shape.units), block.pointwise_conv1.in_channels
    if not channels:
        return EmptyConvolution(block, kept=shape.kept)
    if channels < block.depthwise_conv.out_channels:
        block.pointwise_conv1 = _like(block.pointwise_conv1, width, 2 * channels)
        block.depthwise_conv = _like(block.depthwise_conv, channels, channels, groups=channels)
        stock = getattr(block, norm)
        setattr(block, norm, type(stock)(channels, eps=stock.eps))
        block.pointwise_conv2 = _like(block.pointwise_conv2, channels, width)
    return block  # type: ignore[no-any-return]


def _like(conv: nn.Conv1d, inputs: int, outputs: int, *, groups: int = 1) -> nn.Conv1d:
    """A convolution of other widths."""
    bias = conv.bias is not None
    kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
    return nn.Conv1d(inputs, outputs, kernel, stride=stride, padding=padding, groups=groups, bias=bias)
