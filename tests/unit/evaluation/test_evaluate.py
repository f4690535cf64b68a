"""Evaluation of dense and cut models, against scores of each utterance alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jiwer
import pytest
import soxr
import torch
from pruning_toy import LENGTHS, noise, seeded_model, write_teacher, write_wavs
from safetensors.torch import save_file
from task_toy import tokenizer_folder

from secateur.cli.main import main
from secateur.errors import ConfigError, ModelError
from secateur.hf.load import with_head
from secateur.hf.model_view import ModelView
from secateur.pipeline import evaluate
from secateur.records.evaluation import EvaluateRecord

LETTERS = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "a": 5, "b": 6}


def _with_ctc_head(fields: dict[str, Any]) -> Any:
    """Return a model with a new CTC head."""
    return with_head(ModelView(seeded_model("hubert", "base")), "ForCTC", fields, seed=3).model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write an untrained recognizer, and recordings with texts, including an empty text."""
    from transformers import Wav2Vec2CTCTokenizer

    root = tmp_path_factory.mktemp("evaluate")
    write_teacher(root / "model", "hubert", "base")
    model = _with_ctc_head({"vocab_size": len(LETTERS), "pad_token_id": 0})
    with torch.no_grad():
        model.lm_head.weight.mul_(30.0)
    model.save_pretrained(root / "model")
    (root / "vocab.json").write_text(json.dumps(LETTERS))
    Wav2Vec2CTCTokenizer(str(root / "vocab.json")).save_pretrained(root / "model")
    speech = write_wavs(root / "speech")
    texts = ["", *("ab a b", "b", "a") * 4][: len(LENGTHS)]
    lines = [{"audio": f"u{i:02}.wav", "text": text} for i, text in enumerate(texts)]
    (speech / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def test_the_error_rate_is_that_of_what_pipeline_writes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import pipeline

    manifest = folder / "speech" / "manifest.jsonl"
    words = ["evaluate", str(folder / "model"), "--data.kind", "jsonl", "--data.path", str(manifest)]
    assert main([*words, "--json"]) == 0
    record = EvaluateRecord.from_dict(json.loads(capsys.readouterr().out))
    assert (record.data.utterances, len(record.skipped)) == (len(LENGTHS) - 1, 1)
    recognizer = pipeline("automatic-speech-recognition", model=str(folder / "model"))
    texts = [json.loads(line)["text"] for line in manifest.read_text().splitlines()][1:]
    transcripts = [recognizer(noise(i))["text"] for i in range(1, len(LENGTHS))]
    assert any(transcripts)
    assert record.scores["wer"] == pytest.approx(jiwer.wer(texts, transcripts))
    assert record.scores["cer"] == pytest.approx(jiwer.cer(texts, transcripts))


def test_a_model_of_8_khz_is_scored_as_pipeline_hears_the_same_files(folder: Path, tmp_path: Path) -> None:
    from transformers import Wav2Vec2FeatureExtractor, pipeline

    shutil.copytree(folder / "model", tmp_path / "model")
    Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(tmp_path / "model")
    lines = [{"audio": str(folder / "speech" / f"u{i:02}.wav"), "text": "ab a b"} for i in range(4)]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = evaluate(tmp_path / "model", fields={"data": {"kind": "jsonl", "path": str(tmp_path / "manifest.jsonl")}})
    recognizer = pipeline("automatic-speech-recognition", model=str(tmp_path / "model"))
    transcripts = [
        recognizer({"raw": soxr.resample(noise(i), 16_000, 8000), "sampling_rate": 8000})["text"] for i in range(4)
    ]
    assert record.scores["cer"] == pytest.approx(jiwer.cer(["ab a b"] * 4, transcripts))
    assert record.data.sample_rate == 8000
    assert record.data.hours == pytest.approx(sum(n // 2 for n in LENGTHS[:4]) / 8000 / 3600)


def test_a_head_that_writes_intents_is_evaluated_as_one_that_understands(folder: Path, tmp_path: Path) -> None:
    tokens = ["<pad>", "<unk>", "|", "a", "b", "<intent:go>", "<intent:stop>"]
    write_teacher(tmp_path / "model", "hubert", "base")
    fields = {"vocab_size": len(tokens), "pad_token_id": 0}
    _with_ctc_head(fields).save_pretrained(tmp_path / "model")
    tokenizer_folder(tmp_path / "model", tokens)
    lines = [{"audio": str(folder / "speech" / f"u{i:02}.wav"), "text": "a", "label": "go"} for i in range(3)]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = {"data.kind": "jsonl", "data.path": str(tmp_path / "manifest.jsonl")}
    requests = evaluate(tmp_path / "model", fields=data | {"task.kind": "slu"}).scores
    assert evaluate(tmp_path / "model", fields=data).scores == requests
    assert "intent_accuracy" in requests


def test_a_model_without_a_head_for_the_task_is_refused(folder: Path, tmp_path: Path) -> None:
    bare = write_teacher(tmp_path / "bare", "hubert", "base")
    data = {"data.kind": "jsonl", "data.path": str(folder / "speech" / "manifest.jsonl")}
    with pytest.raises(ModelError, match="is a HubertModel, expected a model with a head"):
        evaluate(bare, fields=data)
    shutil.copytree(folder / "model", tmp_path / "lost")
    bare_weights = seeded_model("hubert", "base").state_dict()
    save_file(bare_weights, tmp_path / "lost" / "model.safetensors", metadata={"format": "pt"})
    for task in ({}, {"task.kind": "ctc"}):
        with pytest.raises(ModelError, match=r"HubertForCTC \(missing lm_head\.bias, lm_head\.weight\): evaluate"):
            evaluate(tmp_path / "lost", fields=data | task)
    with pytest.raises(ConfigError, match="data"):
        evaluate(folder / "model")
    with pytest.raises(ConfigError, match="classificatio"):
        evaluate(folder / "model", fields=data | {"task.kind": "clasification"})


def test_a_padding_token_outside_the_head_is_told_and_changes_no_score(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "model", tmp_path / "model")
    tokenizer_folder(tmp_path / "model", list(LETTERS), pad_token="[PAD]")
    data = {"data.kind": "jsonl", "data.path": str(folder / "speech" / "manifest.jsonl")}
    plain, other_value = (evaluate(root / "model", fields=data) for root in (folder, tmp_path))
    assert other_value.scores == plain.scores
    assert [note for note in other_value.notes if note not in plain.notes] == [
        "the model's tokenizer has the padding token '[PAD]', 7, while the blank of its CTC head is 0, pad_token_id of "
        "its config: the tokenizer that is saved with it names '<pad>'"
    ]
