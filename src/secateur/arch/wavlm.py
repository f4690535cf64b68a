"""WavLM: the shared rows, and the gated relative position bias."""

from __future__ import annotations

from secateur.arch.blocks import Table, encoder
from secateur.modules.shape import EncoderShape
from secateur.structure import axis as names


def declare(table: Table, shape: EncoderShape) -> None:
    """One factor a head in each layer's bias gate, which goes with the last head of its layer.

    The position table of layer 0 serves all layers: it is whole while any head of any layer is alive.
    """
    encoder(table, shape)
    layers = range(len(shape.attention))
    for layer in layers:
        path, heads = f"encoder.layers.{layer}.attention", names.heads(layer)
        table.bind(f"{path}.gru_rel_pos_const", 1, heads)
        table.any_of(f"{path}.gru_rel_pos_linear.weight", heads)
        table.any_of(f"{path}.gru_rel_pos_linear.bias", heads)
    table.any_of("encoder.layers.0.attention.rel_attn_embed.weight", *(names.heads(layer) for layer in layers))
