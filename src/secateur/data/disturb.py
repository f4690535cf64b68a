"""Variety for a batch of speech: other microphones, quieter rooms, and another voice or noise laid over it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.data.corpus import SAMPLE_RATE

_QUIETEST_VOICE, _LOUDEST_VOICE = 20.0, -5.0  # dB of the utterance over the voice laid on it
_QUIETEST_NOISE, _LOUDEST_NOISE = 25.0, 0.0  # dB of the utterance over the noise
_KNOTS = 8  # of a microphone's response, evenly spaced from 0 Hz to half the sampling rate
_RESPONSE = 6.0  # dB, its standard deviation at a knot
_ROLLED_OFF = 0.3  # share of the microphones that hear nothing above some frequency
_LOWEST_CUT, _HIGHEST_CUT = 3.0, 8.0  # kHz
_SLOPE, _GENTLEST_DROP, _DEEPEST_DROP = 40.0, 20.0, 80.0  # dB per kHz above the cut, and where the fall ends
_FEWEST_FADES, _MOST_FADES = 4, 16  # knots of a crop's level
_FADE = 25.0  # dB, the standard deviation of the level at a knot; never above what it was


def equalised(values: Tensor, *, share: float, rng: np.random.Generator, sample_rate: int = SAMPLE_RATE) -> Tensor:
    """(batch, samples) → the same, normalised; about `share` of its rows as another microphone hears them."""
    batch, samples = values.shape
    spectrum = torch.fft.rfft(values.double())
    kilohertz = np.linspace(0.0, sample_rate / 2000.0, spectrum.shape[1])
    for row in range(batch):
        if rng.random() < share:
            decibels = _contour(rng.normal(0.0, _RESPONSE, _KNOTS), points=len(kilohertz))
            if rng.random() < _ROLLED_OFF:
                above = kilohertz - rng.uniform(_LOWEST_CUT, _HIGHEST_CUT)
                decibels -= np.clip(_SLOPE * above, 0.0, rng.uniform(_GENTLEST_DROP, _DEEPEST_DROP))
            spectrum[row] *= _gain(decibels, values.device)
    return _normalised(torch.fft.irfft(spectrum, samples).float())


def faded(values: Tensor, *, share: float, rng: np.random.Generator) -> Tensor:
    """(batch, samples) → the same, normalised; the level of about `share` of its rows comes and goes.

    Synthetic speech is spoken at one level over one floor of noise; recordings have pauses far below it.
    """
    batch, samples = values.shape
    out = values.clone()
    for row in range(batch):
        if rng.random() < share:
            knots = int(rng.integers(_FEWEST_FADES, _MOST_FADES + 1))
            out[row] *= _gain(_contour(-np.abs(rng.normal(0.0, _FADE, knots)), points=samples), values.device)
    return _normalised(out)


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


def _contour(decibels: NDArray[np.float64], *, points: int) -> NDArray[np.float64]:
    """So many points on the line through evenly spaced knots."""
    knots = len(decibels)
    return np.interp(np.linspace(0.0, knots - 1.0, points), np.arange(knots), decibels)


def _gain(decibels: NDArray[np.float64], device: torch.device) -> Tensor:
    return torch.from_numpy((10.0 ** (decibels / 20.0)).astype(np.float32)).to(device)


def _normalised(values: Tensor) -> Tensor:
    centred = values - values.mean(dim=1, keepdim=True)
    return centred / centred.std(dim=1, correction=0, keepdim=True).clamp_min(1e-4)


def _noise(samples: int, *, colour: float, rng: np.random.Generator) -> Tensor:
    """Noise of unit variance whose power falls as frequency to the power of `colour`: 0 white, 1 pink."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    noise = np.fft.irfft(spectrum / np.arange(1, len(spectrum) + 1) ** (colour / 2.0), samples)
    return torch.from_numpy((noise / noise.std()).astype(np.float32))
