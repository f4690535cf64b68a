"""Tasks by name, and what every one of them promises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from task_toy import TINY, bare, corpus_of, frames_of
from torch import Tensor
from transducer_toy import features, transducer
from transformers import Wav2Vec2ForCTC, Wav2Vec2ForSequenceClassification, Wav2Vec2Model

from secateur.arch import declare
from secateur.data.collate import AudioBatch
from secateur.data.hearing import Samples
from secateur.objective import tasks
from secateur.objective.tasks import BestRq, Classification, Ctc, Rnnt, Slu, Surroundings, Task, TaskConfig, build_task
from secateur.objective.tasks.best_rq import BestRqTask
from secateur.schema import Problems, build

CORPUS = corpus_of(
    {"text": "call bob", "tagged": "call [person : bob]", "label": "call", "speaker": "a"},
    {"text": "stop", "label": "stop", "speaker": "b"},
)
GUESSES = BestRqTask(entries=8, width=4)
CONFIGS: tuple[TaskConfig, ...] = (
    Ctc(),
    Rnnt(),
    Slu(),
    Classification(),
    Classification(label="speaker"),
    BestRq(settings=GUESSES),
)
#: An encoder with the front end of all its family, for the task that looks at it.
BARE = bare(**TINY | {"conv_dim": (4,) * 7, "conv_kernel": (10, 3, 3, 3, 3, 2, 2), "conv_stride": (5,) + (2,) * 6})
AROUND = Surroundings(hearing=Samples(normalize=True), structure=declare(BARE), beside=lambda name: None)


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
    inputs = {"input_values": torch.randn(2, 3200)}
    if not task.ending:
        encoder: Any = Wav2Vec2Model(BARE).eval()
        return encoder, inputs, encoder(**inputs).last_hidden_state, torch.tensor([9, 9])
    model = classes[task.ending](bare(**TINY, **task.fields())).eval()
    return model, inputs, model(**inputs).logits, torch.tensor([39, 30])


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_task_fits_the_librarys_head_and_scores_it(config: TaskConfig, tmp_path: Path) -> None:
    task = build_task(config, source=tmp_path, model_config=BARE, corpus=CORPUS, around=AROUND)
    utterances = task.usable(CORPUS, frames_of).corpus.utterances
    model, inputs, output, frames = passed(task)
    (values,) = (inputs[name] for name in inputs if name != "attention_mask")
    audio = AudioBatch(values=values, lengths=torch.tensor([3200, 3200]), ids=("0", "1"), mask=None)
    lesson = task.lesson(utterances, frames.tolist(), key=(0, 0))
    asked = lesson.pose(audio, (0, 1)).asked
    loss = task.sums(output, frames, asked, model=model)
    loss.backward()
    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert loss / lesson.count > 0
    alone = []
    for row in range(2):
        mine = slice(row, row + 1)
        part = lesson.pose(replace(audio, values=values[mine]), (row,)).asked
        alone.append(task.sums(output[mine], frames[mine], part, model=model))
    torch.testing.assert_close(alone[0] + alone[1], loss)
    scorer = task.scorer()
    with torch.no_grad():
        scorer.add(task.answers(model, inputs), frames, asked)
    assert task.headline in scorer.figures()
    assert task.better == ("lower" if task.headline == "wer" else "higher")
    again = build_task(config, source=tmp_path, model_config=BARE, corpus=CORPUS, around=AROUND)
    assert again.fields() == task.fields()
