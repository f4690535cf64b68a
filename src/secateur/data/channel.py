"""Mild, repeatable degradation of clean speech: room reverberation, telephone band, noise floor and random level."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

from secateur.data.corpus import SAMPLE_RATE

_TELEPHONE_RATE = 8_000  # hertz, the rate of a telephone line


def simulate_channel(
    wave: NDArray[np.float32], *, rng: np.random.Generator, sample_rate: int = SAMPLE_RATE
) -> NDArray[np.float32]:
    """Return `wave`, (samples,), as if recorded by a cheap microphone; same length, no shift in time.

    All numbers are drawn in a fixed order, whether or not a step is applied, so that a step never changes the draws of
    the following steps.

    Args:
        wave: Clean speech.
        rng: Source of all random choices.
        sample_rate: Sampling rate of `wave` in hertz.
    """
    room_draw, band_draw, noise_draw = rng.random(3)
    reverb_seconds = rng.uniform(0.05, 0.35)
    wetness = rng.uniform(0.1, 0.6)
    reverb_tail = rng.standard_normal(int(0.4 * sample_rate))
    noise_ratio = rng.uniform(12.0, 40.0)  # dB
    color = rng.uniform(0.0, 1.0)
    floor = rng.standard_normal(len(wave))
    tilt = rng.uniform(-0.5, 0.5)
    degraded_wave = _apply_tilt(wave.astype(np.float64), tilt)
    if room_draw < 0.5:
        degraded_wave = _apply_reverb(
            degraded_wave,
            reverb_tail,
            length=int(reverb_seconds * sample_rate),
            direct_samples=sample_rate // 500,  # 2 ms
            wetness=wetness,
        )
    if band_draw < 0.25 and sample_rate > _TELEPHONE_RATE:
        # Down and up again keeps the band below 4 kHz; the resampler may return a sample more or less.
        narrowband = soxr.resample(degraded_wave, sample_rate, _TELEPHONE_RATE)
        degraded_wave = np.resize(soxr.resample(narrowband, _TELEPHONE_RATE, sample_rate), len(wave))
    if noise_draw < 0.6:
        degraded_wave = degraded_wave + _colored_noise(
            floor, power=float(np.mean(degraded_wave**2)), ratio=noise_ratio, color=color
        )
    return degraded_wave.astype(np.float32)


def random_level(wave: NDArray[np.float32], *, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return `wave`, (samples,), scaled to a random peak between 0.1 and 0.9."""
    peak = float(np.abs(wave).max()) or 1.0
    return (wave * (rng.uniform(0.1, 0.9) / peak)).astype(np.float32)


def _apply_tilt(wave: NDArray[np.float64], tilt: float) -> NDArray[np.float64]:
    """Return `wave` through a first-order FIR filter: a negative `tilt` amplifies high frequencies, a positive low."""
    return np.asarray(wave + tilt * np.concatenate([[0.0], wave[:-1]]))


def _apply_reverb(
    wave: NDArray[np.float64], reverb_tail: NDArray[np.float64], *, length: int, direct_samples: int, wetness: float
) -> NDArray[np.float64]:
    """Return `wave` convolved with a room response: the direct path, then noise that decays by 60 dB.

    Args:
        wave: Clean speech, (samples,).
        reverb_tail: White noise, at least (length,).
        length: Length of the room response in samples, over which the noise decays by 60 dB.
        direct_samples: Number of samples at the start that hold only the direct path.
        wetness: Energy of the tail relative to the direct path.
    """
    length = max(2, length)
    # An amplitude of 10 ** -3 at the end is -60 dB.
    response = reverb_tail[:length] * 10 ** (-3 * np.arange(length) / length)
    response[:direct_samples] = 0.0
    response *= np.sqrt(wetness / max(float(np.sum(response**2)), 1e-12))
    response[0] = 1.0
    size = len(wave) + length - 1  # zero padding, so that the circular convolution is a linear one
    return np.asarray(np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(response, size), size)[: len(wave)])


def _colored_noise(
    white_noise: NDArray[np.float64], *, power: float, ratio: float, color: float
) -> NDArray[np.float64]:
    """Return `white_noise` with spectral density 1 / f ** `color` (0 white, 1 pink), `ratio` dB below `power`."""
    spectrum = np.fft.rfft(white_noise)
    spectrum /= np.arange(1, len(spectrum) + 1) ** (color / 2)  # amplitude, hence half the exponent
    noise = np.fft.irfft(spectrum, len(white_noise))
    scale = np.sqrt(power * 10 ** (-ratio / 10) / max(float(np.mean(noise**2)), 1e-12))
    return np.asarray(noise * scale)
