"""Rows that Conformers share: two half-step feed-forward blocks, attention and a convolution module in every layer."""

from __future__ import annotations

from dataclasses import replace

from secateur.architectures.blocks import (
    CONVENTION,
    Projections,
    Table,
    attention,
    block,
    feed_forward,
    frames,
    layer,
    scale_block,
)
from secateur.structure import Axis
from secateur.structure import axis as names

PROJECTIONS = Projections(query="linear_q", key="linear_k", value="linear_v", output="linear_out")


def layers(table: Table, *, norm: str) -> None:
    """All layers.

    Args:
        table: Where the rows go.
        norm: What the convolution module calls the norm behind its depthwise convolution.
    """
    table.convention = f"{CONVENTION}; products with positions as stock classes make them, once for each pair of frames"
    for path in table.shape.every_layer:
        layer(table, path)
        feed_forward(table, f"{path}.ffn1")
        attention(table, f"{path}.self_attn", PROJECTIONS)
        positions(table, f"{path}.self_attn")
        convolution(table, f"{path}.conv_module", norm=norm)
        feed_forward(table, f"{path}.ffn2")
        table.within(path, (names.layer(path), 0))


def positions(table: Table, path: str) -> None:
    """What an attention block adds to its logits for the distance of two frames.

    Relative positions have keys of their own, cut like the keys, and biases of the queries, cut and masked like these.
    The table of relative keys is shared by all heads, each of which reads its own columns: it stays whole. Rotary
    positions turn the block's input, before its projections: query/key dimensions go one by one.
    """
    kept, kind = table.shape.attention(path), table.config.position_embeddings_type
    queries = [names.query_key(path, head) for head in kept.heads]
    keys, biases = f"{path}.linear_pos", [f"{path}.pos_bias_u", f"{path}.pos_bias_v"]
    table.bind(f"{keys}.weight", 0, *queries)
    table.use(keys, replace(frames(table), power=0, distances=True))
    for name in biases:
        table.flatten(name)
        table.bind(name, 0, *queries)
        table.tap(name, 0, *queries)
    table.any_of(f"{path}.distance_embedding.weight", names.heads(path))
    if kind == "relative" and kept.heads:
        table.use_axes(path, replace(frames(table), distances=True), queries)
    if kind == "relative_key" and kept.heads:
        table.use_axes(path, replace(frames(table), power=2), queries)


def convolution(table: Table, path: str, *, norm: str) -> None:
    """The channels of a convolution module and the block.

    A channel has a value and a gate in front of the GLU, its own depthwise filter and its own place in the norm. Its
    mask enters behind the activation. The module's own LayerNorm goes with the last channel.
    """
    inside, own = block(table, path), names.channels(path)
    size = table.shape.original["hidden_size"]
    table.axis(Axis(name=own, units=table.shape.units(own, size), original=size, parents=inside))
    for name in ("weight", "bias"):
        table.bind(f"{path}.pointwise_conv1.{name}", 0, own, own)
        table.bind(f"{path}.depthwise_conv.{name}", 0, own)
    table.norm(f"{path}.{norm}", own)
    table.bind(f"{path}.pointwise_conv2.weight", 1, own)
    table.within(path, inside[-1])
    for name in ("weight", "bias"):
        table.any_of(f"{path}.layer_norm.{name}", own)
    table.tap(f"{path}.pointwise_conv2.weight", 1, own)
    scale_block(table, f"{path}.pointwise_conv2", inside[-1])
    for name in ("pointwise_conv1", "depthwise_conv", "pointwise_conv2"):
        table.use(f"{path}.{name}", frames(table))
