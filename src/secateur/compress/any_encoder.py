"""An encoder of any config, with what it has to guess with: BEST-RQ as in the paper, by noise in what is heard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig

from secateur.arch import declare
from secateur.compress.masked_encoder import MATRIX, save_extractor
from secateur.data.corpus import SAMPLE_RATE
from secateur.data.hearing import Extracted
from secateur.errors import ConfigError, nearest
from secateur.modules.families import stock_type
from secateur.modules.models import build_model
from secateur.objective.tasks.best_rq import BestRqTask, Labeller
from secateur.objective.tasks.hiding import Hiding
from secateur.structure import Structure
from secateur.surgery.hearing import sample_rate_of
from secateur.surgery.load import load_config

_LEVEL = 0.1  # of speech as recorded, beside full scale: what features are taken of, which not every model normalises


@dataclass(frozen=True, kw_only=True)
class FromConfig:
    """An encoder of any supported family and shape, with random weights."""

    kind: Literal["config"] = "config"
    config: str | None = None
    """a model folder, a ``config.json`` or a hub id, of which the config is taken, and the sampling rate of its feature
    extractor; null: the library's defaults"""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """of the config, laid over it; without `config` they name the `model_type`, such as ``parakeet_encoder``"""

    def __post_init__(self) -> None:
        if self.config is None and "model_type" not in self.fields:
            raise ConfigError("fields: got no model_type and no 'config', allowed is either, or both that agree.")

    def build(self) -> PreTrainedConfig:
        """The config of the bare encoder.

        Raises:
            SecateurError: The family is not supported, or a field is not of its config.
        """
        fields = dict(self.fields)
        wanted = fields.pop("model_type", None)
        if self.config is None:
            config: Any = AutoConfig.for_model(stock_type(str(wanted)))
        else:
            config = load_config(self.config)
            config = getattr(config, "encoder_config", config)
            if wanted not in (None, config.model_type):
                raise ConfigError(
                    f"fields.model_type: got {wanted!r}, allowed is that of 'config', {config.model_type!r}."
                )
        known = {each.name for each in dataclass_fields(type(config)) if each.init}
        unknown = [name for name in fields if name not in known]
        if unknown:
            raise ConfigError(
                f"fields.{unknown[0]}: a {config.model_type} config has no such field.{nearest(unknown[0], known)}"
            )
        given = {name: value for name, value in config.to_diff_dict().items() if name in known}
        try:
            return type(config)(**(given | fields))  # type: ignore[no-any-return]
        except (StrictDataclassError, TypeError, ValueError) as error:
            raise ConfigError(f"fields: no {config.model_type} config: {' '.join(str(error).split())}.") from None


class AnyEncoder(nn.Module):
    """A bare encoder and the layer that guesses labels."""

    module_has_unused = True  # some encoders have a mask vector that noise leaves without use
    front_parts = ()

    def __init__(self, shape: FromConfig, task: BestRqTask) -> None:
        super().__init__()
        config: Any = shape.build()
        self.structure: Structure = declare(config)
        self.sample_rate = SAMPLE_RATE if shape.config is None else sample_rate_of(shape.config)
        self.hiding = Hiding(self.structure)
        self.encoder: Any = build_model(config)
        self.codebooks = task.codebooks
        self.head = nn.Linear(config.hidden_size, task.codebooks * task.entries)
        features = self.structure.features
        self.extractor: Any = None
        if features is not None:
            settings = {**features.settings, "sampling_rate": self.sample_rate}
            self.extractor = getattr(transformers, features.extractor).from_dict(settings)
        try:  # some shapes are built and fail when they are used
            with torch.no_grad():
                self.encoder(torch.zeros(self.structure.input_shape(1, self.sample_rate)))
        except (RuntimeError, ValueError, IndexError) as error:
            raise ConfigError(
                f"encoder: the config describes no {config.model_type} model that can hear: {error}."
            ) from None

    def frames(self, samples: int) -> int:
        """Of so many samples."""
        return self.structure.lengths(samples)[-1]

    def hear(self, values: Tensor) -> Tensor:
        """What the encoder gets of audio, (batch, samples) at unit variance: the same, or features of it."""
        if self.extractor is None:
            return values
        return Extracted(self.extractor)([row.numpy() * _LEVEL for row in values])[0]

    def hide(self, heard: Tensor, mask: Tensor, rng: np.random.Generator) -> Tensor:
        """Noise in place of the hidden frames."""
        return self.hiding.hide(heard, mask, rng)

    def labeller(self, task: BestRqTask) -> Labeller:
        """Of the features that are heard, or of the log-mel of samples."""
        return self.hiding.labeller(task, sample_rate=self.sample_rate)

    def forward(self, values: Tensor, mask: Tensor, *, front: bool) -> tuple[None, Tensor]:
        """The guesses, (batch, frames, codebooks, entries), from what is heard through the mask's noise."""
        assert not front
        state = self.encoder(values).last_hidden_state
        return None, self.head(state).unflatten(-1, (self.codebooks, -1))

    def matrices(self) -> list[nn.Parameter]:
        """The weights that mix many features into many: of linear layers, but not of the guesses."""
        linear: list[Any] = [module.weight for module in self.encoder.modules() if isinstance(module, nn.Linear)]
        return [weight for weight in linear if min(weight.shape) >= MATRIX]

    def save(self, folder: Path) -> None:
        """Writes a HF folder with the feature extractor that the encoder was trained with."""
        self.encoder.save_pretrained(folder)
        if self.extractor is None:
            save_extractor(folder, self.sample_rate)
        else:
            self.extractor.save_pretrained(folder)
