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

from secateur.architectures.registry import stock_type
from secateur.data.corpus import SAMPLE_RATE
from secateur.data.input_features import ExtractedFeatures
from secateur.errors import ConfigError, did_you_mean
from secateur.hf.feature_extractor import read_sample_rate
from secateur.hf.load import load_config
from secateur.hf.model_view import ConfigView
from secateur.hf.models import build_model
from secateur.pretraining.wavlm_encoder import MIN_MATRIX_SIZE, save_extractor
from secateur.structure import Structure
from secateur.tasks.best_rq import BestRqSettings, RandomProjectionLabeler
from secateur.tasks.noise_mask import NoiseMask

_SPEECH_LEVEL = (
    0.1  # of speech as recorded, beside full scale: what features are taken of, which not every model normalises
)


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
        model_type = fields.pop("model_type", None)
        if self.config is None:
            config: Any = AutoConfig.for_model(stock_type(str(model_type)))
        else:
            config = ConfigView(load_config(self.config)).encoder_config
            if model_type not in (None, config.model_type):
                raise ConfigError(
                    f"fields.model_type: got {model_type!r}, allowed is that of 'config', {config.model_type!r}."
                )
        field_names = {config_field.name for config_field in dataclass_fields(type(config)) if config_field.init}
        unknown = [name for name in fields if name not in field_names]
        if unknown:
            raise ConfigError(
                f"fields.{unknown[0]}: a {config.model_type} config has no such field.{did_you_mean(unknown[0], field_names)}"
            )
        config_values = {name: value for name, value in config.to_diff_dict().items() if name in field_names}
        try:
            return type(config)(**(config_values | fields))  # type: ignore[no-any-return]
        except (StrictDataclassError, TypeError, ValueError) as error:
            raise ConfigError(f"fields: no {config.model_type} config: {' '.join(str(error).split())}.") from None


class ConfigEncoder(nn.Module):
    """A bare encoder and the layer that guesses labels."""

    has_unused_parameters = True  # some encoders have a mask vector that noise leaves without use
    front_parts = ()

    def __init__(self, shape: FromConfig, task: BestRqSettings) -> None:
        super().__init__()
        config: Any = shape.build()
        self.structure: Structure = ConfigView(config).structure
        self.sample_rate = SAMPLE_RATE if shape.config is None else read_sample_rate(shape.config)
        self.noise_mask = NoiseMask(self.structure)
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

    def frame_count(self, samples: int) -> int:
        """Of so many samples."""
        return self.structure.lengths(samples)[-1]

    def to_inputs(self, values: Tensor) -> Tensor:
        """What the encoder gets of audio, (batch, samples) at unit variance: the same, or features of it."""
        if self.extractor is None:
            return values
        return ExtractedFeatures(self.extractor)([row.numpy() * _SPEECH_LEVEL for row in values])[0]

    def mask_inputs(self, inputs: Tensor, mask: Tensor, rng: np.random.Generator) -> Tensor:
        """Noise in place of the hidden frames."""
        return self.noise_mask.add_noise(inputs, mask, rng)

    def make_labeler(self, task: BestRqSettings) -> RandomProjectionLabeler:
        """Of the features that are heard, or of the log-mel of samples."""
        return self.noise_mask.make_labeler(task, sample_rate=self.sample_rate)

    def forward(self, values: Tensor, mask: Tensor, *, front: bool) -> tuple[None, Tensor]:
        """The guesses, (batch, frames, codebooks, entries), from what is heard through the mask's noise."""
        assert not front
        state = self.encoder(values).last_hidden_state
        return None, self.head(state).unflatten(-1, (self.codebooks, -1))

    def matrices(self) -> list[nn.Parameter]:
        """The weights that mix many features into many: of linear layers, but not of the guesses."""
        linear: list[Any] = [module.weight for module in self.encoder.modules() if isinstance(module, nn.Linear)]
        return [weight for weight in linear if min(weight.shape) >= MIN_MATRIX_SIZE]

    def save(self, folder: Path) -> None:
        """Writes a HF folder with the feature extractor that the encoder was trained with."""
        self.encoder.save_pretrained(folder)
        if self.extractor is None:
            save_extractor(folder, self.sample_rate)
        else:
            self.extractor.save_pretrained(folder)
