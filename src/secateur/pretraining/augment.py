"""Augmentation of a batch of speech: equalizers, gain curves, and interfering speech or noise."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.data.corpus import SAMPLE_RATE

# Level of the utterance over interfering speech, and over noise, in dB.
_MAX_SPEECH_SNR = 20.0
_MIN_SPEECH_SNR = -5.0
_MAX_NOISE_SNR = 25.0
_MIN_NOISE_SNR = 0.0
_RESPONSE_KNOTS = 8  # knots of a frequency response, evenly spaced from 0 Hz to half the sampling rate
_RESPONSE_STD = 6.0  # dB, standard deviation of the response at a knot
_ROLLOFF_PROBABILITY = 0.3  # share of the responses with a low-pass
# Cutoff frequency of the low-pass in kHz, slope above the cutoff in dB per kHz, and largest attenuation in dB.
_MIN_CUTOFF = 3.0
_MAX_CUTOFF = 8.0
_SLOPE = 40.0
_MIN_ATTENUATION = 20.0
_MAX_ATTENUATION = 80.0
# Knots of a gain curve, and standard deviation of its attenuation at a knot in dB.
_MIN_GAIN_KNOTS = 4
_MAX_GAIN_KNOTS = 16
_GAIN_STD = 25.0


def random_eq(
    values: Tensor, *, probability: float, rng: np.random.Generator, sample_rate: int = SAMPLE_RATE
) -> Tensor:
    """Apply a random frequency response to a share of the rows and normalize all: (batch, samples) -> same shape."""
    batch, samples = values.shape
    spectrum = torch.fft.rfft(values.double())  # (batch, samples) -> (batch, samples // 2 + 1)
    kilohertz = np.linspace(0.0, sample_rate / 2000.0, spectrum.shape[1])  # from 0 to half the sampling rate
    for row in range(batch):
        if rng.random() < probability:
            decibels = _interpolate_knots(rng.normal(0.0, _RESPONSE_STD, _RESPONSE_KNOTS), points=len(kilohertz))
            if rng.random() < _ROLLOFF_PROBABILITY:
                above_cutoff = kilohertz - rng.uniform(_MIN_CUTOFF, _MAX_CUTOFF)  # below zero under the cutoff
                decibels -= np.clip(_SLOPE * above_cutoff, 0.0, rng.uniform(_MIN_ATTENUATION, _MAX_ATTENUATION))
            spectrum[row] *= _linear_gain(decibels, values.device)
    return _normalize(torch.fft.irfft(spectrum, samples).float())


def random_gain(values: Tensor, *, probability: float, rng: np.random.Generator) -> Tensor:
    """Apply a random gain curve to a share of the rows and normalize all: (batch, samples) -> same shape.

    Synthetic speech has one level over one noise floor, while recordings have much quieter pauses.
    """
    batch, samples = values.shape
    output = values.clone()
    for row in range(batch):
        if rng.random() < probability:
            knots = int(rng.integers(_MIN_GAIN_KNOTS, _MAX_GAIN_KNOTS + 1))
            decibels = _interpolate_knots(-np.abs(rng.normal(0.0, _GAIN_STD, knots)), points=samples)
            output[row] *= _linear_gain(decibels, values.device)
    return _normalize(output)


def mix_noise(values: Tensor, *, probability: float, rng: np.random.Generator) -> Tensor:
    """Add speech or noise to a share of the rows and normalize all: (batch, samples) of unit variance -> same shape.

    Half of these rows get a segment of the next row, at most half as long as the utterance; the others get noise
    between white and pink over their whole length.

    Source: the utterance mixing of WavLM (Chen et al. 2021, arXiv 2110.13900, Algorithm 1).
    Differs from the paper: the noise is drawn rather than taken from recordings.
    """
    batch, samples = values.shape
    mixture = values.clone()
    for row in range(batch):
        if rng.random() >= probability:
            continue
        if rng.random() < 0.5 and batch > 1:
            length = int(rng.integers(samples // 20, samples // 2))  # 5 to 50 % of the row
            # Position in this row, and in the next row that the speech comes from.
            start, source = rng.integers(0, samples - length, size=2)
            gain = 10.0 ** (-rng.uniform(_MIN_SPEECH_SNR, _MAX_SPEECH_SNR) / 20.0)
            interfering_speech = values[(row + 1) % batch, source : source + length]
            mixture[row, start : start + length] += gain * interfering_speech
        else:
            gain = 10.0 ** (-rng.uniform(_MIN_NOISE_SNR, _MAX_NOISE_SNR) / 20.0)
            mixture[row] += gain * _colored_noise(samples, color=rng.uniform(0.0, 1.0), rng=rng).to(values.device)
    return _normalize(mixture)


def _interpolate_knots(decibels: NDArray[np.float64], *, points: int) -> NDArray[np.float64]:
    """Return evenly spaced points of the piecewise linear curve through evenly spaced knots."""
    knots = len(decibels)
    return np.interp(np.linspace(0.0, knots - 1.0, points), np.arange(knots), decibels)


def _linear_gain(decibels: NDArray[np.float64], device: torch.device) -> Tensor:
    return torch.from_numpy((10.0 ** (decibels / 20.0)).astype(np.float32)).to(device)  # 20 dB are a factor of 10


def _normalize(values: Tensor) -> Tensor:
    centered = values - values.mean(dim=1, keepdim=True)
    return centered / centered.std(dim=1, correction=0, keepdim=True).clamp_min(1e-4)  # silence stays silence


def _colored_noise(samples: int, *, color: float, rng: np.random.Generator) -> Tensor:
    """Return noise of unit variance with power proportional to 1 / frequency^color: white for 0, pink for 1."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    # Amplitude falls with the square root of power; bin i has the index i + 1, so that bin 0 is finite.
    noise = np.fft.irfft(spectrum / np.arange(1, len(spectrum) + 1) ** (color / 2.0), samples)
    return torch.from_numpy((noise / noise.std()).astype(np.float32))
