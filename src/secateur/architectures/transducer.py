"""Head of a transducer (RNN-T, TDT): rows of predictor and joiner, and cuts of modules.

The library's classes have one width for the embedding of tokens, for every layer of the LSTM, and for the sum of
encoder and predictor that the joiner reads. In a cut model each of these has its own width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from secateur.architectures import stock_layout
from secateur.architectures.table import AxisTable
from secateur.nn.lstm import CutPredictor
from secateur.structure import Axis
from secateur.structure import axis as names
from secateur.structure.encoder_shape import parse_kept_units
from secateur.structure.structure import TRANSDUCER

#: Endings of the classes with such a head, and the paths of its parts.
TRANSDUCER_HEAD_CLASSES = ("ForRNNT", "ForTDT")
HEAD_PARTS = ("encoder_projector", "decoder", "joint")
EMBEDDING, LSTM, PROJECTOR, OUTPUT = "decoder.embedding", "decoder.lstm", "decoder.decoder_projector", "joint.head"

#: Config fields whose original values a cut config remembers.
ORIGINAL_FIELDS = ("decoder_hidden_size", "num_decoder_layers")
_NUM_LSTM_GATES = 4  # input, forget, cell, output


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """Kept units of a transducer's head, in original indices.

    Attributes:
        width: Width of every part of the original model.
        layers: Number of LSTM layers; none is removed.
        axes: Kept units of the axes that are not whole.
    """

    width: int
    layers: int
    axes: Mapping[str, tuple[int, ...]]

    @classmethod
    def from_config(cls, config: Any) -> HeadShape:
        """Return the shape that a config describes, stock or cut."""
        record, original = getattr(config, "secateur", None) or {}, original_of(config)
        axes = parse_kept_units(record)
        return cls(width=original["decoder_hidden_size"], layers=original["num_decoder_layers"], axes=axes)

    @property
    def predictor(self) -> tuple[str, ...]:
        """Names of the predictor's axes from input to output: the embedding, then each LSTM layer."""
        return names.predictor_embedding(EMBEDDING), *(
            names.predictor_layer(LSTM, layer) for layer in range(self.layers)
        )

    @property
    def joiner(self) -> str:
        """Name of the joiner's axis."""
        return names.joiner("joint")

    def units(self, name: str) -> tuple[int, ...]:
        """Return the kept units of an axis."""
        return self.axes.get(name, tuple(range(self.width)))


def declare(table: AxisTable, model: nn.Module, shape: HeadShape) -> None:
    """Add the rows of the head: the embedding's dimensions, the hidden units of every LSTM layer, the joiner's width.

    The mask of a hidden unit acts where the unit is read: in the same layer one token later, and in the next layer or
    the projection. The mask of the joiner acts behind the activation, so that it is exact for any activation. No MACs
    are counted, since the number of tokens per frame is not known.

    Example with hidden units 0 and 2 kept in a layer: ``weight_ih`` has 8 rows, which are units 0, 2 of the input gate,
    then of the forget, cell and output gates.

    Args:
        table: Table that the rows are added to.
        model: The whole model, possibly on the meta device.
        shape: Shape of the head.
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


def is_of_head(scope: str) -> bool:
    """Return True if a scope of costs belongs to a transducer's head, and not to the encoder."""
    return scope == TRANSDUCER or scope.partition(".")[0] in HEAD_PARTS


def original_of(config: Any) -> dict[str, int]:
    """Return the remembered config fields of the dense head."""
    record = getattr(config, "secateur", None) or {}
    return record.get("original") or {name: getattr(config, name) for name in ORIGINAL_FIELDS}


def stock_width(shape: HeadShape) -> int:
    """Return the single width that gives the stock classes a head of a shape.

    Raises:
        SelectionError: The widths of the head's parts differ.
    """
    widths = [len(shape.units(name)) for name in (*shape.predictor, shape.joiner)]
    obstacle = f"widths of predictor and joiner differ: {', '.join(map(str, widths))}"
    stock_layout.raise_if_obstacle(obstacle if len(set(widths)) > 1 else "")
    return widths[0]


def resize_transducer_head(model: Any, config: Any) -> None:
    """Replace the head of a freshly built transducer by a head of the shape that a config describes."""
    shape = HeadShape.from_config(config)
    embedding_width, *layer_widths = (len(shape.units(name)) for name in shape.predictor)
    width = len(shape.units(shape.joiner))
    model.encoder_projector = nn.Linear(config.encoder_config.hidden_size, width)
    model.decoder = CutPredictor(config, embedding_width=embedding_width, layer_widths=layer_widths, joiner_width=width)
    model.joint.head = nn.Linear(width, model.joint.head.out_features)
