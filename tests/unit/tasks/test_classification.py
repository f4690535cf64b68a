"""Classification against torch and scikit-learn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.metrics import f1_score
from task_toy import corpus_of, encoder_config, frames_of
from torch.nn import functional as F

from secateur.errors import DataError
from secateur.tasks import Classification, build_task

WORDS = ("yes", "no", "up", "no")
CORPUS = corpus_of(*({"label": word, "speaker": str(i % 2)} for i, word in enumerate(WORDS)))


def test_the_loss_is_torchs_cross_entropy() -> None:
    task = build_task(Classification(), source="", model_config=encoder_config(), corpus=CORPUS)
    logits, frames = torch.randn(4, 3), torch.full((4,), 9)
    expected = F.cross_entropy(logits, torch.tensor([2, 0, 1, 0]), reduction="sum")
    torch.testing.assert_close(task.loss(logits, frames, CORPUS.utterances), expected)
    half = task.loss(logits.bfloat16(), frames, CORPUS.utterances)
    torch.testing.assert_close(half, task.loss(logits.bfloat16().float(), frames, CORPUS.utterances))
    assert half.dtype is torch.float32
    assert task.step_targets(CORPUS.utterances, ()).count == 4


def test_a_new_head_has_the_sorted_labels_of_the_corpus() -> None:
    task = build_task(Classification(), source="", model_config=encoder_config(), corpus=CORPUS)
    assert task.new_head
    assert task.fields()["id2label"] == {0: "no", 1: "up", 2: "yes"}
    config = encoder_config(**task.fields())
    assert (config.num_labels, config.label2id) == (3, {"no": 0, "up": 1, "yes": 2})
    speakers = build_task(Classification(label="speaker"), source="", model_config=encoder_config(), corpus=CORPUS)
    assert speakers.fields()["label2id"] == {"0": 0, "1": 1}


def test_a_model_with_a_head_keeps_its_labels_and_the_others_are_counted() -> None:
    config = encoder_config(architectures=["Wav2Vec2ForSequenceClassification"], id2label={0: "yes", 1: "no"})
    task = build_task(Classification(), source="", model_config=config, corpus=CORPUS)
    assert not task.new_head
    assert task.fields()["id2label"] == {0: "yes", 1: "no"}
    corpus = corpus_of({"label": "yes"}, {"label": "up"}, {"label": None}, {"label": "no", "samples": 100})
    usable_rows = task.filter(corpus, frames_of)
    assert [utterance.label for utterance in usable_rows.corpus.utterances] == ["yes"]
    assert usable_rows.notes == (
        "1 of 4 utterances left out: has a label outside the head's classes",
        "1 of 4 utterances left out: has no label",
        "1 of 4 utterances left out: is too short for one frame",
    )
    with pytest.raises(DataError, match="The first: '0' has a label outside the head's classes: 'left', expected "):
        task.filter(corpus_of({"label": "left"}), frames_of)
    with pytest.raises(DataError, match="Corpus 'toy' has no utterances"):
        task.filter(corpus_of(), frames_of)


def test_accuracy_and_macro_f1_are_those_of_all_batches_together() -> None:
    task = build_task(Classification(), source="", model_config=encoder_config(), corpus=CORPUS)
    transcript, predicted = [2, 0, 1, 0], [2, 0, 0, 1]
    scorer = task.metric()
    for part in (slice(0, 1), slice(1, 4)):
        logits = F.one_hot(torch.tensor(predicted[part]), 3).float()
        scorer.update(logits, torch.full((len(logits),), 9), CORPUS.utterances[part])
    # yes: F1 1; no: precision 1/2, recall 1/2; up: never right
    assert scorer.compute() == pytest.approx({"accuracy": 2 / 4, "macro_f1": (1 + 1 / 2 + 0) / 3})
    assert scorer.compute()["macro_f1"] == f1_score(transcript, predicted, average="macro")


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 1 different values of 'label'"):
        build_task(Classification(), source="", model_config=encoder_config(), corpus=corpus_of({"label": "yes"}))


def test_saving_writes_nothing(tmp_path: Path) -> None:
    build_task(Classification(), source="", model_config=encoder_config(), corpus=CORPUS).save(tmp_path)
    assert not list(tmp_path.iterdir())
