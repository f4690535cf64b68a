"""Encoder of any supported config with a BEST-RQ head, with noise in the inputs as in the paper."""

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
from secateur.hf.load import load_config_view
from secateur.hf.model_view import ConfigView
from secateur.hf.models import build_model
from secateur.pretraining.wavlm_encoder import MIN_MATRIX_SIZE, save_extractor
from secateur.structure import Structure
from secateur.tasks.best_rq import BestRqSettings, RandomProjectionLabeler
from secateur.tasks.noise_mask import NoiseMask

# Standard deviation of the samples that features are extracted from, relative to full scale. It is that of recorded
# speech, since not every feature extractor normalizes.
_SPEECH_LEVEL = 0.1


@dataclass(frozen=True, kw_only=True)
class FromConfig:
    """Encoder of any supported family and shape, with random weights."""

    kind: Literal["config"] = "config"
    config: str | None = None
    """model folder, ``config.json`` or hub id, for the config and the sampling rate of the feature extractor; null: the
    defaults of transformers"""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """changes to the config; without `config` including the `model_type`, such as ``parakeet_encoder``"""

    def __post_init__(self) -> None:
        if self.config is None and "model_type" not in self.fields:
            raise ConfigError("fields: got neither a model_type nor 'config', expected one, or both if they agree.")

    def build(self) -> PreTrainedConfig:
        """Return the config of the bare encoder.

        Raises:
            SecateurError: The family is not supported, or its config has no field of a given name.
        """
        fields = dict(self.fields)
        model_type = fields.pop("model_type", None)
        if self.config is None:
            config: Any = AutoConfig.for_model(stock_type(str(model_type)))
        else:
            config = load_config_view(self.config).encoder_config
            if model_type not in (None, config.model_type):
                raise ConfigError(
                    f"fields.model_type: got {model_type!r}, expected {config.model_type!r}, as in 'config'."
                )
        field_names = {config_field.name for config_field in dataclass_fields(type(config)) if config_field.init}
        for name in fields:
            if name not in field_names:
                hint = did_you_mean(name, field_names)
                raise ConfigError(f"fields.{name}: a {config.model_type} config has no such field.{hint}")
        # Validated by transformers' own dataclass, as a whole.
        config_values = {name: value for name, value in config.to_diff_dict().items() if name in field_names}
        try:
            return type(config)(**(config_values | fields))  # type: ignore[no-any-return]
        except (StrictDataclassError, TypeError, ValueError) as error:
            raise ConfigError(f"fields: invalid {config.model_type} config: {' '.join(str(error).split())}.") from None


class ConfigEncoder(nn.Module):
    """Bare encoder with the prediction head of BEST-RQ."""

    has_unused_parameters = True  # the mask embedding of some encoders, which noise replaces
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
        try:  # some invalid shapes fail in the forward pass only
            with torch.no_grad():
                self.encoder(torch.zeros(self.structure.input_shape(1, self.sample_rate)))
        except (RuntimeError, ValueError, IndexError) as error:
            raise ConfigError(
                f"encoder: the forward pass of a {config.model_type} model with this config fails: {error}."
            ) from None

    def frame_count(self, samples: int) -> int:
        """Return the number of frames for a number of samples."""
        return self.structure.lengths(samples)[-1]

    def to_inputs(self, values: Tensor) -> Tensor:
        """Return the encoder inputs for audio (batch, samples) of unit variance: the same samples, or features."""
        if self.extractor is None:
            return values
        return ExtractedFeatures(self.extractor)([row.numpy() * _SPEECH_LEVEL for row in values])[0]

    def mask_inputs(self, inputs: Tensor, mask: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the inputs with noise in place of the masked frames."""
        return self.noise_mask.add_noise(inputs, mask, rng)

    def make_labeler(self, task: BestRqSettings) -> RandomProjectionLabeler:
        """Return a labeler of the input features, or of the log-mel energies of samples."""
        return self.noise_mask.make_labeler(task, sample_rate=self.sample_rate)

    def forward(self, values: Tensor, mask: Tensor, *, front: bool) -> tuple[None, Tensor]:
        """Return no log-mel energies, and logits (batch, frames, codebooks, entries) for inputs with noise."""
        assert not front
        state = self.encoder(values).last_hidden_state
        return None, self.head(state).unflatten(-1, (self.codebooks, -1))

    def matrices(self) -> list[nn.Parameter]:
        """Return the weights of the encoder's linear layers that Muon optimizes."""
        linear: list[Any] = [module.weight for module in self.encoder.modules() if isinstance(module, nn.Linear)]
        return [weight for weight in linear if min(weight.shape) >= MIN_MATRIX_SIZE]

    def save(self, folder: Path) -> None:
        """Write a Hugging Face folder with the encoder and the feature extractor."""
        self.encoder.save_pretrained(folder)
        if self.extractor is None:
            save_extractor(folder, self.sample_rate)
        else:
            self.extractor.save_pretrained(folder)
