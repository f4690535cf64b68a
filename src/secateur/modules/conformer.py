"""The families with Conformer layers: half-step feed-forward, attention, convolution, half-step feed-forward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from secateur.errors import SelectionError
from secateur.modules.conformer_attention import CutConformerAttention
from secateur.modules.convolution import fit_convolution
from secateur.modules.family import Family
from secateur.modules.feed_forward import fit_feed_forward
from secateur.modules.shape import BlockShape, EncoderShape
from secateur.modules.wav2vec2 import REMEMBERED, fields
from secateur.structure import axis as names


def fit(norm: str, model: Any, config: Any, shape: EncoderShape) -> None:
    """Replace what pruning cut, and drop a positional convolution that is never called.

    Args:
        norm: What the convolution module calls the norm behind its depthwise convolution.
        model: A freshly built base model.
        config: Its config.
        shape: Its shape.
    """
    if hasattr(model.encoder, "pos_conv_embed"):
        del model.encoder.pos_conv_embed
    for path, layer in zip(shape.layers, model.encoder.layers, strict=True):
        layer.ffn1 = fit_feed_forward(layer.ffn1, config, feed_forward(shape, f"{path}.ffn1"))
        layer.self_attn = CutConformerAttention(config, shape.attention(f"{path}.self_attn"))
        layer.conv_module = fit_convolution(layer.conv_module, convolution(shape, path), norm=norm)
        layer.ffn2 = fit_feed_forward(layer.ffn2, config, feed_forward(shape, f"{path}.ffn2"))


def feed_forward(shape: EncoderShape, path: str) -> BlockShape:
    """One of a layer's feed-forward blocks."""
    return shape.block(names.units(path), shape.original["intermediate_size"])


def convolution(shape: EncoderShape, path: str) -> BlockShape:
    """A layer's convolution module."""
    return shape.block(names.channels(f"{path}.conv_module"), shape.original["hidden_size"])


def stock_fields(own: Callable[[EncoderShape], dict[str, Any]], config: Any, shape: EncoderShape) -> dict[str, Any]:
    """Config fields with which the stock classes have a shape.

    Args:
        own: Config fields that follow a shape in our classes.
        config: Of a cut model.
        shape: Its shape.

    Raises:
        SelectionError: They cannot express it.
    """
    problem = stock_obstacle(shape)
    if problem:
        raise SelectionError(f"This shape does not fit the stock layout: {problem}; use the registered layout.")
    return own(shape) | {"intermediate_size": len(feed_forward(shape, f"{shape.layers[0]}.ffn1").units)}


def stock_obstacle(shape: EncoderShape) -> str:
    """What keeps stock classes from expressing a shape, in words; empty when nothing does."""
    heads, width = shape.original["num_attention_heads"], shape.original["hidden_size"]
    first = len(feed_forward(shape, f"{shape.layers[0]}.ffn1").units)
    for layer, path in enumerate(shape.layers):
        if problem := shape.attention(f"{path}.self_attn").obstacle(layer, heads):
            return problem
        channels = len(convolution(shape, path).units)
        if channels < width:
            return f"the convolution module of layer {layer} has {channels} of {width} channels"
        for name in ("ffn1", "ffn2"):
            units = len(feed_forward(shape, f"{path}.{name}").units)
            if not units:
                return f"{name} of layer {layer} has no units left"
            if units != first:
                return f"feed-forward widths differ: {first} in ffn1 of layer 0, {units} in {name} of layer {layer}"
    return ""


def bert_fields(shape: EncoderShape) -> dict[str, Any]:
    """Config fields of w2v-BERT that follow a shape in our classes."""
    return {"num_attention_heads": shape.original["num_attention_heads"], "num_hidden_layers": len(shape.layers)}


FAMILIES = (
    Family(
        model_type="wav2vec2-conformer",
        stem="Wav2Vec2Conformer",
        remembered=REMEMBERED,
        refused={"conv_dim": []},
        fields=fields,
        stock_fields=partial(stock_fields, fields),
        attention=CutConformerAttention,
        fit=partial(fit, "batch_norm"),
    ),
    Family(
        model_type="wav2vec2-bert",
        stem="Wav2Vec2Bert",
        remembered=("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"),
        refused={"num_attention_heads": 0},
        fields=bert_fields,
        stock_fields=partial(stock_fields, bert_fields),
        attention=CutConformerAttention,
        fit=partial(fit, "depthwise_layer_norm"),
    ),
)
