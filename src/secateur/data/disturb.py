"""Variety for a batch of speech: other microphones, and another voice or noise laid over it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_QUIETEST_VOICE, _LOUDEST_VOICE = 20.0, -5.0  # dB of the utterance over the voice laid on it
_QUIETEST_NOISE, _LOUDEST_NOISE = 25.0, 0.0  # dB of the utterance over the noise
_KNOTS = 8  # of a microphone's response, evenly spaced from 0 to 8 kHz
_RESPONSE = 6.0  # dB, its standard deviation at a knot


def equalised(values: Tensor, *, share: float, rng: np.random.Generator) -> Tensor:
    """(batch, samples) → the same, normalised; about `share` of its rows as another microphone hears them."""
    batch, samples = values.shape
    spectrum = torch.fft.rfft(values.double())
    places = np.linspace(0.0, _KNOTS - 1.0, spectrum.shape[1])
    for row in range(batch):
        if rng.random() < share:
            decibels = np.interp(places, np.arange(_KNOTS), rng.normal(0.0, _RESPONSE, _KNOTS))
            spectrum[row] *= torch.from_numpy(10.0 ** (decibels / 20.0)).to(values.device)
    return _normalised(torch.fft.irfft(spectrum, samples).float())


def disturbed(values: Tensor, *, share: float, rng: np.random.Generator) -> Tensor:
    """(batch, samples) of unit variance → the same with about `share` of its rows disturbed, normalised again.

    Half of the disturbed rows get a stretch of the next row, at most half as long as the utterance; the others get
    noise between white and pink throughout.

    Source: the utterance mixing of WavLM (Chen et al. 2021, arXiv 2110.13900, Algorithm 1).
    Differs from the paper: the noise is drawn rather than taken from recordings.
    """
    batch, samples = values.shape
    mixed = values.clone()
    for row in range(batch):
        if rng.random() >= share:
            continue
        if rng.random() < 0.5 and batch > 1:
            length = int(rng.integers(samples // 20, samples // 2))
            start, source = rng.integers(0, samples - length, size=2)
            gain = 10.0 ** (-rng.uniform(_LOUDEST_VOICE, _QUIETEST_VOICE) / 20.0)
            other = values[(row + 1) % batch, source : source + length]
            mixed[row, start : start + length] += gain * other
        else:
            gain = 10.0 ** (-rng.uniform(_LOUDEST_NOISE, _QUIETEST_NOISE) / 20.0)
            mixed[row] += gain * _noise(samples, colour=rng.uniform(0.0, 1.0), rng=rng).to(values.device)
    return _normalised(mixed)


def _normalised(values: Tensor) -> Tensor:
    centred = values - values.mean(dim=1, keepdim=True)
    return centred / centred.std(dim=1, correction=0, keepdim=True).clamp_min(1e-4)


def _noise(samples: int, *, colour: float, rng: np.random.Generator) -> Tensor:
    """Noise of unit variance whose power falls as frequency to the power of `colour`: 0 white, 1 pink."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    noise = np.fft.irfft(spectrum / np.arange(1, len(spectrum) + 1) ** (colour / 2.0), samples)
    return torch.from_numpy((noise / noise.std()).astype(np.float32))
