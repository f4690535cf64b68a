"""Convolution modules of Conformers that have lost channels, all of them, or themselves."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from secateur.nn.attention import OutputBias
from secateur.structure.encoder_shape import BlockShape


class ConstantConvolution(nn.Module):
    """A convolution module without channels: its output bias where it is kept and has one, else zero."""

    def __init__(self, block: Any, *, is_kept: bool) -> None:
        """
        Args:
            block: The library's module.
            kept: Whether the block is kept.
        """
        super().__init__()
        output_convolution = block.pointwise_conv2
        self.pointwise_conv2 = (
            OutputBias(output_convolution.out_channels) if is_kept and output_convolution.bias is not None else None
        )

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T, D) -> a constant that broadcasts to it."""
        return hidden_states.new_zeros(1) if self.pointwise_conv2 is None else self.pointwise_conv2(hidden_states)


def resize_convolution(block: Any, shape: BlockShape, *, norm_name: str) -> nn.Module:
    """The module for that shape: the stock one with fewer channels, or an empty one.

    Args:
        block: The library's module.
        shape: What is left of it.
        norm: What it calls the norm behind its depthwise convolution.
    """
    channels, width = len(shape.units), block.pointwise_conv1.in_channels
    if not channels:
        return ConstantConvolution(block, is_kept=shape.is_kept)
    if channels < block.depthwise_conv.out_channels:
        block.pointwise_conv1 = _resized_like(block.pointwise_conv1, width, 2 * channels)
        block.depthwise_conv = _resized_like(block.depthwise_conv, channels, channels, groups=channels)
        stock = getattr(block, norm_name)
        setattr(block, norm_name, type(stock)(channels, eps=stock.eps))
        block.pointwise_conv2 = _resized_like(block.pointwise_conv2, channels, width)
    return block  # type: ignore[no-any-return]


def _resized_like(conv: nn.Conv1d, inputs: int, outputs: int, *, groups: int = 1) -> nn.Conv1d:
    """A convolution of other widths."""
    bias = conv.bias is not None
    kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
    return nn.Conv1d(inputs, outputs, kernel, stride=stride, padding=padding, groups=groups, bias=bias)
