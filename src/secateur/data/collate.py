"""From crops to one padded batch of audio, as the models take it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.data.batches import Crop
from secateur.data.corpus import Corpus
from secateur.errors import DataError

# Of Wav2Vec2FeatureExtractor.
VARIANCE_FLOOR = 1e-7


@dataclass(frozen=True)
class AudioBatch:
    """Audio of one micro-batch.

    Attributes:
        values: (batch, samples) float32, zeros after the end of each row.
        lengths: (batch,) int64, valid samples of each row.
        ids: Utterance ids, row by row.
        mask: (batch, samples) int64, 1 where valid; None when no row is padded.
    """

    values: Tensor
    lengths: Tensor
    ids: tuple[str, ...]
    mask: Tensor | None


def collate(corpus: Corpus, crops: Sequence[Crop], *, normalize: bool) -> AudioBatch:
    """The batch of `crops`, read from `corpus`.

    Args:
        corpus: Where the crops' indices point.
        crops: At least one.
        normalize: Zero mean and unit variance over each crop, as Wav2Vec2FeatureExtractor's `do_normalize`.

    Raises:
        DataError: A file cannot be read, or is shorter than it was when the corpus was opened.
    """
    lengths = np.array([crop.samples for crop in crops], dtype=np.int64)
    values = np.zeros((len(crops), int(lengths.max())), dtype=np.float32)  # (batch, samples)
    for row, crop in zip(values, crops, strict=True):
        audio = corpus.audio(crop.index)[crop.start : crop.start + crop.samples]
        if len(audio) < crop.samples:
            raise DataError(
                f"{corpus.utterances[crop.index].path} ends {crop.samples - len(audio)} samples before its "
                "crop; it has changed since the corpus was opened."
            )
        row[: crop.samples] = normalized(audio) if normalize else audio
    positions = np.arange(values.shape[1])
    padded = bool((lengths < values.shape[1]).any())
    return AudioBatch(
        values=torch.from_numpy(values),
        lengths=torch.from_numpy(lengths),
        ids=tuple(corpus.utterances[crop.index].id for crop in crops),
        mask=torch.from_numpy((positions < lengths[:, None]).astype(np.int64)) if padded else None,
    )


def normalized(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Audio, (samples,), with zero mean and unit variance."""
    scaled: NDArray[np.float32] = (audio - audio.mean()) / np.sqrt(audio.var() + VARIANCE_FLOOR)
    return scaled
