"""The supported families by model type, and the shape that a config of any of them describes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig

from secateur.architectures import conformer, fast_conformer, transducer, wav2vec2
from secateur.architectures.family import Family
from secateur.errors import ModelError, did_you_mean
from secateur.structure import Factorization, Selection, Structure
from secateur.structure import axis as names
from secateur.structure.encoder_shape import FORMAT, EncoderShape, parse_kept_units

#: In front of the stock model type in the configs of cut models.
PREFIX = "secateur-"

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (*wav2vec2.FAMILIES, *conformer.FAMILIES, *fast_conformer.FAMILIES)
}
#: The families of configs that hold an encoder's, by model type.
_COMPOSITE_FAMILIES = {
    model_type: family for family in FAMILIES.values() for model_type in family.composite_model_types.values()
}


def stock_type(model_type: str) -> str:
    """The stock architecture of the encoder behind a model type, ours or theirs.

    Raises:
        ModelError: The architecture is not supported.
    """
    name = model_type.removeprefix(PREFIX)
    name = _COMPOSITE_FAMILIES[name].model_type if name in _COMPOSITE_FAMILIES else name
    if name not in FAMILIES:
        raise ModelError(
            f"Model type {model_type!r} is not supported; allowed are {', '.join(FAMILIES)}.{did_you_mean(name, FAMILIES)}"
        )
    return name


def encoder_config(config: Any) -> Any:
    """The part of a config that is the encoder's: itself, or what it holds."""
    inner = getattr(config, "encoder_config", None)
    return inner if isinstance(inner, PreTrainedConfig) else config


def encoder_path(model: Any) -> str:
    """Where the encoder lies in a model with a task head; empty for an encoder itself."""
    config = getattr(model, "config", None)
    name: str = "encoder" if encoder_config(config) is not config else getattr(model, "base_model_prefix", "")
    return name if name and hasattr(model, name) else ""


def composite_head_class(config: Any) -> str:
    """The ending of the class whose config this is, where it holds the encoder's; empty for an encoder's own."""
    if encoder_config(config) is config:
        return ""
    heads = family_of(config).composite_model_types
    return next(head_class for head_class, name in heads.items() if name == config.model_type.removeprefix(PREFIX))


def family_of(config: Any) -> Family:
    """The family of a config, stock or cut."""
    return FAMILIES[stock_type(config.model_type)]


def shape_of(config: Any) -> EncoderShape:
    """The shape that the stock config or the cut one of an encoder describes."""
    record = getattr(config, "secateur", None) or {}
    original = _original_fields(config)
    layers_path = family_of(config).layers_path
    return EncoderShape(
        model_type=original["model_type"],
        original=original,
        original_layers=tuple(f"{layers_path}.{index}" for index in range(original["num_hidden_layers"])),
        axes=parse_kept_units(record),
        scales={name: tuple(float(scale) for scale in scales) for name, scales in record.get("scales", {}).items()},
        factorized_ranks=record.get("factorised", {}),
    )


def record_of(
    config: Any, structure: Structure, normalized: Selection, *, merged: Sequence[Factorization] = ()
) -> dict[str, Any]:
    """The ``secateur`` entry of a cut config: original sizes, kept units of axes that are not whole, unfolded scales,
    original ranks of the maps that are two matrices.

    Args:
        config: The config that was cut, stock or already cut once.
        structure: Its structure.
        closed: The closed selection that cuts it.
        again: Factorised maps that go back to one matrix.
    """
    previous_record = getattr(config, "secateur", None) or {}
    axes = dict(previous_record.get("axes", {})) | _pruned_axes(structure.without_head, normalized)
    scales = dict(previous_record.get("scales", {}))
    for name in (name for output in structure.outputs for name in output.mask_site.axes):
        units = structure.axes[name].units
        previous_scales = dict(zip(units, scales.pop(name, (1.0,) * len(units)), strict=True))
        product = [previous_scales[unit] * factor for unit, factor in normalized.scale_by_unit(name).items()]
        scales |= {name: product} if set(product) != {1.0} else {}
    original = {
        name: list(value) if isinstance(value, tuple) else value for name, value in _original_fields(config).items()
    }
    merged_modules = {factorization.module for factorization in merged}
    previous_ranks: dict[str, int] = previous_record.get("factorised", {})
    factorized_ranks = {
        path: n
        for path, n in previous_ranks.items()
        if normalized.axes[names.ranks(path)] and path not in merged_modules
    }
    for path in previous_ranks.keys() - factorized_ranks.keys():
        axes.pop(names.ranks(path), None)
    optional_entries = {"scales": scales, "factorised": factorized_ranks}
    return {"format": FORMAT, "original": original, "axes": axes} | {
        k: value for k, value in optional_entries.items() if value
    }


def head_record_of(config: Any, structure: Structure, normalized: Selection) -> dict[str, Any]:
    """The ``secateur`` entry of the config of a transducer: original sizes and kept units of the axes of its head.

    Empty where all of them are whole.

    Args:
        config: The config that holds the encoder's, stock or cut.
        structure: Of its model.
        closed: The closed selection that cuts it.
    """
    encoder = structure.without_head.axes
    axes = {name: text for name, text in _pruned_axes(structure, normalized).items() if name not in encoder}
    return {"format": FORMAT, "original": transducer.original_of(config), "axes": axes} if axes else {}


def _pruned_axes(structure: Structure, normalized: Selection) -> dict[str, str]:
    """The kept units of axes of which not all are left, as text."""
    sizes = {name: axis.original for name, axis in structure.axes.items()}
    kept_units = {name: normalized.axes[name] for name in sizes}
    return {name: names.to_ranges(units) for name, units in kept_units.items() if len(units) < sizes[name]}


def _original_fields(config: Any) -> dict[str, Any]:
    """The dense model's remembered config fields, its model type first."""
    record = getattr(config, "secateur", None) or {}
    original_fields = family_of(config).original_fields
    return record.get("original") or {name: getattr(config, name) for name in ("model_type", *original_fields)}
