"""A model hears recordings at the sampling rate that its folder names, from the first batch to the record."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import transformers
from numpy.typing import NDArray
from pruning_toy import LENGTHS, noise, seeded_model, write_wavs
from support import tiny_structure

import secateur
from secateur.compress import stage_measurements
from secateur.compress.config import PruneConfig
from secateur.compress.run_context import RunContext, prepare_run
from secateur.config import load
from secateur.cost import Cost, Terms
from secateur.cost.latency_table import LatencyTable
from secateur.data.input_features import normalize_waveform
from secateur.errors import SecateurError
from secateur.pretraining.pretrain import BestRqTrainUnit, PretrainConfig

#: Samples models have a frame every 160 samples; those that hear features have one every 320 and every 1280.
FAMILIES = ("hubert", "wav2vec2-bert", "parakeet_encoder")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings at 16 kHz, and a folder with weights and no feature extractor for each family."""
    root = tmp_path_factory.mktemp("rates")
    write_wavs(root / "speech")
    for family in FAMILIES:
        seeded_model(family, "base").save_pretrained(root / family)
    return root


def teacher(root: Path, folder: Path, sample_rate: int, family: str = "hubert") -> Path:
    """A model folder whose feature extractor takes audio at a rate."""
    folder.mkdir()
    for file in (root / family).iterdir():
        (folder / file.name).symlink_to(file)
    extractor(family, sample_rate).save_pretrained(folder)
    return folder


def extractor(family: str, sample_rate: int) -> Any:
    features = tiny_structure(family, "base").features
    if features is None:
        return transformers.Wav2Vec2FeatureExtractor(sampling_rate=sample_rate)
    return getattr(transformers, features.extractor)(**features.settings, sampling_rate=sample_rate)


def fields(root: Path, model: Path, **changes: Any) -> dict[str, Any]:
    """A selection by size and no learning: the shortest way through all phases."""
    return {
        "model": str(model),
        "data": {"kind": "folder", "path": str(root / "speech")},
        "validation": {"seconds": 0.6},
        "batching": {"seconds": 1.2, "longest": 0.3, "shortest": 0.25},
        "constraints": [{"cost": "macs", "seconds": 2.0, "target": 0.6}],
        "choose": {"kind": "score", "kinds": ["channels", "heads", "units"]},
        "recover": {"steps": 0},
    } | changes


def setting_of(root: Path, model: Path, **changes: Any) -> RunContext:
    config = load(fields(root, model, **changes), PruneConfig)
    return prepare_run(config, make_latency_table=lambda config, rate: pytest.fail("asked for times"))


