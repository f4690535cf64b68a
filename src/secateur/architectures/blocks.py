"""Rows that the families share, and the table that they are written into."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

from torch import nn

from secateur.architectures.registry import shape_of
from secateur.architectures.transducer import UnevenLSTM
from secateur.nn.low_rank import FactorizedLinear
from secateur.structure import (
    Axis,
    ConvStage,
    DimBinding,
    Factorization,
    FeatureSpec,
    MacTerm,
    MaskedOutput,
    MaskSite,
    PrunedNorm,
    Structure,
    Unit,
    UseCount,
    Weight,
)
from secateur.structure import axis as names

MAC_CONVENTION = (
    "MACs of convolutions, linear maps and attention's two products, front end and positional convolution included "
    "(the latter before its crop); norms, softmax, activations, biases and WavLM's bias gate are left out"
)


class AxisTable:
    """Collects the rows of one model and turns them into a `Structure`.

    Parameter shapes are read from the model itself; rows only say which dimensions lie on which axes. A linear map or
    convolution that nobody counts, and a row that does not fit its parameter, are errors. Rows speak of a factorised
    linear map as of the one matrix that it stands for; what they say is said of its two matrices in the end.
    """

    def __init__(self, model: nn.Module, config: Any) -> None:
        """
        Args:
            model: The base model, possibly on the meta device.
            config: Its config, stock or cut.
        """
        self.config = config
        self.shape = shape_of(config)
        self.modules = dict(model.named_modules())
        self.axes: dict[str, Axis] = {}
        self.mac_terms: list[MacTerm] = []
        self.norms: list[PrunedNorm] = []
        self.outputs: list[MaskedOutput] = []
        self.unused_weights: list[str] = []
        self.front_end = "feature_extractor"
        self.encoder = "encoder"
        self.features: FeatureSpec | None = None
        self.stages: tuple[ConvStage, ...] = ()
        self.excluded_modules: set[str] = set()
        self.convention = MAC_CONVENTION
        self.sees_padding = any(isinstance(module, nn.GroupNorm) for module in self.modules.values())
        self.head: tuple[str, ...] = ()
        self.weights = _weights(model)
        saved_buffer_names = model.state_dict().keys() - self.weights.keys()
        self.buffers = {
            name: Weight(name=name, shape=tuple(value.shape), is_matrix=False)
            for name, value in model.named_buffers()
            if name in saved_buffer_names
        }
        self.factorized_modules = {p: m for p, m in self.modules.items() if isinstance(m, FactorizedLinear)}
        for path, module in self.factorized_modules.items():
            name = f"{path}.weight"
            self.weights[name] = Weight(name=name, shape=(module.out_features, module.in_features), is_matrix=True)
            if f"{path}.outer.bias" in self.weights:
                self.weights[f"{path}.bias"] = self.weights.pop(f"{path}.outer.bias")

    def add_head_part(self, part: str, module: nn.Module) -> None:
        """Add a part of the head, of which rows may then speak."""
        self.head = (*self.head, part)
        self.modules |= dict(module.named_modules(prefix=part))
        self.weights |= _weights(module, part)

    def add_axis(self, axis: Axis) -> None:
        """Add an axis."""
        self.axes[axis.name] = axis

    def bind_dim(self, name: str, dim: int, *axes: str, width: int = 1, per_unit_of: str = "") -> None:
        """Say that dimension `dim` of a parameter or buffer lies on axes; one that this model lacks is passed over."""
        for tensors in (self.weights, self.buffers):
            if name not in tensors:
                continue
            weight = tensors[name]
            size = (
                width * sum(self.axes[axis].size for axis in axes) * (self.axes[per_unit_of].size if per_unit_of else 1)
            )
            assert weight.shape[dim] == size, f"{name} has {weight.shape[dim]} on dim {dim}, its axes {size}"
            binding = DimBinding(dim=dim, axes=axes, width=width, per_unit_of=per_unit_of)
            tensors[name] = replace(weight, bindings=(*weight.bindings, binding), exists_with=None)

    def flatten_shape(self, name: str) -> None:
        """Say that the dimensions of a parameter are one that the stock class has split."""
        if name in self.weights and len(stored_shape := self.weights[name].shape) > 1:
            self.weights[name] = replace(self.weights[name], shape=(math.prod(stored_shape),), split=stored_shape)

    def add_mask_site(
        self, name: str, dim: int | None, *axes: str, repeats: tuple[int, ...] = (), tiles: int = 1
    ) -> None:
        """Say that the mask of axes is multiplied into a parameter."""
        if name in self.weights:
            mask_site = MaskSite(dim=dim, axes=axes, repeats=repeats, tiles=tiles)
            self.weights[name] = replace(self.weights[name], mask_sites=(*self.weights[name].mask_sites, mask_site))

    def exists_with(self, prefix: str, unit: Unit) -> None:
        """Say that parameters below a path go with a unit, unless an axis along them says so or an earlier row did."""
        for name, weight in self.weights.items():
            if name.startswith(prefix + ".") and weight.exists_with is None and not weight.bindings:
                self.weights[name] = replace(weight, exists_with=unit)

    def exists_if_any(self, name: str, *axes: str) -> None:
        """Say that a parameter stays while any unit of these axes is alive."""
        if name in self.weights:
            self.weights[name] = replace(self.weights[name], exists_if_any=axes, exists_with=None)

    def add_norm(self, module: str, axis: str) -> None:
        """Say that a norm is crossed by an axis, its parameters and statistics with it."""
        if isinstance(self.modules.get(module), nn.LayerNorm):
            self.norms.append(PrunedNorm(module=module, axis=axis))
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.bind_dim(f"{module}.{name}", 0, axis)

    def weight_norm(self, module: str) -> str:
        """Say that a module's weight is kept as magnitude and direction; the name of the direction is returned."""
        magnitude, direction = (f"{module}.parametrizations.weight.original{i}" for i in (0, 1))
        self.weights[direction] = replace(self.weights[direction], magnitude=magnitude)
        return direction

    def add_masked_output(self, module: str, dim: int, axis: str, *, width: int) -> None:
        """Say that the mask of an axis is multiplied into what a module gives, `width` positions for each unit."""
        mask_site = MaskSite(dim=dim, axes=(axis,), repeats=(width,) * self.axes[axis].size)
        self.outputs.append(MaskedOutput(module=module, mask_site=mask_site))

    def count_matrix(self, module: str, use_count: UseCount) -> None:
        """Count the weight matrix of a module."""
        for name in (f"{module}.weight", f"{module}.parametrizations.weight.original1"):
            if name in self.weights:
                self.mac_terms.append(MacTerm(module=module, use_count=use_count, weight=name))

    def count_axis_products(
        self, module: str, use_count: UseCount, axes: Sequence[str], *, per_unit_of: str = ""
    ) -> None:
        """Count one multiply-accumulate per living unit."""
        self.mac_terms.append(MacTerm(module=module, use_count=use_count, axes=tuple(axes), per_unit_of=per_unit_of))

    def exclude_macs(self, module: str) -> None:
        """Say that no MACs of a module are counted."""
        self.excluded_modules.add(module)

    def drop_unused(self, prefix: str) -> None:
        """Say that the stock class has the modules below a path and never calls them."""
        self.unused_weights += [name for name in self.weights if name.startswith(prefix + ".")]
        for name in self.unused_weights:
            self.weights.pop(name, None)
        self.excluded_modules |= {path for path in self.modules if path.startswith(prefix + ".")}

    def add_factorization(self, path: str) -> Factorization:
        """Say of the two matrices of a factorised linear map what was said of the one that they stand for."""
        (dense_term,) = (dense_term for dense_term in self.mac_terms if dense_term.module == path)
        dense = self.weights.pop(f"{path}.weight")
        dense_bindings = {binding.dim: binding for binding in dense.bindings}
        axes_by_dim = {dim: binding.axes for dim, binding in dense_bindings.items()}
        containing_axis = (dense.exists_with[0],) if dense.exists_with else ()
        factorization = Factorization(module=path, dense=dense, mac_term=dense_term)
        requires_any = axes_by_dim.get(0) or axes_by_dim.get(1) or containing_axis
        units, original = self.shape.ranks(path), self.shape.factorized_ranks[path]
        self.add_axis(
            Axis(name=factorization.axis, units=units, original=original, min_units=1, requires_any=requires_any)
        )
        # Beside another mask on one side's dimension, that of the ranks is on the other side's.
        masked_side = factorization.inner if any(site.dim == 0 for site in dense.mask_sites) else factorization.outer
        for name, dim in ((factorization.outer, 0), (factorization.inner, 1)):
            rank_binding = DimBinding(dim=1 - dim, axes=(factorization.axis,))
            mask_sites = tuple(site for site in dense.mask_sites if site.dim == dim or (site.dim is None and dim == 0))
            self.weights[name] = replace(
                self.weights[name],
                bindings=(dense_bindings[dim], rank_binding) if dim in dense_bindings else (rank_binding,),
                mask_sites=(*mask_sites, MaskSite(dim=1 - dim, axes=(factorization.axis,)))
                if name == masked_side
                else mask_sites,
                exists_with=None if dense.bindings else dense.exists_with,
                exists_if_any=dense.exists_if_any
                if dim in dense_bindings
                else axes_by_dim.get(1 - dim, dense.exists_if_any),
            )
            self.mac_terms.append(
                MacTerm(module=name.removesuffix(".weight"), use_count=dense_term.use_count, weight=name)
            )
        self.mac_terms.remove(dense_term)
        if bias := self.weights.pop(f"{path}.bias", None):
            self.weights[bias.name] = bias
        return factorization

    def build_structure(self, model_type: str) -> Structure:
        """All rows as plain data."""
        factorizations = tuple(self.add_factorization(path) for path in self.factorized_modules)
        counted_modules = {term.module for term in self.mac_terms} | self.excluded_modules
        for path, module in self.modules.items():
            is_parametrized = any(path.startswith(f"{term}.") for term in counted_modules)
            assert not _has_weight_matrix(module) or is_parametrized or path in counted_modules, path
        return Structure(
            model_type=model_type,
            axes=self.axes,
            weights=tuple(self.weights.values()),
            mac_terms=tuple(self.mac_terms),
            norms=tuple(self.norms),
            outputs=tuple(self.outputs),
            stages=self.stages,
            convention=self.convention,
            sees_padding=self.sees_padding,
            buffers=tuple(self.buffers.values()),
            unused=tuple(self.unused_weights),
            front_end=self.front_end,
            encoder=self.encoder,
            features=self.features,
            factorizations=factorizations,
            head=self.head,
        )


