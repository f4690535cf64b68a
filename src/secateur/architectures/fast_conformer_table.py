"""FastConformers: Parakeet's encoder, and Nemotron's, which streams."""

from __future__ import annotations

from dataclasses import replace

from secateur.architectures.blocks import (
    MAC_CONVENTION,
    AxisTable,
    block,
    feed_forward,
    layer,
    once_per_frame,
    scale_block,
)
from secateur.architectures.conformer_table import convolution
from secateur.architectures.fast_conformer import HOP_LENGTH, subsampling_stages
from secateur.errors import ModelError
from secateur.structure import Axis, ConvStage, FeatureSpec, UseCount
from secateur.structure import axis as names


def declare(table: AxisTable) -> None:
    """Two-dimensional convolutions over log-mel features, and Conformer layers whose heads have one width."""
    table.front_end = "subsampling"
    table.encoder = "layers"
    table.convention = (
        f"{MAC_CONVENTION}; products with positions as stock classes make them, once for each pair of frames"
    )
    input_stages(table)
    subsampling(table)
    for path in table.shape.original_layers:
        layer(table, path)
        for name in ("feed_forward1", "feed_forward2"):
            feed_forward(table, f"{path}.{name}", first_linear="linear1", last_linear="linear2")
        attention(table, f"{path}.self_attn")
        convolution(table, f"{path}.conv", norm_name="norm")
        table.exists_with(path, (names.layer(path), 0))


def input_stages(table: AxisTable) -> None:
    """The way from samples to frames: log-mel features every 160 samples, and one stage for each halving of them.

    Parakeet's extractor divides by a variance over the features, of which there must be two; Nemotron's convolutions
    are causal, padded in front by all that they see but one, and behind by what their stride leaves over.
    """
    config, is_causal = table.config, is_streaming(table)
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


def is_streaming(table: AxisTable) -> bool:
    """Whether the encoder streams."""
    return hasattr(table.config, "sliding_window")


def subsampling(table: AxisTable) -> None:
    """The channels of every stage: of the first convolution, and of the pointwise ones behind depthwise ones.

    Masks act behind the activation and enter at the next convolution that mixes channels, or at the linear map behind
    the last, whose columns are the frequencies of one channel after those of another.
    """
    size, input_axis, bins_per_channel = (
        int(table.shape.original["subsampling_conv_channels"]),
        "",
        table.config.num_mel_bins,
    )
    for index, (standard, depthwise, pointwise) in enumerate(subsampling_stages(table.modules["subsampling"]), start=1):
        path = f"subsampling.{pointwise or standard}"
        output_axis, bins_per_channel = names.channels(path), table.stages[index].output_length(bins_per_channel)
        use_count = UseCount(level=index + 1, width=bins_per_channel)
        table.add_axis(Axis(name=output_axis, units=table.shape.units(output_axis, size), original=size, min_units=1))
        table.bind_dim(f"{path}.weight", 0, output_axis)
        table.bind_dim(f"{path}.bias", 0, output_axis)
        table.count_matrix(path, use_count)
        if input_axis:
            table.bind_dim(f"{path}.weight", 1, input_axis)
            table.add_mask_site(f"{path}.weight", 1, input_axis)
            table.bind_dim(f"subsampling.{depthwise}.weight", 0, input_axis)
            table.bind_dim(f"subsampling.{depthwise}.bias", 0, input_axis)
            table.count_matrix(f"subsampling.{depthwise}", use_count)
        input_axis = output_axis
    linear = "subsampling.linear"
    in_features = table.modules[linear].in_features
    if not bins_per_channel or in_features != bins_per_channel * table.axes[input_axis].size:
        raise ModelError(
            f"num_mel_bins: got {table.config.num_mel_bins}, of which the subsampling leaves {bins_per_channel} in each of "
            f"{table.axes[input_axis].size} channels, but the linear map behind it takes {in_features} in all."
        )
    table.bind_dim(f"{linear}.weight", 1, input_axis, width=bins_per_channel)
    table.add_mask_site(f"{linear}.weight", 1, input_axis, repeats=(bins_per_channel,) * table.axes[input_axis].size)
    table.count_matrix(linear, once_per_frame(table))


def attention(table: AxisTable, path: str) -> None:
    """Heads, the query/key and value/output dimensions that all of them have, and the block.

    A dimension is one of every head, so that those of all heads stay one width, as a streaming cache wants it.
    Relative positions have keys of their own, cut like the keys, and biases of the queries, cut and masked like these.
    """
    parents, shape = block(table, path), table.shape
    heads_axis, query_key, value_output = (
        names.heads(path),
        names.shared_query_key(path),
        names.shared_value_output(path),
    )
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
        table.flatten_shape(name)
    queries = [f"{path}.q_proj.weight", f"{path}.q_proj.bias", *biases]
    keys = [f"{path}.{name}" for name in ("k_proj.weight", "k_proj.bias", "relative_k_proj.weight")]
    for name in (*queries, *keys):
        table.bind_dim(name, 0, query_key, per_unit_of=heads_axis)
    for name in (f"{path}.v_proj.weight", f"{path}.v_proj.bias"):
        table.bind_dim(name, 0, value_output, per_unit_of=heads_axis)
    output = f"{path}.o_proj"
    table.bind_dim(f"{output}.weight", 1, value_output, per_unit_of=heads_axis)
    table.exists_with(path, parents[-1])
    for name in queries:  # multiplies the logit once
        table.add_mask_site(name, 0, query_key, tiles=len(heads))
    table.add_mask_site(f"{output}.weight", 1, value_output, tiles=len(heads))
    table.add_mask_site(f"{output}.weight", 1, heads_axis, repeats=(len(dims),) * len(heads))
    scale_block(table, output, parents[-1])
    once_per_distance = replace(once_per_frame(table), power=0, per_distance=True)
    table.count_matrix(f"{path}.relative_k_proj", once_per_distance)
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        table.count_matrix(f"{path}.{name}", once_per_frame(table))
    for name, use_count in (
        (query_key, replace(once_per_distance, power=1)),
        (query_key, replace(once_per_frame(table), power=2)),
        (value_output, replace(once_per_frame(table), power=2)),
    ):
        if table.axes[name].size:
            table.count_axis_products(path, use_count, [name], per_unit_of=heads_axis)
