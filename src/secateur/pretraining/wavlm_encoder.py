"""The encoder that pre-training starts from: its shape, its first weights, and what it has to guess with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.data.corpus import SAMPLE_RATE
from secateur.errors import ConfigError
from secateur.hf.models import build_model
from secateur.tasks import best_rq
from secateur.tasks.best_rq import BestRqSettings, RandomProjectionLabeler

MIN_MATRIX_SIZE = (
    10  # rows and columns; smaller ones, such as the gates of WavLM's positions, are no matrices to speak of
)
_MIRRORED_LAYERS = 4  # conv layers that begin linear: down to 400 frames a second nothing need be lost


@dataclass(frozen=True, kw_only=True)
class WavLMShape:
    """The shape of a WavLM encoder; its front end has the kernels and strides of all the family.

    Attributes:
        conv_channels: By layer. The first layers run at thousands of frames a second and take the time, the last
            at 200 to 50 and cost next to nothing.
        front_norm: `group` as in WavLM Base, `layer` as in Large; at this size `layer` takes twice the time.
        pre_norm: As in Large; post-norm, as in Base, learns several times slower at this size.
        positions: Taps of the positional conv.
    """

    kind: Literal["wavlm"] = "wavlm"
    conv_channels: tuple[int, ...] = (64, 64, 64, 64, 128, 128, 128)
    front_norm: Literal["group", "layer"] = "group"
    width: int = 192
    layers: int = 4
    heads: int = 6
    feed_forward: int = 768
    positions: int = 64
    position_groups: int = 16
    pre_norm: bool = True

    def __post_init__(self) -> None:
        if len(self.conv_channels) != 7 or any(channels < 2 or channels % 2 for channels in self.conv_channels):
            raise ConfigError(
                f"conv_channels: got {list(self.conv_channels)}, allowed are seven even numbers, one per conv layer."
            )


class _FlattenedKernel(nn.Module):
    """Keeps the weight of a convolution as a matrix (out, in · taps): what orthogonalising optimisers take."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, matrix: Tensor) -> Tensor:
        return matrix.view(self.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.flatten(1)


class WavLMEncoder(nn.Module):
    """A WavLM encoder, the layer that guesses labels and the one that reads log-mel energies off the front end."""

    has_unused_parameters = True  # the front end's own steps leave the rest without gradient
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
                # Two million parameters see each crop once or a few times: they underfit, dropout would cost.
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
        """What the front end makes of log-mel, and the guesses unless `front` asks for the former alone.

        Args:
            values: (batch, samples).
            mask: (batch, frames), True where hidden; it comes after the front end.
            front: Stop there.

        Returns:
            (batch, frames, 2 · mels), and logits (batch, frames, codebooks, entries) or None.
        """
        if front:
            features = self.encoder.feature_extractor(values).transpose(1, 2)
            return self.front(self.encoder.feature_projection(features)[1]), None
        output = self.encoder(values, mask_time_indices=mask)
        logits = self.head(output.last_hidden_state).unflatten(-1, (self.codebooks, -1))
        return self.front(output.extract_features), logits

    def frame_count(self, samples: int) -> int:
        """Of so many samples."""
        return best_rq.frame_count(samples)

    def to_inputs(self, values: Tensor) -> Tensor:
        """What the encoder gets of audio, (batch, samples) at unit variance: the same."""
        return values

    def mask_inputs(self, inputs: Tensor, mask: Tensor, rng: np.random.Generator) -> Tensor:
        """Nothing is hidden before the front end."""
        return inputs

    def make_labeler(self, task: BestRqSettings) -> RandomProjectionLabeler:
        """Of samples."""
        return RandomProjectionLabeler(task)

    def matrices(self) -> list[nn.Parameter]:
        """The weights that mix many features into many: of convolutions and linear layers, but not of the guesses."""
        linear = [module.weight for module in self.encoder.modules() if isinstance(module, nn.Linear)]
        folded: list[Any] = [
            layer.conv.get_parameter("parametrizations.weight.original")
            for layer in self.encoder.feature_extractor.conv_layers
            if isinstance(layer.conv, nn.Conv1d)
        ]
        return [weight for weight in (*folded, *linear, self.front.weight) if min(weight.shape) >= MIN_MATRIX_SIZE]

    def save(self, folder: Path) -> None:
        """Writes a HF folder with the feature extractor that the encoder was trained with; ends its training."""
        layers: Any = self.encoder.feature_extractor.conv_layers
        for layer in layers:
            if parametrize.is_parametrized(layer.conv, "weight"):
                parametrize.remove_parametrizations(layer.conv, "weight")
        self.encoder.save_pretrained(folder)
        save_extractor(folder, self.sample_rate)


def init_mirrored(convolution: nn.Conv1d, *, is_first: bool) -> None:
    """Sets the weights so that a stack of such layers with GELU between them is linear to begin with.

    Channels come in pairs of opposite sign, and gelu(x) − gelu(−x) = x, which the next layer's pairs put together.
    The half that is free is orthogonal. Source: Balduzzi et al. 2017, arXiv 1702.08591, section 4 (for ReLU).
    """
    outputs, inputs, taps = convolution.weight.shape
    half_outputs, free_inputs = outputs // 2, inputs if is_first else inputs // 2
    weights = nn.init.orthogonal_(torch.empty(half_outputs, free_inputs * taps)).view(half_outputs, free_inputs, taps)
    weights = weights * max(1.0, half_outputs / (free_inputs * taps)) ** 0.5
    if not is_first:
        weights = torch.stack([weights, -weights], dim=2).flatten(1, 2)
    with torch.no_grad():
        convolution.weight.copy_(torch.stack([weights, -weights], dim=1).flatten(0, 1))


def save_extractor(folder: Path, sample_rate: int) -> None:
    """Write the settings of an extractor that normalises samples at a rate in hertz."""
    from transformers import Wav2Vec2FeatureExtractor

    extractor = Wav2Vec2FeatureExtractor(
        feature_size=1,
        sampling_rate=sample_rate,
        padding_value=0.0,
        do_normalize=True,
        return_attention_mask=False,
    )
    extractor.save_pretrained(folder)
