"""Mild, repeatable damage to clean speech: a small room, a telephone's band, a noise floor and a random level."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

from secateur.data.corpus import SAMPLE_RATE

_TELEPHONE = 8_000  # hertz, the rate of a telephone line


def roughen(
    wave: NDArray[np.float32], *, rng: np.random.Generator, sample_rate: int = SAMPLE_RATE
) -> NDArray[np.float32]:
    """Return `wave`, (samples,), as a cheap microphone might have heard it; same length, no shift in time.

    Every step draws its numbers whether or not it is used, so that one step's choice moves no other's.

    Args:
        wave: Clean speech.
        rng: Decides what becomes of it.
        sample_rate: Hertz, of `wave`.
    """
    room, band, noise = rng.random(3)
    seconds, wetness = rng.uniform(0.05, 0.35), rng.uniform(0.1, 0.6)
    tail = rng.standard_normal(int(0.4 * sample_rate))
    ratio, colour = rng.uniform(12.0, 40.0), rng.uniform(0.0, 1.0)
    floor = rng.standard_normal(len(wave))
    tilt = rng.uniform(-0.5, 0.5)
    rough = _tilted(wave.astype(np.float64), tilt)
    if room < 0.5:
        length, direct = int(seconds * sample_rate), sample_rate // 500
        rough = _reverberated(rough, tail, length=length, direct=direct, wetness=wetness)
    if band < 0.25 and sample_rate > _TELEPHONE:
        narrow = soxr.resample(rough, sample_rate, _TELEPHONE)
        rough = np.resize(soxr.resample(narrow, _TELEPHONE, sample_rate), len(wave))
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
    wave: NDArray[np.float64], tail: NDArray[np.float64], *, length: int, direct: int, wetness: float
) -> NDArray[np.float64]:
    """Return `wave` through a room: the direct path, then noise that falls by 60 dB in `length` samples.

    Nothing but the direct path is in the first `direct` samples, 2 ms; `wetness` is the energy of the tail relative to
    it.
    """
    length = max(2, length)
    decay = tail[:length] * 10 ** (-3 * np.arange(length) / length)
    decay[:direct] = 0.0
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
