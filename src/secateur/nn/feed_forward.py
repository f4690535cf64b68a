"""Feed-forward blocks that have lost all their units, or themselves."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from secateur.nn.attention import OutputBias
from secateur.structure.encoder_shape import BlockShape


class ConstantFeedForward(nn.Module):
    """A feed-forward block without units: its output bias when the block is kept, else zero; both broadcast."""

    def __init__(self, config: Any, *, is_kept: bool) -> None:
        super().__init__()
        self.output_dense = OutputBias(config.hidden_size) if is_kept else None

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, T, D) -> a constant that broadcasts to it."""
        return hidden_states.new_zeros(1) if self.output_dense is None else self.output_dense(hidden_states)


def resize_feed_forward(block: nn.Module, config: Any, shape: BlockShape) -> nn.Module:
    """The block for that shape: the stock one with narrower linear maps, or an empty one."""
    if not shape.units:
        return ConstantFeedForward(config, is_kept=shape.is_kept)
    dense = block.get_submodule("intermediate_dense")
    assert isinstance(dense, nn.Linear)
    if dense.out_features != len(shape.units):
        block.intermediate_dense = nn.Linear(config.hidden_size, len(shape.units))
        block.output_dense = nn.Linear(len(shape.units), config.hidden_size)
    return block
