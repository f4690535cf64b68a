"""Architectures with FastConformer encoders: Parakeet, and Nemotron, which streams.

Two-dimensional convolutions over log-mel features, then Conformer layers. All heads of a layer have the same
dimensions, so that keys and values fit one cache, (B, heads, frames, dimensions).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from secateur.architectures import stock_layout
from secateur.architectures.blocks import (
    block,
    convolution_module,
    feed_forward,
    layer,
    mask_block,
    once_per_frame,
)
from secateur.architectures.family import Family
from secateur.architectures.table import CONFORMER_MAC_CONVENTION, AxisTable
from secateur.errors import ModelError
from secateur.nn.constant_block import resize_feed_forward
from secateur.nn.convolution import resize_convolution, resize_convolution_module
from secateur.nn.shared_attention import CutSharedAttention
from secateur.records.block_part import ATTENTION, FRONT_END
from secateur.structure import Axis, ConvStage, FeatureSpec, UseCount
from secateur.structure import axis as names
from secateur.structure.encoder_shape import EncoderShape

#: Samples between two log-mel features.
HOP_LENGTH = 160

ORIGINAL_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "subsampling_conv_channels",
)
_FEED_FORWARDS = ("feed_forward1", "feed_forward2")


def declare(table: AxisTable) -> None:
    """Add the rows of a FastConformer encoder."""
    table.front_end = "subsampling"
    table.encoder = "layers"
    table.convention = CONFORMER_MAC_CONVENTION
    input_stages(table)
    subsampling(table)
    for path in table.shape.original_layers:
        layer(table, path)
        for name in _FEED_FORWARDS:
            feed_forward(table, f"{path}.{name}", first_linear="linear1", last_linear="linear2")
        attention(table, f"{path}.self_attn")
        convolution_module(table, f"{path}.conv", norm_name="norm")
        table.exists_with(path, (names.layer(path), 0))


def input_stages(table: AxisTable) -> None:
    """Add the stages from samples to frames: log-mel features every 160 samples, then convolutions of stride 2.

    Parakeet's extractor divides by a variance over the features, so that at least two are needed. Nemotron's
    convolutions are causal: with kernel 3 and stride 2, three positions are padded in all, two in front and one behind.
    """
    config = table.config
    is_causal = hasattr(config, "sliding_window")
    kernel, stride = config.subsampling_conv_kernel_size, config.subsampling_conv_stride
    padding = kernel + stride - 2 if is_causal else (kernel - 1) // 2 * 2
    count = len(subsampling_stages(table.modules["subsampling"]))
    table.features = FeatureSpec(
        extractor="NemotronAsrStreamingFeatureExtractor" if is_causal else "ParakeetFeatureExtractor",
        width=config.num_mel_bins,
        settings={"feature_size": config.num_mel_bins},
    )
    mel_stage = ConvStage(kernel=HOP_LENGTH, stride=HOP_LENGTH, min_windows=1 if is_causal else 2)
    table.stages = (mel_stage, *[ConvStage(kernel=kernel, stride=stride, padding=padding)] * count)


def subsampling(table: AxisTable) -> None:
    """Add the channels of every stage: of the first convolution, and of the pointwise convolutions of later stages.

    Masks act behind the activation, at the next convolution that mixes channels, or at the linear map behind the last
    stage.

    Example with 80 mel bins and three stages of stride 2: 80 -> 40 -> 20 -> 10 bins. The columns of the linear map are
    the 10 bins of channel 0, then the 10 bins of channel 1, and so on: each unit covers 10 columns.
    """
    size = int(table.shape.original["subsampling_conv_channels"])
    input_axis = ""
    bins_per_channel = table.config.num_mel_bins
    table.add_block("subsampling", FRONT_END)
    for index, (standard, depthwise, pointwise) in enumerate(subsampling_stages(table.modules["subsampling"]), start=1):
        path = f"subsampling.{pointwise or standard}"
        table.add_block(path, FRONT_END, index - 1)
        output_axis = names.channels(path)
        bins_per_channel = table.stages[index].output_length(bins_per_channel)
        # Stage 0 is the extractor, so that convolution 1 gives the length after two stages.
        use_count = UseCount(level=index + 1, width=bins_per_channel)
        table.add_axis(Axis(name=output_axis, units=table.shape.units(output_axis, size), original=size, min_units=1))
        table.bind_dim(f"{path}.weight", 0, output_axis)
        table.bind_dim(f"{path}.bias", 0, output_axis)
        table.count_matrix(path, use_count)
        # A depthwise convolution has a filter for each input channel, and the pointwise one mixes the channels.
        if input_axis:
            table.bind_dim(f"{path}.weight", 1, input_axis)
            table.add_mask_site(f"{path}.weight", 1, input_axis)
            table.bind_dim(f"subsampling.{depthwise}.weight", 0, input_axis)
            table.bind_dim(f"subsampling.{depthwise}.bias", 0, input_axis)
            table.count_matrix(f"subsampling.{depthwise}", use_count)
        input_axis = output_axis
    linear, channels = "subsampling.linear", table.axes[input_axis].size
    in_features = table.modules[linear].in_features
    if not bins_per_channel or in_features != bins_per_channel * channels:
        raise ModelError(
            f"num_mel_bins: got {table.config.num_mel_bins}, of which the subsampling leaves {bins_per_channel} in "
            f"each of {channels} channels, but the linear map behind it takes {in_features} in all."
        )
    table.bind_dim(f"{linear}.weight", 1, input_axis, width=bins_per_channel)
    table.add_mask_site(f"{linear}.weight", 1, input_axis, repeats=(bins_per_channel,) * channels)
    table.count_matrix(linear, once_per_frame(table))


def attention(table: AxisTable, path: str) -> None:
    """Add an attention block with axes of heads and of the query/key and value/output dimensions that heads share.

    A dimension is removed from every head at once, so that all heads keep one width, as a streaming cache needs.
    Relative positions have their own keys, cut like the keys, and biases of the queries, cut and masked like the
    queries.

    Example with two heads and query/key dimensions 0 and 2 left: the rows of ``q_proj`` are dimensions 0, 2 of head 0,
    then 0, 2 of head 1. The mask of the dimensions is tiled once for each head.
    """
    parents, shape = block(table, path, ATTENTION), table.shape
    heads_axis = names.heads(path)
    query_key = names.shared_query_key(path)
    value_output = names.shared_value_output(path)
    count, size = int(shape.original["num_attention_heads"]), shape.head_dim
    heads, dims = shape.units(heads_axis, count), shape.units(value_output, size)
    table.add_axis(
        Axis(name=heads_axis, units=heads, original=count, parents=parents, requires=(value_output,) * len(heads))
    )
    for name in (query_key, value_output):
        units = shape.units(name, size)
        table.add_axis(
            Axis(name=name, units=units, original=size, parents=parents, requires=(heads_axis,) * len(units))
        )
    biases = [f"{path}.bias_u", f"{path}.bias_v"]
    for name in biases:
        table.flatten_shape(name)  # (heads, head_dim) -> (heads x head_dim)
    queries = [f"{path}.q_proj.weight", f"{path}.q_proj.bias", *biases]
    keys = [f"{path}.{name}" for name in ("k_proj.weight", "k_proj.bias", "relative_k_proj.weight")]
    for name in (*queries, *keys):
        table.bind_dim(name, 0, query_key, per_unit_of=heads_axis)
    for name in (f"{path}.v_proj.weight", f"{path}.v_proj.bias"):
        table.bind_dim(name, 0, value_output, per_unit_of=heads_axis)
    output = f"{path}.o_proj"
    table.bind_dim(f"{output}.weight", 1, value_output, per_unit_of=heads_axis)
    table.exists_with(path, parents[-1])
    # A logit is the product of a query and a key, and a query/key mask multiplies it once: the mask is on the queries.
    for name in queries:
        table.add_mask_site(name, 0, query_key, tiles=len(heads))
    table.add_mask_site(f"{output}.weight", 1, value_output, tiles=len(heads))
    table.add_mask_site(f"{output}.weight", 1, heads_axis, repeats=(len(dims),) * len(heads))
    mask_block(table, output, parents[-1])
    once_per_distance = replace(once_per_frame(table), power=0, per_distance=True)
    table.count_matrix(f"{path}.relative_k_proj", once_per_distance)
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        table.count_matrix(f"{path}.{name}", once_per_frame(table))
    once_per_pair = replace(once_per_frame(table), power=2)
    for name, use_count in (
        (query_key, replace(once_per_distance, power=1)),  # queries and keys of positions
        (query_key, once_per_pair),
        (value_output, once_per_pair),
    ):
        if table.axes[name].size:
            table.count_axis_products(path, use_count, [name], per_unit_of=heads_axis)


def apply_shape(model: Any, config: Any, shape: EncoderShape) -> None:
    """Replace the pruned modules of a freshly built encoder; the number of layers comes from the config."""
    resize_subsampling(model.subsampling, config, shape)
    for index, (path, layer_module) in enumerate(zip(shape.layers, model.layers, strict=True)):
        layer_module.self_attn = CutSharedAttention(config, shape.shared_attention(f"{path}.self_attn"), index)
        for name in _FEED_FORWARDS:
            units = shape.feed_forward(f"{path}.{name}")
            resized = resize_feed_forward(
                getattr(layer_module, name), units, first_linear="linear1", last_linear="linear2"
            )
            setattr(layer_module, name, resized)
        channels = shape.convolution(f"{path}.conv")
        layer_module.conv = resize_convolution_module(layer_module.conv, channels, norm_name="norm")


def resize_subsampling(subsampling: Any, config: Any, shape: EncoderShape) -> None:
    """Resize the convolutions of the front end and the linear map behind the convolutions, in place."""
    modules = dict(subsampling.named_modules())
    original_channels = int(shape.original["subsampling_conv_channels"])
    in_channels = 0
    for standard, depthwise, pointwise in subsampling_stages(subsampling):
        axis = names.channels(f"subsampling.{pointwise or standard}")
        channels = len(shape.units(axis, original_channels))
        resized = (
            {
                depthwise: resize_convolution(modules[depthwise], in_channels=in_channels, out_channels=in_channels),
                pointwise: resize_convolution(modules[pointwise], in_channels=in_channels, out_channels=channels),
            }
            if depthwise
            else {standard: resize_convolution(modules[standard], out_channels=channels)}
        )
        for path, module in resized.items():
            subsampling.set_submodule(path, module)
        in_channels = channels
    bins_per_channel = subsampling.linear.in_features // original_channels
    subsampling.linear = nn.Linear(in_channels * bins_per_channel, config.hidden_size)


def subsampling_stages(subsampling: nn.Module) -> list[tuple[str, str, str]]:
    """Return the paths of the standard, depthwise and pointwise convolution of each stage; empty for a missing kind.

    Example: ``[("layers.0", "", ""), ("", "layers.2", "layers.3"), ("", "layers.5", "layers.6")]``.
    """
    paths = [path for path, module in subsampling.named_modules() if isinstance(module, nn.Conv2d)]
    return [(paths[0], "", ""), *(("", *paths[i : i + 2]) for i in range(1, len(paths), 2))]


def fields(shape: EncoderShape) -> dict[str, Any]:
    """Return the config fields that follow a shape in the registered classes."""
    heads = int(shape.original["num_attention_heads"])
    return {"num_hidden_layers": len(shape.layers), "num_attention_heads": heads}


def stock_fields(config: Any, shape: EncoderShape) -> dict[str, Any]:
    """Return the config fields that give the stock classes a shape.

    Raises:
        SelectionError: The stock classes cannot express the shape.
    """
    layer_obstacle = stock_layout.conformer_obstacle(
        shape, shape.shared_attention, convolution="conv", feed_forwards=_FEED_FORWARDS
    )
    stock_layout.raise_if_obstacle(layer_obstacle or subsampling_obstacle(config, shape))
    stock_values = {
        "intermediate_size": len(shape.feed_forward(f"{shape.layers[0]}.feed_forward1").units),
        "subsampling_conv_channels": subsampling_widths(config, shape)[0],
    }
    return fields(shape) | stock_values


def subsampling_widths(config: Any, shape: EncoderShape) -> list[int]:
    """Return the channels of the front-end stages, pruned stages before whole stages."""
    pruned_widths = [
        len(units)
        for name, units in shape.axes.items()
        if name.startswith("subsampling.") and name.endswith("/channels")
    ]
    stages = int(config.subsampling_factor).bit_length() - 1  # each stage halves the frames: factor 8 is 3 stages
    return pruned_widths + [int(shape.original["subsampling_conv_channels"])] * (stages - len(pruned_widths))


def subsampling_obstacle(config: Any, shape: EncoderShape) -> str:
    """Return the reason why the stock classes cannot express the front end; empty for no reason."""
    widths = subsampling_widths(config, shape)
    return f"subsampling widths differ: {', '.join(map(str, widths))}" if len(set(widths)) > 1 else ""


def samples_per_frame(config: Any) -> int:
    """Return the number of samples per output frame of an encoder."""
    return HOP_LENGTH * int(config.subsampling_factor)


def _family(model_type: str, stem: str, composite_model_types: Mapping[str, str]) -> Family:
    return Family(
        model_type=model_type,
        stem=stem,
        base_suffix="Encoder",
        composite_model_types=composite_model_types,
        samples_per_frame=samples_per_frame,
        layers_path="layers",
        original_fields=ORIGINAL_FIELDS,
        poison_fields={"num_attention_heads": 0},
        declare=declare,
        fields=fields,
        stock_fields=stock_fields,
        attention_class=CutSharedAttention,
        apply_shape=apply_shape,
    )


FAMILIES = (
    _family(
        "parakeet_encoder",
        "Parakeet",
        {"ForCTC": "parakeet_ctc", "ForRNNT": "parakeet_rnnt", "ForTDT": "parakeet_tdt"},
    ),
    _family("nemotron_asr_streaming_encoder", "NemotronAsrStreaming", {"ForRNNT": "nemotron_asr_streaming"}),
)
