"""The families with wav2vec 2.0's modules: a convolutional front end, and attention and feed-forward in every layer."""

from __future__ import annotations

from functools import partial
from typing import Any

from secateur.architectures import stock_layout
from secateur.architectures.family import Family
from secateur.nn.attention import CutAttention, CutWavLMAttention
from secateur.nn.feed_forward import resize_feed_forward
from secateur.nn.positional_conv import resize_positional_conv
from secateur.structure import axis as names
from secateur.structure.encoder_shape import EncoderShape, PositionalConvShape

ORIGINAL_FIELDS = ("conv_dim", "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")


def front_end_channels(shape: EncoderShape) -> tuple[tuple[int, ...], ...]:
    """Kept output channels of each front-end layer."""
    sizes = shape.original["conv_dim"]
    return tuple(
        shape.units(names.channels(f"feature_extractor.conv_layers.{i}"), size) for i, size in enumerate(sizes)
    )


def fields(shape: EncoderShape) -> dict[str, Any]:
    """Config fields that follow a shape in our classes."""
    return {"conv_dim": [len(units) for units in front_end_channels(shape)], "num_hidden_layers": len(shape.layers)}


def apply_shape(attention: type[CutAttention], model: Any, config: Any, shape: EncoderShape) -> None:
    """Replace what pruning cut; conv widths and the number of layers come from the config."""
    model.encoder.pos_conv_embed = resize_positional_conv(
        model.encoder.pos_conv_embed, positional_conv_shape(config, shape)
    )
    has_heads = any(shape.attention(f"{path}.attention").heads for path in shape.layers)
    for path, layer in zip(shape.layers, model.encoder.layers, strict=True):
        attention_arguments = (
            {"has_position_table": path == shape.layers[0] and has_heads} if attention is CutWavLMAttention else {}
        )
        layer.attention = attention(config, shape.attention(f"{path}.attention"), **attention_arguments)
        layer.feed_forward = resize_feed_forward(layer.feed_forward, config, shape.feed_forward(f"{path}.feed_forward"))


def positional_conv_shape(config: Any, shape: EncoderShape) -> PositionalConvShape:
    """The positional convolution."""
    return shape.positions(names.groups("encoder.pos_conv_embed.conv"), int(config.num_conv_pos_embedding_groups))


def stock_fields(config: Any, shape: EncoderShape) -> dict[str, Any]:
    """Config fields with which the stock classes have a shape.

    Raises:
        SelectionError: They cannot express it.
    """
    stock_layout.raise_if_obstacle(stock_obstacle(config, shape))
    return fields(shape) | {"intermediate_size": len(shape.feed_forward(f"{shape.layers[0]}.feed_forward").units)}


def stock_obstacle(config: Any, shape: EncoderShape) -> str:
    """What keeps stock classes from expressing a shape, in words; empty when nothing does."""
    convolution = positional_conv_shape(config, shape)
    if len(convolution.groups) < convolution.original_groups:
        return f"the positional convolution has {len(convolution.groups)} of {convolution.original_groups} groups"
    if not convolution.is_stock:
        return "groups of the positional convolution are scaled, which folds into no weight"
    first_width = len(shape.feed_forward(f"{shape.layers[0]}.feed_forward").units)
    for layer, path in enumerate(shape.layers):
        if problem := stock_layout.attention_obstacle(shape.attention(f"{path}.attention"), shape, layer):
            return problem
        units = shape.feed_forward(f"{path}.feed_forward")
        if not units.is_kept:
            return f"the feed-forward block of layer {layer} is removed"
        if not units.units:
            return f"the feed-forward block of layer {layer} has no units left"
        if len(units.units) != first_width:
            return f"feed-forward widths differ: {first_width} in layer 0, {len(units.units)} in layer {layer}"
    return ""


def _family(model_type: str, stem: str, attention: type[CutAttention] = CutAttention) -> Family:
    return Family(
        model_type=model_type,
        stem=stem,
        original_fields=ORIGINAL_FIELDS,
        poison_fields={"conv_dim": []},
        fields=fields,
        stock_fields=stock_fields,
        attention_class=attention,
        apply_shape=partial(apply_shape, attention),
    )


FAMILIES = (
    _family("wav2vec2", "Wav2Vec2"),
    _family("hubert", "Hubert"),
    _family("wavlm", "WavLM", CutWavLMAttention),
    _family("data2vec-audio", "Data2VecAudio"),
    _family("unispeech-sat", "UniSpeechSat"),
)
