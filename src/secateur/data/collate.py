"""Collation of crops into a padded batch of model inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from secateur.data.batches import Crop
from secateur.data.corpus import Corpus, escape_surrogates
from secateur.data.input_features import Audio, InputFeatures
from secateur.errors import DataError


@dataclass(frozen=True)
class AudioBatch:
    """Model inputs of a micro-batch: waveforms, or sequences of feature vectors.

    Attributes:
        values: (batch, samples) float32, zero after the end of each row; or features, (batch, positions, width).
        lengths: (batch,) int64, number of valid samples or positions of each row.
        ids: Utterance ids, row by row.
        mask: (batch, samples) or (batch, positions) int64, 1 where valid; None if no row is padded.
    """

    values: Tensor
    lengths: Tensor
    ids: tuple[str, ...]
    mask: Tensor | None


def collate(corpus: Corpus, crops: Sequence[Crop], *, input_features: InputFeatures) -> AudioBatch:
    """Read `crops` from `corpus` and return the batch.

    Args:
        corpus: The corpus that the crops' indices refer to.
        crops: At least one crop.
        input_features: Conversion of audio to model inputs.

    Raises:
        DataError: A file cannot be read, or is shorter than when the corpus was opened.
    """
    assert corpus.sample_rate == input_features.sample_rate, (corpus.sample_rate, input_features.sample_rate)
    values, lengths = input_features([_read_crop(corpus, crop) for crop in crops])
    mask: Tensor | None = None
    if (lengths < values.shape[1]).any():
        positions = np.arange(values.shape[1])
        # lengths [2, 3] -> [[1, 1, 0], [1, 1, 1]]
        mask = torch.from_numpy((positions < lengths[:, None]).astype(np.int64))
    return AudioBatch(
        values=values,
        lengths=torch.from_numpy(lengths),
        ids=tuple(corpus.utterances[crop.index].id for crop in crops),
        mask=mask,
    )


def _read_crop(corpus: Corpus, crop: Crop) -> Audio:
    audio = corpus.audio(crop.index)[crop.start : crop.start + crop.samples]
    if len(audio) < crop.samples:
        path = escape_surrogates(corpus.utterances[crop.index].path)
        missing = crop.samples - len(audio)
        raise DataError(f"{path} ends {missing} samples before its crop; it has changed since the corpus was opened.")
    return audio
