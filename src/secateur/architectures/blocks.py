"""Rows that the families share, and the table that they are written into."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

from torch import nn

from secateur.architectures.registry import shape_of
from secateur.architectures.transducer import Recurrent
from secateur.nn.low_rank import FactorisedLinear
from secateur.structure import (
    Axis,
    Bind,
    Factorised,
    Features,
    Norm,
    Output,
    Rate,
    Stage,
    Structure,
    Tap,
    Unit,
    Use,
    Weight,
)
from secateur.structure import axis as names

CONVENTION = (
    "MACs of convolutions, linear maps and attention's two products, front end and positional convolution included "
    "(the latter before its crop); norms, softmax, activations, biases and WavLM's bias gate are left out"
)


class Table:
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
        self.uses: list[Use] = []
        self.norms: list[Norm] = []
        self.outputs: list[Output] = []
        self.unused: list[str] = []
        self.front_end = "feature_extractor"
        self.encoder = "encoder"
        self.features: Features | None = None
        self.stages: tuple[Stage, ...] = ()
        self.left_out: set[str] = set()
        self.convention = CONVENTION
        self.sees_padding = any(isinstance(module, nn.GroupNorm) for module in self.modules.values())
        self.head: tuple[str, ...] = ()
        self.weights = _weights(model)
        saved = model.state_dict().keys() - self.weights.keys()
        self.buffers = {
            name: Weight(name=name, shape=tuple(value.shape), matrix=False)
            for name, value in model.named_buffers()
            if name in saved
        }
        self.factorised = {p: m for p, m in self.modules.items() if isinstance(m, FactorisedLinear)}
        for path, module in self.factorised.items():
            name = f"{path}.weight"
            self.weights[name] = Weight(name=name, shape=(module.out_features, module.in_features), matrix=True)
            if f"{path}.outer.bias" in self.weights:
                self.weights[f"{path}.bias"] = self.weights.pop(f"{path}.outer.bias")

    def add(self, part: str, module: nn.Module) -> None:
        """Add a part of the head, of which rows may then speak."""
        self.head = (*self.head, part)
        self.modules |= dict(module.named_modules(prefix=part))
        self.weights |= _weights(module, part)

    def axis(self, axis: Axis) -> None:
        """Add an axis."""
        self.axes[axis.name] = axis

    def bind(self, name: str, dim: int, *axes: str, width: int = 1, across: str = "") -> None:
        """Say that dimension `dim` of a parameter or buffer lies on axes; one that this model lacks is passed over."""
        for tensors in (self.weights, self.buffers):
            if name not in tensors:
                continue
            weight = tensors[name]
            size = width * sum(self.axes[axis].size for axis in axes) * (self.axes[across].size if across else 1)
            assert weight.shape[dim] == size, f"{name} has {weight.shape[dim]} on dim {dim}, its axes {size}"
            bind = Bind(dim=dim, axes=axes, width=width, across=across)
            tensors[name] = replace(weight, binds=(*weight.binds, bind), within=None)

    def flatten(self, name: str) -> None:
        """Say that the dimensions of a parameter are one that the stock class has split."""
        if name in self.weights and len(stored := self.weights[name].shape) > 1:
            self.weights[name] = replace(self.weights[name], shape=(math.prod(stored),), split=stored)

    def tap(self, name: str, dim: int | None, *axes: str, repeats: tuple[int, ...] = (), times: int = 1) -> None:
        """Say that the mask of axes is multiplied into a parameter."""
        if name in self.weights:
            tap = Tap(dim=dim, axes=axes, repeats=repeats, times=times)
            self.weights[name] = replace(self.weights[name], taps=(*self.weights[name].taps, tap))

    def within(self, prefix: str, unit: Unit) -> None:
        """Say that parameters below a path go with a unit, unless an axis along them says so or an earlier row did."""
        for name, weight in self.weights.items():
            if name.startswith(prefix + ".") and weight.within is None and not weight.binds:
                self.weights[name] = replace(weight, within=unit)

    def any_of(self, name: str, *axes: str) -> None:
        """Say that a parameter stays while any unit of these axes is alive."""
        if name in self.weights:
            self.weights[name] = replace(self.weights[name], any_of=axes, within=None)

    def norm(self, module: str, axis: str) -> None:
        """Say that a norm is crossed by an axis, its parameters and statistics with it."""
        if isinstance(self.modules.get(module), nn.LayerNorm):
            self.norms.append(Norm(module=module, axis=axis))
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.bind(f"{module}.{name}", 0, axis)

    def weight_norm(self, module: str) -> str:
        """Say that a module's weight is kept as magnitude and direction; the name of the direction is returned."""
        magnitude, direction = (f"{module}.parametrizations.weight.original{i}" for i in (0, 1))
        self.weights[direction] = replace(self.weights[direction], magnitude=magnitude)
        return direction

    def output(self, module: str, dim: int, axis: str, *, width: int) -> None:
        """Say that the mask of an axis is multiplied into what a module gives, `width` positions for each unit."""
        tap = Tap(dim=dim, axes=(axis,), repeats=(width,) * self.axes[axis].size)
        self.outputs.append(Output(module=module, tap=tap))

    def use(self, module: str, rate: Rate) -> None:
        """Count the weight matrix of a module."""
        for name in (f"{module}.weight", f"{module}.parametrizations.weight.original1"):
            if name in self.weights:
                self.uses.append(Use(module=module, rate=rate, weight=name))

    def use_axes(self, module: str, rate: Rate, axes: Sequence[str], *, across: str = "") -> None:
        """Count one multiply-accumulate per living unit."""
        self.uses.append(Use(module=module, rate=rate, axes=tuple(axes), across=across))

    def leave_out(self, module: str) -> None:
        """Say that no MACs of a module are counted."""
        self.left_out.add(module)

    def never_used(self, prefix: str) -> None:
        """Say that the stock class has the modules below a path and never calls them."""
        self.unused += [name for name in self.weights if name.startswith(prefix + ".")]
        for name in self.unused:
            self.weights.pop(name, None)
        self.left_out |= {path for path in self.modules if path.startswith(prefix + ".")}

    def low_rank(self, path: str) -> Factorised:
        """Say of the two matrices of a factorised linear map what was said of the one that they stand for."""
        (use,) = (use for use in self.uses if use.module == path)
        dense = self.weights.pop(f"{path}.weight")
        binds = {bind.dim: bind for bind in dense.binds}
        along = {dim: bind.axes for dim, bind in binds.items()}
        within = (dense.within[0],) if dense.within else ()
        linear = Factorised(module=path, dense=dense, use=use)
        lying = along.get(0) or along.get(1) or within
        units, original = self.shape.ranks(path), self.shape.factorised[path]
        self.axis(Axis(name=linear.axis, units=units, original=original, least=1, with_any=lying))
        # Beside another mask on one side's dimension, that of the ranks is on the other side's.
        side = linear.inner if any(tap.dim == 0 for tap in dense.taps) else linear.outer
        for name, dim in ((linear.outer, 0), (linear.inner, 1)):
            own = Bind(dim=1 - dim, axes=(linear.axis,))
            taps = tuple(tap for tap in dense.taps if tap.dim == dim or (tap.dim is None and dim == 0))
            self.weights[name] = replace(
                self.weights[name],
                binds=(binds[dim], own) if dim in binds else (own,),
                taps=(*taps, Tap(dim=1 - dim, axes=(linear.axis,))) if name == side else taps,
                within=None if dense.binds else dense.within,
                any_of=dense.any_of if dim in binds else along.get(1 - dim, dense.any_of),
            )
            self.uses.append(Use(module=name.removesuffix(".weight"), rate=use.rate, weight=name))
        self.uses.remove(use)
        if bias := self.weights.pop(f"{path}.bias", None):
            self.weights[bias.name] = bias
        return linear

    def structure(self, model_type: str) -> Structure:
        """All rows as plain data."""
        factorised = tuple(self.low_rank(path) for path in self.factorised)
        told = {use.module for use in self.uses} | self.left_out
        for path, module in self.modules.items():
            parametrised = any(path.startswith(f"{use}.") for use in told)
            assert not _multiplies(module) or parametrised or path in told, path
        return Structure(
            model_type=model_type,
            axes=self.axes,
            weights=tuple(self.weights.values()),
            uses=tuple(self.uses),
            norms=tuple(self.norms),
            outputs=tuple(self.outputs),
            stages=self.stages,
            convention=self.convention,
            sees_padding=self.sees_padding,
            buffers=tuple(self.buffers.values()),
            unused=tuple(self.unused),
            front_end=self.front_end,
            encoder=self.encoder,
            features=self.features,
            factorised=factorised,
            head=self.head,
        )


