"""From crops to one padded batch of audio, as the models take it."""

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
    """Audio of one micro-batch, as a model hears it: as samples, or as vectors of features.

    Attributes:
        values: (batch, samples) float32, zeros after the end of each row; or (batch, positions, width).
        lengths: (batch,) int64, valid samples or positions of each row.
        ids: Utterance ids, row by row.
        mask: (batch, samples) or (batch, positions) int64, 1 where valid; None when no row is padded.
    """

    values: Tensor
    lengths: Tensor
    ids: tuple[str, ...]
    mask: Tensor | None


def collate(corpus: Corpus, crops: Sequence[Crop], *, input_features: InputFeatures) -> AudioBatch:
    """The batch of `crops`, read from `corpus`.

    Args:
        corpus: Where the crops' indices point.
        crops: At least one.
        hearing: How the model hears them.

    Raises:
        DataError: A file cannot be read, or is shorter than it was when the corpus was opened.
    """
    assert corpus.sample_rate == input_features.sample_rate, (corpus.sample_rate, input_features.sample_rate)
    values, lengths = input_features([_read_crop(corpus, crop) for crop in crops])
    positions = np.arange(values.shape[1])
    is_padded = bool((lengths < values.shape[1]).any())
    return AudioBatch(
        values=values,
        lengths=torch.from_numpy(lengths),
        ids=tuple(corpus.utterances[crop.index].id for crop in crops),
        mask=torch.from_numpy((positions < lengths[:, None]).astype(np.int64)) if is_padded else None,
    )


def _read_crop(corpus: Corpus, crop: Crop) -> Audio:
    audio = corpus.audio(crop.index)[crop.start : crop.start + crop.samples]
    if len(audio) < crop.samples:
        raise DataError(
            f"{escape_surrogates(corpus.utterances[crop.index].path)} ends {crop.samples - len(audio)} samples before its "
            "crop; it has changed since the corpus was opened."
        )
    return audio
