"""Mild, repeatable damage to clean speech: a small room, a telephone's band, a noise floor and a random level."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

_RATE = 16_000


def roughen(wave: NDArray[np.float32], *, rng: np.random.Generator) -> NDArray[np.float32]:
    """`wave` (samples at 16 kHz) as a cheap microphone might have heard it; same length, no shift in time.

    Every step draws its numbers whether or not it is used, so that one step's choice moves no other's.
    """
    room, band, noise = rng.random(3)
    seconds, wetness = rng.uniform(0.05, 0.35), rng.uniform(0.1, 0.6)
    tail = rng.standard_normal(int(0.4 * _RATE))
    ratio, colour = rng.uniform(12.0, 40.0), rng.uniform(0.0, 1.0)
    floor = rng.standard_normal(len(wave))
    tilt = rng.uniform(-0.5, 0.5)
    rough = _tilted(wave.astype(np.float64), tilt)
    if room < 0.5:
        rough = _reverberated(rough, tail, seconds=seconds, wetness=wetness)
    if band < 0.25:
        narrow = soxr.resample(rough, _RATE, _RATE // 2)
        rough = np.resize(soxr.resample(narrow, _RATE // 2, _RATE), len(wave))
    if noise < 0.6:
        rough = rough + _noise(floor, power=float(np.mean(rough**2)), ratio=ratio, colour=colour)
    return rough.astype(np.float32)


def level(wave: NDArray[np.float32], *, rng: np.random.Generator) -> NDArray[np.float32]:
    """`wave` scaled to a random peak between 0.1 and 0.9, as recordings come."""
    peak = float(np.abs(wave).max()) or 1.0
    return (wave * (rng.uniform(0.1, 0.9) / peak)).astype(np.float32)


def _tilted(wave: NDArray[np.float64], tilt: float) -> NDArray[np.float64]:
    """A one-tap spectral tilt: below zero brighter, above zero duller."""
    return np.asarray(wave + tilt * np.concatenate([[0.0], wave[:-1]]))


def _reverberated(
    wave: NDArray[np.float64], tail: NDArray[np.float64], *, seconds: float, wetness: float
) -> NDArray[np.float64]:
    """`wave` through a room: the direct path, then noise that falls by 60 dB in `seconds`.

    `wetness` is the energy of the tail relative to the direct path.
    """
    length = max(2, int(seconds * _RATE))
    decay = tail[:length] * 10 ** (-3 * np.arange(length) / length)
    decay[: _RATE // 500] = 0.0  # nothing but the direct path in the first 2 ms
    decay *= np.sqrt(wetness / max(float(np.sum(decay**2)), 1e-12))
    decay[0] = 1.0
    size = len(wave) + length - 1
    return np.asarray(np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(decay, size), size)[: len(wave)])


def _noise(floor: NDArray[np.float64], *, power: float, ratio: float, colour: float) -> NDArray[np.float64]:
    """`floor` coloured (0 white, 1 pink) and set `ratio` dB below `power`."""
    spectrum = np.fft.rfft(floor)
    spectrum /= np.arange(1, len(spectrum) + 1) ** (colour / 2)
    noise = np.fft.irfft(spectrum, len(floor))
    scale = np.sqrt(power * 10 ** (-ratio / 10) / max(float(np.mean(noise**2)), 1e-12))
    return np.asarray(noise * scale)
