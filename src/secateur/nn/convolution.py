"""Convolutions and convolution modules of Conformers with a changed number of channels."""

from __future__ import annotations

from typing import Any

from torch import nn

from secateur.nn.constant_block import ConstantBlock
from secateur.structure.encoder_shape import BlockShape


def resize_convolution_module(block: Any, shape: BlockShape, *, norm_name: str) -> nn.Module:
    """Return a convolution module of a given shape: the stock module with fewer channels, or a `ConstantBlock`.

    Args:
        block: The stock module, changed in place where channels are left.
        shape: The channels that are left.
        norm_name: Name of the norm behind the depthwise convolution.
    """
    channels = len(shape.units)
    if not channels:
        return ConstantBlock(block, "pointwise_conv2", is_kept=shape.is_kept)
    if channels < block.depthwise_conv.out_channels:
        # The GLU behind the first convolution halves its outputs: one value and one gate for each channel.
        block.pointwise_conv1 = resize_convolution(block.pointwise_conv1, out_channels=2 * channels)
        block.depthwise_conv = resize_convolution(block.depthwise_conv, in_channels=channels, out_channels=channels)
        norm = getattr(block, norm_name)
        setattr(block, norm_name, type(norm)(channels, eps=norm.eps))
        block.pointwise_conv2 = resize_convolution(block.pointwise_conv2, in_channels=channels)
    return block  # type: ignore[no-any-return]


def resize_convolution(convolution: Any, *, in_channels: int | None = None, out_channels: int | None = None) -> Any:
    """Return a convolution of the same class with changed numbers of channels, or `convolution` for equal numbers.

    A depthwise convolution stays depthwise. The causal convolutions of streaming encoders take a `cache_key` and, in
    two dimensions, pad their input themselves and always have a bias.

    Args:
        convolution: The stock convolution.
        in_channels: New number of input channels; None for the same.
        out_channels: New number of output channels; None for the same.
    """
    inputs = convolution.in_channels if in_channels is None else in_channels
    outputs = convolution.out_channels if out_channels is None else out_channels
    if (inputs, outputs) == (convolution.in_channels, convolution.out_channels):
        return convolution
    is_depthwise = convolution.groups == convolution.in_channels and convolution.groups > 1
    is_causal = hasattr(convolution, "cache_key")
    arguments = {"cache_key": convolution.cache_key} if is_causal else {}
    if not is_causal or convolution.padding[0]:
        arguments["padding"] = convolution.padding
    if not is_causal or isinstance(convolution, nn.Conv1d):
        arguments["bias"] = convolution.bias is not None
    return type(convolution)(
        inputs,
        outputs,
        convolution.kernel_size[0],
        stride=convolution.stride[0],
        groups=inputs if is_depthwise else 1,
        **arguments,
    )
