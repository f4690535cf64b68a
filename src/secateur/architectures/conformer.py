"""Architectures with Conformer layers (wav2vec2-conformer, w2v-BERT 2.0).

A layer is a half-step feed-forward block, attention, a convolution module and another half-step feed-forward block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from secateur.architectures import stock_layout
from secateur.architectures.blocks import (
    Projections,
    attention,
    convolution_module,
    feed_forward,
    layer,
    once_per_frame,
)
from secateur.architectures.family import Family
from secateur.architectures.table import CONFORMER_MAC_CONVENTION, AxisTable
from secateur.architectures.wav2vec2 import ORIGINAL_FIELDS, fields, front_end
from secateur.nn.conformer_attention import CutConformerAttention
from secateur.nn.constant_block import resize_feed_forward
from secateur.nn.convolution import resize_convolution_module
from secateur.records.block_part import PROJECTION
from secateur.structure import ConvStage, FeatureSpec
from secateur.structure import axis as names
from secateur.structure.encoder_shape import EncoderShape

PROJECTIONS = Projections(query="linear_q", key="linear_k", value="linear_v", output="linear_out")


def declare_wav2vec2(table: AxisTable) -> None:
    """Add the rows of wav2vec2-conformer: the front end of wav2vec 2.0, and Conformer layers.

    The stock class builds wav2vec 2.0's positional convolution and never calls it: a cut model does not have it, and
    no cost counts it. The convolution modules get no padding mask and read beyond the end of an utterance.
    """
    front_end(table)
    table.drop_unused("encoder.pos_conv_embed")
    layers(table, norm_name="batch_norm")
    table.sees_padding = True


def declare_bert(table: AxisTable) -> None:
    """Add the rows of w2v-BERT 2.0: the projection of log-mel features, and Conformer layers.

    A feature vector is two log-mel vectors of 10 ms each, one behind the other.
    """
    width = table.config.feature_projection_input_dim
    table.features = FeatureSpec(
        extractor="SeamlessM4TFeatureExtractor",
        width=width,
        stages=2,
        settings={"feature_size": width // 2, "num_mel_bins": width // 2, "stride": 2},
    )
    table.stages = (ConvStage(kernel=400, stride=160), ConvStage(kernel=2, stride=2))
    table.front_end = "feature_projection"
    table.add_block("feature_projection", PROJECTION)
    table.count_matrix("feature_projection.projection", once_per_frame(table))
    layers(table, norm_name="depthwise_layer_norm")


def layers(table: AxisTable, *, norm_name: str) -> None:
    """Add the rows of the layers.

    Args:
        table: Table that the rows are added to.
        norm_name: Name of the norm behind the depthwise convolution of a convolution module.
    """
    table.convention = CONFORMER_MAC_CONVENTION
    for path in table.shape.original_layers:
        layer(table, path)
        feed_forward(table, f"{path}.ffn1")
        attention(table, f"{path}.self_attn", PROJECTIONS)
        relative_positions(table, f"{path}.self_attn")
        convolution_module(table, f"{path}.conv_module", norm_name=norm_name)
        feed_forward(table, f"{path}.ffn2")
        table.exists_with(path, (names.layer(path), 0))


def relative_positions(table: AxisTable, path: str) -> None:
    """Add the rows of the positions of an attention block.

    Relative positions have their own keys, cut like the keys, and biases of the queries, cut and masked like the
    queries. The table of relative keys stays whole: all heads share it, and each head reads its own columns. Rotary
    positions rotate the input of the block, before its projections, so that query/key dimensions can go one by one.
    """
    attention_shape, position_type = table.shape.attention(path), table.config.position_embeddings_type
    queries = [names.query_key(path, head) for head in attention_shape.heads]
    keys = f"{path}.linear_pos"
    # linear_pos is used once per distance, -(L-1) to L-1, whatever the number of pairs of frames.
    table.bind_dim(f"{keys}.weight", 0, *queries)
    table.count_matrix(keys, replace(once_per_frame(table), power=0, per_distance=True))
    for name in (f"{path}.pos_bias_u", f"{path}.pos_bias_v"):
        table.flatten_shape(name)  # (heads, head_dim) -> (heads x head_dim)
        table.bind_dim(name, 0, *queries)
        table.add_mask_site(name, 0, *queries)
    table.exists_if_any(f"{path}.distance_embedding.weight", names.heads(path))
    if position_type == "relative" and attention_shape.heads:
        table.count_axis_products(path, replace(once_per_frame(table), per_distance=True), queries)
    if position_type == "relative_key" and attention_shape.heads:
        table.count_axis_products(path, replace(once_per_frame(table), power=2), queries)


def apply_shape(norm_name: str, model: Any, config: Any, shape: EncoderShape) -> None:
    """Replace the pruned modules of a freshly built model, and drop a positional convolution that is never called.

    Args:
        norm_name: Name of the norm behind the depthwise convolution of a convolution module.
        model: A freshly built base model.
        config: Its config.
        shape: Its shape.
    """
    # wav2vec2-conformer builds the module without a call to it.
    if hasattr(model.encoder, "pos_conv_embed"):
        del model.encoder.pos_conv_embed
    for path, layer_module in zip(shape.layers, model.encoder.layers, strict=True):
        layer_module.ffn1 = resize_feed_forward(layer_module.ffn1, shape.feed_forward(f"{path}.ffn1"))
        layer_module.self_attn = CutConformerAttention(config, shape.attention(f"{path}.self_attn"))
        channels = shape.convolution(f"{path}.conv_module")
        layer_module.conv_module = resize_convolution_module(layer_module.conv_module, channels, norm_name=norm_name)
        layer_module.ffn2 = resize_feed_forward(layer_module.ffn2, shape.feed_forward(f"{path}.ffn2"))


def stock_fields(
    shape_fields: Callable[[EncoderShape], dict[str, Any]], config: Any, shape: EncoderShape
) -> dict[str, Any]:
    """Return the config fields that give the stock classes a shape.

    Args:
        shape_fields: Returns the config fields that follow a shape in the registered classes.
        config: Config of a cut model.
        shape: Its shape.

    Raises:
        SelectionError: The stock classes cannot express the shape.
    """
    problem = stock_layout.conformer_obstacle(
        shape, shape.attention, convolution="conv_module", feed_forwards=("ffn1", "ffn2")
    )
    stock_layout.raise_if_obstacle(problem)
    return shape_fields(shape) | {"intermediate_size": len(shape.feed_forward(f"{shape.layers[0]}.ffn1").units)}


def bert_fields(shape: EncoderShape) -> dict[str, Any]:
    """Return the config fields of w2v-BERT that follow a shape in the registered classes."""
    return {"num_attention_heads": shape.original["num_attention_heads"], "num_hidden_layers": len(shape.layers)}


FAMILIES = (
    Family(
        model_type="wav2vec2-conformer",
        stem="Wav2Vec2Conformer",
        original_fields=ORIGINAL_FIELDS,
        poison_fields={"conv_dim": []},
        declare=declare_wav2vec2,
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
        declare=declare_bert,
        fields=bert_fields,
        stock_fields=partial(stock_fields, bert_fields),
        attention_class=CutConformerAttention,
        apply_shape=partial(apply_shape, "depthwise_layer_norm"),
    ),
)
