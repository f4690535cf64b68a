"""Pooled features of stretches of speech: of every hidden state of a frozen model, and of log-mel energies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.data.corpus import Corpus
from secateur.data.input_features import normalize_waveform
from secateur.tasks.best_rq import LogMel

Pooling = Literal["mean", "mean+std"]
FeatureArray = NDArray[np.float32]

_CENTER = 200  # samples: half the receptive field of an encoder frame, half a log-mel window


@dataclass(frozen=True, slots=True)
class LabeledSegment:
    """A stretch of one utterance and its class; `end` is one past the last sample, None the utterance's end."""

    index: int
    label: str
    start: int = 0
    end: int | None = None


@torch.no_grad()
def pooled_features(
    model: nn.Module, corpus: Corpus, segments: Sequence[LabeledSegment], *, pooling: Pooling, seconds: float
) -> dict[str, FeatureArray]:
    """Features (segments, width) by name: `log-mel`, `layer 0` … `layer L`, and `all layers` side by side.

    Args:
        model: A HF encoder in eval mode that takes (batch, samples).
        corpus: Speech at the model's rate.
        pooling: Over the frames whose centres lie in the segment; the same for the model and for log-mel.
        seconds: Utterances are heard up to here; segments that begin later get what is nearest.
    """
    log_mel = LogMel(sample_rate=corpus.sample_rate)
    by_utterance: dict[int, list[int]] = {}
    for number, segment in enumerate(segments):
        by_utterance.setdefault(segment.index, []).append(number)
    rows: dict[str, list[NDArray[np.float32]]] = {}
    order: list[int] = []
    for index, numbers in by_utterance.items():
        audio = torch.from_numpy(normalize_waveform(corpus.audio(index)[: int(seconds * corpus.sample_rate)]))[None]
        states = model(audio, output_hidden_states=True).hidden_states
        frames = {f"layer {layer}": (state[0], 320, 0) for layer, state in enumerate(states)}
        frames["log-mel"] = (log_mel(audio)[0], 160, -80)
        for name, (values, hop, first_sample) in frames.items():
            for number in numbers:
                segment_frames = _frames_in_segment(values, segments[number], hop=hop, first_sample=first_sample)
                rows.setdefault(name, []).append(_pool(segment_frames, pooling))
        order.extend(numbers)
    return _restore_order(rows, order)


def _frames_in_segment(values: Tensor, segment: LabeledSegment, *, hop: int, first_sample: int) -> Tensor:
    """The frames (time, width) whose centres lie in the segment; the nearest one when none does."""
    centers = first_sample + hop * torch.arange(len(values)) + _CENTER
    end = segment.end if segment.end is not None else int(centers[-1]) + 1
    segment_frames = values[(centers >= segment.start) & (centers < end)]
    if len(segment_frames):
        return segment_frames
    nearest = int((centers - (segment.start + end) / 2).abs().argmin())
    return values[nearest : nearest + 1]


def _pool(frames: Tensor, pooling: Pooling) -> NDArray[np.float32]:
    mean = frames.mean(dim=0)
    if pooling == "mean":
        return np.asarray(mean, dtype=np.float32)
    return np.asarray(torch.cat([mean, frames.std(dim=0, correction=0)]), dtype=np.float32)


def _restore_order(rows: Mapping[str, Sequence[FeatureArray]], order: Sequence[int]) -> dict[str, FeatureArray]:
    """Rows back in the order of the segments, and every layer side by side."""
    inverse_order = np.argsort(order)
    features = {name: np.stack(list(values))[inverse_order] for name, values in rows.items()}
    layers = [name for name in features if name.startswith("layer")]
    return features | {"all layers": np.concatenate([features[name] for name in layers], axis=1)}
