"""The supported families by model type, and the shape that a config of any of them describes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig

from secateur.architectures import conformer, fast_conformer, transducer, wav2vec2
from secateur.architectures.family import Family
from secateur.errors import ModelError, did_you_mean
from secateur.structure import Factorised, Selection, Structure
from secateur.structure import axis as names
from secateur.structure.encoder_shape import FORMAT, EncoderShape, kept_in

#: In front of the stock model type in the configs of cut models.
PREFIX = "secateur-"

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (*wav2vec2.FAMILIES, *conformer.FAMILIES, *fast_conformer.FAMILIES)
}
#: The families of configs that hold an encoder's, by model type.
_HOLDERS = {model_type: family for family in FAMILIES.values() for model_type in family.heads.values()}


def stock_type(model_type: str) -> str:
    """The stock architecture of the encoder behind a model type, ours or theirs.

    Raises:
        ModelError: The architecture is not supported.
    """
    name = model_type.removeprefix(PREFIX)
    name = _HOLDERS[name].model_type if name in _HOLDERS else name
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


def ending_held_by(config: Any) -> str:
    """The ending of the class whose config this is, where it holds the encoder's; empty for an encoder's own."""
    if encoder_config(config) is config:
        return ""
    heads = family_of(config).heads
    return next(ending for ending, name in heads.items() if name == config.model_type.removeprefix(PREFIX))


def family_of(config: Any) -> Family:
    """The family of a config, stock or cut."""
    return FAMILIES[stock_type(config.model_type)]


def shape_of(config: Any) -> EncoderShape:
    """The shape that the stock config or the cut one of an encoder describes."""
    record = getattr(config, "secateur", None) or {}
    original = _original(config)
    stem = family_of(config).layers
    return EncoderShape(
        model_type=original["model_type"],
        original=original,
        every_layer=tuple(f"{stem}.{index}" for index in range(original["num_hidden_layers"])),
        axes=kept_in(record),
        scales={name: tuple(float(scale) for scale in scales) for name, scales in record.get("scales", {}).items()},
        factorised=record.get("factorised", {}),
    )


def record_of(
    config: Any, structure: Structure, closed: Selection, *, again: Sequence[Factorised] = ()
) -> dict[str, Any]:
    """The ``secateur`` entry of a cut config: original sizes, kept units of axes that are not whole, unfolded scales,
    original ranks of the maps that are two matrices.

    Args:
        config: The config that was cut, stock or already cut once.
        structure: Its structure.
        closed: The closed selection that cuts it.
        again: Factorised maps that go back to one matrix.
    """
    before = getattr(config, "secateur", None) or {}
    axes = dict(before.get("axes", {})) | _not_whole(structure.without_head, closed)
    scales = dict(before.get("scales", {}))
    for name in (name for output in structure.outputs for name in output.tap.axes):
        units = structure.axes[name].units
        so_far = dict(zip(units, scales.pop(name, (1.0,) * len(units)), strict=True))
        product = [so_far[unit] * factor for unit, factor in closed.factors(name).items()]
        scales |= {name: product} if set(product) != {1.0} else {}
    original = {name: list(value) if isinstance(value, tuple) else value for name, value in _original(config).items()}
    one = {each.module for each in again}
    listed: dict[str, int] = before.get("factorised", {})
    factorised = {path: n for path, n in listed.items() if closed.axes[names.ranks(path)] and path not in one}
    for path in listed.keys() - factorised.keys():
        axes.pop(names.ranks(path), None)
    optional = {"scales": scales, "factorised": factorised}
    return {"format": FORMAT, "original": original, "axes": axes} | {k: value for k, value in optional.items() if value}


def head_record_of(config: Any, structure: Structure, closed: Selection) -> dict[str, Any]:
    """The ``secateur`` entry of the config of a transducer: original sizes and kept units of the axes of its head.

    Empty where all of them are whole.

    Args:
        config: The config that holds the encoder's, stock or cut.
        structure: Of its model.
        closed: The closed selection that cuts it.
    """
    encoder = structure.without_head.axes
    axes = {name: text for name, text in _not_whole(structure, closed).items() if name not in encoder}
    return {"format": FORMAT, "original": transducer.original_of(config), "axes": axes} if axes else {}


def _not_whole(structure: Structure, closed: Selection) -> dict[str, str]:
    """The kept units of axes of which not all are left, as text."""
    sizes = {name: axis.original for name, axis in structure.axes.items()}
    kept = {name: closed.axes[name] for name in sizes}
    return {name: names.to_ranges(units) for name, units in kept.items() if len(units) < sizes[name]}


def _original(config: Any) -> dict[str, Any]:
    """The dense model's remembered config fields, its model type first."""
    record = getattr(config, "secateur", None) or {}
    remembered = family_of(config).remembered
    return record.get("original") or {name: getattr(config, name) for name in ("model_type", *remembered)}
