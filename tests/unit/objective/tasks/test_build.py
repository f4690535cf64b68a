"""Tasks by name, and what every one of them promises."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from task_toy import TINY, bare, corpus_of, frames_of
from transformers import Wav2Vec2ForCTC, Wav2Vec2ForSequenceClassification

from secateur.objective import tasks
from secateur.objective.tasks import Classification, Ctc, Slu, TaskConfig, build_task
from secateur.schema import Problems, build

CORPUS = corpus_of(
    {"text": "call bob", "tagged": "call [person : bob]", "label": "call", "speaker": "a"},
    {"text": "stop", "label": "stop", "speaker": "b"},
)
CONFIGS: tuple[TaskConfig, ...] = (Ctc(), Slu(), Classification(), Classification(label="speaker"))


def test_a_recipe_names_a_task_by_its_kind() -> None:
    problems = Problems()
    assert build(TaskConfig, {"kind": "ctc", "case": "lower"}, "task", problems) == Ctc(case="lower")
    assert build(TaskConfig, {"kind": "slu", "unknown": "skip"}, "task", problems) == Slu(unknown="skip")
    assert not problems.found
    build(TaskConfig, {"kind": "classificaton"}, "task", problems)
    assert "Did you mean 'classification'?" in problems.found[0]


def test_every_kind_is_tested_here() -> None:
    assert {type(config) for config in CONFIGS} == set(get_args(TaskConfig))
    assert all(getattr(tasks, name) for name in tasks.__all__)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_task_fits_the_librarys_head_and_scores_it(config: TaskConfig, tmp_path: Path) -> None:
    task = build_task(config, source=tmp_path, model_config=bare(), corpus=CORPUS)
    classes = {"ForCTC": Wav2Vec2ForCTC, "ForSequenceClassification": Wav2Vec2ForSequenceClassification}
    model = classes[task.ending](bare(**TINY, **task.fields())).eval()
    utterances = task.usable(CORPUS, frames_of).corpus.utterances
    logits = model(torch.randn(2, 3200)).logits
    frames = torch.tensor([39, 30])
    loss = task.sums(logits, frames, utterances)
    loss.backward()
    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert loss / task.count(utterances) > 0
    alone = [task.sums(logits[i : i + 1], frames[i : i + 1], utterances[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(alone[0] + alone[1], loss)
    scorer = task.scorer()
    scorer.add(logits, frames, utterances)
    assert task.headline in scorer.figures()
    assert task.better == ("lower" if task.headline == "wer" else "higher")
    again = build_task(config, source=tmp_path, model_config=bare(), corpus=CORPUS)
    assert again.fields() == task.fields()
