"""Pooled features of speech segments: every hidden state of a frozen model, and log-mel energies."""

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
    """Segment of an utterance with a class; `end` is exclusive and defaults to the end of the utterance."""

    index: int
    label: str
    start: int = 0
    end: int | None = None


@torch.no_grad()
def pooled_features(
    model: nn.Module, corpus: Corpus, segments: Sequence[LabeledSegment], *, pooling: Pooling, seconds: float
) -> dict[str, FeatureArray]:
    """Return features (segments, width) by name: `log-mel`, `layer 0` … `layer L`, and `all layers` concatenated.

    Args:
        model: Hugging Face encoder in eval mode that takes (batch, samples).
        corpus: Speech at the sampling rate of the model.
        segments: Segments of its utterances.
        pooling: Pooling over the frames with their center in the segment, for the model and for log-mel.
        seconds: Length that utterances are cut to; a later segment gets the nearest frame.
    """
    log_mel = LogMel(sample_rate=corpus.sample_rate)
    # One forward pass for all segments of an utterance, in the order of the utterances.
    by_utterance: dict[int, list[int]] = {}
    for number, segment in enumerate(segments):
        by_utterance.setdefault(segment.index, []).append(number)
    rows: dict[str, list[NDArray[np.float32]]] = {}
    order: list[int] = []
    for index, numbers in by_utterance.items():
        # (samples,) -> (1, samples)
        audio = torch.from_numpy(normalize_waveform(corpus.audio(index)[: int(seconds * corpus.sample_rate)]))[None]
        states = model(audio, output_hidden_states=True).hidden_states
        # Values, hop and first sample of the first frame, in samples.
        # At 16 kHz, 320 samples are 20 ms and 160 samples are 10 ms.
        frames = {f"layer {layer}": (state[0], 320, 0) for layer, state in enumerate(states)}
        frames["log-mel"] = (log_mel(audio)[0], 160, -80)
        for name, (values, hop, first_sample) in frames.items():
            for number in numbers:
                segment_frames = _frames_in_segment(values, segments[number], hop=hop, first_sample=first_sample)
                rows.setdefault(name, []).append(_pool(segment_frames, pooling))
        order.extend(numbers)
    return _restore_order(rows, order)


def _frames_in_segment(values: Tensor, segment: LabeledSegment, *, hop: int, first_sample: int) -> Tensor:
    """Return the frames (time, width) with centers in the segment, or else the nearest frame.

    Frame i has its center at first_sample + i · hop + 200: of hidden states at 200, 520, 840, …
    """
    centers = first_sample + hop * torch.arange(len(values)) + _CENTER
    end = segment.end if segment.end is not None else int(centers[-1]) + 1
    segment_frames = values[(centers >= segment.start) & (centers < end)]
    if len(segment_frames):
        return segment_frames
    nearest = int((centers - (segment.start + end) / 2).abs().argmin())
    return values[nearest : nearest + 1]


def _pool(frames: Tensor, pooling: Pooling) -> NDArray[np.float32]:
    mean = frames.mean(dim=0)  # (time, width) -> (width,)
    if pooling == "mean":
        return np.asarray(mean, dtype=np.float32)
    # (time, width) -> (2 · width,)
    return np.asarray(torch.cat([mean, frames.std(dim=0, correction=0)]), dtype=np.float32)


def _restore_order(rows: Mapping[str, Sequence[FeatureArray]], order: Sequence[int]) -> dict[str, FeatureArray]:
    """Return the features in the order of the segments, with the concatenation of all layers."""
    inverse_order = np.argsort(order)  # rows of the segments 2, 0, 1 are taken as 1, 2, 0
    features = {name: np.stack(list(values))[inverse_order] for name, values in rows.items()}
    layers = [name for name in features if name.startswith("layer")]
    # (segments, width) of each layer -> (segments, layers · width)
    return features | {"all layers": np.concatenate([features[name] for name in layers], axis=1)}
