"""Supported families, and the config class of each family's cut models."""

from __future__ import annotations

from functools import cache
from typing import Any

import transformers
from transformers import PreTrainedConfig

from secateur.errors import ModelError, nearest
from secateur.modules.shape import shape_of

#: In front of the stock model type in the configs of cut models.
PREFIX = "secateur-"

#: Stem of the library's class names by model type.
STEMS = {
    "wav2vec2": "Wav2Vec2",
    "hubert": "Hubert",
    "wavlm": "WavLM",
    "data2vec-audio": "Data2VecAudio",
    "unispeech-sat": "UniSpeechSat",
}


def stock_type(model_type: str) -> str:
    """The stock architecture behind a model type, ours or theirs.

    Raises:
        ModelError: The architecture is not supported.
    """
    name = model_type.removeprefix(PREFIX)
    if name not in STEMS:
        raise ModelError(
            f"Model type {model_type!r} is not supported; allowed are {', '.join(STEMS)}.{nearest(name, STEMS)}"
        )
    return name


def stock_config(model_type: str, fields: dict[str, Any]) -> PreTrainedConfig:
    """A stock config from plain fields; an entry ``secateur`` stays in it, for the original indices."""
    return getattr(transformers, f"{STEMS[model_type]}Config")(**fields)  # type: ignore[no-any-return]


@cache
def config_class(model_type: str) -> type[PreTrainedConfig]:
    """Our config class for a stock model type; making the first config registers the model classes that go with it.

    Its file says ``"conv_dim": []``, which every stock class refuses, so that none loads a cut model with random
    weights; the widths come back from the entry ``secateur``.
    """
    stock: Any = getattr(transformers, f"{STEMS[model_type]}Config")

    def post_init(self: Any, **kwargs: Any) -> None:
        from secateur.modules.models import register  # that module imports this one

        register(model_type)
        record = self.secateur
        if not isinstance(record, dict) or "original" not in record:
            raise ModelError(f"A config of type {self.model_type!r} needs its 'secateur' entry with the cut shape.")
        self.conv_dim = [len(kept) for kept in shape_of(self).channels]
        stock.__post_init__(self, **kwargs)

    def to_dict(self: Any) -> dict[str, Any]:
        return stock.to_dict(self) | {"conv_dim": []}  # type: ignore[no-any-return]

    return type(
        f"Secateur{stock.__name__}",
        (stock,),
        {
            "__doc__": f"Config of a cut {STEMS[model_type]} model.",
            "__module__": __name__,
            "__annotations__": {"secateur": dict | None},
            "model_type": PREFIX + model_type,
            "secateur": None,
            "__post_init__": post_init,
            "to_dict": to_dict,
        },
    )


def register_configs() -> None:
    """Make `AutoConfig` know cut models; doing it twice is harmless."""
    for model_type in STEMS:
        ours = config_class(model_type)
        transformers.AutoConfig.register(ours.model_type, ours, exist_ok=True)
