"""Index tables from a flat vector of mask values to factors on parameters and outputs.

Masking multiplies these factors into the weights of the full-size model; surgery multiplies the same factors into the
weights before slicing. The two models can therefore differ by slicing alone.

Example: an output projection of two heads of three channels has a mask site of the heads with repeats (3, 3). With the
heads at positions 5 and 6 of the vector of mask values, `units` is [[5, 5, 5, 6, 6, 6]]. A second site, the channels of
each head at positions 10 to 15, adds the row [10, 11, 12, 13, 14, 15]; factors are the products of both rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.structure import MaskSite, Selection, Structure, Weight


@dataclass(frozen=True)
class MaskFactor:
    """Mask on a parameter, or on the output of a module.

    Attributes:
        dim: Dimension of the parameter that the factor varies along; None for a scalar factor.
        units: (sites, positions): flat unit indices; the factor of a position is the product over mask sites.
        storage_shape: Shape of the parameter, where positions run over several dimensions (`Weight.split`); else empty.
    """

    dim: int | None
    units: Tensor
    storage_shape: tuple[int, ...] = ()

    def broadcast(self, values: Tensor, rank: int) -> Tensor:
        """Return the factor, shaped to broadcast with a tensor of a rank: (units,) -> (1, ..., positions, ..., 1)."""
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
        """Return the factor with the table on a device."""
        return MaskFactor(self.dim, self.units.to(device), self.storage_shape)


def compile_mask_factors(structure: Structure) -> dict[str, MaskFactor]:
    """Return the factor of every masked parameter, by name in the base model."""
    return {weight.name: _weight_factor(structure, weight) for weight in structure.weights if weight.mask_sites}


def compile_output_factors(structure: Structure) -> dict[str, MaskFactor]:
    """Return the factor on the output of every module with a masked output, by module path."""
    return {
        output.module: MaskFactor(
            output.mask_site.dim, torch.tensor([_site_units(structure, output.mask_site)], dtype=torch.long)
        )
        for output in structure.outputs
    }


def _weight_factor(structure: Structure, weight: Weight) -> MaskFactor:
    dims = {site.dim for site in weight.mask_sites if site.dim is not None}
    assert len(dims) <= 1, f"{weight.name} has masks along more than one dimension"
    dim = dims.pop() if dims else None
    positions = weight.shape[dim] if dim is not None else 1
    rows = []
    for site in weight.mask_sites:
        row = _site_units(structure, site)
        if site.dim is None:
            row *= positions  # one unit masks every position
        assert len(row) == positions, f"{weight.name}: a mask covers {len(row)} of {positions} positions"
        rows.append(row)
    return MaskFactor(dim, torch.tensor(rows, dtype=torch.long), weight.split)


def _site_units(structure: Structure, site: MaskSite) -> list[int]:
    """Return the flat index of the unit at each position along a mask site."""
    unit_indices: list[int] = []
    for name in site.axes:
        start = structure.offsets[name]
        unit_indices += range(start, start + structure.axes[name].size)
    # Two units at 5 and 6: repeats (3, 1) gives [5, 5, 5, 6], and then two tiles [5, 5, 5, 6, 5, 5, 5, 6].
    if site.repeats:
        unit_indices = [unit for unit, count in zip(unit_indices, site.repeats, strict=True) for _ in range(count)]
    return unit_indices * site.tiles


def mask_values(structure: Structure, selection: Selection, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the mask of a selection, (units,): the scale of each kept unit, zero for removed units."""
    values = torch.ones(structure.size, dtype=torch.float64)
    for name in selection.axes:
        axis, start = structure.axis(name), structure.offsets[name]
        unit_scales = selection.scale_by_unit(name)
        values[start : start + axis.size] = torch.tensor(
            [unit_scales.get(unit, 0.0) for unit in axis.units], dtype=torch.float64
        )
    return values.to(dtype)