def _weights(model: nn.Module, path: str = "") -> dict[str, Weight]:
    """The parameters of the module at a path by name, as yet on no axis."""
    matrices = set()
    for inside, module in model.named_modules(prefix=path):
        if _multiplies(module):
            matrices |= {f"{inside}.weight", f"{inside}.parametrizations.weight.original1"}
        elif isinstance(module, nn.LSTM | Recurrent):
            matrices |= {f"{inside}.{name}" for name, value in module.named_parameters() if value.dim() > 1}
    return {
        name: Weight(name=name, shape=tuple(value.shape), matrix=name in matrices)
        for name, value in model.named_parameters(prefix=path)
    }


def _multiplies(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)


def frames(table: Table) -> Rate:
    """Once a frame."""
    return Rate(level=len(table.stages))


def encoder(table: Table) -> None:
    """All rows of a wav2vec 2.0 style encoder."""
    front_end(table)
    positional_convolution(table)
    for path in table.shape.every_layer:
        layer(table, path)
        attention(table, f"{path}.attention")
        feed_forward(table, f"{path}.feed_forward")
        table.within(path, (names.layer(path), 0))
        for name in (f"{path}.adapter_layer.linear_{i}" for i in (1, 2)):
            table.use(name, frames(table))


def front_end(table: Table) -> None:
    """The convolutions, and the projection that consumes the last one's channels.

    Masks act behind the activation and enter at the consuming weight. The norm in front of the projection, and those
    of LayerNorm front ends, are crossed by the axis.
    """
    windows = zip(table.config.conv_kernel, table.config.conv_stride, strict=True)
    stages = [Stage(kernel=kernel, stride=stride) for kernel, stride in windows]
    if getattr(table.config, "feat_extract_norm", "layer") == "group":
        stages[0] = replace(stages[0], least=2)  # GroupNorm over time refuses a single window
    table.stages = tuple(stages)
    before = ""
    for i, size in enumerate(table.shape.original["conv_dim"]):
        path = f"feature_extractor.conv_layers.{i}"
        own = names.channels(path)
        table.axis(Axis(name=own, units=table.shape.units(own, size), original=size, least=1))
        table.bind(f"{path}.conv.weight", 0, own)
        table.bind(f"{path}.conv.bias", 0, own)
        table.norm(f"{path}.layer_norm", own)
        table.use(f"{path}.conv", Rate(level=i + 1))
        if before:
            table.bind(f"{path}.conv.weight", 1, before)
            table.tap(f"{path}.conv.weight", 1, before)
        before = own
    table.norm("feature_projection.layer_norm", before)
    table.bind("feature_projection.projection.weight", 1, before)
    table.tap("feature_projection.projection.weight", 1, before)
    table.use("feature_projection.projection", frames(table))