def _weights(model: nn.Module, path: str = "") -> dict[str, Weight]:
    """The parameters of the module at a path by name, as yet on no axis."""
    matrices = set()
    for module_path, module in model.named_modules(prefix=path):
        if _has_weight_matrix(module):
            matrices |= {f"{module_path}.weight", f"{module_path}.parametrizations.weight.original1"}
        elif isinstance(module, nn.LSTM | UnevenLSTM):
            matrices |= {f"{module_path}.{name}" for name, value in module.named_parameters() if value.dim() > 1}
    return {
        name: Weight(name=name, shape=tuple(value.shape), is_matrix=name in matrices)
        for name, value in model.named_parameters(prefix=path)
    }


def _has_weight_matrix(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)


def once_per_frame(table: AxisTable) -> UseCount:
    """Once a frame."""
    return UseCount(level=len(table.stages))


def encoder(table: AxisTable) -> None:
    """All rows of a wav2vec 2.0 style encoder."""
    front_end(table)
    positional_convolution(table)
    for path in table.shape.original_layers:
        layer(table, path)
        attention(table, f"{path}.attention")
        feed_forward(table, f"{path}.feed_forward")
        table.exists_with(path, (names.layer(path), 0))
        for name in (f"{path}.adapter_layer.linear_{i}" for i in (1, 2)):
            table.count_matrix(name, once_per_frame(table))


