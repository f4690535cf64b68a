"""Rows that Conformers share: two half-step feed-forward blocks, attention and a convolution module in every layer."""

from __future__ import annotations

from dataclasses import replace

from secateur.architectures.blocks import (
    MAC_CONVENTION,
    AxisTable,
    Projections,
    attention,
    block,
    feed_forward,
    layer,
    once_per_frame,
    scale_block,
)
from secateur.structure import Axis
from secateur.structure import axis as names

PROJECTIONS = Projections(query="linear_q", key="linear_k", value="linear_v", output="linear_out")


def layers(table: AxisTable, *, norm_name: str) -> None:
    """All layers.

    Args:
        table: Where the rows go.
        norm: What the convolution module calls the norm behind its depthwise convolution.
    """
    table.convention = (
        f"{MAC_CONVENTION}; products with positions as stock classes make them, once for each pair of frames"
    )
    for path in table.shape.original_layers:
        layer(table, path)
        feed_forward(table, f"{path}.ffn1")
        attention(table, f"{path}.self_attn", PROJECTIONS)
        relative_positions(table, f"{path}.self_attn")
        convolution(table, f"{path}.conv_module", norm_name=norm_name)
        feed_forward(table, f"{path}.ffn2")
        table.exists_with(path, (names.layer(path), 0))


def relative_positions(table: AxisTable, path: str) -> None:
    """What an attention block adds to its logits for the distance of two frames.

    Relative positions have keys of their own, cut like the keys, and biases of the queries, cut and masked like these.
    The table of relative keys is shared by all heads, each of which reads its own columns: it stays whole. Rotary
    positions turn the block's input, before its projections: query/key dimensions go one by one.
    """
    attention_shape, position_type = table.shape.attention(path), table.config.position_embeddings_type
    queries = [names.query_key(path, head) for head in attention_shape.heads]
    keys, biases = f"{path}.linear_pos", [f"{path}.pos_bias_u", f"{path}.pos_bias_v"]
    table.bind_dim(f"{keys}.weight", 0, *queries)
    table.count_matrix(keys, replace(once_per_frame(table), power=0, per_distance=True))
    for name in biases:
        table.flatten_shape(name)
        table.bind_dim(name, 0, *queries)
        table.add_mask_site(name, 0, *queries)
    table.exists_if_any(f"{path}.distance_embedding.weight", names.heads(path))
    if position_type == "relative" and attention_shape.heads:
        table.count_axis_products(path, replace(once_per_frame(table), per_distance=True), queries)
    if position_type == "relative_key" and attention_shape.heads:
        table.count_axis_products(path, replace(once_per_frame(table), power=2), queries)


def convolution(table: AxisTable, path: str, *, norm_name: str) -> None:
    """The channels of a convolution module and the block.

    A channel has a value and a gate in front of the GLU, its own depthwise filter and its own place in the norm. Its
    mask enters behind the activation. The module's own LayerNorm goes with the last channel.
    """
    parents, channel_axis = block(table, path), names.channels(path)
    size = table.shape.original["hidden_size"]
    table.add_axis(Axis(name=channel_axis, units=table.shape.units(channel_axis, size), original=size, parents=parents))
    for name in ("weight", "bias"):
        table.bind_dim(f"{path}.pointwise_conv1.{name}", 0, channel_axis, channel_axis)
        table.bind_dim(f"{path}.depthwise_conv.{name}", 0, channel_axis)
    table.add_norm(f"{path}.{norm_name}", channel_axis)
    table.bind_dim(f"{path}.pointwise_conv2.weight", 1, channel_axis)
    table.exists_with(path, parents[-1])
    for name in ("weight", "bias"):
        table.exists_if_any(f"{path}.layer_norm.{name}", channel_axis)
    table.add_mask_site(f"{path}.pointwise_conv2.weight", 1, channel_axis)
    scale_block(table, f"{path}.pointwise_conv2", parents[-1])
    for name in ("pointwise_conv1", "depthwise_conv", "pointwise_conv2"):
        table.count_matrix(f"{path}.{name}", once_per_frame(table))