def positional_convolution(table: Table) -> None:
    """Every convolution of the positional embedding, and the groups of it where it is a single one.

    The unit is the group and not the tap: any groups that are left are again one dense convolution, whereas taps are
    not interchangeable (only a run of them is a convolution again), and without the outer ones every channel would see
    less far; benchmarks/positional.py measures what either saves. A group goes with its own channels of input and
    output. What it gives is added to the residual stream, so its mask has no weight to enter and is multiplied in
    behind the activation. data2vec's stack of convolutions stays whole: the norms between them are over the channels
    of all groups.
    """
    path = "encoder.pos_conv_embed.conv"
    own = names.groups(path)
    if isinstance(single := table.modules.get(path), nn.Conv1d):
        original, width = table.config.num_conv_pos_embedding_groups, single.out_channels // single.groups
        table.axis(Axis(name=own, units=table.shape.units(own, original), original=original, least=1))
        table.bind(table.weight_norm(path), 0, own, width=width)
        table.bind(f"{path}.bias", 0, own, width=width)
        table.output("encoder.pos_conv_embed.activation", 1, own, width=width)
    # An even kernel sees one frame more than it leaves.
    for path, module in table.modules.items():
        if path.startswith("encoder.pos_conv_embed") and isinstance(module, nn.Conv1d):
            table.use(path, replace(frames(table), extra=1 - module.kernel_size[0] % 2))
        elif path.startswith("encoder.pos_conv_embed") and isinstance(module, nn.LayerNorm):
            table.sees_padding = True


