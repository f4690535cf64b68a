"""A selection: the kept units of every axis, with the folded scale of each kept unit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secateur.errors import SelectionError, did_you_mean
from secateur.structure.axis import Axis
from secateur.structure.break_even import dense_again
from secateur.structure.structure import Structure

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Kept units by axis name, as original indices; axes that are absent stay whole.

    Attributes:
        axes: Kept original indices of each named axis, in ascending order.
        scales: A factor for each kept unit, in the same order; absent axes have factor one. Scales of nested
            axes multiply; a query/key scale multiplies the logit once.
        sizes: Optional original size of each axis, checked against the model.
        model: Optional model type, checked against the model.
    """

    axes: Mapping[str, tuple[int, ...]]
    scales: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    model: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, format 1."""
        out: dict[str, Any] = {"format": FORMAT}
        if self.model:
            out["model"] = self.model
        if self.sizes:
            out["sizes"] = dict(self.sizes)
        out["axes"] = {name: list(kept) for name, kept in self.axes.items()}
        if self.scales:
            out["scales"] = {name: list(scale) for name, scale in self.scales.items()}
        return out

    @classmethod
    def from_json(cls, data: object) -> Selection:
        """A selection from parsed JSON.

        Raises:
            SelectionError: A wrong format, an unknown key, or values of the wrong type or length.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            got = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise SelectionError(f'A selection is a JSON object with "format": {FORMAT}; got {got!r}.')
        allowed = ("format", "axes", "scales", "sizes", "model")
        for key in data:
            if key not in allowed:
                raise SelectionError(f"Unknown key {key!r} in the selection.{did_you_mean(str(key), allowed)}")
        axes = {name: _order(name, kept) for name, kept in _mapping(data, "axes").items()}
        scales: dict[str, tuple[float, ...]] = {}
        for name, values in _mapping(data, "scales").items():
            if name not in axes:
                raise SelectionError(f"The selection has scales for {name!r} but does not list its kept units.")
            kept = axes[name]
            if not isinstance(values, list) or len(values) != len(kept):
                count = len(values) if isinstance(values, list) else type(values).__name__
                raise SelectionError(f"{name!r} keeps {len(kept)} units but has {count} scales; give one for each.")
            if not all(_is_number(value) for value in values):
                raise SelectionError(f"The scales of {name!r} must be finite numbers.")
            given = data["axes"][name]
            pairs = sorted(zip(given, (float(value) for value in values), strict=True))
            scales[name] = tuple(value for _, value in pairs)
        sizes = _mapping(data, "sizes")
        model = data.get("model")
        if model is not None and not isinstance(model, str):
            raise SelectionError(f"The selection's model must be a model type such as 'wavlm', got {model!r}.")
        return cls(axes=axes, scales=scales, sizes=sizes, model=model)

    @classmethod
    def load(cls, path: str | Path) -> Selection:
        """A selection read from a JSON file.

        Raises:
            SelectionError: The file is missing or is not a selection.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SelectionError(f"There is no selection file {str(path)!r}.") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise SelectionError(f"The selection {str(path)!r} is not readable JSON: {error}.") from None
        return cls.from_json(data)

    def factors(self, name: str) -> dict[int, float]:
        """The factor of every kept unit of a named axis, by original index."""
        kept = self.axes[name]
        return dict(zip(kept, self.scales.get(name, (1.0,) * len(kept)), strict=True))


@dataclass(frozen=True, kw_only=True)
class Closed:
    """A closed selection, and what closing had to add to it, in words."""

    selection: Selection
    notes: tuple[str, ...]


def close(structure: Structure, selection: Selection, *, best: Mapping[str, int] | None = None) -> Closed:
    """The smallest selection with the same effect, naming every axis of the model.

    A removed block takes all inside with it, a head without value/output dimensions is gone with its queries and
    keys, a convolution or a factorised map keeps at least one unit (its best, when the selection leaves none), and
    only trailing layers can go. A factorised map that keeps too many ranks to be cheaper than a dense one is to go back
    to one matrix, of the ranks that are kept; this is said.

    Args:
        structure: The model's structure.
        selection: What is to be closed.
        best: The best unit of axes that keep at least one; of others it is the first.

    Raises:
        SelectionError: An unknown axis, a unit that the model does not have, sizes or a model that do not match.
    """
    _check(structure, selection)
    notes: list[str] = []
    kept: dict[str, set[int]] = {}
    for name, axis in structure.axes.items():
        chosen = set(selection.axes.get(name, axis.units))
        kept[name] = chosen if axis.with_any else _at_least(axis, chosen, best or {}, notes)
    _check_layers(structure, kept)
    for name, axis in structure.axes.items():
        if any(unit not in kept[parent] for parent, unit in axis.parents if parent.endswith(("/block", "/layer"))):
            kept[name] = set()
    for name, axis in structure.axes.items():
        for unit, needed in zip(axis.units, axis.needs, strict=False):
            if unit in kept[name] and not kept[needed]:
                kept[name].discard(unit)
    for name, axis in structure.axes.items():
        if any(unit not in kept[parent] for parent, unit in axis.parents):
            kept[name] = set()
    for name, axis in structure.axes.items():
        if axis.with_any:
            there = any(kept[other] for other in axis.with_any)
            kept[name] = _at_least(axis, kept[name], best or {}, notes) if there else set()
    axes = {name: tuple(sorted(units)) for name, units in kept.items()}
    again = [each.module for each in dense_again(structure, axes)]
    if again:
        more = f" and {len(again) - 3} more" if len(again) > 3 else ""
        notes.append(f"no cheaper as two matrices, dense again: {', '.join(again[:3])}{more}")
    scales = {
        name: tuple(factors.get(unit, 1.0) for unit in axes[name])
        for name, factors in ((name, selection.factors(name)) for name in selection.scales)
        if axes[name]
    }
    closed = Selection(
        axes=axes,
        scales=scales,
        sizes={name: axis.original for name, axis in structure.axes.items()},
        model=structure.model_type,
    )
    return Closed(selection=closed, notes=tuple(notes))


def _at_least(axis: Axis, chosen: set[int], best: Mapping[str, int], notes: list[str]) -> set[int]:
    """What is chosen of an axis that is there, or its best unit where that is too little."""
    if not axis.size or len(chosen) >= axis.least:
        return chosen
    stays = best.get(axis.name, axis.units[0])
    notes.append(f"{axis.name} was left without a unit; its unit {stays} stays")
    return set(list(dict.fromkeys((stays, *axis.units)))[: axis.least])


def _check(structure: Structure, selection: Selection) -> None:
    if selection.model is not None and selection.model != structure.model_type:
        raise SelectionError(
            f"The selection was made for a {selection.model!r} model, but this model is {structure.model_type!r}."
        )
    for name, size in selection.sizes.items():
        if size != _axis(structure, name).original:
            raise SelectionError(
                f"The selection expects {size} units on {name!r}, but the original model has "
                f"{structure.axes[name].original}."
            )
    for name, kept in selection.axes.items():
        axis = _axis(structure, name)
        missing = sorted(set(kept) - set(axis.units))
        if missing:
            inside = [unit for unit in missing if 0 <= unit < axis.original]
            why = (
                f"units {inside[:5]} were removed before"
                if inside
                else f"unit {missing[0]} is not one of 0..{axis.original - 1}"
            )
            raise SelectionError(f"The selection keeps units of {name!r} that this model does not have: {why}.")
    for name in selection.scales:
        if name not in selection.axes:
            raise SelectionError(f"The selection has scales for {name!r} but does not list its kept units.")
        factors = selection.factors(name)
        zero = [unit for unit, factor in factors.items() if factor == 0.0]
        if zero:
            raise SelectionError(
                f"The selection keeps unit {zero[0]} of {name!r} with scale 0; leave the unit out instead."
            )
        if _axis(structure, name).kind == "layer" and set(factors.values()) - {1.0}:
            raise SelectionError(f"A whole layer cannot be scaled: {name!r} is kept or removed.")


def _check_layers(structure: Structure, kept: Mapping[str, set[int]]) -> None:
    layers = [axis.name for axis in structure.of_kinds(("layer",)) if axis.size]
    alive = [bool(kept[name]) for name in layers]
    if layers and not alive[0]:
        raise SelectionError(f"{layers[0]!r} cannot be removed: at least the first layer stays.")
    if alive != sorted(alive, reverse=True):
        inner = layers[alive.index(False)]
        raise SelectionError(
            f"{inner!r} is removed but a later layer stays; only trailing layers can be removed whole "
            "(remove its attention and feed-forward blocks instead)."
        )


def _axis(structure: Structure, name: str) -> Axis:
    if name not in structure.axes:
        linear = name.removesuffix("/rank")
        if linear != name and f"{linear}.weight" in structure.weight_by_name:
            raise SelectionError(
                f"The selection names {name!r}, but {linear!r} of this {structure.model_type} model is one matrix: "
                "only a factorised map has ranks, see 'factorise' of a recipe."
            )
        raise SelectionError(
            f"Unknown axis {name!r} in the selection for this {structure.model_type} model."
            f"{did_you_mean(name, structure.axes)}"
        )
    return structure.axes[name]


def _mapping(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key, {})
    if not isinstance(value, dict):
        raise SelectionError(
            f"The selection's {key!r} must be an object keyed by axis name, got {type(value).__name__}."
        )
    return value


def _order(name: str, kept: object) -> tuple[int, ...]:
    if not isinstance(kept, list) or not all(isinstance(unit, int) and not isinstance(unit, bool) for unit in kept):
        raise SelectionError(f"The kept units of {name!r} must be a list of whole numbers.")
    if len(set(kept)) != len(kept):
        raise SelectionError(f"The kept units of {name!r} name a unit twice.")
    return tuple(sorted(kept))


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf") and value == value
    )


def whole(structure: Structure, names: Sequence[str] = ()) -> Selection:
    """The selection that keeps everything, naming the given axes."""
    return Selection(axes={name: tuple(sorted(structure.axis(name).units)) for name in names})
