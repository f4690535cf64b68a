"""FastConformers: Parakeet's encoder, and Nemotron's, which streams."""

from __future__ import annotations

from dataclasses import replace

from secateur.architectures.blocks import CONVENTION, Table, block, feed_forward, frames, layer, scale_block
from secateur.architectures.conformer_table import convolution
from secateur.architectures.fast_conformer import HOP, subsampling_stages
from secateur.errors import ModelError
from secateur.structure import Axis, Features, Rate, Stage
from secateur.structure import axis as names


def declare(table: Table) -> None:
    """Two-dimensional convolutions over log-mel features, and Conformer layers whose heads have one width."""
    table.front_end = "subsampling"
    table.encoder = "layers"
    table.convention = f"{CONVENTION}; products with positions as stock classes make them, once for each pair of frames"
    hearing(table)
    subsampling(table)
    for path in table.shape.every_layer:
        layer(table, path)
        for name in ("feed_forward1", "feed_forward2"):
            feed_forward(table, f"{path}.{name}", first="linear1", last="linear2")
        attention(table, f"{path}.self_attn")
        convolution(table, f"{path}.conv", norm="norm")
        table.within(path, (names.layer(path), 0))


def hearing(table: Table) -> None:
    """The way from samples to frames: log-mel features every 160 samples, and one stage for each halving of them.

    Parakeet's extractor divides by a variance over the features, of which there must be two; Nemotron's convolutions
    are causal, padded in front by all that they see but one, and behind by what their stride leaves over.
    """
    config, streams = table.config, streaming(table)
    kernel, stride = config.subsampling_conv_kernel_size, config.subsampling_conv_stride
    padding = kernel + stride - 2 if streams else (kernel - 1) // 2 * 2
    count = len(subsampling_stages(table.modules["subsampling"]))
    table.features = Features(
        extractor="NemotronAsrStreamingFeatureExtractor" if streams else "ParakeetFeatureExtractor",
        width=config.num_mel_bins,
        settings={"feature_size": config.num_mel_bins},
    )
    first = Stage(kernel=HOP, stride=HOP, least=1 if streams else 2)
    table.stages = (first, *[Stage(kernel=kernel, stride=stride, padding=padding)] * count)


def streaming(table: Table) -> bool:
    """Whether the encoder streams."""
    return hasattr(table.config, "sliding_window")


def subsampling(table: Table) -> None:
    """The channels of every stage: of the first convolution, and of the pointwise ones behind depthwise ones.

    Masks act behind the activation and enter at the next convolution that mixes channels, or at the linear map behind
    the last, whose columns are the frequencies of one channel after those of another.
    """
    size, before, places = int(table.shape.original["subsampling_conv_channels"]), "", table.config.num_mel_bins
    for index, (first, depthwise, pointwise) in enumerate(subsampling_stages(table.modules["subsampling"]), start=1):
        path = f"subsampling.{pointwise or first}"
        own, places = names.channels(path), table.stages[index].count(places)
        rate = Rate(level=index + 1, width=places)
        table.axis(Axis(name=own, units=table.shape.units(own, size), original=size, least=1))
        table.bind(f"{path}.weight", 0, own)
        table.bind(f"{path}.bias", 0, own)
        table.use(path, rate)
        if before:
            table.bind(f"{path}.weight", 1, before)
            table.tap(f"{path}.weight", 1, before)
            table.bind(f"subsampling.{depthwise}.weight", 0, before)
            table.bind(f"subsampling.{depthwise}.bias", 0, before)
            table.use(f"subsampling.{depthwise}", rate)
        before = own
    linear = "subsampling.linear"
    taken = table.modules[linear].in_features
    if not places or taken != places * table.axes[before].size:
        raise ModelError(
            f"num_mel_bins: got {table.config.num_mel_bins}, of which the subsampling leaves {places} in each of "
            f"{table.axes[before].size} channels, but the linear map behind it takes {taken} in all."
        )
    table.bind(f"{linear}.weight", 1, before, width=places)
    table.tap(f"{linear}.weight", 1, before, repeats=(places,) * table.axes[before].size)
    table.use(linear, frames(table))


def attention(table: Table, path: str) -> None:
    """Heads, the query/key and value/output dimensions that all of them have, and the block.

    A dimension is one of every head, so that those of all heads stay one width, as a streaming cache wants it.
    Relative positions have keys of their own, cut like the keys, and biases of the queries, cut and masked like these.
    """
    inside, shape = block(table, path), table.shape
    own, query_key, value_output = names.heads(path), names.shared_query_key(path), names.shared_value_output(path)
    count, size = int(shape.original["num_attention_heads"]), shape.head_dim
    heads, dims = shape.units(own, count), shape.units(value_output, size)
    table.axis(Axis(name=own, units=heads, original=count, parents=inside, needs=(value_output,) * len(heads)))
    for name in (query_key, value_output):
        units = shape.units(name, size)
        table.axis(Axis(name=name, units=units, original=size, parents=inside, needs=(own,) * len(units)))
    biases = [f"{path}.bias_u", f"{path}.bias_v"]
    for name in biases:
        table.flatten(name)
    queries = [f"{path}.q_proj.weight", f"{path}.q_proj.bias", *biases]
    keys = [f"{path}.{name}" for name in ("k_proj.weight", "k_proj.bias", "relative_k_proj.weight")]
    for name in (*queries, *keys):
        table.bind(name, 0, query_key, across=own)
    for name in (f"{path}.v_proj.weight", f"{path}.v_proj.bias"):
        table.bind(name, 0, value_output, across=own)
    output = f"{path}.o_proj"
    table.bind(f"{output}.weight", 1, value_output, across=own)
    table.within(path, inside[-1])
    for name in queries:  # multiplies the logit once
        table.tap(name, 0, query_key, times=len(heads))
    table.tap(f"{output}.weight", 1, value_output, times=len(heads))
    table.tap(f"{output}.weight", 1, own, repeats=(len(dims),) * len(heads))
    scale_block(table, output, inside[-1])
    once = replace(frames(table), power=0, distances=True)
    table.use(f"{path}.relative_k_proj", once)
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        table.use(f"{path}.{name}", frames(table))
    for name, rate in (
        (query_key, replace(once, power=1)),
        (query_key, replace(frames(table), power=2)),
        (value_output, replace(frames(table), power=2)),
    ):
        if table.axes[name].size:
            table.use_axes(path, rate, [name], across=own)
