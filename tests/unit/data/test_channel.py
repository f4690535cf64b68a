"""Rooms and disturbances: mild, repeatable, and no shift in time."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from secateur.data.channel import random_level, simulate_channel
from secateur.pretraining.augment import mix_noise, random_eq, random_gain


def _wave(samples: int = 8000) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(samples).astype(np.float32)


def test_the_same_generator_makes_the_same_room() -> None:
    first, second = (simulate_channel(_wave(), rng=np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first, second)
    assert first.shape == (8000,)


def test_a_click_stays_where_it_is_in_every_room() -> None:
    click = np.zeros(8000, dtype=np.float32)
    click[4000] = 1.0
    for seed, sample_rate in itertools.product(range(20), (8_000, 16_000, 44_100)):
        rough = simulate_channel(click, rng=np.random.default_rng(seed), sample_rate=sample_rate)
        assert rough.shape == click.shape
        assert abs(int(np.abs(rough).argmax()) - 4000) <= 1


def test_levels_lie_between_a_tenth_and_nine_tenths() -> None:
    peaks = [float(np.abs(random_level(_wave(), rng=np.random.default_rng(s))).max()) for s in range(50)]
    assert 0.1 <= min(peaks) < 0.3
    assert 0.7 < max(peaks) <= 0.9


def test_nothing_disturbed_is_only_normalised() -> None:
    values = torch.from_numpy(np.stack([_wave(), 3.0 * _wave()]))
    is_same = mix_noise(values, probability=0.0, rng=np.random.default_rng(0))
    layer_norm = torch.nn.functional.layer_norm(values, values.shape[1:])
    torch.testing.assert_close(is_same, layer_norm, rtol=1e-4, atol=1e-4)


def test_disturbed_rows_keep_unit_variance_and_most_of_the_speech() -> None:
    values = torch.randn(64, 4000, generator=torch.Generator().manual_seed(0))
    augmented = mix_noise(values, probability=1.0, rng=np.random.default_rng(0))
    torch.testing.assert_close(augmented.std(dim=1, correction=0), torch.ones(64), rtol=1e-4, atol=1e-4)
    likeness = torch.cosine_similarity(values, augmented)
    assert 0.5 < float(likeness.min()) < float(likeness.mean()) < 0.999


def test_another_microphone_filters_without_shifting() -> None:
    values = torch.randn(32, 8000, generator=torch.Generator().manual_seed(0))
    augmented = random_eq(values, probability=1.0, rng=np.random.default_rng(0))
    torch.testing.assert_close(augmented.std(dim=1, correction=0), torch.ones(32), rtol=1e-4, atol=1e-4)
    response = torch.fft.rfft(augmented.double()) / torch.fft.rfft(values.double())
    assert float(response[:, 1:-1].imag.abs().max()) < 1e-3 * float(response.real.abs().max())  # zero phase
    decibels = 20 * response[:, 1:-1].real.clamp_min(1e-5).log10()
    below_target = decibels[:, : decibels.shape[1] * 3 // 8]  # 3 kHz: no microphone ends there
    assert 3.0 < float(below_target.std(dim=1).mean()) < 8.0
    ends = decibels[:, -1] < below_target.mean(dim=1) - 20.0  # some hear nothing above their limit
    assert 0.05 < float(ends.float().mean()) < 0.7


def test_a_level_comes_and_goes_and_the_waveform_stays() -> None:
    values = torch.randn(64, 16_000, generator=torch.Generator().manual_seed(0))
    augmented = random_gain(values, probability=0.5, rng=np.random.default_rng(0))
    torch.testing.assert_close(augmented.std(dim=1, correction=0), torch.ones(64), rtol=1e-4, atol=1e-4)
    level = augmented.unfold(1, 400, 400).std(dim=2)  # (rows, 25 ms)
    fallen = 20 * (level.amax(dim=1) / level.amin(dim=1)).log10()  # dB
    assert 0.3 < float((fallen > 20.0).float().mean()) < 0.7
    is_same = torch.cosine_similarity(values.unfold(1, 400, 400), augmented.unfold(1, 400, 400), dim=2)
    assert float((is_same > 0.9).float().mean()) > 0.9
