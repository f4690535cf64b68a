"""Transcription by a transducer, against the library's own forward pass and generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from task_toy import corpus_of_texts, encoder_config, frames_of, tokenizer_folder
from torch import Tensor
from transducer_toy import features, frames, transducer

from secateur.config import check
from secateur.errors import ConfigError
from secateur.tasks import Rnnt, build_task
from secateur.tasks import rnnt as task_file
from secateur.tasks.rnnt import RnntTask
from secateur.tasks.rnnt_loss import losses

CORPUS = corpus_of_texts("a cab", "bead", "ace")
SIGNS = ["<unk>", "|", "<pad>", *"abcdefgh"]  # eleven; the twelfth output is the blank


def task_of(model: Any, folder: Path, **options: Any) -> RnntTask:
    """Return the task for a model that keeps the model's head."""
    model.config.architectures = [type(model).__name__]
    source = tokenizer_folder(folder, SIGNS)
    task = build_task(Rnnt(**options), source=source, model_config=model.config, corpus=CORPUS)
    assert isinstance(task, RnntTask)
    return task


def encoded(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    state: Tensor = model.encoder(**inputs).last_hidden_state
    return state


@pytest.mark.parametrize("streaming", [False, True])
def test_loss_and_gradients_are_those_of_the_whole_logits_of_the_librarys_forward_pass(
    streaming: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = transducer(streaming=streaming).double()
    task, inputs = task_of(model, tmp_path), features(96, 60, 70)
    inputs["input_features"] = inputs["input_features"].double()
    token_rows = [task.target_tokens(utterance).tokens for utterance in CORPUS.utterances]
    rows = [
        [11, *target_tokens, *[11] * (max(map(len, token_rows)) - len(target_tokens))] for target_tokens in token_rows
    ]
    logits = model(**inputs, decoder_input_ids=torch.tensor(rows)).logits
    # The library leaves the encoder's axis out for a single token only.
    expected = losses(logits, frames(model, inputs), token_rows, blank=11).sum()
    expected.backward()
    gradients = {name: value.grad.clone() for name, value in model.named_parameters()}
    assert all(float(gradient.abs().sum()) > 0 for name, gradient in gradients.items() if "k_proj.bias" not in name)
    for held_value in (1, 1 << 22):
        monkeypatch.setattr(task_file, "_MAX_VALUES_CPU", held_value)
        model.zero_grad()
        result = task.loss(encoded(model, inputs), frames(model, inputs), CORPUS.utterances, model=model)
        result.backward()
        torch.testing.assert_close(result, expected)
        for name, value in model.named_parameters():
            torch.testing.assert_close(value.grad, gradients[name], msg=name)


def test_a_padded_batch_has_the_loss_of_its_utterances_alone(tmp_path: Path) -> None:
    model = transducer(streaming=True).double()
    task, inputs = task_of(model, tmp_path), features(96, 60, 70)
    values = inputs["input_features"] = inputs["input_features"].double()
    count = frames(model, inputs)
    joint_result = task.loss(encoded(model, inputs), count, CORPUS.utterances, model=model)
    item = []
    for row, length in enumerate((96, 60, 70)):
        single_result = {
            "input_features": values[row : row + 1, :length],
            "attention_mask": inputs["attention_mask"][row : row + 1, :length],
        }
        utterances = CORPUS.utterances[row : row + 1]
        item.append(task.loss(encoded(model, single_result), count[row : row + 1], utterances, model=model))
    torch.testing.assert_close(torch.stack(item).sum(), joint_result)


def test_logits_of_all_frames_never_exist_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_file, "_MAX_VALUES_CPU", 1000)
    model = transducer()
    task, inputs = task_of(model, tmp_path), features(800)
    sizes: list[int] = []
    model.joint.head.register_forward_hook(lambda module, args, out: sizes.append(out.numel()))
    task.loss(encoded(model, inputs), frames(model, inputs), CORPUS.utterances[:1], model=model).backward()
    full_result = 100 * 6 * 12
    assert max(sizes) <= 1000 < full_result
    assert sum(sizes) == 2 * full_result  # each once forward, and once more for the gradient


def test_the_predictor_learns_in_train_mode_and_decodes_in_eval_mode(tmp_path: Path) -> None:
    """cuDNN computes no gradient of an LSTM in eval mode, the mode of students."""
    model = transducer()
    task, inputs = task_of(model, tmp_path), features(60)
    task.loss(encoded(model, inputs), frames(model, inputs), CORPUS.utterances[:1], model=model)
    assert model.decoder.lstm.training
    assert model.decoder.lstm.dropout == 0.0
    with torch.no_grad():
        task.loss(encoded(model, inputs), frames(model, inputs), CORPUS.utterances[:1], model=model)
    assert not model.decoder.lstm.training


def test_more_tokens_than_frames_can_be_learned_but_no_more_than_can_be_decoded(tmp_path: Path) -> None:
    task = task_of(transducer(), tmp_path)  # three symbols a frame
    corpus = corpus_of_texts("a" * 6, "a" * 150, "a" * 151, None)
    assert frames_of(16_000) == 50
    usable_rows = task.filter(corpus, frames_of)
    assert [len(utterance.text or "") for utterance in usable_rows.corpus.utterances] == [6, 150]
    assert [skip.reason for skip in usable_rows.skipped] == [
        "is too short for its text: 50 frames for 151 tokens, at most 3 in each",
        "has no text",
    ]
    assert usable_rows.notes[0] == "1 of 4 utterances left out: is too short for its text"


def test_word_and_character_errors_of_what_is_written(tmp_path: Path) -> None:
    task = task_of(transducer(), tmp_path)
    vocabulary = task.vocabulary
    transcript = [vocabulary.encode("a cab"), vocabulary.encode("beef")]
    answers = torch.full((2, 8), 11)
    for row, tokens in zip(answers, transcript, strict=True):
        row[1 : 1 + len(tokens)] = torch.tensor(tokens)
    assert task.decode_texts(answers, torch.tensor([9, 9])) == ["a cab", "beef"]
    scorer = task.metric()
    scorer.update(answers, torch.tensor([9, 9]), CORPUS.utterances[:2])
    assert scorer.compute() == {"wer": 1 / 3, "cer": 2 / 9}


def test_a_new_head_spells_and_its_blank_is_the_padding_token(tmp_path: Path) -> None:
    config = Rnnt(width=24, layers=2, symbols=4)
    task = build_task(config, source=tmp_path, model_config=encoder_config(), corpus=CORPUS)
    assert task.new_head
    assert task.fields() == {
        "vocab_size": 8,  # blank, unknown, delimiter, a, b, c, d, e
        "decoder_hidden_size": 24,
        "num_decoder_layers": 2,
        "max_symbols_per_step": 4,
        "blank_token_id": 0,
        "pad_token_id": 0,
        "decoder_start_token_id": 0,
    }
    model = transducer(**task.fields())
    assert model.generate(**features(60), max_new_tokens=40).sequences[0, 0] == 0


def test_what_a_model_brings_along_has_to_fit(tmp_path: Path) -> None:
    small = tokenizer_folder(tmp_path / "small", ["<pad>", "<unk>", "a"])
    other_value = tokenizer_folder(tmp_path / "other", ["<unk>", "|", "<pad>", *"abcdefgx"])
    with pytest.raises(ConfigError, match="has 4 tokens, but the model's joiner has 11 outputs beside its blank"):
        task_of(transducer(), tmp_path / "own", tokenizer=str(small))
    with pytest.raises(ConfigError, match="as many tokens as the model's own, but different ones"):
        task_of(transducer(), tmp_path / "own", tokenizer=str(other_value))
    with pytest.raises(ConfigError, match="blank_token_id: the model's config says 12, expected 0 to 11"):
        task_of(transducer(blank_token_id=12, vocab_size=12), tmp_path / "own")
    with pytest.raises(ConfigError, match=r"says 3, which the tokenizer 'auto' reads as 'a'"):
        task_of(transducer(blank_token_id=3, vocab_size=11), tmp_path / "own")
    with pytest.raises(ConfigError, match="width: expected an integer >= 1, got 0"):
        check(Rnnt(width=0))


def test_a_new_joiner_expects_a_blank_nine_times_of_ten(tmp_path: Path) -> None:
    model = transducer()
    task = task_of(model, tmp_path)
    task.init_head(model)
    share = model.joint.head.bias.detach().softmax(-1)
    assert float(share[11]) == pytest.approx(0.9)
    assert float(share[:11].std()) == 0.0


def test_a_transducer_without_a_tokenizer_is_not_read_by_a_new_one(tmp_path: Path) -> None:
    model = transducer()
    model.config.architectures = [type(model).__name__]
    for tokenizer in ("auto", "characters"):
        with pytest.raises(ConfigError, match="has a joiner but no tokenizer to decode its output"):
            build_task(Rnnt(tokenizer=tokenizer), source=tmp_path, model_config=model.config, corpus=CORPUS)


def test_a_shape_that_a_model_does_not_take_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert task_of(transducer(), tmp_path, width=640, layers=1).width == 20
    assert caplog.messages == ["task.width: 640 is ignored, because it is for new heads; the head of this model has 20"]