def front_end(table: AxisTable) -> None:
    """The convolutions, and the projection that consumes the last one's channels.

    Masks act behind the activation and enter at the consuming weight. The norm in front of the projection, and those
    of LayerNorm front ends, are crossed by the axis.
    """
    windows = zip(table.config.conv_kernel, table.config.conv_stride, strict=True)
    stages = [ConvStage(kernel=kernel, stride=stride) for kernel, stride in windows]
    if getattr(table.config, "feat_extract_norm", "layer") == "group":
        stages[0] = replace(stages[0], min_windows=2)  # GroupNorm over time refuses a single window
    table.stages = tuple(stages)
    input_axis = ""
    for i, size in enumerate(table.shape.original["conv_dim"]):
        path = f"feature_extractor.conv_layers.{i}"
        output_axis = names.channels(path)
        table.add_axis(Axis(name=output_axis, units=table.shape.units(output_axis, size), original=size, min_units=1))
        table.bind_dim(f"{path}.conv.weight", 0, output_axis)
        table.bind_dim(f"{path}.conv.bias", 0, output_axis)
        table.add_norm(f"{path}.layer_norm", output_axis)
        table.count_matrix(f"{path}.conv", UseCount(level=i + 1))
        if input_axis:
            table.bind_dim(f"{path}.conv.weight", 1, input_axis)
            table.add_mask_site(f"{path}.conv.weight", 1, input_axis)
        input_axis = output_axis
    table.add_norm("feature_projection.layer_norm", input_axis)
    table.bind_dim("feature_projection.projection.weight", 1, input_axis)
    table.add_mask_site("feature_projection.projection.weight", 1, input_axis)
    table.count_matrix("feature_projection.projection", once_per_frame(table))


