"""How a model hears audio: as samples, or as the features that an extractor makes of them."""

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

# Of Wav2Vec2FeatureExtractor.
VARIANCE_FLOOR = 1e-7


class InputFeatures(Protocol):
    """What is made of audio before a model gets it, in batches.

    Attributes:
        sample_rate: Hertz, of the audio that is wanted.
    """

    @property
    def sample_rate(self) -> int: ...

    def __call__(self, audio: Sequence[Audio]) -> tuple[Tensor, NDArray[np.int64]]:
        """What a model hears of a batch, and how much of it is valid.

        Args:
            audio: (samples,) at `sample_rate` each, of any lengths.

        Returns:
            (batch, positions) or (batch, positions, width) in float32, where some row is valid to its end; and the
            valid positions of each row, (batch,).
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Waveform:
    """Samples as they are, or normalised.

    Attributes:
        normalize: Zero mean and unit variance over each row, as Wav2Vec2FeatureExtractor's `do_normalize`.
        sample_rate: Hertz, of the audio that is wanted.
    """

    normalize: bool
    sample_rate: int = SAMPLE_RATE

    def __call__(self, audio: Sequence[Audio]) -> tuple[Tensor, NDArray[np.int64]]:
        lengths = np.array([len(row) for row in audio], dtype=np.int64)
        values = np.zeros((len(audio), int(lengths.max())), dtype=np.float32)  # (batch, samples)
        for row, samples in zip(values, audio, strict=True):
            row[: len(samples)] = normalize_waveform(samples) if self.normalize else samples
        return torch.from_numpy(values), lengths


@dataclass(frozen=True)
class ExtractedFeatures:
    """Features of a feature extractor of `transformers`, which normalises each row as it does in use.

    Attributes:
        extractor: The extractor; its `attention_mask` says which of its vectors are valid.
    """

    extractor: Any

    @property
    def sample_rate(self) -> int:
        """Hertz, of the audio that the extractor was made for."""
        return int(self.extractor.sampling_rate)

    def __call__(self, audio: Sequence[Audio]) -> tuple[Tensor, NDArray[np.int64]]:
        extractor_output = self.extractor(list(audio), sampling_rate=self.sample_rate, return_tensors="pt")
        lengths = extractor_output["attention_mask"].sum(-1).to(torch.int64)
        # What no row has valid is of no use: every model leaves it out, by its mask.
        return extractor_output["input_features"][:, : int(lengths.max())].float(), lengths.numpy()


def normalize_waveform(audio: Audio) -> Audio:
    """Audio, (samples,), with zero mean and unit variance."""
    scaled: Audio = (audio - audio.mean()) / np.sqrt(audio.var() + VARIANCE_FLOOR)
    return scaled
