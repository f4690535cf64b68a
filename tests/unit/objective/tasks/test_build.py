"""Tasks by name, and what every one of them promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from task_toy import TINY, bare, corpus_of, frames_of
from torch import Tensor
from transducer_toy import features, transducer
from transformers import Wav2Vec2ForCTC, Wav2Vec2ForSequenceClassification

from secateur.objective import tasks
from secateur.objective.tasks import Classification, Ctc, Rnnt, Slu, Task, TaskConfig, build_task
from secateur.schema import Problems, build

CORPUS = corpus_of(
    {"text": "call bob", "tagged": "call [person : bob]", "label": "call", "speaker": "a"},
    {"text": "stop", "label": "stop", "speaker": "b"},
)
CONFIGS: tuple[TaskConfig, ...] = (Ctc(), Rnnt(), Slu(), Classification(), Classification(label="speaker"))


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


def passed(task: Task) -> tuple[Any, dict[str, Tensor], Tensor, Tensor]:
    """The library's model with a task's head, a batch, what a pass over it gives, and its valid frames."""
    classes = {"ForCTC": Wav2Vec2ForCTC, "ForSequenceClassification": Wav2Vec2ForSequenceClassification}
    if task.ending == "ForRNNT":
        model, inputs = transducer(**task.fields()), features(304, 240)
        return model, inputs, model.encoder(**inputs).last_hidden_state, torch.tensor([38, 30])
    model = classes[task.ending](bare(**TINY, **task.fields())).eval()
    inputs = {"input_values": torch.randn(2, 3200)}
    return model, inputs, model(**inputs).logits, torch.tensor([39, 30])


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_task_fits_the_librarys_head_and_scores_it(config: TaskConfig, tmp_path: Path) -> None:
    task = build_task(config, source=tmp_path, model_config=bare(), corpus=CORPUS)
    utterances = task.usable(CORPUS, frames_of).corpus.utterances
    model, inputs, output, frames = passed(task)
    loss = task.sums(output, frames, utterances, model=model)
    loss.backward()
    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert loss / task.count(utterances) > 0
    rows = [slice(row, row + 1) for row in range(2)]
    alone = [task.sums(output[row], frames[row], utterances[row], model=model) for row in rows]
    torch.testing.assert_close(alone[0] + alone[1], loss)
    scorer = task.scorer()
    scorer.add(task.answers(model, inputs), frames, utterances)
    assert task.headline in scorer.figures()
    assert task.better == ("lower" if task.headline == "wer" else "higher")
    again = build_task(config, source=tmp_path, model_config=bare(), corpus=CORPUS)
    assert again.fields() == task.fields()
