"""Small WavLM encoder for pre-training: shape, initial weights and BEST-RQ head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.bounds import PositiveInt
from secateur.data.corpus import SAMPLE_RATE
from secateur.errors import ConfigError
from secateur.hf.models import build_model
from secateur.tasks import best_rq
from secateur.tasks.best_rq import BestRqSettings, RandomProjectionLabeler

#: Fewest rows and columns of a weight that Muon optimizes; WavLM's position gates, for example, are smaller.
MIN_MATRIX_SIZE = 10
_MIRRORED_LAYERS = 4  # conv layers with linear initialization: down to 400 frames a second no information is lost


@dataclass(frozen=True, kw_only=True)
class WavLMShape:
    """Shape of a WavLM encoder with the front-end kernels and strides of the published models."""

    kind: Literal["wavlm"] = "wavlm"
    conv_channels: tuple[PositiveInt, ...] = (64, 64, 64, 64, 128, 128, 128)
    """Channels of the seven conv layers. The first layers run at thousands of frames a second and dominate the cost,
    the last ones at 200 to 50 frames a second."""
    front_norm: Literal["group", "layer"] = "group"
    """Norm of the front end: `group` as in WavLM Base, `layer` as in Large, which takes twice the time at this size."""
    width: PositiveInt = 192
    """Hidden size."""
    layers: PositiveInt = 4
    """Transformer layers."""
    heads: PositiveInt = 6
    """Attention heads."""
    feed_forward: PositiveInt = 768
    """Intermediate size."""
    positions: PositiveInt = 64
    """Kernel size of the positional conv."""
    position_groups: PositiveInt = 16
    """Groups of the positional conv."""
    pre_norm: bool = True
    """Pre-norm as in Large; post-norm, as in Base, learns several times slower at this size."""

    def __post_init__(self) -> None:
        if len(self.conv_channels) != 7 or any(channels < 2 or channels % 2 for channels in self.conv_channels):
            raise ConfigError(
                f"conv_channels: got {list(self.conv_channels)}, expected seven even numbers, one for each conv layer."
            )


class _FlattenedKernel(nn.Module):
    """Parametrization of a conv weight as a matrix (out, in · taps), as orthogonalizing optimizers take."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, matrix: Tensor) -> Tensor:
        """Return the conv weight: (out, in · taps) -> (out, in, taps)."""
        return matrix.view(self.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return the matrix of a conv weight: (out, in, taps) -> (out, in · taps)."""
        return weight.flatten(1)


class WavLMEncoder(nn.Module):
    """WavLM encoder with the head of BEST-RQ and a head that predicts log-mel energies from the front end."""

    has_unused_parameters = True  # in steps that train the front end alone
    sample_rate = SAMPLE_RATE
    front_parts = ("front.", "encoder.feature_extractor.", "encoder.feature_projection.layer_norm.")

    def __init__(self, shape: WavLMShape, task: BestRqSettings) -> None:
        from transformers import WavLMConfig

        super().__init__()
        self.encoder: Any = build_model(
            WavLMConfig(
                conv_dim=shape.conv_channels,
                feat_extract_norm=shape.front_norm,
                conv_bias=shape.front_norm == "layer",
                hidden_size=shape.width,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                intermediate_size=shape.feed_forward,
                num_conv_pos_embeddings=shape.positions,
                num_conv_pos_embedding_groups=shape.position_groups,
                do_stable_layer_norm=shape.pre_norm,
                # Two million parameters that see each crop a few times underfit, so that dropout would only hurt.
                hidden_dropout=0.0,
                attention_dropout=0.0,
                activation_dropout=0.0,
                feat_proj_dropout=0.0,
                final_dropout=0.0,
                layerdrop=0.0,
            )
        )
        front_end: Any = self.encoder.feature_extractor
        for number, layer in enumerate(front_end.conv_layers):
            assert isinstance(layer.conv, nn.Conv1d)
            if number < _MIRRORED_LAYERS:
                init_mirrored(layer.conv, is_first=number == 0)
            parametrize.register_parametrization(layer.conv, "weight", _FlattenedKernel(layer.conv.weight.shape))
        self.codebooks = task.codebooks
        self.head = nn.Linear(shape.width, task.codebooks * task.entries)
        self.front = nn.Linear(shape.conv_channels[-1], 2 * task.mels)

    def forward(self, values: Tensor, mask: Tensor, *, front: bool) -> tuple[Tensor, Tensor | None]:
        """Return the predicted log-mel energies and, unless `front`, the logits of the labels.

        Args:
            values: (batch, samples).
            mask: (batch, frames), True where masked; applied after the front end.
            front: Whether to run the front end alone.

        Returns:
            Log-mel energies (batch, frames, 2 · mels), and logits (batch, frames, codebooks, entries) or None.
        """
        if front:
            features = self.encoder.feature_extractor(values).transpose(1, 2)  # (batch, frames, channels)
            return self.front(self.encoder.feature_projection(features)[1]), None
        output = self.encoder(values, mask_time_indices=mask)
        # (batch, frames, width) -> (batch, frames, codebooks, entries)
        logits = self.head(output.last_hidden_state).unflatten(-1, (self.codebooks, -1))
        return self.front(output.extract_features), logits

    def frame_count(self, samples: int) -> int:
        """Return the number of frames for a number of samples."""
        return best_rq.frame_count(samples)

    def to_inputs(self, values: Tensor) -> Tensor:
        """Return the encoder inputs for audio (batch, samples) of unit variance: the same samples."""
        return values

    def mask_inputs(self, inputs: Tensor, mask: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the inputs unchanged: the mask is applied after the front end."""
        return inputs

    def make_labeler(self, task: BestRqSettings) -> RandomProjectionLabeler:
        """Return a labeler of the log-mel energies of samples."""
        return RandomProjectionLabeler(task)

    def matrices(self) -> list[nn.Parameter]:
        """Return the weights that Muon optimizes: of convolutions and linear layers, except the BEST-RQ head."""
        linear = [module.weight for module in self.encoder.modules() if isinstance(module, nn.Linear)]
        folded: list[Any] = [
            layer.conv.get_parameter("parametrizations.weight.original")
            for layer in self.encoder.feature_extractor.conv_layers
            if isinstance(layer.conv, nn.Conv1d)
        ]
        return [weight for weight in (*folded, *linear, self.front.weight) if min(weight.shape) >= MIN_MATRIX_SIZE]

    def save(self, folder: Path) -> None:
        """Write a Hugging Face folder with encoder and feature extractor; the module cannot be trained further."""
        layers: Any = self.encoder.feature_extractor.conv_layers
        for layer in layers:
            if parametrize.is_parametrized(layer.conv, "weight"):
                parametrize.remove_parametrizations(layer.conv, "weight")
        self.encoder.save_pretrained(folder)
        save_extractor(folder, self.sample_rate)


def init_mirrored(convolution: nn.Conv1d, *, is_first: bool) -> None:
    """Initialize a conv layer such that a stack of such layers with GELU in between is linear.

    Output channels come in pairs x, -x, and input weights in pairs w, -w, which combine the previous layer's pairs to
    w gelu(x) - w gelu(-x) = w x. With four outputs the channels are a, -a, b, -b, for orthogonal a and b.

    Args:
        convolution: Layer with an even number of output channels; changed in place.
        is_first: Whether the inputs are samples rather than pairs of channels.

    Source: Balduzzi et al. 2017, arXiv 1702.08591, section 4. Differs from the paper: GELU instead of ReLU.
    """
    outputs, inputs, taps = convolution.weight.shape
    half_outputs = outputs // 2
    free_inputs = inputs if is_first else inputs // 2
    weights = nn.init.orthogonal_(torch.empty(half_outputs, free_inputs * taps)).view(half_outputs, free_inputs, taps)
    weights = weights * max(1.0, half_outputs / (free_inputs * taps)) ** 0.5
    if not is_first:
        weights = torch.stack([weights, -weights], dim=2).flatten(1, 2)  # (half, free, taps) -> (half, inputs, taps)
    with torch.no_grad():
        convolution.weight.copy_(torch.stack([weights, -weights], dim=1).flatten(0, 1))


def save_extractor(folder: Path, sample_rate: int) -> None:
    """Write the config of a feature extractor that normalizes samples, with a sampling rate in hertz."""
    from transformers import Wav2Vec2FeatureExtractor

    extractor = Wav2Vec2FeatureExtractor(
        feature_size=1,
        sampling_rate=sample_rate,
        padding_value=0.0,
        do_normalize=True,
        return_attention_mask=False,
    )
    extractor.save_pretrained(folder)
