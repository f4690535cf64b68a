"""Supported architectures by model type, and the shapes and records of configs."""

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
#: Families by the model types of configs that hold the encoder's config.
_COMPOSITE_FAMILIES = {
    model_type: family for family in FAMILIES.values() for model_type in family.composite_model_types.values()
}


def stock_type(model_type: str) -> str:
    """Return the stock model type of the encoder behind a model type, stock or cut.

    Examples: ``secateur-wavlm`` is of ``wavlm``, and ``parakeet_rnnt`` of ``parakeet_encoder``.

    Raises:
        ModelError: The architecture is not supported.
    """
    name = model_type.removeprefix(PREFIX)
    name = _COMPOSITE_FAMILIES[name].model_type if name in _COMPOSITE_FAMILIES else name
    if name not in FAMILIES:
        raise ModelError(
            f"Model type {model_type!r} is not supported; allowed are {', '.join(FAMILIES)}."
            f"{did_you_mean(name, FAMILIES)}"
        )
    return name


def encoder_config(config: Any) -> Any:
    """Return the encoder's part of a config: the config that `config` holds, or `config`."""
    inner = getattr(config, "encoder_config", None)
    return inner if isinstance(inner, PreTrainedConfig) else config


def encoder_path(model: Any) -> str:
    """Return the path of the encoder in a model with a task head; empty for an encoder without a head."""
    config = getattr(model, "config", None)
    name: str = "encoder" if encoder_config(config) is not config else getattr(model, "base_model_prefix", "")
    return name if name and hasattr(model, name) else ""


def composite_head_class(config: Any) -> str:
    """Return the ending of the class name, such as ``ForRNNT``, for a config that holds the encoder's; else empty."""
    if encoder_config(config) is config:
        return ""
    heads = family_of(config).composite_model_types
    return next(head_class for head_class, name in heads.items() if name == config.model_type.removeprefix(PREFIX))


def family_of(config: Any) -> Family:
    """Return the family of a config, stock or cut."""
    return FAMILIES[stock_type(config.model_type)]


def shape_of(config: Any) -> EncoderShape:
    """Return the shape that an encoder's config describes, stock or cut."""
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
    """Return the ``secateur`` entry of a cut config.

    The entry has the original sizes, the kept units of pruned axes, the scales that fold into no weight, and the
    original numbers of ranks of factorized maps.

    Args:
        config: The config that was cut, stock or already cut once.
        structure: Structure of the model that is cut.
        normalized: The normalized selection.
        merged: Factorized maps that are merged into a dense matrix.
    """
    # Axes that this cut leaves whole keep the entry of an earlier cut, in original indices.
    previous_record = getattr(config, "secateur", None) or {}
    axes = dict(previous_record.get("axes", {})) | _pruned_axes(structure.without_head, normalized)
    scales = dict(previous_record.get("scales", {}))
    # Scales of two cuts multiply: a group with 0.5 from the first cut and 0.8 from this cut has 0.4.
    for name in (name for output in structure.outputs for name in output.mask_site.axes):
        units = structure.axes[name].units
        previous_scales = dict(zip(units, scales.pop(name, (1.0,) * len(units)), strict=True))
        product = [previous_scales[unit] * factor for unit, factor in normalized.scale_by_unit(name).items()]
        scales |= {name: product} if set(product) != {1.0} else {}
    original = {
        name: list(value) if isinstance(value, tuple) else value for name, value in _original_fields(config).items()
    }
    # A merged map is a plain linear map again: neither ranks nor an axis of ranks are recorded.
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
    """Return the ``secateur`` entry of a transducer's config: original sizes and kept units of the axes of the head.

    The entry is empty if the head is whole.

    Args:
        config: Config that holds the encoder's, stock or cut.
        structure: Structure of the model.
        normalized: The normalized selection.
    """
    encoder = structure.without_head.axes
    axes = {name: text for name, text in _pruned_axes(structure, normalized).items() if name not in encoder}
    return {"format": FORMAT, "original": transducer.original_of(config), "axes": axes} if axes else {}


def _pruned_axes(structure: Structure, normalized: Selection) -> dict[str, str]:
    """Return the kept units of pruned axes as text."""
    sizes = {name: axis.original for name, axis in structure.axes.items()}
    kept_units = {name: normalized.axes[name] for name in sizes}
    return {name: names.to_ranges(units) for name, units in kept_units.items() if len(units) < sizes[name]}


def _original_fields(config: Any) -> dict[str, Any]:
    """Return the remembered config fields of the dense model, the model type first."""
    record = getattr(config, "secateur", None) or {}
    original_fields = family_of(config).original_fields
    return record.get("original") or {name: getattr(config, name) for name in ("model_type", *original_fields)}
