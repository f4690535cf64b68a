"""Variety for a batch of speech: other microphones, quieter rooms, and another voice or noise laid over it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.data.corpus import SAMPLE_RATE

_QUIETEST_VOICE, _LOUDEST_VOICE = 20.0, -5.0  # dB of the utterance over the voice laid on it
_QUIETEST_NOISE, _LOUDEST_NOISE = 25.0, 0.0  # dB of the utterance over the noise
_RESPONSE_KNOTS = 8  # of a microphone's response, evenly spaced from 0 Hz to half the sampling rate
_RESPONSE_STD = 6.0  # dB, its standard deviation at a knot
_ROLLOFF_PROBABILITY = 0.3  # share of the microphones that hear nothing above some frequency
_LOWEST_CUT, _HIGHEST_CUT = 3.0, 8.0  # kHz
_SLOPE, _GENTLEST_DROP, _DEEPEST_DROP = 40.0, 20.0, 80.0  # dB per kHz above the cut, and where the fall ends
_FEWEST_FADES, _MOST_FADES = 4, 16  # knots of a crop's level
_FADE_STD = 25.0  # dB, the standard deviation of the level at a knot; never above what it was


def random_eq(
    values: Tensor, *, probability: float, rng: np.random.Generator, sample_rate: int = SAMPLE_RATE
) -> Tensor:
    """(batch, samples) → the same, normalised; about `share` of its rows as another microphone hears them."""
    batch, samples = values.shape
    spectrum = torch.fft.rfft(values.double())
    kilohertz = np.linspace(0.0, sample_rate / 2000.0, spectrum.shape[1])
    for row in range(batch):
        if rng.random() < probability:
            decibels = _interpolate_knots(rng.normal(0.0, _RESPONSE_STD, _RESPONSE_KNOTS), points=len(kilohertz))
            if rng.random() < _ROLLOFF_PROBABILITY:
                kilohertz_above_cut = kilohertz - rng.uniform(_LOWEST_CUT, _HIGHEST_CUT)
                decibels -= np.clip(_SLOPE * kilohertz_above_cut, 0.0, rng.uniform(_GENTLEST_DROP, _DEEPEST_DROP))
            spectrum[row] *= _linear_gain(decibels, values.device)
    return _normalize(torch.fft.irfft(spectrum, samples).float())


def random_gain(values: Tensor, *, probability: float, rng: np.random.Generator) -> Tensor:
    """(batch, samples) → the same, normalised; the level of about `share` of its rows comes and goes.

    Synthetic speech is spoken at one level over one floor of noise; recordings have pauses far below it.
    """
    batch, samples = values.shape
    output = values.clone()
    for row in range(batch):
        if rng.random() < probability:
            knots = int(rng.integers(_FEWEST_FADES, _MOST_FADES + 1))
            output[row] *= _linear_gain(
                _interpolate_knots(-np.abs(rng.normal(0.0, _FADE_STD, knots)), points=samples), values.device
            )
    return _normalize(output)


def mix_noise(values: Tensor, *, probability: float, rng: np.random.Generator) -> Tensor:
    """(batch, samples) of unit variance → the same with about `share` of its rows disturbed, normalised again.

    Half of the disturbed rows get a stretch of the next row, at most half as long as the utterance; the others get
    noise between white and pink throughout.

    Source: the utterance mixing of WavLM (Chen et al. 2021, arXiv 2110.13900, Algorithm 1).
    Differs from the paper: the noise is drawn rather than taken from recordings.
    """
    batch, samples = values.shape
    mixture = values.clone()
    for row in range(batch):
        if rng.random() >= probability:
            continue
        if rng.random() < 0.5 and batch > 1:
            length = int(rng.integers(samples // 20, samples // 2))
            start, source = rng.integers(0, samples - length, size=2)
            gain = 10.0 ** (-rng.uniform(_LOUDEST_VOICE, _QUIETEST_VOICE) / 20.0)
            interfering_speech = values[(row + 1) % batch, source : source + length]
            mixture[row, start : start + length] += gain * interfering_speech
        else:
            gain = 10.0 ** (-rng.uniform(_LOUDEST_NOISE, _QUIETEST_NOISE) / 20.0)
            mixture[row] += gain * _colored_noise(samples, color=rng.uniform(0.0, 1.0), rng=rng).to(values.device)
    return _normalize(mixture)


def _interpolate_knots(decibels: NDArray[np.float64], *, points: int) -> NDArray[np.float64]:
    """So many points on the line through evenly spaced knots."""
    knots = len(decibels)
    return np.interp(np.linspace(0.0, knots - 1.0, points), np.arange(knots), decibels)


def _linear_gain(decibels: NDArray[np.float64], device: torch.device) -> Tensor:
    return torch.from_numpy((10.0 ** (decibels / 20.0)).astype(np.float32)).to(device)


def _normalize(values: Tensor) -> Tensor:
    centered = values - values.mean(dim=1, keepdim=True)
    return centered / centered.std(dim=1, correction=0, keepdim=True).clamp_min(1e-4)


def _colored_noise(samples: int, *, color: float, rng: np.random.Generator) -> Tensor:
    """Noise of unit variance whose power falls as frequency to the power of `colour`: 0 white, 1 pink."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    noise = np.fft.irfft(spectrum / np.arange(1, len(spectrum) + 1) ** (color / 2.0), samples)
    return torch.from_numpy((noise / noise.std()).astype(np.float32))
