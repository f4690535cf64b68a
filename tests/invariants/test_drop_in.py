"""A cut model in the places where people put encoders: transformers' pipelines and its Trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import RAGGED, build, make_selection, tiny_config, tiny_structure
from transformers import (
    AutoModelForCTC,
    AutoModelForSequenceClassification,
    Trainer,
    TrainingArguments,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
    pipeline,
)

import secateur

LETTERS = ("<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "C", "D")
CASES = [(family, size) for family in ("wav2vec2", "wavlm", "wav2vec2-conformer") for size in ("base", "large")]


def shrunk(folder: Path, family: str, size: str, ending: str) -> Path:
    """A model with a head, its processor beside it, cut by the verb."""
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({letter: index for index, letter in enumerate(LETTERS)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(vocabulary))
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=size == "large")
    Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder / "dense")
    build(tiny_config(family, size, pad_token_id=0), ending).save_pretrained(folder / "dense")
    extractor.save_pretrained(folder / "dense")  # of classifiers the pipeline reads this file
    (folder / "selection.json").write_text(json.dumps(make_selection(tiny_structure(family, size), RAGGED).to_json()))
    secateur.shrink(folder / "dense", selection=folder / "selection.json", out=folder / "small")
    return folder / "small"


def sine(seconds: float, hertz: float = 200.0) -> Any:
    return np.sin(2 * np.pi * hertz * np.arange(int(16_000 * seconds)) / 16_000).astype(np.float32)


@pytest.mark.parametrize(("family", "size"), CASES)
def test_the_speech_recognition_pipeline_gives_what_the_model_gives(tmp_path: Path, family: str, size: str) -> None:
    small = shrunk(tmp_path, family, size, "ForCTC")
    recognise = pipeline("automatic-speech-recognition", model=str(small), device="cpu")
    assert type(recognise.model).__name__.startswith("Secateur")
    audio = sine(0.6)
    model = AutoModelForCTC.from_pretrained(small).eval()
    inputs = recognise.feature_extractor(audio, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        ids = model(**inputs).logits.argmax(-1)[0]
    assert recognise(audio)["text"] == recognise.tokenizer.decode(ids)


# The tiny Conformers write nothing here: there would be nothing to compare.
@pytest.mark.parametrize(("family", "size"), [case for case in CASES if case[0] != "wav2vec2-conformer"])
def test_long_audio_in_chunks_reads_as_with_the_stock_class(tmp_path: Path, family: str, size: str) -> None:
    shrunk(tmp_path, family, size, "ForCTC")
    (tmp_path / "whole.json").write_text('{"format": 1, "axes": {}}')
    secateur.shrink(tmp_path / "dense", selection=tmp_path / "whole.json", out=tmp_path / "rehosted")
    audio = np.random.default_rng(0).standard_normal(48_000).astype(np.float32)
    texts = [
        pipeline("automatic-speech-recognition", model=str(tmp_path / name), device="cpu")(
            audio, chunk_length_s=1.0, stride_length_s=0.2
        )["text"]
        for name in ("dense", "rehosted")
    ]
    assert texts[0]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(("family", "size"), CASES)
def test_the_audio_classification_pipeline_gives_what_the_model_gives(tmp_path: Path, family: str, size: str) -> None:
    small = shrunk(tmp_path, family, size, "ForSequenceClassification")
    classify = pipeline("audio-classification", model=str(small), device="cpu")
    audio = sine(0.6)
    model = AutoModelForSequenceClassification.from_pretrained(small).eval()
    inputs = classify.feature_extractor(audio, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        chances = model(**inputs).logits.softmax(-1)[0]
    for entry in classify(audio, top_k=3):
        assert entry["score"] == pytest.approx(float(chances[model.config.label2id[entry["label"]]]), abs=1e-5)


@pytest.mark.parametrize(("family", "size"), CASES)
def test_trainer_fine_tunes_saves_and_loads_again(tmp_path: Path, family: str, size: str) -> None:
    small = shrunk(tmp_path, family, size, "ForSequenceClassification")
    model = AutoModelForSequenceClassification.from_pretrained(small)
    initial_state = {name: value.clone() for name, value in model.state_dict().items()}
    items = [{"input_values": torch.from_numpy(sine(0.4, 100.0 + 40 * n)), "labels": n % 3} for n in range(8)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"), max_steps=2, per_device_train_batch_size=4, report_to=[], use_cpu=True,
        learning_rate=1e-2, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=items)
    trainer.train()
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, initial_state[name])]
    assert any("q_proj" in name or "linear_q" in name for name in moved)
    assert any("conv_layers" in name for name in moved)
    trainer.save_model(str(tmp_path / "tuned"))
    reloaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "tuned").eval()
    values = items[0]["input_values"][None]
    with torch.no_grad():
        assert torch.equal(reloaded(values).logits, model.eval()(values).logits)
