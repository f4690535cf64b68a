"""Selections: the kept units of every axis, and the scale of each kept unit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secateur.errors import SelectionError, did_you_mean
from secateur.structure.axis import Axis
from secateur.structure.break_even import factorizations_to_merge
from secateur.structure.structure import Structure

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Kept units by axis name, as original indices; an axis that is not named stays whole.

    Attributes:
        axes: Kept original indices of each named axis, in ascending order.
        scales: Factor of each kept unit, in the same order; 1 for axes that are not named. Scales of nested axes
            multiply. A query/key scale multiplies the attention logit once.
        sizes: Original number of units of axes, checked against the model if given.
        model: Model type, checked against the model if given.
    """

    axes: Mapping[str, tuple[int, ...]]
    scales: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    model: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the selection as plain JSON, format 1."""
        data: dict[str, Any] = {"format": FORMAT}
        if self.model:
            data["model"] = self.model
        if self.sizes:
            data["sizes"] = dict(self.sizes)
        data["axes"] = {name: list(units) for name, units in self.axes.items()}
        if self.scales:
            data["scales"] = {name: list(scale) for name, scale in self.scales.items()}
        return data

    @classmethod
    def from_json(cls, data: object) -> Selection:
        """Build a selection from parsed JSON.

        Raises:
            SelectionError: The format is wrong, a key is unknown, or a value has the wrong type or length.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found_format = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise SelectionError(f'A selection is a JSON object with "format": {FORMAT}; got {found_format!r}.')
        allowed = ("format", "axes", "scales", "sizes", "model")
        for key in data:
            if key not in allowed:
                raise SelectionError(f"Unknown key {key!r} in the selection.{did_you_mean(str(key), allowed)}")
        axes = {name: _read_units(name, kept_units) for name, kept_units in _read_mapping(data, "axes").items()}
        scales: dict[str, tuple[float, ...]] = {}
        for name, values in _read_mapping(data, "scales").items():
            if name not in axes:
                raise SelectionError(f"The selection has scales for {name!r} but does not list its kept units.")
            kept_units = axes[name]
            if not isinstance(values, list) or len(values) != len(kept_units):
                count = len(values) if isinstance(values, list) else type(values).__name__
                raise SelectionError(
                    f"{name!r} keeps {len(kept_units)} units but has {count} scales; give one for each."
                )
            if not all(_is_number(value) for value in values):
                raise SelectionError(f"The scales of {name!r} must be finite numbers.")
            json_units = data["axes"][name]
            pairs = sorted(zip(json_units, (float(value) for value in values), strict=True))
            scales[name] = tuple(value for _, value in pairs)
        sizes = _read_mapping(data, "sizes")
        model = data.get("model")
        if model is not None and not isinstance(model, str):
            raise SelectionError(f"The selection's model must be a model type such as 'wavlm', got {model!r}.")
        return cls(axes=axes, scales=scales, sizes=sizes, model=model)

    @classmethod
    def load(cls, path: str | Path) -> Selection:
        """Read a selection from a JSON file.

        Raises:
            SelectionError: The file is missing or does not contain a selection.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SelectionError(f"There is no selection file {str(path)!r}.") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise SelectionError(f"The selection {str(path)!r} is not readable JSON: {error}.") from None
        return cls.from_json(data)

    def scale_by_unit(self, name: str) -> dict[int, float]:
        """Return the factor of every kept unit of a named axis, by original index."""
        kept_units = self.axes[name]
        return dict(zip(kept_units, self.scales.get(name, (1.0,) * len(kept_units)), strict=True))


@dataclass(frozen=True, kw_only=True)
class NormalizedSelection:
    """Normalized selection, and a sentence for each change that normalizing made."""

    selection: Selection
    adjustments: tuple[str, ...]


def normalize(
    structure: Structure, selection: Selection, *, preferred_units: Mapping[str, int] | None = None
) -> NormalizedSelection:
    """Return the smallest selection with the same effect, which names every axis of the model.

    Everything inside a removed block is removed. A head without value/output dimensions is removed with its queries and
    keys. A convolution or factorized map keeps at least one unit, the preferred unit if the selection keeps none. Only
    trailing layers can be removed. A factorized map with too many ranks to be cheaper than a dense matrix is reported,
    since it is going to be merged into a dense matrix.

    Example: a selection that keeps head 1 but no unit of ``head1.vo`` becomes a selection without head 1, ``head1.qk``
    and ``head1.vo``.

    Args:
        structure: The model's structure.
        selection: The selection to normalize.
        preferred_units: Unit to keep, by axis name, if an axis that must keep a unit has none; otherwise its first.

    Raises:
        SelectionError: An axis is unknown, the model lacks a unit, or sizes or model type do not match.
    """
    _check(structure, selection)
    adjustments: list[str] = []
    kept_units: dict[str, set[int]] = {}
    for name, axis in structure.axes.items():
        selected_units = set(selection.axes.get(name, axis.units))
        kept_units[name] = (
            selected_units
            if axis.requires_any
            else _keep_min_units(axis, selected_units, preferred_units or {}, adjustments)
        )
    _check_layers(structure, kept_units)
    # Axes inside removed blocks and layers.
    for name, axis in structure.axes.items():
        if any(
            unit not in kept_units[parent] for parent, unit in axis.parents if parent.endswith(("/block", "/layer"))
        ):
            kept_units[name] = set()
    # Heads whose value/output axis has become empty; axes list a required axis for each unit, or none at all.
    for name, axis in structure.axes.items():
        for unit, required_axis in zip(axis.units, axis.requires, strict=False):
            if unit in kept_units[name] and not kept_units[required_axis]:
                kept_units[name].discard(unit)
    # Dimensions of heads that have just been removed.
    for name, axis in structure.axes.items():
        if any(unit not in kept_units[parent] for parent, unit in axis.parents):
            kept_units[name] = set()
    # Ranks, which stay as long as any axis along their linear map does.
    for name, axis in structure.axes.items():
        if axis.requires_any:
            has_required_unit = any(kept_units[required_axis] for required_axis in axis.requires_any)
            kept_units[name] = (
                _keep_min_units(axis, kept_units[name], preferred_units or {}, adjustments)
                if has_required_unit
                else set()
            )
    axes = {name: tuple(sorted(units)) for name, units in kept_units.items()}
    merged_modules = [factorization.module for factorization in factorizations_to_merge(structure, axes)]
    if merged_modules:
        remainder = f" and {len(merged_modules) - 3} more" if len(merged_modules) > 3 else ""
        adjustments.append(f"no cheaper as two matrices, dense again: {', '.join(merged_modules[:3])}{remainder}")
    scales = {
        name: tuple(factors.get(unit, 1.0) for unit in axes[name])
        for name, factors in ((name, selection.scale_by_unit(name)) for name in selection.scales)
        if axes[name]
    }
    normalized = Selection(
        axes=axes,
        scales=scales,
        sizes={name: axis.original for name, axis in structure.axes.items()},
        model=structure.model_type,
    )
    return NormalizedSelection(selection=normalized, adjustments=tuple(adjustments))


def _keep_min_units(
    axis: Axis, selected_units: set[int], preferred_units: Mapping[str, int], adjustments: list[str]
) -> set[int]:
    """Return the selected units of an axis, or the preferred units where too few are selected."""
    if not axis.size or len(selected_units) >= axis.min_units:
        return selected_units
    kept_unit = preferred_units.get(axis.name, axis.units[0])
    adjustments.append(f"{axis.name} was left without a unit; its unit {kept_unit} stays")
    return set(list(dict.fromkeys((kept_unit, *axis.units)))[: axis.min_units])


def _check(structure: Structure, selection: Selection) -> None:
    if selection.model is not None and selection.model != structure.model_type:
        raise SelectionError(
            f"The selection was made for a {selection.model!r} model, but this model is {structure.model_type!r}."
        )
    for name, size in selection.sizes.items():
        if size != _find_axis(structure, name).original:
            raise SelectionError(
                f"The selection expects {size} units on {name!r}, but the original model has "
                f"{structure.axes[name].original}."
            )
    for name, kept_units in selection.axes.items():
        axis = _find_axis(structure, name)
        missing = sorted(set(kept_units) - set(axis.units))
        if missing:
            removed_units = [unit for unit in missing if 0 <= unit < axis.original]
            reason = (
                f"units {removed_units[:5]} were removed before"
                if removed_units
                else f"unit {missing[0]} is not one of 0..{axis.original - 1}"
            )
            raise SelectionError(f"The selection keeps units of {name!r} that this model does not have: {reason}.")
    for name in selection.scales:
        if name not in selection.axes:
            raise SelectionError(f"The selection has scales for {name!r} but does not list its kept units.")
        factors = selection.scale_by_unit(name)
        zero = [unit for unit, factor in factors.items() if factor == 0.0]
        if zero:
            raise SelectionError(
                f"The selection keeps unit {zero[0]} of {name!r} with scale 0; leave the unit out instead."
            )
        if _find_axis(structure, name).kind == "layer" and set(factors.values()) - {1.0}:
            raise SelectionError(f"A whole layer cannot be scaled: {name!r} is kept or removed.")


def _check_layers(structure: Structure, kept_units: Mapping[str, set[int]]) -> None:
    layers = [axis.name for axis in structure.axes_of_kinds(("layer",)) if axis.size]
    is_present = [bool(kept_units[name]) for name in layers]
    if layers and not is_present[0]:
        raise SelectionError(f"{layers[0]!r} cannot be removed: at least the first layer stays.")
    if is_present != sorted(is_present, reverse=True):
        inner = layers[is_present.index(False)]
        raise SelectionError(
            f"{inner!r} is removed but a later layer stays; only trailing layers can be removed whole "
            "(remove its attention and feed-forward blocks instead)."
        )


def _find_axis(structure: Structure, name: str) -> Axis:
    if name not in structure.axes:
        linear = name.removesuffix("/rank")
        if linear != name and f"{linear}.weight" in structure.weight_by_name:
            raise SelectionError(
                f"The selection names {name!r}, but {linear!r} of this {structure.model_type} model is one matrix: "
                "only a factorized map has ranks, see 'factorise' of a recipe."
            )
        raise SelectionError(
            f"Unknown axis {name!r} in the selection for this {structure.model_type} model."
            f"{did_you_mean(name, structure.axes)}"
        )
    return structure.axes[name]


def _read_mapping(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key, {})
    if not isinstance(value, dict):
        raise SelectionError(
            f"The selection's {key!r} must be an object keyed by axis name, got {type(value).__name__}."
        )
    return value


def _read_units(name: str, units: object) -> tuple[int, ...]:
    if not isinstance(units, list) or not all(isinstance(unit, int) and not isinstance(unit, bool) for unit in units):
        raise SelectionError(f"The kept units of {name!r} must be a list of whole numbers.")
    if len(set(units)) != len(units):
        raise SelectionError(f"The kept units of {name!r} name a unit twice.")
    return tuple(sorted(units))


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf") and value == value
    )
