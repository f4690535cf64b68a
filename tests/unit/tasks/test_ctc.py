"""CTC against the library's own head and tokenizer, every path by hand, and texts that do not fit."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
import transformers
from task_toy import (
    TINY,
    corpus_of,
    corpus_of_texts,
    ctc_path,
    encoder_config,
    frames_of,
    logits_of_paths,
    tokenizer_folder,
)
from transformers import Wav2Vec2FeatureExtractor

from secateur.errors import ConfigError, DataError
from secateur.tasks import Ctc, build_task, ctc_ops
from secateur.tasks.ctc import CtcTask

UPPER = ("<pad>", "<unk>", "|", "A", "B", "C")
TEXTS = ("a cab", "bab", "abba  cab")


def task_of(folder: Path, *transcripts: str, config: Ctc | None = None, **fields: object) -> CtcTask:
    task = build_task(
        config or Ctc(), source=folder, model_config=encoder_config(**fields), corpus=corpus_of_texts(*transcripts)
    )
    assert isinstance(task, CtcTask)
    return task


def test_the_loss_is_the_sum_over_every_path() -> None:
    logits = torch.randn(1, 4, 3, dtype=torch.float64)
    probabilities = logits.softmax(-1)[0]
    target_tokens = [1, 2]
    total = 0.0
    for path in itertools.product(range(3), repeat=4):
        collapsed = [token for token, _ in itertools.groupby(path) if token != 0]
        if collapsed == target_tokens:
            total += float(torch.stack([probabilities[frame, token] for frame, token in enumerate(path)]).prod())
    loss = ctc_ops.loss_sum(logits, torch.tensor([4]), [target_tokens], blank=0)
    torch.testing.assert_close(loss, -torch.tensor(total, dtype=torch.float64).log())


def test_the_loss_is_that_of_the_librarys_head(tmp_path: Path) -> None:
    task = task_of(tmp_path, *TEXTS)
    config = encoder_config(**TINY, **task.fields(), ctc_loss_reduction="sum")
    model = transformers.Wav2Vec2ForCTC(config).eval()
    values = torch.randn(3, 3200)
    utterances = corpus_of_texts(*TEXTS).utterances
    token_rows = [torch.tensor(task.target_tokens(utterance).tokens) for utterance in utterances]
    labels = torch.nn.utils.rnn.pad_sequence(token_rows, batch_first=True, padding_value=-100)
    output = model(values, labels=labels)
    frames = torch.full((3,), output.logits.shape[1])
    torch.testing.assert_close(task.loss(output.logits, frames, utterances), output.loss)
    assert task.step_targets(utterances, ()).count == int((labels >= 0).sum())


def test_half_precision_is_computed_in_single_and_padding_plays_no_part(tmp_path: Path) -> None:
    task = task_of(tmp_path, *TEXTS)
    utterances = corpus_of_texts(*TEXTS).utterances
    logits = torch.randn(3, 30, len(task.vocabulary)).bfloat16()
    frames = torch.tensor([30, 20, 25])
    loss = task.loss(logits, frames, utterances)
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss, task.loss(logits.float(), frames, utterances))
    logits[1, 20:] = 7
    torch.testing.assert_close(task.loss(logits, frames, utterances), loss)


@pytest.mark.parametrize(("token_ids", "frames"), [((1, 2, 1), 3), ((1, 1), 3), ((1, 1, 1, 2), 6)])
def test_equal_neighbors_need_a_frame_more(token_ids: tuple[int, ...], frames: int) -> None:
    logits = torch.randn(1, frames, 3)
    assert ctc_ops.min_frames(token_ids) == frames
    assert torch.isfinite(ctc_ops.loss_sum(logits, torch.tensor([frames]), [token_ids], blank=0))
    assert torch.isinf(ctc_ops.loss_sum(logits, torch.tensor([frames - 1]), [token_ids], blank=0))


def test_greedy_reading_is_the_librarys() -> None:
    tokens = [[0, 3, 3, 0, 3, 2, 2, 4], [4, 4, 0, 0, 5, 2, 3, 3]]
    logits, frames = logits_of_paths(tokens, 6)
    assert ctc_ops.greedy_decode(logits, frames, blank=0) == [[3, 3, 2, 4], [4, 5, 2, 3]]


def test_texts_are_read_as_the_librarys_tokenizer_reads_them(tmp_path: Path) -> None:
    task = task_of(tokenizer_folder(tmp_path, UPPER), *TEXTS)
    logits, frames = logits_of_paths([[3, 3, 0, 3, 2, 4, 0, 0], [0, 5, 5, 2, 2, 3, 4, 0]], 6)
    plain = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert task.decode_texts(logits, frames) == plain.batch_decode(logits[:, :8].argmax(-1)) == ["AA B", "C AB"]


def test_characters_are_the_same_whatever_the_order_of_the_texts(tmp_path: Path) -> None:
    forward, backward = task_of(tmp_path, *TEXTS), task_of(tmp_path, *reversed(TEXTS))
    assert forward.vocabulary.tokens == backward.vocabulary.tokens
    assert forward.vocabulary.tokens == {"<pad>": 0, "<unk>": 1, "|": 2, "a": 3, "b": 4, "c": 5}
    assert forward.fields() == {"vocab_size": 6, "pad_token_id": 0}
    assert forward.new_head


def test_a_text_survives_writing_and_reading(tmp_path: Path) -> None:
    task = task_of(tmp_path, *TEXTS)
    for utterance in corpus_of_texts(*TEXTS).utterances:
        assert task.reference_text(utterance) == " ".join((utterance.text or "").split())


@pytest.mark.parametrize(
    ("tokens", "case"),
    [
        (UPPER, "upper"),
        (tuple(token.lower() for token in UPPER), "lower"),
        ((*UPPER, "a", "b"), "keep"),
        (("<pad>", "<unk>", "|", "ア"), "keep"),
    ],
)
def test_letters_take_the_case_of_the_vocabulary(tmp_path: Path, tokens: tuple[str, ...], case: str) -> None:
    assert task_of(tokenizer_folder(tmp_path, tokens), *TEXTS).vocabulary.case == case


def test_a_tokenizer_that_writes_capitals_and_reads_small_letters_is_scored_on_what_it_reads(tmp_path: Path) -> None:
    task = task_of(tokenizer_folder(tmp_path, UPPER, do_lower_case=True), *TEXTS)
    utterances = corpus_of_texts("a Cab").utterances
    logits, frames = logits_of_paths([ctc_path(task.target_tokens(utterances[0]).tokens)], 6)
    scorer = task.metric()
    scorer.update(logits, frames, utterances)
    assert task.decode_texts(logits, frames) == ["a cab"]
    assert scorer.compute() == {"wer": 0.0, "cer": 0.0}


def test_error_rates_are_edits_over_the_length_of_all_references(tmp_path: Path) -> None:
    task = task_of(tmp_path, *TEXTS)
    number = task.vocabulary.tokens
    utterances = corpus_of_texts("a cab", "bab").utterances
    inputs = [[number[sign] for sign in row] for row in ("a|cb|b", "bab")]
    logits, frames = logits_of_paths([ctc_path(row) for row in inputs], 6)
    scorer = task.metric()
    scorer.update(logits, frames, utterances)
    # "a cab" decoded as "a cb b": one word wrong, one too many, of 2 + 1 words;
    # as characters one a lost, " b" too many, or in two edits: "cab" -> "cb b"; of 5 + 3 characters.
    assert scorer.compute() == pytest.approx({"wer": 2 / 3, "cer": 2 / 8})


def test_scores_do_not_depend_on_how_utterances_are_batched(tmp_path: Path) -> None:
    task = task_of(tmp_path, *TEXTS)
    utterances = corpus_of_texts(*TEXTS).utterances
    logits, frames = torch.randn(3, 12, 6), torch.tensor([12, 7, 9])
    full_result, single = task.metric(), task.metric()
    full_result.update(logits, frames, utterances)
    for index in range(3):
        single.update(logits[index : index + 1], frames[index : index + 1], utterances[index : index + 1])
    assert full_result.compute() == single.compute()


def test_what_cannot_be_learned_is_left_out_and_counted(tmp_path: Path) -> None:
    task = task_of(tokenizer_folder(tmp_path, UPPER), *TEXTS)
    corpus = corpus_of(
        {"text": "a b!c!"},
        {"text": None},
        {"text": "  "},
        {"text": "?!"},
        {"text": "abba", "samples": 4 * 320},  # b, b needs a blank in between: 5 frames
        {"text": "abba", "samples": 5 * 320},
    )
    usable_rows = task.filter(corpus, frames_of)
    assert [utterance.id for utterance in usable_rows.corpus.utterances] == ["0", "5"]
    assert usable_rows.corpus.read is corpus.read
    assert [skip.path for skip in usable_rows.skipped] == ["1", "2", "3", "4"]
    assert usable_rows.skipped[-1].reason == "is too short for its text: 4 frames for 5"
    assert usable_rows.notes == (
        "2 of 6 utterances left out: has no text",
        "1 of 6 utterances left out: has no character of the vocabulary",
        "1 of 6 utterances left out: is too short for its text",
        "characters outside the vocabulary dropped from the texts, 2 in all: '!' (2)",
    )
    assert task.reference_text(corpus.utterances[0]) == "A BC"


def test_utterances_with_unknown_characters_are_skipped_when_asked(tmp_path: Path) -> None:
    task = task_of(tokenizer_folder(tmp_path, UPPER), *TEXTS, config=Ctc(unknown="skip"))
    usable_rows = task.filter(corpus_of_texts("abc", "a-b", "c?"), frames_of)
    assert [utterance.text for utterance in usable_rows.corpus.utterances] == ["abc"]
    assert usable_rows.notes == ("2 of 3 utterances left out: has characters outside the vocabulary",)


def test_a_text_that_spells_the_blank_is_not_learned(tmp_path: Path) -> None:
    task = task_of(tmp_path, "a<pad>b", "cab")
    usable_rows = task.filter(corpus_of_texts("a<pad>b", "cab"), frames_of)
    assert [utterance.text for utterance in usable_rows.corpus.utterances] == ["cab"]


def test_a_corpus_without_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"None of the 2 utterances of corpus 'toy' has a text"):
        build_task(Ctc(), source=tmp_path, model_config=encoder_config(), corpus=corpus_of_texts(None, ""))
    task = task_of(tokenizer_folder(tmp_path, UPPER), *TEXTS)
    with pytest.raises(DataError, match="has a text, which this task requires"):
        task.filter(corpus_of_texts(None, ""), frames_of)
    with pytest.raises(DataError, match=r"None of the 1 utterances of corpus 'toy' can be used: has no character"):
        task.filter(corpus_of_texts("?!"), frames_of)


def test_a_fine_tuned_model_keeps_head_and_tokenizer(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path, UPPER)
    head = {"architectures": ["Wav2Vec2ForCTC"], "vocab_size": 6}
    task = task_of(folder, "xyz", **head)
    assert not task.new_head
    assert task.fields() == {"vocab_size": 6, "pad_token_id": 0}
    assert task.vocabulary.tokens == {token: number for number, token in enumerate(UPPER)}


def test_a_head_may_lack_the_sentence_marks_that_the_library_adds(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path, UPPER, bos_token="<s>", eos_token="</s>")
    for outputs in (6, 8):
        task = task_of(folder, *TEXTS, architectures=["Wav2Vec2ForCTC"], vocab_size=outputs)
        assert task.fields()["vocab_size"] == outputs


def test_a_tokenizer_that_does_not_fit_the_head_is_refused(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "own", UPPER)
    other_value = tokenizer_folder(tmp_path / "other", (*UPPER[:3], "C", "B", "A"))
    head = {"architectures": ["Wav2Vec2ForCTC"], "vocab_size": 6}
    with pytest.raises(ConfigError, match="has 7 tokens, but the model's CTC head has 6 outputs"):
        task_of(folder, "abcd", config=Ctc(tokenizer="characters"), **head)
    with pytest.raises(ConfigError, match="different ones"):
        task_of(folder, *TEXTS, config=Ctc(tokenizer=str(other_value)), **head)
    with pytest.raises(ConfigError, match="has a CTC head but no tokenizer"):
        task_of(tmp_path, *TEXTS, **head)
    with pytest.raises(ConfigError, match="has a CTC head but no tokenizer"):
        task_of(tmp_path, "abc", config=Ctc(tokenizer="characters"), **head)  # as many outputs, but of what?


def test_a_tokenizer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No tokenizer can be loaded from"):
        task_of(tmp_path, *TEXTS, config=Ctc(tokenizer=str(tmp_path)))
    with pytest.raises(ConfigError, match="got an empty name"):
        Ctc(tokenizer="")


def test_a_given_tokenizer_is_taken_for_a_bare_encoder(tmp_path: Path) -> None:
    given_tokenizer = tokenizer_folder(tmp_path / "given", UPPER)
    task = task_of(tmp_path, "xyz", config=Ctc(tokenizer=str(given_tokenizer)))
    assert task.vocabulary.tokens == {token: number for number, token in enumerate(UPPER)}


def test_a_saved_folder_transcribes_by_the_librarys_pipeline(tmp_path: Path) -> None:
    task = task_of(tmp_path, *TEXTS)
    folder = tmp_path / "model"
    model = transformers.Wav2Vec2ForCTC(encoder_config(**TINY, **task.fields())).eval()
    model.save_pretrained(folder)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False)
    extractor.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("left by another tokenizer")
    task.save(folder)
    assert json.loads((folder / "vocab.json").read_text()) == task.vocabulary.tokens
    assert isinstance(transformers.AutoProcessor.from_pretrained(folder), transformers.Wav2Vec2Processor)
    audio = torch.randn(1600)
    with torch.no_grad():
        logits = model(audio[None]).logits
    transcripts = transformers.pipeline("automatic-speech-recognition", model=str(folder), device="cpu")(audio.numpy())
    assert " ".join(transcripts["text"].split()) == task.decode_texts(logits, torch.tensor([logits.shape[1]]))[0] != ""
