"""The config class of each family's cut models."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import transformers
from transformers import PreTrainedConfig

from secateur.architectures.registry import FAMILIES, PREFIX, shape_of, stock_type
from secateur.architectures.transducer import REMEMBERED
from secateur.errors import ModelError


def stock_config(model_type: str, fields: dict[str, Any]) -> PreTrainedConfig:
    """A stock config from plain fields; an entry ``secateur`` stays in it, for the original indices."""
    return getattr(transformers, FAMILIES[model_type].config_name)(**fields)  # type: ignore[no-any-return]


@cache
def config_class(model_type: str) -> type[PreTrainedConfig]:
    """Our config class for a stock model type; making the first config registers the model classes that go with it.

    Its file says what every stock class refuses (`Family.refused`); the truth comes back from the entry ``secateur``.
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
        return stock.to_dict(self) | dict(family.refused)  # type: ignore[no-any-return]

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
def holder_class(model_type: str, ending: str) -> type[PreTrainedConfig]:
    """Our config class of the cut models with a head whose config holds the encoder's."""
    family = FAMILIES[model_type]
    stock: Any = getattr(transformers, family.class_name(ending)).config_class

    def post_init(self: Any, **kwargs: Any) -> None:
        from secateur.hf.models import register  # that module imports this one

        register(model_type)
        if self.secateur is not None:
            _take_original(self, REMEMBERED)
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
            "__doc__": f"Config of a cut {family.class_name(ending)}.",
            "__module__": __name__,
            "__annotations__": {"secateur": dict | None},
            "model_type": PREFIX + family.heads[ending],
            "sub_configs_defaults": {"encoder_config": config_class(model_type)},
            "secateur": None,
            "__post_init__": post_init,
            "to_dict": to_dict,
            "to_diff_dict": to_diff_dict,
        },
    )


def _take_original(config: Any, names: Sequence[str]) -> None:
    """Set the fields of a head's config that its shape is told by.

    Raises:
        ModelError: Its entry ``secateur`` lacks them.
    """
    original = config.secateur.get("original", {}) if isinstance(config.secateur, dict) else {}
    for name in names:
        if name not in original:
            raise ModelError(f"The 'secateur' entry of a config of type {config.model_type!r} lacks original.{name}.")
        setattr(config, name, original[name])


def holding(encoder: PreTrainedConfig, ending: str, fields: dict[str, Any]) -> PreTrainedConfig:
    """Return the config of a model with a head that holds an encoder's, stock or cut.

    It has `inputs_to_logits_ratio`, which `transformers.pipeline` joins the chunks of long audio by and which the
    library's own configs of this kind lack.

    Args:
        encoder: The encoder's.
        ending: Of the class with the head.
        fields: What the head needs, such as ``vocab_size``.
    """
    model_type = stock_type(encoder.model_type)
    family = FAMILIES[model_type]
    stock: Any = getattr(transformers, family.class_name(ending)).config_class
    ratio = {} if family.frame is None else {"inputs_to_logits_ratio": family.frame(encoder)}
    cls: Any = holder_class(model_type, ending) if encoder.model_type.startswith(PREFIX) else stock
    return cls(**(ratio | fields), encoder_config=encoder)  # type: ignore[no-any-return]


def head_config_class(model_type: str, ending: str) -> type[PreTrainedConfig]:
    """Our config class of the cut models with a head, the encoder's own where that is not held by another."""
    return holder_class(model_type, ending) if ending in FAMILIES[model_type].heads else config_class(model_type)


def register_configs() -> None:
    """Make `AutoConfig` know cut models; doing it twice is harmless."""
    for model_type, family in FAMILIES.items():
        for ending in ("Model", *family.heads):
            ours = head_config_class(model_type, ending)
            transformers.AutoConfig.register(ours.model_type, ours, exist_ok=True)