def layer(table: Table, path: str) -> None:
    """The axis of a whole layer; one trimmed before has no units left, and nor has any axis inside it."""
    name = names.layer(path)
    table.axis(Axis(name=name, units=table.shape.units(name, 1), original=1))


def block(table: Table, path: str) -> tuple[Unit, ...]:
    """The axis of a whole block of a layer; given back is what must be alive for anything inside it."""
    above, name = (names.layer(path.rpartition(".")[0]), 0), names.block(path)
    table.axis(Axis(name=name, units=table.shape.units(name, 1), original=1, parents=(above,)))
    return above, (name, 0)


@dataclass(frozen=True, kw_only=True)
class Projections:
    """What an attention block calls its linear maps."""

    query: str = "q_proj"
    key: str = "k_proj"
    value: str = "v_proj"
    output: str = "out_proj"


def attention(table: Table, path: str, projections: Projections | None = None) -> None:
    """Heads, their query/key and value/output dimensions, and the block."""
    inside, kept = block(table, path), table.shape.attention(path)
    outputs = [names.value_output(path, head) for head in kept.heads]
    queries = [names.query_key(path, head) for head in kept.heads]
    count, own = table.shape.original["num_attention_heads"], names.heads(path)
    table.axis(Axis(name=own, units=kept.heads, original=count, parents=inside, needs=tuple(outputs)))
    for head in range(count):
        for name in (names.query_key(path, head), names.value_output(path, head)):
            units = table.shape.units(name, kept.head_dim)
            table.axis(Axis(name=name, units=units, original=kept.head_dim, parents=(*inside, (own, head))))
    query, key, value, output = (f"{path}.{name}" for name in astuple(projections or Projections()))
    for name, axes in ((query, queries), (key, queries), (value, outputs)):
        table.bind(f"{name}.weight", 0, *axes)
        table.bind(f"{name}.bias", 0, *axes)
        table.use(name, frames(table))
    table.bind(f"{output}.weight", 1, *outputs)
    table.use(output, frames(table))
    table.within(path, inside[-1])
    # A query/key mask multiplies the logit once: into the queries. A head's or block's mask scales its output.
    table.tap(f"{query}.weight", 0, *queries)
    table.tap(f"{query}.bias", 0, *queries)
    table.tap(f"{output}.weight", 1, *outputs)
    widths = tuple(table.axes[name].size for name in outputs)
    table.tap(f"{output}.weight", 1, own, repeats=widths)
    scale_block(table, output, inside[-1])
    if kept.heads:
        squared = replace(frames(table), power=2)
        table.use_axes(path, squared, [*queries, *outputs])


def feed_forward(table: Table, path: str, *, first: str = "intermediate_dense", last: str = "output_dense") -> None:
    """Intermediate units and the block."""
    inside, own = block(table, path), names.units(path)
    size = table.shape.original["intermediate_size"]
    table.axis(Axis(name=own, units=table.shape.units(own, size), original=size, parents=inside))
    table.bind(f"{path}.{first}.weight", 0, own)
    table.bind(f"{path}.{first}.bias", 0, own)
    table.bind(f"{path}.{last}.weight", 1, own)
    table.within(path, inside[-1])
    table.tap(f"{path}.{last}.weight", 1, own)
    scale_block(table, f"{path}.{last}", inside[-1])
    for name in (first, last):
        table.use(f"{path}.{name}", frames(table))


def scale_block(table: Table, module: str, unit: Unit) -> None:
    """The mask of a block, on all that its last linear map or convolution gives."""
    for name in ("weight", "bias"):
        table.tap(f"{module}.{name}", None, unit[0])
