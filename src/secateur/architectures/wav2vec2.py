"""Architectures with the modules of wav2vec 2.0: wav2vec 2.0, HuBERT, WavLM, data2vec audio and UniSpeech-SAT.

All have a convolutional front end, a positional convolution, and attention and feed-forward in every layer. Another
architecture of this kind is one row of `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from secateur.architectures import stock_layout
from secateur.architectures.blocks import attention, feed_forward, layer, once_per_frame
from secateur.architectures.family import Family
from secateur.architectures.table import AxisTable
from secateur.nn.attention import CutAttention, CutWavLMAttention
from secateur.nn.constant_block import resize_feed_forward
from secateur.nn.positional_conv import resize_positional_conv
from secateur.records.block_part import FRONT_END, POSITIONAL_CONV, PROJECTION
from secateur.structure import Axis, ConvStage, UseCount
from secateur.structure import axis as names
from secateur.structure.encoder_shape import EncoderShape, PositionalConvShape

ORIGINAL_FIELDS = ("conv_dim", "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
_POSITIONAL_PATH = "encoder.pos_conv_embed"


def declare(table: AxisTable) -> None:
    """Add the rows of an encoder with wav2vec 2.0's modules."""
    front_end(table)
    positional_convolution(table)
    for path in table.shape.original_layers:
        layer(table, path)
        attention(table, f"{path}.attention")
        feed_forward(table, f"{path}.feed_forward")
        table.exists_with(path, (names.layer(path), 0))
        # Attention adapters (MMS) stay whole.
        for name in (f"{path}.adapter_layer.linear_{i}" for i in (1, 2)):
            table.count_matrix(name, once_per_frame(table))


def declare_wavlm(table: AxisTable) -> None:
    """Add the rows of WavLM: the shared rows, and the rows of the gated relative position bias.

    The gate of each layer has one factor per head and exists as long as any head of its layer does. The position table
    of layer 0 serves all layers and exists as long as any head of any layer does.
    """
    declare(table)
    # A cut model without heads in layer 0 still has the position table there.
    attention_paths = [f"{path}.attention" for path in table.shape.layers]
    for path in attention_paths:
        heads = names.heads(path)
        table.bind_dim(f"{path}.gru_rel_pos_const", 1, heads)  # (1, heads, 1, 1)
        table.exclude_macs(f"{path}.gru_rel_pos_linear")
        table.exists_if_any(f"{path}.gru_rel_pos_linear.weight", heads)
        table.exists_if_any(f"{path}.gru_rel_pos_linear.bias", heads)
    table.exists_if_any(f"{attention_paths[0]}.rel_attn_embed.weight", *map(names.heads, attention_paths))


def front_end(table: AxisTable) -> None:
    """Add the convolutions of the front end, and the projection that reads the last convolution's channels.

    Masks act behind the activation, at the weight that reads the channels. The norm in front of the projection, and
    the norms of LayerNorm front ends, lie on the axis.

    Example: the axis of convolution 1 lies along dimension 0 of ``conv_layers.1.conv.weight``, (out, in, taps), and
    along dimension 1 of ``conv_layers.2.conv.weight``, where its mask is multiplied in.
    """
    windows = zip(table.config.conv_kernel, table.config.conv_stride, strict=True)
    stages = [ConvStage(kernel=kernel, stride=stride) for kernel, stride in windows]
    if getattr(table.config, "feat_extract_norm", "layer") == "group":
        stages[0] = replace(stages[0], min_windows=2)  # GroupNorm over time refuses a single window
    table.stages = tuple(stages)
    table.add_block("feature_extractor", FRONT_END)
    input_axis = ""
    for i, size in enumerate(table.shape.original["conv_dim"]):
        path = f"feature_extractor.conv_layers.{i}"
        output_axis = names.channels(path)
        table.add_block(path, FRONT_END, i)
        table.add_axis(Axis(name=output_axis, units=table.shape.units(output_axis, size), original=size, min_units=1))
        table.bind_dim(f"{path}.conv.weight", 0, output_axis)
        table.bind_dim(f"{path}.conv.bias", 0, output_axis)
        table.add_norm(f"{path}.layer_norm", output_axis)
        table.count_matrix(f"{path}.conv", UseCount(level=i + 1))
        if input_axis:
            table.bind_dim(f"{path}.conv.weight", 1, input_axis)
            table.add_mask_site(f"{path}.conv.weight", 1, input_axis)
        input_axis = output_axis
    table.add_block("feature_projection", PROJECTION)
    table.add_norm("feature_projection.layer_norm", input_axis)
    table.bind_dim("feature_projection.projection.weight", 1, input_axis)
    table.add_mask_site("feature_projection.projection.weight", 1, input_axis)
    table.count_matrix("feature_projection.projection", once_per_frame(table))


