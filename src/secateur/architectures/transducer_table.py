"""The head of a transducer: its predictor and its joiner."""

from __future__ import annotations

from torch import nn

from secateur.architectures.blocks import AxisTable
from secateur.architectures.transducer import EMBEDDING, HEAD_PARTS, LSTM, OUTPUT, PROJECTOR, HeadShape
from secateur.structure import Axis

_NUM_LSTM_GATES = 4  # of an LSTM: input, forget, cell, output, one behind the other


def declare(table: AxisTable, model: nn.Module, shape: HeadShape) -> None:
    """The embedding's dimensions, the hidden units of every LSTM layer, and the width of the joiner.

    The mask of a hidden unit enters where the unit is heard: in the same layer a token later, in the next layer or the
    projection. That of the joiner's width enters behind the activation, so that it is exact for any. No multiplies are
    counted: how many tokens there are in a frame is not known.

    Args:
        table: Where the rows go.
        model: The whole model, possibly on the meta device.
        shape: Of the head.
    """
    for part in HEAD_PARTS:
        table.add_head_part(part, model.get_submodule(part))
    for path in (PROJECTOR, OUTPUT, "encoder_projector"):
        table.exclude_macs(path)
    for name in (*shape.predictor, shape.joiner):
        table.add_axis(Axis(name=name, units=shape.units(name), original=shape.width, min_units=1))
    input_axis, *layers = shape.predictor
    table.bind_dim(f"{EMBEDDING}.weight", 1, input_axis)
    for layer, output_axis in enumerate(layers):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            table.bind_dim(f"{LSTM}.{name}_l{layer}", 0, *[output_axis] * _NUM_LSTM_GATES)
        for name, axis in (("weight_ih", input_axis), ("weight_hh", output_axis)):
            table.bind_dim(f"{LSTM}.{name}_l{layer}", 1, axis)
            table.add_mask_site(f"{LSTM}.{name}_l{layer}", 1, axis)
        input_axis = output_axis
    table.bind_dim(f"{PROJECTOR}.weight", 1, input_axis)
    table.add_mask_site(f"{PROJECTOR}.weight", 1, input_axis)
    for path in ("encoder_projector", PROJECTOR):
        table.bind_dim(f"{path}.weight", 0, shape.joiner)
        table.bind_dim(f"{path}.bias", 0, shape.joiner)
    table.bind_dim(f"{OUTPUT}.weight", 1, shape.joiner)
    table.add_mask_site(f"{OUTPUT}.weight", 1, shape.joiner)
