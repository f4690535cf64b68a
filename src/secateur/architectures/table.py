"""Table that collects the rows of an architecture, and becomes a `Structure`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from secateur.nn.low_rank import FactorizedLinear
from secateur.nn.lstm import UnevenLSTM
from secateur.structure import (
    Axis,
    Block,
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
from secateur.structure.encoder_shape import EncoderShape

MAC_CONVENTION = (
    "MACs of convolutions, linear maps and attention's two products, front end and positional convolution included "
    "(the latter before its crop); norms, softmax, activations, biases and WavLM's bias gate are left out"
)
CONFORMER_MAC_CONVENTION = (
    f"{MAC_CONVENTION}; products with positions as stock classes make them, once for each pair of frames"
)


class AxisTable:
    """Table of the rows of a model.

    Parameter shapes are read from the model; rows only say which dimensions lie on which axes. A linear map or
    convolution without counted MACs, and a row that does not fit the shape of a parameter, are errors. Rows describe a
    factorized linear map as a dense matrix; `build_structure` turns such rows into rows of the two matrices.

    Example of a feed-forward block with 10 units and 4 features::

        table.add_axis(Axis(name="ff/units", units=tuple(range(10)), original=10))
        table.bind_dim("ff.intermediate_dense.weight", 0, "ff/units")  # (10, 4)
        table.bind_dim("ff.output_dense.weight", 1, "ff/units")  # (4, 10)
        table.add_mask_site("ff.output_dense.weight", 1, "ff/units")
    """

    def __init__(self, model: nn.Module, config: Any, shape: EncoderShape) -> None:
        """
        Args:
            model: The base model, possibly on the meta device.
            config: Its config, stock or cut.
            shape: The shape that the config describes.
        """
        self.config = config
        self.shape = shape
        self.modules = dict(model.named_modules())
        self.axes: dict[str, Axis] = {}
        self.blocks: list[Block] = []
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
        # Saved buffers, such as the statistics of a BatchNorm, are cut like parameters.
        saved_buffer_names = model.state_dict().keys() - self.weights.keys()
        self.buffers = {
            name: Weight(name=name, shape=tuple(value.shape), is_matrix=False)
            for name, value in model.named_buffers()
            if name in saved_buffer_names
        }
        self.factorized_modules = {p: m for p, m in self.modules.items() if isinstance(m, FactorizedLinear)}
        # Rows name the dense matrix and bias, which the model stores as outer.weight, inner.weight and outer.bias.
        for path, module in self.factorized_modules.items():
            name = f"{path}.weight"
            self.weights[name] = Weight(name=name, shape=(module.out_features, module.in_features), is_matrix=True)
            if f"{path}.outer.bias" in self.weights:
                self.weights[f"{path}.bias"] = self.weights.pop(f"{path}.outer.bias")

    def add_head_part(self, part: str, module: nn.Module) -> None:
        """Add the parameters of a part of the head, so that rows can name the parameters."""
        self.head = (*self.head, part)
        self.modules |= dict(module.named_modules(prefix=part))
        self.weights |= _weights(module, part)

    def add_axis(self, axis: Axis) -> None:
        """Add an axis."""
        self.axes[axis.name] = axis

    def add_block(self, path: str, part: str, layer: int | None = None) -> None:
        """Add a block of a part of the encoder; `layer` is the block's index where the part has several blocks."""
        self.blocks.append(Block(path=path, part=part, layer=layer))

    def bind_dim(self, name: str, dim: int, *axes: str, width: int = 1, per_unit_of: str = "") -> None:
        """Bind dimension `dim` of a parameter or buffer to axes; names that the model lacks are ignored."""
        for tensors in (self.weights, self.buffers):
            if name not in tensors:
                continue
            weight = tensors[name]
            # 2 heads that share 3 dimensions, with width 1: 1 * 3 * 2 = 6 positions.
            size = (
                width * sum(self.axes[axis].size for axis in axes) * (self.axes[per_unit_of].size if per_unit_of else 1)
            )
            assert weight.shape[dim] == size, f"{name} has {weight.shape[dim]} on dim {dim}, its axes {size}"
            binding = DimBinding(dim=dim, axes=axes, width=width, per_unit_of=per_unit_of)
            tensors[name] = replace(weight, bindings=(*weight.bindings, binding), exists_with=None)

    def flatten_shape(self, name: str) -> None:
        """Treat the dimensions of a parameter as a single dimension, which the stock class has split."""
        if name in self.weights and len(stored_shape := self.weights[name].shape) > 1:
            self.weights[name] = replace(self.weights[name], shape=(math.prod(stored_shape),), split=stored_shape)

    def add_mask_site(
        self, name: str, dim: int | None, *axes: str, repeats: tuple[int, ...] = (), tiles: int = 1
    ) -> None:
        """Multiply the mask of axes into a parameter; arguments as in `MaskSite`."""
        if name in self.weights:
            mask_site = MaskSite(dim=dim, axes=axes, repeats=repeats, tiles=tiles)
            self.weights[name] = replace(self.weights[name], mask_sites=(*self.weights[name].mask_sites, mask_site))

    def exists_with(self, prefix: str, unit: Unit) -> None:
        """Let parameters below a path exist with a unit, except parameters on an axis or with an earlier condition."""
        for name, weight in self.weights.items():
            if name.startswith(prefix + ".") and weight.exists_with is None and not weight.bindings:
                self.weights[name] = replace(weight, exists_with=unit)

    def exists_if_any(self, name: str, *axes: str) -> None:
        """Let a parameter exist as long as any unit of the axes is alive."""
        if name in self.weights:
            self.weights[name] = replace(self.weights[name], exists_if_any=axes, exists_with=None)

    def add_norm(self, module: str, axis: str) -> None:
        """Bind a norm, with parameters and statistics, to an axis."""
        if isinstance(self.modules.get(module), nn.LayerNorm):
            self.norms.append(PrunedNorm(module=module, axis=axis))
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.bind_dim(f"{module}.{name}", 0, axis)

    def weight_norm(self, module: str) -> str:
        """Declare a weight that is stored as magnitude and direction (weight norm), and return the direction's name."""
        magnitude, direction = (f"{module}.parametrizations.weight.original{i}" for i in (0, 1))
        self.weights[direction] = replace(self.weights[direction], magnitude=magnitude)
        return direction

    def add_masked_output(self, module: str, dim: int, axis: str, *, width: int) -> None:
        """Multiply the mask of an axis into the output of a module, with `width` positions per unit."""
        mask_site = MaskSite(dim=dim, axes=(axis,), repeats=(width,) * self.axes[axis].size)
        self.outputs.append(MaskedOutput(module=module, mask_site=mask_site))

    def count_matrix(self, module: str, use_count: UseCount) -> None:
        """Count the weight matrix of a module."""
        # With weight norm, the direction has the shape of the matrix.
        for name in (f"{module}.weight", f"{module}.parametrizations.weight.original1"):
            if name in self.weights:
                self.mac_terms.append(MacTerm(module=module, use_count=use_count, weight=name))

    def count_axis_products(
        self, module: str, use_count: UseCount, axes: Sequence[str], *, per_unit_of: str = ""
    ) -> None:
        """Count a multiply-accumulate per living unit of the axes at each use."""
        self.mac_terms.append(MacTerm(module=module, use_count=use_count, axes=tuple(axes), per_unit_of=per_unit_of))

    def exclude_macs(self, module: str) -> None:
        """Leave the MACs of a module out of the count."""
        self.excluded_modules.add(module)

    def drop_unused(self, prefix: str) -> None:
        """Drop the modules below a path, which the stock class has and never calls."""
        self.unused_weights += [name for name in self.weights if name.startswith(prefix + ".")]
        for name in self.unused_weights:
            self.weights.pop(name, None)
        self.excluded_modules |= {path for path in self.modules if path.startswith(prefix + ".")}

    def add_factorization(self, path: str) -> Factorization:
        """Replace the rows of a factorized map's dense matrix by rows of the two stored matrices.

        Example: the dense matrix has ``units`` along dimension 0 and the mask of a head along dimension 1. Then
        ``outer``, (out, ranks), has ``units`` along 0, and the ranks with their mask along 1. ``inner``, (ranks, in),
        has the ranks along 0, and the mask of the head along 1.
        """
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
        # The mask of the ranks is on outer, unless a mask along the dense matrix's dimension 0 is there already.
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
        """Return the rows as plain data."""
        factorizations = tuple(self.add_factorization(path) for path in self.factorized_modules)
        counted_modules = {term.module for term in self.mac_terms} | self.excluded_modules
        # A forgotten row is an error: every matrix is counted or excluded.
        for path, module in self.modules.items():
            is_parametrized = any(path.startswith(f"{term}.") for term in counted_modules)
            assert not _has_weight_matrix(module) or is_parametrized or path in counted_modules, path
        return Structure(
            model_type=model_type,
            axes=self.axes,
            blocks=tuple(self.blocks),
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
    """Return the parameters of the module at a path by name, without axes."""
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
