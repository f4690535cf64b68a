"""WavLM: the shared rows, and the gated relative position bias."""

from __future__ import annotations

from secateur.architectures.blocks import AxisTable, encoder
from secateur.structure import axis as names


def declare(table: AxisTable) -> None:
    """One factor a head in each layer's bias gate, which goes with the last head of its layer.

    The position table of layer 0 serves all layers: it is whole while any head of any layer is alive.
    """
    encoder(table)
    attention = [f"{path}.attention" for path in table.shape.layers]
    for path in attention:
        heads = names.heads(path)
        table.bind_dim(f"{path}.gru_rel_pos_const", 1, heads)
        table.exclude_macs(f"{path}.gru_rel_pos_linear")
        table.exists_if_any(f"{path}.gru_rel_pos_linear.weight", heads)
        table.exists_if_any(f"{path}.gru_rel_pos_linear.bias", heads)
    table.exists_if_any(f"{attention[0]}.rel_attn_embed.weight", *(names.heads(path) for path in attention))
