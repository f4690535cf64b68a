"""Real recordings, of the folder that SECATEUR_SPEECH names: its `manifest.jsonl` has `audio`, `split` and `corpus`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from secateur.data.open import open_corpus
from secateur.data.sources import JsonlData
from secateur.pipeline import prune

FOLDER = os.environ.get("SECATEUR_SPEECH", "")
pytestmark = [
    pytest.mark.speech,
    pytest.mark.skipif(not FOLDER, reason="SECATEUR_SPEECH names no folder of real recordings"),
]


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(FOLDER) / "manifest.jsonl").read_text().splitlines()]


def test_every_recording_of_a_split_is_read_at_its_length() -> None:
    corpus = open_corpus(JsonlData(path=f"{FOLDER}/manifest.jsonl", split="dev"))
    assert len(corpus) == sum(row["split"] == "dev" for row in rows())
    assert not corpus.skipped
    for index in range(0, len(corpus), 50):
        utterance, audio = corpus.utterances[index], corpus.audio(index)
        assert audio.shape == (utterance.samples,)
        assert abs(audio).max() > 0.01


def test_the_packaged_teacher_is_pruned_and_proven_on_real_speech(tmp_path: Path) -> None:
    audio = {"kind": "jsonl", "path": f"{FOLDER}/manifest.jsonl", "scan": False}
    fields = {
        "out": str(tmp_path / "run"),
        "data": audio | {"split": "train"},
        "validation": {"data": audio | {"split": "dev"}, "seconds": 30.0},
        "learn.steps": 3,
        "recover.steps": 3,
    }
    record = prune("quickstart", overrides=fields)
    assert record.verification.holds
    first_stage, last_stage = (record.stages[place] for place in (0, -1))
    assert last_stage.parameters < first_stage.parameters
    assert 0 < last_stage.cosine[-1] < 1
