"""Mild, repeatable damage to clean speech: a small room, a telephone's band, a noise floor and a random level."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

from secateur.data.corpus import SAMPLE_RATE

_TELEPHONE_RATE = 8_000  # hertz, the rate of a telephone line


def simulate_channel(
    wave: NDArray[np.float32], *, rng: np.random.Generator, sample_rate: int = SAMPLE_RATE
) -> NDArray[np.float32]:
    """Return `wave`, (samples,), as a cheap microphone might have heard it; same length, no shift in time.

    Every step draws its numbers whether or not it is used, so that one step's choice moves no other's.

    Args:
        wave: Clean speech.
        rng: Decides what becomes of it.
        sample_rate: Hertz, of `wave`.
    """
    room_draw, band_draw, noise_draw = rng.random(3)
    seconds, wetness = rng.uniform(0.05, 0.35), rng.uniform(0.1, 0.6)
    reverb_tail = rng.standard_normal(int(0.4 * sample_rate))
    noise_ratio, color = rng.uniform(12.0, 40.0), rng.uniform(0.0, 1.0)
    floor = rng.standard_normal(len(wave))
    tilt = rng.uniform(-0.5, 0.5)
    degraded_wave = _apply_tilt(wave.astype(np.float64), tilt)
    if room_draw < 0.5:
        length, direct_samples = int(seconds * sample_rate), sample_rate // 500
        degraded_wave = _apply_reverb(
            degraded_wave, reverb_tail, length=length, direct_samples=direct_samples, wetness=wetness
        )
    if band_draw < 0.25 and sample_rate > _TELEPHONE_RATE:
        narrowband = soxr.resample(degraded_wave, sample_rate, _TELEPHONE_RATE)
        degraded_wave = np.resize(soxr.resample(narrowband, _TELEPHONE_RATE, sample_rate), len(wave))
    if noise_draw < 0.6:
        degraded_wave = degraded_wave + _colored_noise(
            floor, power=float(np.mean(degraded_wave**2)), ratio=noise_ratio, color=color
        )
    return degraded_wave.astype(np.float32)


def random_level(wave: NDArray[np.float32], *, rng: np.random.Generator) -> NDArray[np.float32]:
    """`wave` scaled to a random peak between 0.1 and 0.9, as recordings come."""
    peak = float(np.abs(wave).max()) or 1.0
    return (wave * (rng.uniform(0.1, 0.9) / peak)).astype(np.float32)


def _apply_tilt(wave: NDArray[np.float64], tilt: float) -> NDArray[np.float64]:
    """A one-tap spectral tilt: below zero brighter, above zero duller."""
    return np.asarray(wave + tilt * np.concatenate([[0.0], wave[:-1]]))


def _apply_reverb(
    wave: NDArray[np.float64], reverb_tail: NDArray[np.float64], *, length: int, direct_samples: int, wetness: float
) -> NDArray[np.float64]:
    """Return `wave` through a room: the direct path, then noise that falls by 60 dB in `length` samples.

    Nothing but the direct path is in the first `direct` samples, 2 ms; `wetness` is the energy of the tail relative to
    it.
    """
    length = max(2, length)
    decay = reverb_tail[:length] * 10 ** (-3 * np.arange(length) / length)
    decay[:direct_samples] = 0.0
    decay *= np.sqrt(wetness / max(float(np.sum(decay**2)), 1e-12))
    decay[0] = 1.0
    size = len(wave) + length - 1
    return np.asarray(np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(decay, size), size)[: len(wave)])


def _colored_noise(
    white_noise: NDArray[np.float64], *, power: float, ratio: float, color: float
) -> NDArray[np.float64]:
    """`floor` coloured (0 white, 1 pink) and set `ratio` dB below `power`."""
    spectrum = np.fft.rfft(white_noise)
    spectrum /= np.arange(1, len(spectrum) + 1) ** (color / 2)
    noise = np.fft.irfft(spectrum, len(white_noise))
    scale = np.sqrt(power * 10 ** (-ratio / 10) / max(float(np.mean(noise**2)), 1e-12))
    return np.asarray(noise * scale)
