"""Input features follow the settings in a model's folder; unusable settings are rejected."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import tiny_structure
from transformers import (
    AutoFeatureExtractor,
    ParakeetFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from secateur.data.input_features import Waveform
from secateur.errors import ModelError
from secateur.hf.feature_extractor import load_input_features, read_sample_rate
from secateur.structure import ConvStage, FeatureSpec, Structure

STRUCTURE = replace(
    tiny_structure("hubert", "base"),
    stages=(ConvStage(kernel=160, stride=160, min_windows=2), ConvStage(kernel=3, stride=2, padding=2)),
    features=FeatureSpec(extractor="ParakeetFeatureExtractor", width=24, settings={"feature_size": 24}),
)
NOISE = np.random.default_rng(0).standard_normal(4000).astype(np.float32)


def test_features_equal_those_of_the_extractor_in_the_folder(tmp_path: Path) -> None:
    extractor = ParakeetFeatureExtractor(feature_size=24, preemphasis=0.5)
    extractor.save_pretrained(tmp_path)
    values, lengths = load_input_features(tmp_path, STRUCTURE)([NOISE])
    expected = extractor([NOISE], sampling_rate=16_000, return_tensors="pt")["input_features"]
    assert torch.equal(values, expected[:, : lengths[0]])


def test_a_folder_without_an_extractor_gets_the_familys_default_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        values, _ = load_input_features(tmp_path, STRUCTURE)([NOISE])
    assert values.shape[-1] == 24
    assert "audio is heard by a ParakeetFeatureExtractor" in caplog.text


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
@pytest.mark.parametrize("normalize", [True, False])
def test_samples_are_normalized_as_the_settings_say(tmp_path: Path, name: str, normalize: bool) -> None:
    settings = Wav2Vec2FeatureExtractor(do_normalize=normalize).to_dict()
    inner_settings = settings if name.startswith("pre") else {"feature_extractor": settings}
    (tmp_path / name).write_text(json.dumps(inner_settings))
    assert load_input_features(tmp_path, tiny_structure("hubert", "base")) == Waveform(normalize=normalize)


@pytest.mark.parametrize(
    ("extractor", "sentence"),
    [
        (ParakeetFeatureExtractor(feature_size=80), "100 vectors of width 80 .* takes 100 of width 24"),
        (ParakeetFeatureExtractor(feature_size=24, hop_length=200), "80 vectors of width 24 .* takes 100 of width 24"),
        (Wav2Vec2FeatureExtractor(), "is a Wav2Vec2FeatureExtractor, allowed is ParakeetFeatureExtractor"),
    ],
)
def test_an_extractor_that_does_not_fit_the_model_is_rejected(
    tmp_path: Path, extractor: ParakeetFeatureExtractor | Wav2Vec2FeatureExtractor, sentence: str
) -> None:
    extractor.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=sentence):
        load_input_features(tmp_path, STRUCTURE)


@pytest.mark.parametrize("structure", [STRUCTURE, tiny_structure("hubert", "base")])
def test_an_extractor_of_another_class_is_rejected_by_name(tmp_path: Path, structure: Structure) -> None:
    WhisperFeatureExtractor(feature_size=24).save_pretrained(tmp_path)
    with pytest.raises(
        ModelError, match=r"is a WhisperFeatureExtractor, allowed is (Parakeet|Wav2Vec2)FeatureExtractor"
    ):
        load_input_features(tmp_path, structure)


@pytest.mark.parametrize(
    ("extractor", "settings"),
    [
        ("ParakeetFeatureExtractor", {"n_fft": 256, "win_length": 400}),
        ("ParakeetFeatureExtractor", {"win_length": 800}),
        ("ParakeetFeatureExtractor", {"hop_length": "160"}),
        ("ParakeetFeatureExtractor", {"n_fft": None}),
        ("SeamlessM4TFeatureExtractor", {"stride": "2"}),
        ("SeamlessM4TFeatureExtractor", {"num_mel_bins": -3}),
    ],
)
def test_unusable_settings_are_rejected_with_a_message(
    tmp_path: Path, extractor: str, settings: dict[str, object]
) -> None:
    structure = replace(STRUCTURE, features=FeatureSpec(extractor=extractor, width=24, settings={}))
    size = {"feature_size": 24} if extractor.startswith("Parakeet") else {"feature_size": 12, "num_mel_bins": 12}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(size | settings))
    with pytest.raises(ModelError, match=r"^The feature extractor of '.*' cannot be (made|used): .*[^.]\.$"):
        load_input_features(tmp_path, structure)


@pytest.mark.parametrize("structure", [STRUCTURE, tiny_structure("hubert", "base")])
@pytest.mark.parametrize(("settings", "sample_rate"), [({"sampling_rate": 8000}, 8000), ({}, 16_000)])
def test_audio_is_read_at_the_sampling_rate_of_the_settings(
    tmp_path: Path, structure: Structure, settings: dict[str, int], sample_rate: int
) -> None:
    settings = settings | {"feature_size": 24} if structure.features else settings
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text("{}")
    assert load_input_features(tmp_path, structure).sample_rate == sample_rate
    assert read_sample_rate(tmp_path) == read_sample_rate(tmp_path / "config.json") == sample_rate


@pytest.mark.parametrize("key", ["feature_extractor", "audio_processor"])
def test_the_sampling_rate_of_a_processor_takes_precedence_as_in_transformers(tmp_path: Path, key: str) -> None:
    Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(tmp_path)
    assert read_sample_rate(tmp_path) == 8000
    settings = Wav2Vec2FeatureExtractor(sampling_rate=24_000).to_dict()
    (tmp_path / "processor_config.json").write_text(json.dumps({key: settings}))
    assert read_sample_rate(tmp_path) == AutoFeatureExtractor.from_pretrained(tmp_path).sampling_rate == 24_000
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "Wav2Vec2Processor"}))
    assert read_sample_rate(tmp_path) == 8000


@pytest.mark.parametrize("value", ["8000", 0, None, -8000, True, 8000.5, 3999, 192_001, float("nan"), [8000]])
def test_an_invalid_sampling_rate_is_rejected_with_file_and_value(tmp_path: Path, value: object) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": value}))
    sentence = re.escape(f"preprocessor_config.json: sampling_rate: got {value!r}, expected a whole number of hertz")
    with pytest.raises(ModelError, match=sentence):
        load_input_features(tmp_path, tiny_structure("hubert", "base"))
