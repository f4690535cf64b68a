"""Conversion of audio to model inputs: waveforms, or features of a feature extractor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.data.corpus import SAMPLE_RATE

Audio = NDArray[np.float32]

# The constant that Wav2Vec2FeatureExtractor adds to the variance.
VARIANCE_FLOOR = 1e-7


class InputFeatures(Protocol):
    """A conversion of a batch of audio to the inputs of a model.

    Attributes:
        sample_rate: Sampling rate of the audio in hertz.
    """

    @property
    def sample_rate(self) -> int: ...

    def __call__(self, audio: Sequence[Audio]) -> tuple[Tensor, NDArray[np.int64]]:
        """Return the padded inputs of a batch and the number of valid positions of each row.

        Args:
            audio: (samples,) at `sample_rate` each, of any lengths.

        Returns:
            Inputs, (batch, positions) or (batch, positions, width), in float32, where at least one row has no padding;
            and the number of valid positions, (batch,).
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Waveform:
    """Waveforms as inputs, unchanged or normalized.

    Attributes:
        normalize: Whether to normalize each row to zero mean and unit variance, as does `do_normalize` of
            Wav2Vec2FeatureExtractor.
        sample_rate: Sampling rate of the audio in hertz.
    """

    normalize: bool
    sample_rate: int = SAMPLE_RATE

    def __call__(self, audio: Sequence[Audio]) -> tuple[Tensor, NDArray[np.int64]]:
        lengths = np.array([len(row) for row in audio], dtype=np.int64)
        values = np.zeros((len(audio), int(lengths.max())), dtype=np.float32)  # (batch, samples)
        for row, samples in zip(values, audio, strict=True):  # rows are views of `values`
            row[: len(samples)] = normalize_waveform(samples) if self.normalize else samples
        return torch.from_numpy(values), lengths


@dataclass(frozen=True)
class ExtractedFeatures:
    """Features of a feature extractor of `transformers` as inputs, normalized as in inference.

    Attributes:
        extractor: The extractor, which returns `input_features` and `attention_mask`.
    """

    extractor: Any

    @property
    def sample_rate(self) -> int:
        """Sampling rate of the extractor in hertz."""
        return int(self.extractor.sampling_rate)

    def __call__(self, audio: Sequence[Audio]) -> tuple[Tensor, NDArray[np.int64]]:
        extractor_output = self.extractor(list(audio), sampling_rate=self.sample_rate, return_tensors="pt")
        lengths = extractor_output["attention_mask"].sum(-1).to(torch.int64)
        # Extractors may pad further than the longest row: (batch, padded, width) -> (batch, positions, width).
        return extractor_output["input_features"][:, : int(lengths.max())].float(), lengths.numpy()


def normalize_waveform(audio: Audio) -> Audio:
    """Return audio, (samples,), normalized to zero mean and unit variance."""
    scaled: Audio = (audio - audio.mean()) / np.sqrt(audio.var() + VARIANCE_FLOOR)
    return scaled