def resampled(index: int, sample_rate: int) -> NDArray[np.float32]:
    """A recording at another rate, no longer than it is."""
    audio = soxr.resample(noise(index), 16_000, sample_rate)
    return np.asarray(audio[: LENGTHS[index] * sample_rate // 16_000], dtype=np.float32)


@pytest.mark.parametrize("sample_rate", [8_000, 24_000, 44_100])
def test_recordings_reach_a_model_resampled_to_its_rate(root: Path, tmp_path: Path, sample_rate: int) -> None:
    setting = setting_of(root, teacher(root, tmp_path / "teacher", sample_rate))
    longest = int(0.3 * sample_rate)
    for batch in setting.held_out_batches():
        index = int(batch.audio.ids[0][1:3])
        expected = normalize_waveform(resampled(index, sample_rate)[:longest])
        np.testing.assert_array_equal(batch.audio.values[0], expected)
    seconds = sum(LENGTHS[int(utterance.id[1:3])] for utterance in setting.held_out.utterances) / 16_000
    assert setting.held_out.seconds == pytest.approx(seconds, abs=1e-4)
    (batch,) = setting.feed.micro_batches(0, 0, 1)  # GroupNorm: crops of one length
    assert 0.25 * sample_rate <= batch.audio.values.shape[1] <= longest
    drawn = {setting.train.utterances[crop.index].id for crop in setting.feed.batches.step(0)}
    assert all(LENGTHS[int(id[1:3])] >= 4000 for id in drawn)  # a quarter of a second
    counted = Cost.from_terms(Terms(setting.structure), cost="macs", scope="whole", samples=2 * sample_rate)
    assert setting.cost_targets[0].cost.dense == counted.dense


@pytest.mark.parametrize("family", FAMILIES[1:])
def test_features_are_those_of_the_extractor_at_its_own_rate(root: Path, tmp_path: Path, family: str) -> None:
    setting = setting_of(root, teacher(root, tmp_path / "teacher", 8_000, family))
    batch = setting.held_out_batches()[0]
    audio = resampled(int(batch.audio.ids[0][1:3]), 8_000)[:2400]
    expected = extractor(family, 8_000)([audio], sampling_rate=8_000, return_tensors="pt")["input_features"]
    np.testing.assert_array_equal(batch.audio.values, expected[:, : batch.audio.values.shape[1]])


@pytest.mark.parametrize(("sample_rate", "steps"), [(8_000, 1), (24_000, 0)])
def test_a_pruned_model_keeps_its_rate_and_the_record_names_it(
    root: Path, tmp_path: Path, sample_rate: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        stage_measurements, "time_encoders", partial(stage_measurements.time_encoders, seconds=0.1, repeats=1)
    )
    model = teacher(root, tmp_path / "teacher", sample_rate)
    recover = {"steps": steps, "log_every": 1, "save_every": 0}
    record = secateur.prune(fields(root, model, out=str(tmp_path / "run"), recover=recover))
    written_config = json.loads((tmp_path / "run" / "model" / "preprocessor_config.json").read_text())
    assert written_config["sampling_rate"] == sample_rate
    assert record.data.train.sample_rate == record.data.validation.sample_rate == sample_rate
    assert {stage.samples / stage.sample_rate for stage in record.stages} == {2.0}
    profile = secateur.profile(tmp_path / "run" / "model", seconds=2.0)
    assert (profile.samples, profile.macs) == (2 * sample_rate, record.stages[-1].macs)
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"at {sample_rate // 1000}\u00a0kHz" in page
    assert "at 2\u00a0s" in page


def test_the_times_of_a_run_are_those_at_its_models_rate(root: Path, tmp_path: Path) -> None:
    model = teacher(root, tmp_path / "teacher", 24_000)
    config = load(fields(root, model, constraints=[{"cost": "latency", "target": 0.5}]), PruneConfig)

    def table(config: Any, sample_rate: int) -> LatencyTable:
        raise SecateurError(f"times at {sample_rate} Hz")

    with pytest.raises(SecateurError, match="times at 24000 Hz"):
        prepare_run(config, make_latency_table=table)


def test_held_out_recordings_of_their_own_are_read_at_the_same_rate(root: Path, tmp_path: Path) -> None:
    validation = {"data": {"kind": "folder", "path": str(root / "speech")}, "seconds": 0.3}
    setting = setting_of(root, teacher(root, tmp_path / "teacher", 8_000), validation=validation)
    assert (setting.held_out.sample_rate, setting.held_out.utterances[0].samples) == (8_000, LENGTHS[0] // 2)


@pytest.mark.parametrize("model_type", ["wav2vec2-conformer", "parakeet_encoder"])
def test_an_encoder_is_pretrained_at_the_rate_of_the_folder_that_its_config_is_from(
    root: Path, tmp_path: Path, model_type: str
) -> None:
    small = {"conv_dim": [4] * 7, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 1}
    small |= {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    source = tmp_path / "source"
    config = transformers.AutoConfig.for_model(model_type, **small)
    config.save_pretrained(source)
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=8_000).save_pretrained(source)
    trainee = BestRqTrainUnit(
        load(
            {
                "out": str(tmp_path / "run"),
                "data": {"kind": "folder", "path": str(root / "speech")},
                "task": {"kind": "best_rq", "crop_codebooks": 0},
                "encoder": {"kind": "config", "config": str(source / "config.json")},
                "loop": {"steps": 1},
                "seconds": 1.0,
                "crop": 0.4,
            },
            PretrainConfig,
        )
    )
    (crop, *_) = trainee.batches["train"].step(0)
    assert 1600 <= crop.samples <= 3200
    assert trainee.corpora["train"].utterances[0].samples == LENGTHS[1] // 2
    trainee.model.save(tmp_path / "written")
    assert json.loads((tmp_path / "written" / "preprocessor_config.json").read_text())["sampling_rate"] == 8_000
