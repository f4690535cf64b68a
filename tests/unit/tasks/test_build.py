"""Tasks by name, and the checks that every task passes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from task_toy import TINY, corpus_of, encoder_config, frames_of
from torch import Tensor
from transducer_toy import features, transducer
from transformers import Wav2Vec2ForCTC, Wav2Vec2ForSequenceClassification, Wav2Vec2Model

from secateur import tasks
from secateur.data.collate import AudioBatch
from secateur.data.input_features import Waveform
from secateur.hf.declare import declare
from secateur.schema import Mistakes, build
from secateur.tasks import BestRq, Classification, Ctc, EncoderInfo, Rnnt, Slu, Task, TaskConfig, build_task
from secateur.tasks.best_rq import BestRqSettings
from secateur.tasks.task_config import supported_heads, task_for_head

CORPUS = corpus_of(
    {"text": "call bob", "tagged": "call [person : bob]", "label": "call", "speaker": "a"},
    {"text": "stop", "label": "stop", "speaker": "b"},
)
GUESSES = BestRqSettings(entries=8, width=4)
#: Every score of the tasks, and which way it improves.
SCORES = {
    *((name, "lower") for name in ("wer", "cer", "masked_loss")),
    *((name, "higher") for name in ("accuracy", "macro_f1", "intent_accuracy", "masked_accuracy")),
    *((name, "higher") for name in ("slu_f1", "entity_f1", "word_f1", "char_f1")),
}
CONFIGS: tuple[TaskConfig, ...] = (
    Ctc(),
    Rnnt(),
    Slu(),
    Classification(),
    Classification(label="speaker"),
    BestRq(settings=GUESSES),
)
#: An encoder with the front end of all its family, for the task that looks at it.
BARE = encoder_config(
    **TINY | {"conv_dim": (4,) * 7, "conv_kernel": (10, 3, 3, 3, 3, 2, 2), "conv_stride": (5,) + (2,) * 6}
)
ENCODER_INFO = EncoderInfo(
    input_features=Waveform(normalize=True), structure=declare(BARE), find_file=lambda name: None
)


def test_a_recipe_names_a_task_by_its_kind() -> None:
    kinds: Any = TaskConfig
    assert build(kinds, {"kind": "ctc", "case": "lower"}) == Ctc(case="lower")
    assert build(kinds, {"kind": "slu", "unknown": "skip"}) == Slu(unknown="skip")
    with pytest.raises(Mistakes, match=r"Did you mean 'classification'\?"):
        build(kinds, {"kind": "classificaton"})


def test_every_kind_is_tested_here() -> None:
    assert {type(config) for config in CONFIGS} == set(get_args(TaskConfig))
    assert all(getattr(tasks, name) for name in tasks.__all__)


def test_a_head_names_its_task_and_the_first_of_two_that_share_it() -> None:
    assert task_for_head("Wav2Vec2ForCTC") == Ctc()
    assert task_for_head("ParakeetForRNNT") == Rnnt()
    assert task_for_head("Wav2Vec2Model") is None
    assert supported_heads() == ("ForCTC", "ForRNNT", "ForSequenceClassification")


def forward_pass(task: Task) -> tuple[Any, dict[str, Tensor], Tensor, Tensor]:
    """Return a transformers model with a task's head, a batch, the output for the batch, and valid frames."""
    classes = {"ForCTC": Wav2Vec2ForCTC, "ForSequenceClassification": Wav2Vec2ForSequenceClassification}
    if task.head_class == "ForRNNT":
        model, inputs = transducer(**task.fields()), features(304, 240)
        return model, inputs, model.encoder(**inputs).last_hidden_state, torch.tensor([38, 30])
    inputs = {"input_values": torch.randn(2, 3200)}
    if not task.head_class:
        encoder: Any = Wav2Vec2Model(BARE).eval()
        return encoder, inputs, encoder(**inputs).last_hidden_state, torch.tensor([9, 9])
    model = classes[task.head_class](encoder_config(**TINY, **task.fields())).eval()
    return model, inputs, model(**inputs).logits, torch.tensor([39, 30])


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_task_fits_the_librarys_head_and_scores_it(config: TaskConfig, tmp_path: Path) -> None:
    task = build_task(config, source=tmp_path, model_config=BARE, corpus=CORPUS, encoder_info=ENCODER_INFO)
    utterances = task.filter(CORPUS, frames_of).corpus.utterances
    model, inputs, output, frames = forward_pass(task)
    (values,) = (inputs[name] for name in inputs if name != "attention_mask")
    audio = AudioBatch(values=values, lengths=torch.tensor([3200, 3200]), ids=("0", "1"), mask=None)
    step_targets = task.step_targets(utterances, frames.tolist(), key=(0, 0))
    requests = step_targets.make_batch(audio, (0, 1)).targets
    loss = task.loss(output, frames, requests, model=model)
    loss.backward()
    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert loss / step_targets.count > 0
    single_result = []
    for row in range(2):
        row_slice = slice(row, row + 1)
        part = step_targets.make_batch(replace(audio, values=values[row_slice]), (row,)).targets
        single_result.append(task.loss(output[row_slice], frames[row_slice], part, model=model))
    torch.testing.assert_close(single_result[0] + single_result[1], loss)
    scorer = task.metric()
    with torch.no_grad():
        scorer.update(task.predict(model, inputs), frames, requests)
    assert task.primary_metric in task.scores
    assert set(task.scores) == set(scorer.compute())
    for name, info in task.scores.items():
        assert (name, info.direction) in SCORES
    repeated = build_task(config, source=tmp_path, model_config=BARE, corpus=CORPUS, encoder_info=ENCODER_INFO)
    assert repeated.fields() == task.fields()
