"""WavLM: the shared rows, and the gated relative position bias."""

from __future__ import annotations

from secateur.architectures.blocks import Table, encoder
from secateur.structure import axis as names


def declare(table: Table) -> None:
    """One factor a head in each layer's bias gate, which goes with the last head of its layer.

    The position table of layer 0 serves all layers: it is whole while any head of any layer is alive.
    """
    encoder(table)
    attention = [f"{path}.attention" for path in table.shape.layers]
    for path in attention:
        heads = names.heads(path)
        table.bind(f"{path}.gru_rel_pos_const", 1, heads)
        table.leave_out(f"{path}.gru_rel_pos_linear")
        table.any_of(f"{path}.gru_rel_pos_linear.weight", heads)
        table.any_of(f"{path}.gru_rel_pos_linear.bias", heads)
    table.any_of(f"{attention[0]}.rel_attn_embed.weight", *(names.heads(path) for path in attention))
