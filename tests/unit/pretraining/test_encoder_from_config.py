"""BEST-RQ for encoders of any config: masks, labels, and a folder from which training continues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pruning_toy import LENGTHS, write_wavs
from transducer_toy import ENCODER, MELS
from transformers import AutoFeatureExtractor, AutoModel

from secateur.config import check
from secateur.errors import ConfigError, SecateurError
from secateur.pipeline import pretrain, prune
from secateur.pretraining.encoder_from_config import ConfigEncoder, FromConfig
from secateur.tasks import best_rq
from secateur.tasks.best_rq import BestRqSettings, FrameWindows, RandomProjectionLabeler

CONFORMER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "parakeet_encoder": ENCODER,
    "nemotron_asr_streaming_encoder": ENCODER | {"sliding_window": 13, "default_num_lookahead_tokens": 1},
    "wav2vec2-bert": CONFORMER | {"position_embeddings_type": "relative_key"},
    "wav2vec2-conformer": CONFORMER
    | {"conv_dim": [4] * 7, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 1},
}
TASK = {"kind": "best_rq", "frame_codebooks": 2, "plain_codebooks": 1, "crop_codebooks": 0, "entries": 8, "width": 4}


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_wavs(tmp_path_factory.mktemp("best_rq") / "speech")
    splits = ["dev" if index % 4 == 3 else "train" for index in range(len(LENGTHS))]
    lines = [{"audio": f"u{i:02}.wav", "text": "ab", "split": split} for i, split in enumerate(splits)]
    (root / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def recipe(speech: Path, out: Path, model_type: str, **fields: Any) -> dict[str, Any]:
    return {
        "out": str(out),
        "data": {"kind": "jsonl", "path": str(speech / "manifest.jsonl")},
        "task": TASK,
        "encoder": {"kind": "config", "fields": {"model_type": model_type} | FAMILIES[model_type]},
        "seconds": 1.0,
        "crop": 0.4,
        "loop": {"steps": 3, "log_every": 1},
    } | fields


def encoder(model_type: str) -> ConfigEncoder:
    torch.manual_seed(0)
    task = BestRqSettings(frame_codebooks=2, plain_codebooks=1, crop_codebooks=0, entries=8, width=4)
    return ConfigEncoder(FromConfig(fields={"model_type": model_type} | FAMILIES[model_type]), task).eval()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_any_conformer_learns_and_leaves_a_folder_of_stock_classes(
    model_type: str, speech: Path, tmp_path: Path
) -> None:
    record = pretrain(recipe(speech, tmp_path / "run", model_type))
    model = AutoModel.from_pretrained(tmp_path / "run" / "model")
    assert model.config.model_type == model_type
    assert sum(value.numel() for value in model.parameters()) == record.parameters
    fresh = encoder(model_type).encoder.state_dict()
    assert any(not torch.equal(value, fresh[name]) for name, value in model.state_dict().items())
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "run" / "model")
    input_values = extractor([np.zeros(8000, np.float32)], sampling_rate=16_000, return_tensors="pt")
    assert torch.isfinite(model(**input_values).last_hidden_state).all()
    assert record.dev["hidden"] == pytest.approx(np.log(8), abs=1.5)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_frame_has_a_guess_and_a_label(model_type: str) -> None:
    created = encoder(model_type)
    for samples in (6400, 8000, 8319):
        values = torch.randn(2, samples)
        input_values = created.to_inputs(values)
        count = created.frame_count(samples)
        logits = created(input_values, torch.zeros(2, count, dtype=torch.bool), front=False)[1]
        assert logits.shape == (2, count, 3, 8)
        assert created.make_labeler(BestRqSettings(crop_codebooks=0, entries=8))(input_values).shape == (2, count, 6)


@pytest.mark.parametrize("model_type", ["parakeet_encoder", "wav2vec2-bert"])
def test_noise_lies_where_hidden_frames_are_and_nowhere_else(model_type: str) -> None:
    created = encoder(model_type)
    input_values = created.to_inputs(torch.randn(2, 16_000))
    mask = torch.zeros(2, created.frame_count(16_000), dtype=torch.bool)
    mask[1, 2:4] = True
    hidden = created.mask_inputs(input_values, mask, np.random.default_rng(0))
    changed = (hidden != input_values).any(-1)
    step = {"parakeet_encoder": 8, "wav2vec2-bert": 1}[model_type]
    assert changed[0].sum() == 0
    assert changed[1].nonzero()[:, 0].tolist() == list(range(2 * step - step // 2, 4 * step - step // 2))
    spread_text = hidden[1, changed[1]].std() / input_values[1].std()
    assert float(spread_text) < 0.5


def test_noise_of_samples_lies_in_the_middle_of_what_a_frame_hears() -> None:
    values = torch.randn(1, 1040)  # three frames: 0 to 399, 320 to 719, 640 to 1039
    mask = torch.tensor([[False, True, False]])
    hidden = best_rq.mask_with_noise(values, mask, step=320, offset=-40, rng=np.random.default_rng(0))
    assert (hidden != values)[0].nonzero()[:, 0].tolist() == list(range(360, 680))


def test_windows_are_centered_on_their_frames_and_labels_are_of_them_alone() -> None:
    features = torch.arange(20.0)[None, :, None].expand(1, 20, MELS).contiguous()
    windows = FrameWindows(8, lambda positions: (positions - 1) // 8 + 1)
    assert windows(features)[0, :, 0].view(3, 8).tolist() == [
        [0, 0, 0, 0, 0, 1, 2, 3],
        [4, 5, 6, 7, 8, 9, 10, 11],
        [12, 13, 14, 15, 16, 17, 18, 19],
    ]
    task = BestRqSettings(frame_codebooks=0, plain_codebooks=2, crop_codebooks=0)
    labeler = RandomProjectionLabeler(task, windows, width=MELS)
    noise = torch.randn(1, 20, MELS)
    other_value = noise.clone()
    other_value[0, 13:] = 0.0
    initial, final = labeler(noise), labeler(other_value)
    assert torch.equal(initial[:, :2], final[:, :2])
    assert not torch.equal(initial[:, 2], final[:, 2])


def test_an_encoder_that_was_pretrained_gets_a_transducer(speech: Path, tmp_path: Path) -> None:
    pretrain(recipe(speech, tmp_path / "first", "parakeet_encoder"))
    record = prune(
        {
            "model": str(tmp_path / "first" / "model"),
            "out": str(tmp_path / "run"),
            "data": {"kind": "jsonl", "path": str(speech / "manifest.jsonl")},
            "batching": {"seconds": 1.0, "longest": 0.6, "shortest": 0.1},
            "target": 0.9,
            "gates": {"units": {}},
            "task": {"kind": "rnnt", "width": 8},
            "distill": None,
            "learn": {"steps": 2},
            "recover": {"steps": 1},
        }
    )
    assert record.verification.holds


def test_what_an_encoder_of_a_config_cannot_do_is_said(speech: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="front_steps: got 2, expected 0 for an encoder"):
        pretrain(recipe(speech, tmp_path / "a", "parakeet_encoder", front_steps=2))
    with pytest.raises(ConfigError, match="crop_codebooks: got 4, expected 0"):
        pretrain(recipe(speech, tmp_path / "b", "parakeet_encoder", task=TASK | {"crop_codebooks": 4}))
    with pytest.raises(ConfigError, match="got neither a model_type nor 'config'"):
        FromConfig(fields={"hidden_size": 8})
    with pytest.raises(
        ConfigError, match=r"hidden_sizes: a parakeet_encoder config has no such field. Did you mean .hidden_size.?"
    ):
        FromConfig(fields={"model_type": "parakeet_encoder", "hidden_sizes": 8}).build()
    with pytest.raises(
        ConfigError, match=r"fields: invalid parakeet_encoder config: .*'hidden_size' expected int, got str"
    ):
        FromConfig(fields={"model_type": "parakeet_encoder", "hidden_size": "wide"}).build()
    with pytest.raises(ConfigError, match="exists and is not a run folder: give another --out"):
        pretrain(recipe(speech, speech / "manifest.jsonl", "parakeet_encoder"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("hidden_size", 17, "forward pass of a parakeet_encoder model with this config fails"),
        ("conv_kernel_size", 4, "forward pass of a parakeet_encoder model with this config fails"),
        ("num_mel_bins", 12, "num_mel_bins: got 12, of which the subsampling leaves 2 in each of 8 channels"),
        ("num_mel_bins", 0, "num_mel_bins: got 0, of which the subsampling leaves 0"),
    ],
)
def test_a_shape_that_cannot_hear_is_refused_before_it_learns(
    field: str, value: int, sentence: str, speech: Path, tmp_path: Path
) -> None:
    fields = {"model_type": "parakeet_encoder"} | FAMILIES["parakeet_encoder"] | {field: value}
    with pytest.raises(SecateurError, match=sentence):
        pretrain(recipe(speech, tmp_path / "run", "parakeet_encoder", encoder={"kind": "config", "fields": fields}))
    assert not list(tmp_path.iterdir())


def test_a_run_goes_on_with_its_own_recipe_alone(speech: Path, tmp_path: Path) -> None:
    first = recipe(speech, tmp_path / "run", "parakeet_encoder")
    pretrain(first)
    with pytest.raises(ConfigError, match="is in use: add --resume"):
        pretrain(first)
    with pytest.raises(ConfigError, match=r"another recipe \(see its pretrain.yaml; other now: crop\)"):
        pretrain(first | {"crop": 0.3}, resume=True)
    assert pretrain(first, resume=True).folder == str(tmp_path / "run")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"entries": 0}, "entries: expected an integer >= 2, got 0"),
        ({"mask_share": 2.0}, "mask_share: expected a number > 0 and < 1, got 2.0"),
        ({"mask_span": 0}, "mask_span: expected an integer >= 1, got 0"),
        (dict.fromkeys(("frame_codebooks", "plain_codebooks", "crop_codebooks"), 0), "expected at least one codebook"),
    ],
)
def test_a_task_without_labels_or_masks_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check(BestRqSettings(**fields))