def positional_convolution(table: AxisTable) -> None:
    """Add the convolutions of the positional embedding, and the axis of groups of a single convolution.

    The unit is the group and not the tap: the remaining groups are again one dense convolution, whereas taps are not
    interchangeable (only consecutive taps are a convolution again), and without the outer taps every channel would see
    fewer frames; benchmarks/positional.py measures how much time either saves. A group has its own input and output
    channels. Its output is added to the residual stream, so that no weight reads it and the mask is multiplied in
    behind the activation. The stack of convolutions of data2vec stays whole: the norms between them are over the
    channels of all groups.
    """
    table.add_block(_POSITIONAL_PATH, POSITIONAL_CONV)
    path = f"{_POSITIONAL_PATH}.conv"
    group_axis = names.groups(path)
    if isinstance(convolution := table.modules.get(path), nn.Conv1d):
        original = table.config.num_conv_pos_embedding_groups
        width = convolution.out_channels // convolution.groups  # channels of a group
        units = table.shape.units(group_axis, original)
        table.add_axis(Axis(name=group_axis, units=units, original=original, min_units=1))
        table.bind_dim(table.weight_norm(path), 0, group_axis, width=width)
        table.bind_dim(f"{path}.bias", 0, group_axis, width=width)
        table.add_masked_output(f"{_POSITIONAL_PATH}.activation", 1, group_axis, width=width)
    for path, module in table.modules.items():
        if not path.startswith(_POSITIONAL_PATH):
            continue
        if isinstance(module, nn.Conv1d):
            # An even kernel computes one frame more than is kept.
            table.count_matrix(path, replace(once_per_frame(table), extra=1 - module.kernel_size[0] % 2))
        elif isinstance(module, nn.LayerNorm):
            table.sees_padding = True


def front_end_channels(shape: EncoderShape) -> tuple[tuple[int, ...], ...]:
    """Return the kept output channels of each convolution of the front end."""
    sizes = shape.original["conv_dim"]
    return tuple(
        shape.units(names.channels(f"feature_extractor.conv_layers.{i}"), size) for i, size in enumerate(sizes)
    )


def fields(shape: EncoderShape) -> dict[str, Any]:
    """Return the config fields that follow a shape in the registered classes."""
    return {"conv_dim": [len(units) for units in front_end_channels(shape)], "num_hidden_layers": len(shape.layers)}


def apply_shape(attention: type[CutAttention], model: Any, config: Any, shape: EncoderShape) -> None:
    """Replace the pruned modules of a freshly built model; channels and number of layers come from the config."""
    model.encoder.pos_conv_embed = resize_positional_conv(
        model.encoder.pos_conv_embed, positional_conv_shape(config, shape)
    )
    # The position table is built in layer 0 as long as any layer has heads to read it.
    has_heads = any(shape.attention(f"{path}.attention").heads for path in shape.layers)
    for path, layer_module in zip(shape.layers, model.encoder.layers, strict=True):
        attention_arguments = {}
        if attention is CutWavLMAttention:
            attention_arguments["has_position_table"] = path == shape.layers[0] and has_heads
        layer_module.attention = attention(config, shape.attention(f"{path}.attention"), **attention_arguments)
        units = shape.feed_forward(f"{path}.feed_forward")
        layer_module.feed_forward = resize_feed_forward(layer_module.feed_forward, units)


def positional_conv_shape(config: Any, shape: EncoderShape) -> PositionalConvShape:
    """Return the shape of the positional convolution."""
    return shape.positions(names.groups(f"{_POSITIONAL_PATH}.conv"), int(config.num_conv_pos_embedding_groups))


def stock_fields(config: Any, shape: EncoderShape) -> dict[str, Any]:
    """Return the config fields that give the stock classes a shape.

    Raises:
        SelectionError: The stock classes cannot express the shape.
    """
    stock_layout.raise_if_obstacle(stock_obstacle(config, shape))
    return fields(shape) | {"intermediate_size": len(shape.feed_forward(f"{shape.layers[0]}.feed_forward").units)}


def stock_obstacle(config: Any, shape: EncoderShape) -> str:
    """Return the reason why the stock classes cannot express a shape; empty for no reason."""
    convolution = positional_conv_shape(config, shape)
    if len(convolution.groups) < convolution.original_groups:
        return f"the positional convolution has {len(convolution.groups)} of {convolution.original_groups} groups"
    if not convolution.is_stock:
        return "groups of the positional convolution are scaled, which folds into no weight"
    first_width = len(shape.feed_forward(f"{shape.layers[0]}.feed_forward").units)
    for index, path in enumerate(shape.layers):
        if problem := stock_layout.attention_obstacle(shape.attention(f"{path}.attention"), shape, index):
            return problem
        units = shape.feed_forward(f"{path}.feed_forward")
        if not units.is_kept:
            return f"the feed-forward block of layer {index} is removed"
        if not units.units:
            return f"the feed-forward block of layer {index} has no units left"
        if len(units.units) != first_width:
            return f"feed-forward widths differ: {first_width} in layer 0, {len(units.units)} in layer {index}"
    return ""


def _family(
    model_type: str,
    stem: str,
    attention: type[CutAttention] = CutAttention,
    declare: Callable[[AxisTable], None] = declare,
) -> Family:
    return Family(
        model_type=model_type,
        stem=stem,
        original_fields=ORIGINAL_FIELDS,
        poison_fields={"conv_dim": []},
        declare=declare,
        fields=fields,
        stock_fields=stock_fields,
        attention_class=attention,
        apply_shape=partial(apply_shape, attention),
    )


FAMILIES = (
    _family("wav2vec2", "Wav2Vec2"),  # and XLS-R, MMS
    _family("hubert", "Hubert"),  # and ContentVec
    _family("wavlm", "WavLM", CutWavLMAttention, declare_wavlm),
    _family("data2vec-audio", "Data2VecAudio"),
    _family("unispeech-sat", "UniSpeechSat"),
)