def positional_convolution(table: AxisTable) -> None:
    """Every convolution of the positional embedding, and the groups of it where it is a single one.

    The unit is the group and not the tap: any groups that are left are again one dense convolution, whereas taps are
    not interchangeable (only a run of them is a convolution again), and without the outer ones every channel would see
    less far; benchmarks/positional.py measures what either saves. A group goes with its own channels of input and
    output. What it gives is added to the residual stream, so its mask has no weight to enter and is multiplied in
    behind the activation. data2vec's stack of convolutions stays whole: the norms between them are over the channels
    of all groups.
    """
    path = "encoder.pos_conv_embed.conv"
    group_axis = names.groups(path)
    if isinstance(convolution := table.modules.get(path), nn.Conv1d):
        original, width = table.config.num_conv_pos_embedding_groups, convolution.out_channels // convolution.groups
        table.add_axis(
            Axis(name=group_axis, units=table.shape.units(group_axis, original), original=original, min_units=1)
        )
        table.bind_dim(table.weight_norm(path), 0, group_axis, width=width)
        table.bind_dim(f"{path}.bias", 0, group_axis, width=width)
        table.add_masked_output("encoder.pos_conv_embed.activation", 1, group_axis, width=width)
    # An even kernel sees one frame more than it leaves.
    for path, module in table.modules.items():
        if path.startswith("encoder.pos_conv_embed") and isinstance(module, nn.Conv1d):
            table.count_matrix(path, replace(once_per_frame(table), extra=1 - module.kernel_size[0] % 2))
        elif path.startswith("encoder.pos_conv_embed") and isinstance(module, nn.LayerNorm):
            table.sees_padding = True


def layer(table: AxisTable, path: str) -> None:
    """The axis of a whole layer; one trimmed before has no units left, and nor has any axis inside it."""
    name = names.layer(path)
    table.add_axis(Axis(name=name, units=table.shape.units(name, 1), original=1))


def block(table: AxisTable, path: str) -> tuple[Unit, ...]:
    """The axis of a whole block of a layer; given back is what must be alive for anything inside it."""
    layer_unit, name = (names.layer(path.rpartition(".")[0]), 0), names.block(path)
    table.add_axis(Axis(name=name, units=table.shape.units(name, 1), original=1, parents=(layer_unit,)))
    return layer_unit, (name, 0)


@dataclass(frozen=True, kw_only=True)
class Projections:
    """What an attention block calls its linear maps."""

    query: str = "q_proj"
    key: str = "k_proj"
    value: str = "v_proj"
    output: str = "out_proj"


def attention(table: AxisTable, path: str, projections: Projections | None = None) -> None:
    """Heads, their query/key and value/output dimensions, and the block."""
    parents, attention_shape = block(table, path), table.shape.attention(path)
    outputs = [names.value_output(path, head) for head in attention_shape.heads]
    queries = [names.query_key(path, head) for head in attention_shape.heads]
    count, heads_axis = table.shape.original["num_attention_heads"], names.heads(path)
    table.add_axis(
        Axis(name=heads_axis, units=attention_shape.heads, original=count, parents=parents, requires=tuple(outputs))
    )
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
    # A query/key mask multiplies the logit once: into the queries. A head's or block's mask scales its output.
    table.add_mask_site(f"{query}.weight", 0, *queries)
    table.add_mask_site(f"{query}.bias", 0, *queries)
    table.add_mask_site(f"{output}.weight", 1, *outputs)
    widths = tuple(table.axes[name].size for name in outputs)
    table.add_mask_site(f"{output}.weight", 1, heads_axis, repeats=widths)
    scale_block(table, output, parents[-1])
    if attention_shape.heads:
        squared = replace(once_per_frame(table), power=2)
        table.count_axis_products(path, squared, [*queries, *outputs])


def feed_forward(
    table: AxisTable, path: str, *, first_linear: str = "intermediate_dense", last_linear: str = "output_dense"
) -> None:
    """Intermediate units and the block."""
    parents, units_axis = block(table, path), names.units(path)
    size = table.shape.original["intermediate_size"]
    table.add_axis(Axis(name=units_axis, units=table.shape.units(units_axis, size), original=size, parents=parents))
    table.bind_dim(f"{path}.{first_linear}.weight", 0, units_axis)
    table.bind_dim(f"{path}.{first_linear}.bias", 0, units_axis)
    table.bind_dim(f"{path}.{last_linear}.weight", 1, units_axis)
    table.exists_with(path, parents[-1])
    table.add_mask_site(f"{path}.{last_linear}.weight", 1, units_axis)
    scale_block(table, f"{path}.{last_linear}", parents[-1])
    for name in (first_linear, last_linear):
        table.count_matrix(f"{path}.{name}", once_per_frame(table))


def scale_block(table: AxisTable, module: str, unit: Unit) -> None:
    """The mask of a block, on all that its last linear map or convolution gives."""
    for name in ("weight", "bias"):
        table.add_mask_site(f"{module}.{name}", None, unit[0])
