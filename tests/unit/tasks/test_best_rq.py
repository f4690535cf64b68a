"""BEST-RQ: log-mel against transformers' filters, labels against brute force, masks against the expected share."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from transformers import WavLMConfig, WavLMModel
from transformers.audio_utils import mel_filter_bank

from secateur.tasks import best_rq
from secateur.tasks.best_rq import (
    BestRqSettings,
    LogMel,
    RandomProjectionLabeler,
    RandomProjectionQuantizer,
    span_mask,
)


def test_log_mel_frame_is_the_spectrum_of_the_samples_it_names() -> None:
    values = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    result = LogMel()(values)[0, 7].numpy()  # frame 7 = the second half of encoder frame 3: starts at 3 · 320 + 80
    frame = values[0, 3 * 320 + 80 :][:400].double().numpy()
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.abs(np.fft.rfft(frame * hann, n=512)) ** 2
    filters = mel_filter_bank(257, 80, 20.0, 8000.0, 16_000, norm=None, mel_scale="htk")
    np.testing.assert_allclose(result, np.log(power @ filters + 1e-5), atol=1e-4)


@pytest.mark.parametrize("samples", [400, 719, 720, 8000, 16_000, 16_321])
def test_there_are_two_log_mel_frames_to_every_frame_of_a_stock_encoder(samples: int) -> None:
    lengths = WavLMModel._get_feat_extract_output_lengths
    model = WavLMModel(
        WavLMConfig(
            conv_dim=(4,) * 7,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=1,
        )
    )
    frames = int(lengths(model, torch.tensor(samples)))
    assert best_rq.frame_count(samples) == frames
    assert LogMel()(torch.zeros(1, samples)).shape == (1, 2 * frames, 80)


def test_labels_are_the_nearest_entries_on_the_unit_sphere() -> None:
    task = BestRqSettings(frame_codebooks=1, plain_codebooks=1, crop_codebooks=1, entries=11, width=5)
    quantizer = RandomProjectionQuantizer(20, task)
    features = torch.randn(2, 4, 3, 20, generator=torch.Generator().manual_seed(1))
    labels = quantizer(features)
    for book in range(3):
        entries = quantizer.entries[book].T  # (entries, width)
        projected = features[:, :, book] @ quantizer.projection[book]
        unit = projected / projected.norm(dim=-1, keepdim=True)
        distance = (unit[..., None, :] - entries / entries.norm(dim=-1, keepdim=True)).norm(dim=-1)
        assert torch.equal(labels[..., book], distance.argmin(dim=-1))


def _speech(seed: int) -> torch.Tensor:
    """Noise with a level that wanders, (2, 8000) at unit variance."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.randn(2, 20, generator=generator).exp().repeat_interleave(400, dim=1)
    values = level * torch.randn(2, 8000, generator=generator)
    return values / values.std(dim=1, keepdim=True)


def _labeler(seed: int = 0) -> RandomProjectionLabeler:
    task = BestRqSettings(frame_codebooks=2, plain_codebooks=3, crop_codebooks=4, entries=32, seed=seed)
    labeler = RandomProjectionLabeler(task)
    labeler.fit_statistics(_speech(1000 + i) for i in range(20))
    return labeler


def test_labels_depend_on_the_seed_and_on_nothing_else() -> None:
    labels = [_labeler(seed)(_speech(0)) for seed in (0, 0, 1)]
    assert labels[0].shape == (2, best_rq.frame_count(8000), 9)
    assert torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], labels[2])


def test_crop_codebooks_give_all_frames_of_a_crop_one_label() -> None:
    labels = _labeler()(_speech(0))
    assert torch.equal(labels[..., 5:], labels[:, :1, 5:].expand(-1, labels.shape[1], -1))
    assert not torch.equal(labels[..., :5], labels[:, :1, :5].expand(-1, labels.shape[1], -1))


def test_frame_codebooks_hear_through_a_filter_and_plain_ones_do_not() -> None:
    values = _speech(0)
    duller = torch.nn.functional.conv1d(values[:, None], torch.tensor([[[0.9, 1.0, 0.0]]]), padding=1)[:, 0]
    is_same = (_labeler()(values) == _labeler()(duller)).float().mean(dim=(0, 1))
    assert is_same[:2].min() > 0.8
    assert is_same[2:5].max() < 0.6


@pytest.mark.parametrize(("share", "span"), [(0.45, 10), (0.2, 5), (0.6, 1)])
def test_the_masked_share_is_the_one_asked_for(share: float, span: int) -> None:
    mask = span_mask(batch=4000, frames=200, share=share, span=span, rng=np.random.default_rng(0))
    assert mask.mean() == pytest.approx(share, abs=0.01)
    assert mask[:, :3].mean() == pytest.approx(share, abs=0.03)  # the edges are hidden as often


def test_spans_inside_are_never_shorter_than_asked() -> None:
    mask = span_mask(batch=50, frames=100, share=0.3, span=6, rng=np.random.default_rng(1))
    for row in mask:
        edges = np.flatnonzero(np.diff(row.astype(int)))
        runs = [b - a for a, b in itertools.pairwise(edges) if row[a + 1]]
        assert all(run >= 6 for run in runs)


def test_hidden_and_visible_frames_are_summed_apart() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 5, 3, 7, generator=generator)  # (batch, frames, codebooks, entries)
    labels = torch.randint(7, (2, 5, 3), generator=generator)
    mask = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 1, 0]]).bool()
    result = best_rq.loss(logits, labels, mask)
    sums = {True: 0.0, False: 0.0}
    hits = 0.0
    for row in range(2):
        for frame in range(5):
            for book in range(3):
                scores, label = logits[row, frame, book], int(labels[row, frame, book])
                sums[bool(mask[row, frame])] -= float(torch.log_softmax(scores, dim=0)[label]) / 3
                hits += float(int(scores.argmax()) == label) / 3 if mask[row, frame] else 0.0
    assert float(result.masked) == pytest.approx(sums[True], rel=1e-5)
    assert float(result.visible) == pytest.approx(sums[False], rel=1e-5)
    assert float(result.correct) == pytest.approx(hits, rel=1e-5)
