"""The families with Conformer layers: half-step feed-forward, attention, convolution, half-step feed-forward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from secateur.architectures import stock_layout
from secateur.architectures.family import Family
from secateur.architectures.wav2vec2 import ORIGINAL_FIELDS, fields
from secateur.nn.conformer_attention import CutConformerAttention
from secateur.nn.conformer_convolution import resize_convolution
from secateur.nn.feed_forward import resize_feed_forward
from secateur.structure.encoder_shape import EncoderShape


def apply_shape(norm_name: str, model: Any, config: Any, shape: EncoderShape) -> None:
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
        layer.ffn1 = resize_feed_forward(layer.ffn1, config, shape.feed_forward(f"{path}.ffn1"))
        layer.self_attn = CutConformerAttention(config, shape.attention(f"{path}.self_attn"))
        layer.conv_module = resize_convolution(
            layer.conv_module, shape.convolution(f"{path}.conv_module"), norm_name=norm_name
        )
        layer.ffn2 = resize_feed_forward(layer.ffn2, config, shape.feed_forward(f"{path}.ffn2"))


def stock_fields(
    shape_fields: Callable[[EncoderShape], dict[str, Any]], config: Any, shape: EncoderShape
) -> dict[str, Any]:
    """Config fields with which the stock classes have a shape.

    Args:
        own: Config fields that follow a shape in our classes.
        config: Of a cut model.
        shape: Its shape.

    Raises:
        SelectionError: They cannot express it.
    """
    problem = stock_layout.conformer_obstacle(
        shape, shape.attention, convolution="conv_module", feed_forwards=("ffn1", "ffn2")
    )
    stock_layout.raise_if_obstacle(problem)
    return shape_fields(shape) | {"intermediate_size": len(shape.feed_forward(f"{shape.layers[0]}.ffn1").units)}


def bert_fields(shape: EncoderShape) -> dict[str, Any]:
    """Config fields of w2v-BERT that follow a shape in our classes."""
    return {"num_attention_heads": shape.original["num_attention_heads"], "num_hidden_layers": len(shape.layers)}


FAMILIES = (
    Family(
        model_type="wav2vec2-conformer",
        stem="Wav2Vec2Conformer",
        original_fields=ORIGINAL_FIELDS,
        poison_fields={"conv_dim": []},
        fields=fields,
        stock_fields=partial(stock_fields, fields),
        attention_class=CutConformerAttention,
        apply_shape=partial(apply_shape, "batch_norm"),
    ),
    Family(
        model_type="wav2vec2-bert",
        stem="Wav2Vec2Bert",
        original_fields=("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"),
        poison_fields={"num_attention_heads": 0},
        fields=bert_fields,
        stock_fields=partial(stock_fields, bert_fields),
        attention_class=CutConformerAttention,
        apply_shape=partial(apply_shape, "depthwise_layer_norm"),
    ),
)
