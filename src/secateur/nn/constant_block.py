"""Blocks of cut models without units: constant outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur.structure.encoder_shape import BlockShape


class OutputBias(nn.Module):
    """Bias of an output projection without inputs, a constant that is added to every frame.

    The module is called like the projection that it replaces, so that hooks that fetch weights at a call find the bias.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the bias, (D,), which broadcasts to any frames (B, T, D)."""
        return self.bias


class ConstantBlock(nn.Module):
    """Replacement of a feed-forward block or convolution module without units: a constant output.

    The constant is the bias of the block's last projection if the block is kept, and zero if it is removed. The name
    of the bias is that of the stock class.
    """

    def __init__(self, block: nn.Module, output_name: str, *, is_kept: bool) -> None:
        """
        Args:
            block: The stock block.
            output_name: Name of its last linear map or convolution.
            is_kept: Whether the block is kept, so that the bias stays.
        """
        super().__init__()
        bias: Any = block.get_submodule(output_name).bias
        self.output_name = output_name if is_kept and bias is not None else ""
        if self.output_name:
            setattr(self, output_name, OutputBias(len(bias)))

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return a constant, (D,) or (1,), which broadcasts to (B, T, D)."""
        if not self.output_name:
            return hidden_states.new_zeros(1)
        bias: Tensor = self.get_submodule(self.output_name)(hidden_states)
        return bias


def resize_feed_forward(
    block: nn.Module, shape: BlockShape, *, first_linear: str = "intermediate_dense", last_linear: str = "output_dense"
) -> nn.Module:
    """Return a feed-forward block of a given shape: the stock block with narrower linear maps, or a `ConstantBlock`.

    Args:
        block: The stock block, changed in place where units are left.
        shape: The units that are left.
        first_linear: Name of the linear map from features to units.
        last_linear: Name of the linear map from units to features.
    """
    units = len(shape.units)
    if not units:
        return ConstantBlock(block, last_linear, is_kept=shape.is_kept)
    first, last = block.get_submodule(first_linear), block.get_submodule(last_linear)
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    if first.out_features != units:
        has_bias = first.bias is not None
        setattr(block, first_linear, nn.Linear(first.in_features, units, bias=has_bias))
        setattr(block, last_linear, nn.Linear(units, last.out_features, bias=last.bias is not None))
    return block
