"""Taps turned into index tables: the factor that a vector of mask values puts on each parameter or output.

Masking multiplies these factors into the weights of the full-size model; surgery multiplies the same factors in before
it slices. That the two agree is therefore a matter of slicing alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.structure import MaskSite, Selection, Structure, Weight


@dataclass(frozen=True)
class MaskFactor:
    """The mask on one parameter, or on the output of one module.

    Attributes:
        dim: Dimension that the factor lies along, or None for one factor on the whole.
        units: (taps, positions): flat unit indices; the factor of a position is the product over taps.
        split: The shape that the positions are stored in, where that is not one dimension (`Weight.split`).
    """

    dim: int | None
    units: Tensor
    storage_shape: tuple[int, ...] = ()

    def broadcast(self, values: Tensor, rank: int) -> Tensor:
        """The factor, shaped to broadcast against a tensor of that rank: (units,) -> (..., positions, ...)."""
        factor = values[self.units[0]]
        for row in self.units[1:]:
            factor = factor * values[row]
        if self.storage_shape:
            return factor.view(self.storage_shape)
        shape = [1] * rank
        if self.dim is not None:
            shape[self.dim] = -1
        return factor.view(shape)

    def to(self, device: torch.device) -> MaskFactor:
        """The same factor with its table on a device."""
        return MaskFactor(self.dim, self.units.to(device), self.storage_shape)


def compile_mask_factors(structure: Structure) -> dict[str, MaskFactor]:
    """The factor of every tapped parameter, by name in the base model."""
    return {weight.name: _weight_factor(structure, weight) for weight in structure.weights if weight.mask_sites}


def compile_output_factors(structure: Structure) -> dict[str, MaskFactor]:
    """The factor on the output of every module that carries a mask, by module path."""
    return {
        output.module: MaskFactor(
            output.mask_site.dim, torch.tensor([_site_units(structure, output.mask_site)], dtype=torch.long)
        )
        for output in structure.outputs
    }


def _weight_factor(structure: Structure, weight: Weight) -> MaskFactor:
    dims = {site.dim for site in weight.mask_sites if site.dim is not None}
    assert len(dims) <= 1, f"{weight.name} is tapped along more than one dimension"
    dim = dims.pop() if dims else None
    positions = weight.shape[dim] if dim is not None else 1
    rows = []
    for tap in weight.mask_sites:
        row = _site_units(structure, tap)
        if tap.dim is None:
            row *= positions
        assert len(row) == positions, f"{weight.name}: a tap covers {len(row)} of {positions} positions"
        rows.append(row)
    return MaskFactor(dim, torch.tensor(rows, dtype=torch.long), weight.split)


def _site_units(structure: Structure, site: MaskSite) -> list[int]:
    """The flat index of the unit at each position along a tap."""
    unit_indices: list[int] = []
    for name in site.axes:
        start = structure.offsets[name]
        unit_indices += range(start, start + structure.axes[name].size)
    if site.repeats:
        unit_indices = [unit for unit, count in zip(unit_indices, site.repeats, strict=True) for _ in range(count)]
    return unit_indices * site.tiles


def mask_values(structure: Structure, selection: Selection, dtype: torch.dtype = torch.float64) -> Tensor:
    """The mask of a selection: its scale where a unit is kept, zero elsewhere: (units,)."""
    values = torch.ones(structure.size, dtype=torch.float64)
    for name in selection.axes:
        axis, start = structure.axis(name), structure.offsets[name]
        unit_scales = selection.scale_by_unit(name)
        values[start : start + axis.size] = torch.tensor(
            [unit_scales.get(unit, 0.0) for unit in axis.units], dtype=torch.float64
        )
    return values.to(dtype)
