"""Config classes of cut models, by family."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import transformers
from transformers import PreTrainedConfig

from secateur.architectures.registry import FAMILIES, PREFIX, shape_of, stock_type
from secateur.architectures.transducer import ORIGINAL_FIELDS
from secateur.errors import ModelError


def stock_config(model_type: str, fields: dict[str, Any]) -> PreTrainedConfig:
    """Return a stock config with some fields; an entry ``secateur`` is kept for the original indices of units."""
    return getattr(transformers, FAMILIES[model_type].config_name)(**fields)  # type: ignore[no-any-return]


@cache
def config_class(model_type: str) -> type[PreTrainedConfig]:
    """Return the config class of cut models for a stock model type.

    A saved config has field values that every stock class rejects (`Family.poison_fields`); the real values are
    restored from the entry ``secateur``. Making the first config registers the matching model classes.
    """
    family = FAMILIES[model_type]
    stock: Any = getattr(transformers, family.config_name)

    def post_init(self: Any, **kwargs: Any) -> None:
        from secateur.hf.models import register  # that module imports this one

        register(model_type)
        record = self.secateur
        if not isinstance(record, dict) or "original" not in record:
            raise ModelError(f"A config of type {self.model_type!r} needs its 'secateur' entry with the cut shape.")
        for name, value in family.fields(shape_of(self)).items():
            setattr(self, name, value)
        stock.__post_init__(self, **kwargs)

    def to_dict(self: Any) -> dict[str, Any]:
        return stock.to_dict(self) | dict(family.poison_fields)  # type: ignore[no-any-return]

    return type(
        f"Secateur{stock.__name__}",
        (stock,),
        {
            "__doc__": f"Config of a cut {family.stem} model.",
            "__module__": __name__,
            "__annotations__": {"secateur": dict | None},
            "model_type": PREFIX + model_type,
            "secateur": None,
            "__post_init__": post_init,
            "to_dict": to_dict,
        },
    )


@cache
def composite_config_class(model_type: str, head_class: str) -> type[PreTrainedConfig]:
    """Return the config class of cut models with a nested encoder config, such as transducers."""
    family = FAMILIES[model_type]
    stock: Any = getattr(transformers, family.class_name(head_class)).config_class

    def post_init(self: Any, **kwargs: Any) -> None:
        from secateur.hf.models import register  # that module imports this one

        register(model_type)
        if self.secateur is not None:
            _restore_original_fields(self, ORIGINAL_FIELDS)
        stock.__post_init__(self, **kwargs)

    def to_dict(self: Any) -> dict[str, Any]:
        fields = stock.to_dict(self)
        return {name: value for name, value in fields.items() if name != "secateur" or value is not None}

    def to_diff_dict(self: Any) -> dict[str, Any]:
        return self.to_dict()  # type: ignore[no-any-return]  # the encoder's config has no defaults to differ from

    return type(
        f"Secateur{stock.__name__}",
        (stock,),
        {
            "__doc__": f"Config of a cut {family.class_name(head_class)}.",
            "__module__": __name__,
            "__annotations__": {"secateur": dict | None},
            "model_type": PREFIX + family.composite_model_types[head_class],
            "sub_configs_defaults": {"encoder_config": config_class(model_type)},
            "secateur": None,
            "__post_init__": post_init,
            "to_dict": to_dict,
            "to_diff_dict": to_diff_dict,
        },
    )


def _restore_original_fields(config: Any, names: Sequence[str]) -> None:
    """Restore the original fields of a head's config from the entry ``secateur``.

    Raises:
        ModelError: A field is missing in the entry.
    """
    original = config.secateur.get("original", {}) if isinstance(config.secateur, dict) else {}
    for name in names:
        if name not in original:
            raise ModelError(f"The 'secateur' entry of a config of type {config.model_type!r} lacks original.{name}.")
        setattr(config, name, original[name])


def make_composite_config(encoder: PreTrainedConfig, head_class: str, fields: dict[str, Any]) -> PreTrainedConfig:
    """Return the config, stock or cut, of a model with a nested encoder config.

    The config has the field `inputs_to_logits_ratio`, which `transformers.pipeline` uses to join chunks of long audio
    and which stock configs of transducers lack.

    Args:
        encoder: Config of the encoder.
        head_class: Ending of the class name, such as ``ForRNNT``.
        fields: Fields of the head, such as ``vocab_size``.
    """
    model_type = stock_type(encoder.model_type)
    family = FAMILIES[model_type]
    stock: Any = getattr(transformers, family.class_name(head_class)).config_class
    frame_fields = (
        {} if family.samples_per_frame is None else {"inputs_to_logits_ratio": family.samples_per_frame(encoder)}
    )
    cls: Any = composite_config_class(model_type, head_class) if encoder.model_type.startswith(PREFIX) else stock
    return cls(**(frame_fields | fields), encoder_config=encoder)  # type: ignore[no-any-return]


def head_config_class(model_type: str, head_class: str) -> type[PreTrainedConfig]:
    """Return the config class of cut models with a head."""
    return (
        composite_config_class(model_type, head_class)
        if head_class in FAMILIES[model_type].composite_model_types
        else config_class(model_type)
    )


def register_configs() -> None:
    """Register the configs of cut models with `AutoConfig`; repeated calls are harmless."""
    for model_type, family in FAMILIES.items():
        for head_class in ("Model", *family.composite_model_types):
            cut_config_class = head_config_class(model_type, head_class)
            transformers.AutoConfig.register(cut_config_class.model_type, cut_config_class, exist_ok=True)
