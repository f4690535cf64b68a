"""Rows of the blocks that several architectures share: layers, attention, feed-forward and convolution modules."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace

from secateur.architectures.table import AxisTable
from secateur.records.block_part import ATTENTION, CONVOLUTION, FEED_FORWARD, REST
from secateur.structure import Axis, Unit, UseCount
from secateur.structure import axis as names


def once_per_frame(table: AxisTable) -> UseCount:
    """Return the use count of a weight that is used once for each output frame."""
    return UseCount(level=len(table.stages))


def layer(table: AxisTable, path: str) -> None:
    """Add a whole layer and the layer's axis.

    A layer that an earlier cut removed has an axis without units, and so have all axes inside the layer.
    """
    name = names.layer(path)
    table.add_block(path, REST, layer_index(path))
    table.add_axis(Axis(name=name, units=table.shape.units(name, 1), original=1))


def layer_index(path: str) -> int:
    """Return the number at the end of a path: 3 of ``encoder.layers.3``."""
    return int(path.rpartition(".")[2])


def block(table: AxisTable, path: str, part: str) -> tuple[Unit, ...]:
    """Add a block of a layer and an axis for the whole block, and return the parents of the axes inside the block.

    Example: the path ``encoder.layers.3.attention`` returns
    ``(("encoder.layers.3/layer", 0), ("encoder.layers.3.attention/block", 0))``.
    """
    layer_path = path.rpartition(".")[0]
    table.add_block(path, part, layer_index(layer_path))
    layer_unit = (names.layer(layer_path), 0)
    name = names.block(path)
    table.add_axis(Axis(name=name, units=table.shape.units(name, 1), original=1, parents=(layer_unit,)))
    return layer_unit, (name, 0)


@dataclass(frozen=True, kw_only=True)
class Projections:
    """Names of the linear maps of an attention block."""

    query: str = "q_proj"
    key: str = "k_proj"
    value: str = "v_proj"
    output: str = "out_proj"


def attention(table: AxisTable, path: str, projections: Projections | None = None) -> None:
    """Add an attention block with axes of heads and of the query/key and value/output dimensions of every head.

    Example with two heads of three dimensions, of which head 0 has lost query/key dimension 1: the rows of ``q_proj``
    lie on the axes ``head1.qk`` and ``head0.qk``, in storage order::

        row          0  1  2 | 3  4
        head         1  1  1 | 0  0
        dimension    0  1  2 | 0  2
    """
    parents, attention_shape = block(table, path, ATTENTION), table.shape.attention(path)
    count, heads_axis = table.shape.original["num_attention_heads"], names.heads(path)
    outputs = [names.value_output(path, head) for head in attention_shape.heads]
    queries = [names.query_key(path, head) for head in attention_shape.heads]
    table.add_axis(
        Axis(name=heads_axis, units=attention_shape.heads, original=count, parents=parents, requires=tuple(outputs))
    )
    # Removed heads have axes without units, so that axis names and offsets stay those of the dense model.
    for head in range(count):
        for name in (names.query_key(path, head), names.value_output(path, head)):
            units = table.shape.units(name, attention_shape.head_dim)
            table.add_axis(
                Axis(name=name, units=units, original=attention_shape.head_dim, parents=(*parents, (heads_axis, head)))
            )
    query, key, value, output = (f"{path}.{name}" for name in astuple(projections or Projections()))
    for name, axes in ((query, queries), (key, queries), (value, outputs)):
        table.bind_dim(f"{name}.weight", 0, *axes)
        table.bind_dim(f"{name}.bias", 0, *axes)
        table.count_matrix(name, once_per_frame(table))
    table.bind_dim(f"{output}.weight", 1, *outputs)
    table.count_matrix(output, once_per_frame(table))
    table.exists_with(path, parents[-1])
    # A logit is the product of a query and a key, and a query/key mask multiplies it once: the mask is on the queries.
    table.add_mask_site(f"{query}.weight", 0, *queries)
    table.add_mask_site(f"{query}.bias", 0, *queries)
    table.add_mask_site(f"{output}.weight", 1, *outputs)
    # A head's mask covers the columns of the head's value/output dimensions: repeats (3, 2) for heads of 3 and 2.
    widths = tuple(table.axes[name].size for name in outputs)
    table.add_mask_site(f"{output}.weight", 1, heads_axis, repeats=widths)
    mask_block(table, output, parents[-1])
    # Queries x keys and weights x values: one MAC per dimension for each pair of frames.
    if attention_shape.heads:
        squared = replace(once_per_frame(table), power=2)
        table.count_axis_products(path, squared, [*queries, *outputs])


def feed_forward(
    table: AxisTable, path: str, *, first_linear: str = "intermediate_dense", last_linear: str = "output_dense"
) -> None:
    """Add a feed-forward block with an axis of intermediate units."""
    parents, units_axis = block(table, path, FEED_FORWARD), names.units(path)
    size = table.shape.original["intermediate_size"]
    table.add_axis(Axis(name=units_axis, units=table.shape.units(units_axis, size), original=size, parents=parents))
    table.bind_dim(f"{path}.{first_linear}.weight", 0, units_axis)
    table.bind_dim(f"{path}.{first_linear}.bias", 0, units_axis)
    table.bind_dim(f"{path}.{last_linear}.weight", 1, units_axis)
    table.exists_with(path, parents[-1])
    table.add_mask_site(f"{path}.{last_linear}.weight", 1, units_axis)
    mask_block(table, f"{path}.{last_linear}", parents[-1])
    for name in (first_linear, last_linear):
        table.count_matrix(f"{path}.{name}", once_per_frame(table))


def convolution_module(table: AxisTable, path: str, *, norm_name: str) -> None:
    """Add the convolution module of a Conformer layer with an axis of channels.

    A channel has a value and a gate in front of the GLU, its own depthwise filter and its own entry in the norm. Its
    mask acts behind the activation, at the input of ``pointwise_conv2``. The module's own LayerNorm stays as long as
    any channel does.

    Example with two channels: the four rows of ``pointwise_conv1`` are value 0, value 1, gate 0, gate 1, so that its
    dimension 0 lies twice on the axis of channels.
    """
    parents, channel_axis = block(table, path, CONVOLUTION), names.channels(path)
    size = table.shape.original["hidden_size"]
    table.add_axis(Axis(name=channel_axis, units=table.shape.units(channel_axis, size), original=size, parents=parents))
    for name in ("weight", "bias"):
        table.bind_dim(f"{path}.pointwise_conv1.{name}", 0, channel_axis, channel_axis)
        table.bind_dim(f"{path}.depthwise_conv.{name}", 0, channel_axis)
    table.add_norm(f"{path}.{norm_name}", channel_axis)
    table.bind_dim(f"{path}.pointwise_conv2.weight", 1, channel_axis)
    table.exists_with(path, parents[-1])
    for name in ("weight", "bias"):
        table.exists_if_any(f"{path}.layer_norm.{name}", channel_axis)
    table.add_mask_site(f"{path}.pointwise_conv2.weight", 1, channel_axis)
    mask_block(table, f"{path}.pointwise_conv2", parents[-1])
    for name in ("pointwise_conv1", "depthwise_conv", "pointwise_conv2"):
        table.count_matrix(f"{path}.{name}", once_per_frame(table))


def mask_block(table: AxisTable, module: str, unit: Unit) -> None:
    """Put the mask of a block on the whole output of the last linear map or convolution, bias included."""
    for name in ("weight", "bias"):
        table.add_mask_site(f"{module}.{name}", None, unit[0])
