"""The head of a transducer: its predictor and its joiner."""

from __future__ import annotations

from torch import nn

from secateur.architectures.blocks import Table
from secateur.architectures.transducer import EMBEDDING, LSTM, OUTPUT, PARTS, PROJECTOR, HeadShape
from secateur.structure import Axis

_GATES = 4  # of an LSTM: input, forget, cell, output, one behind the other


def declare(table: Table, model: nn.Module, shape: HeadShape) -> None:
    """The embedding's dimensions, the hidden units of every LSTM layer, and the width of the joiner.

    The mask of a hidden unit enters where the unit is heard: in the same layer a token later, in the next layer or the
    projection. That of the joiner's width enters behind the activation, so that it is exact for any. No multiplies are
    counted: how many tokens there are in a frame is not known.

    Args:
        table: Where the rows go.
        model: The whole model, possibly on the meta device.
        shape: Of the head.
    """
    for part in PARTS:
        table.add(part, model.get_submodule(part))
    for path in (PROJECTOR, OUTPUT, "encoder_projector"):
        table.leave_out(path)
    for name in (*shape.predictor, shape.joiner):
        table.axis(Axis(name=name, units=shape.units(name), original=shape.width, least=1))
    before, *layers = shape.predictor
    table.bind(f"{EMBEDDING}.weight", 1, before)
    for layer, own in enumerate(layers):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            table.bind(f"{LSTM}.{name}_l{layer}", 0, *[own] * _GATES)
        for name, axis in (("weight_ih", before), ("weight_hh", own)):
            table.bind(f"{LSTM}.{name}_l{layer}", 1, axis)
            table.tap(f"{LSTM}.{name}_l{layer}", 1, axis)
        before = own
    table.bind(f"{PROJECTOR}.weight", 1, before)
    table.tap(f"{PROJECTOR}.weight", 1, before)
    for path in ("encoder_projector", PROJECTOR):
        table.bind(f"{path}.weight", 0, shape.joiner)
        table.bind(f"{path}.bias", 0, shape.joiner)
    table.bind(f"{OUTPUT}.weight", 1, shape.joiner)
    table.tap(f"{OUTPUT}.weight", 1, shape.joiner)
