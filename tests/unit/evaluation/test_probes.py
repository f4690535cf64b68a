"""Probes: pooled frames against brute force, and a probe that finds planted classes alone."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn
from transformers import WavLMConfig, WavLMModel

from secateur.data.corpus import Corpus, Utterance
from secateur.data.input_features import normalize_waveform
from secateur.errors import DataError
from secateur.evaluation import probes
from secateur.evaluation.linear_probe import probe
from secateur.evaluation.pooled_features import LabeledSegment, pooled_features
from secateur.evaluation.probes import ProbeConfig, ProbeSet, manifest_sets
from secateur.tasks.best_rq import LogMel


class _Ramp(nn.Module):
    """Encoder with the frame number, and ten times the frame number, as hidden states."""

    def forward(self, audio: Tensor, output_hidden_states: bool) -> SimpleNamespace:
        frames = (audio.shape[1] - 400) // 320 + 1
        ramp = torch.arange(frames, dtype=torch.float32)[None, :, None]
        return SimpleNamespace(hidden_states=(ramp, 10.0 * ramp))


def _corpus(*lengths: int) -> Corpus:
    audio = [np.random.default_rng(i).standard_normal(n).astype(np.float32) for i, n in enumerate(lengths)]
    utterances = tuple(Utterance(id=str(i), path=str(i), samples=n) for i, n in enumerate(lengths))
    return Corpus(name="noise", utterances=utterances, skipped=(), read=lambda u: audio[int(u.id)])


def test_the_frames_pooled_are_those_whose_centers_lie_in_the_segment() -> None:
    corpus = _corpus(16_000)
    segments = [LabeledSegment(0, "a", 3000, 6000), LabeledSegment(0, "b")]
    result = pooled_features(_Ramp(), corpus, segments, pooling="mean+std", seconds=9.0)
    centers = np.array([320 * t + 200 for t in range(49)])
    inner_settings = np.flatnonzero((centers >= 3000) & (centers < 6000))
    np.testing.assert_allclose(result["layer 0"][0], [inner_settings.mean(), inner_settings.std()], rtol=1e-5)
    np.testing.assert_allclose(result["layer 1"][1], [240.0, 10 * np.arange(49).std()], rtol=1e-5)
    assert result["all layers"].shape == (2, 4)


def test_log_mel_is_pooled_over_the_same_stretch_as_the_encoder() -> None:
    corpus = _corpus(16_000)
    result = pooled_features(_Ramp(), corpus, [LabeledSegment(0, "a", 3000, 6000)], pooling="mean", seconds=9.0)
    frames = LogMel()(torch.from_numpy(normalize_waveform(corpus.audio(0)))[None])[0].numpy()
    chosen_units = [frame for k, frame in enumerate(frames) if 3000 <= 160 * k - 80 + 200 < 6000]
    np.testing.assert_allclose(result["log-mel"][0], np.mean(chosen_units, axis=0), rtol=1e-5)


def test_features_come_back_in_the_order_of_the_segments() -> None:
    segments = [LabeledSegment(1, "a", 0, 400), LabeledSegment(0, "b", 0, 400), LabeledSegment(1, "c", 3000, 3600)]
    result = pooled_features(_Ramp(), _corpus(8000, 9000), segments, pooling="mean", seconds=9.0)["layer 0"][:, 0]
    np.testing.assert_allclose(result, [0.0, 0.0, 9.5])


def test_a_segment_between_two_frames_gets_the_nearest_one() -> None:
    result = pooled_features(_Ramp(), _corpus(8000), [LabeledSegment(0, "a", 850, 860)], pooling="mean", seconds=9.0)
    assert float(result["layer 0"][0, 0]) == 2.0  # centers 200, 520, 840, 1160


def _parts(informative: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(int(informative))
    parts = {}
    for part, count in (("train", 200), ("dev", 60), ("test", 200)):
        labels = np.arange(count) % 2
        features = rng.standard_normal((count, 6)).astype(np.float32)
        if informative:
            features[:, 2] = 1000.0 + 5.0 * labels + 0.5 * features[:, 2]
        parts[part] = (features, np.array(["no", "yes"])[labels])
    return parts


def test_the_probe_finds_what_was_planted_and_not_what_was_not() -> None:
    result = probe({"noise": _parts(False), "planted": _parts(True)}, seeds=(0, 1))
    assert result.features == "planted"
    assert result.test > 0.99
    assert len(result.spread) == 2
    assert probe({"noise": _parts(False)}, seeds=()).test == pytest.approx(0.5, abs=0.12)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    lines = []
    for index in range(30):
        label, part = ("low", "high")[index % 2], ("train", "dev", "test")[index % 3]
        pitch = (200.0, 1500.0)[index % 2] * (1 + 0.01 * index)
        soundfile.write(tmp_path / f"{index}.wav", 0.3 * np.sin(2 * np.pi * pitch * np.arange(8000) / 16_000), 16_000)
        line = {"id": str(index), "audio": f"{index}.wav", "label": label, "speaker": f"s{index % 2}"}
        lines.append(json.dumps(line | {"split": part, "sid_split": part, "corpus": "tones"}))
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_run_tells_tones_apart_and_makes_a_table(manifest: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = WavLMConfig(
        conv_dim=(8,) * 7,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=1,
    )
    WavLMModel(config).save_pretrained(tmp_path / "model")
    sets = manifest_sets(str(manifest), keywords=("tones",), speakers=("tones",))
    record = probes.run_probes(ProbeConfig(model=str(tmp_path / "model"), sets=sets, poolings=("mean",), seeds=(0,)))
    assert [row.log_mel.test for row in record.rows] == [1.0, 1.0]
    assert record.rows[0].items == {"train": 10, "dev": 10, "test": 10}
    assert "| words, tones | 2 | 10 | mean | 100.0 ± 0.0 |" in probes.format_table(record)


def test_a_question_without_answers_is_said(manifest: Path) -> None:
    (requests, *_) = manifest_sets(str(manifest), keywords=("tones",), speakers=())
    with pytest.raises(DataError, match="no segments in its split 'train'"):
        probes.run_probes(
            ProbeConfig(
                model=str(_tiny(manifest.parent)), sets=(ProbeSet(name="w", data=requests.data, label_source="word"),)
            )
        )


def _tiny(folder: Path) -> Path:
    WavLMModel(
        WavLMConfig(conv_dim=(8,) * 7, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(folder / "tiny")
    return folder / "tiny"
