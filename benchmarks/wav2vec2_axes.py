"""Axis names of encoders with wav2vec 2.0's modules (HuBERT's, WavLM's, …), by the numbers of their layers."""

from __future__ import annotations

from secateur.structure import axis


def attention(layer: int) -> str:
    """The path of a layer's attention block."""
    return f"encoder.layers.{layer}.attention"


def feed_forward(layer: int) -> str:
    """The path of a layer's feed-forward block."""
    return f"encoder.layers.{layer}.feed_forward"


def channels(layer: int) -> str:
    """The output channels of front-end layer `layer`."""
    return axis.channels(f"feature_extractor.conv_layers.{layer}")


def positional_groups() -> str:
    """The groups of the positional convolution."""
    return axis.groups("encoder.pos_conv_embed.conv")


def heads(layer: int) -> str:
    """The attention heads of Transformer layer `layer`."""
    return axis.heads(attention(layer))


def query_key(layer: int, head: int) -> str:
    """The query/key dimensions of one head."""
    return axis.query_key(attention(layer), head)


def value_output(layer: int, head: int) -> str:
    """The value/output dimensions of one head."""
    return axis.value_output(attention(layer), head)


def attention_block(layer: int) -> str:
    """The whole attention block of a layer, output bias included."""
    return axis.block(attention(layer))


def feed_forward_units(layer: int) -> str:
    """The intermediate units of a feed-forward block."""
    return axis.units(feed_forward(layer))


def feed_forward_block(layer: int) -> str:
    """The whole feed-forward block of a layer, output bias included."""
    return axis.block(feed_forward(layer))


def whole_layer(layer: int) -> str:
    """A whole Transformer layer; only trailing layers can go."""
    return axis.layer(f"encoder.layers.{layer}")
