"""Tokenizers that people bring with a CTC head: another blank than the head's, letters of two cases, capitals by flag.

Reported as huggingface/transformers#15392, huggingface/transformers#19164 and jonatasgrosman/huggingsound#20.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import ascii_lowercase as SMALL
from string import ascii_uppercase as LARGE
from typing import Any

import pytest
import torch
import transformers
from task_toy import TINY, corpus_of_texts, ctc_path, encoder_config, frames_of, logits_of_paths, tokenizer_folder

from secateur.errors import ConfigError
from secateur.tasks import Ctc, Slu, build_task
from secateur.tasks.ctc import CtcTask
from secateur.tasks.vocabulary import Vocabulary, load_tokenizer

MARKS = ("<pad>", "<unk>", "|")
TOKENS = (*MARKS, *"abc")


def task_of(folder: Path, *transcripts: str, outputs: int | None = None, **fields: Any) -> CtcTask:
    """A task for a model with a CTC head of so many outputs, or without a head, beside this tokenizer."""
    head = {} if outputs is None else {"architectures": ["Wav2Vec2ForCTC"], "vocab_size": outputs}
    task = build_task(
        Ctc(),
        source=folder,
        model_config=encoder_config(**head, **fields),
        corpus=corpus_of_texts(*(transcripts or ("ab",))),
    )
    assert isinstance(task, CtcTask)
    return task


BLANKS: dict[str, tuple[Sequence[str], str | None, dict[str, Any], int]] = {
    "the library adds a padding token behind the head": (TOKENS, "[PAD]", {"outputs": 6, "pad_token_id": 0}, 0),
    "no padding token in the vocabulary": (("-", "|", *"abc", "<unk>"), "<pad>", {"outputs": 6, "pad_token_id": 0}, 0),
    "another padding token that the head has": (
        ("<s>", *TOKENS[1:], "[PAD]"),
        "[PAD]",
        {"outputs": 7, "pad_token_id": 0},
        0,
    ),
    "no tokenizer token is the last output": (("|", *"abc", "<unk>"), None, {"outputs": 6, "pad_token_id": 5}, 5),
    "nothing in the config": (TOKENS, "<pad>", {"outputs": 6, "pad_token_id": None}, 0),
    "a number outside the head in the config": (TOKENS, "<pad>", {"outputs": 6, "pad_token_id": 6}, 0),
    "both in the middle": (("|", "a", "<pad>", "b", "c", "<unk>"), "<pad>", {"outputs": 6, "pad_token_id": 2}, 2),
}


@pytest.mark.parametrize("name", BLANKS)
def test_the_blank_of_a_models_own_head_is_that_of_its_config_and_of_its_saved_tokenizer(
    name: str, tmp_path: Path
) -> None:
    tokens, padding, fields, blank = BLANKS[name]
    task = task_of(tokenizer_folder(tmp_path / "own", tokens, pad_token=padding), **fields)
    assert task.fields() == {"vocab_size": fields["outputs"], "pad_token_id": blank}
    assert bool(task.notes) == (name != "both in the middle")
    utterances = task.filter(corpus_of_texts("ab", "b a"), frames_of).corpus.utterances
    path = [ctc_path(task.target_tokens(utterance).tokens, blank) for utterance in utterances]
    logits, frames = logits_of_paths(path, fields["outputs"])
    transcript = [utterance.text for utterance in utterances]
    assert task.decode_texts(logits, frames) == transcript
    config = encoder_config(**TINY, **(task.fields() | {"ctc_loss_reduction": "sum"}))
    head = transformers.Wav2Vec2ForCTC(config).eval()
    values, target_tokens = torch.randn(1, 3200), task.target_tokens(utterances[0]).tokens
    output = head(values, labels=torch.tensor([target_tokens]))
    own_values = task.loss(output.logits, torch.tensor([output.logits.shape[1]]), utterances[:1])
    torch.testing.assert_close(own_values, output.loss)
    task.save(tmp_path)
    plain = transformers.AutoTokenizer.from_pretrained(tmp_path)  # as the library's pipeline reads what a head wrote
    assert plain.pad_token_id == blank
    for row, text in zip(path, transcript, strict=True):
        assert plain.decode(row) == text
    repeated = task_of(tmp_path, **(fields | {"pad_token_id": blank}))
    assert repeated.fields() == task.fields()
    assert not repeated.notes


@pytest.mark.parametrize(
    ("tokens", "padding", "pad_token_id", "message"),
    [
        (("a", *MARKS, *"bc"), "<pad>", 0, r"the model's config says 0, which its tokenizer reads as 'a'"),
        (("|", "<pad>", "<unk>", *"abc"), "<pad>", 0, r"says 0, which its tokenizer reads as '\|'"),
        (("7", *MARKS, *"89"), "[PAD]", 0, r"reads as '7', while its padding token is '\[PAD\]', 6; expected"),
        (("\u0901", "[PAD]", "|", *"abc"), "[PAD]", 0, r"says 0, which its tokenizer reads as '\u0901'"),
        (("'", "[PAD]", "|", *"abc"), "[PAD]", 0, r"""says 0, which its tokenizer reads as "'", while"""),
        (TOKENS, "[PAD]", 9, r"the model's config says 9 and its tokenizer 6, '\[PAD\]'; expected .*, 0 to 5\."),
        (TOKENS, None, None, r"the model's config says None and its tokenizer None, None; expected"),
    ],
)
def test_a_head_whose_blank_is_unknown_is_refused(
    tmp_path: Path, tokens: Sequence[str], padding: str | None, pad_token_id: int | None, message: str
) -> None:
    folder = tokenizer_folder(tmp_path, tokens, pad_token=padding)
    with pytest.raises(ConfigError, match=message):
        task_of(folder, outputs=6, pad_token_id=pad_token_id)


def test_the_blank_of_a_head_that_writes_intents_is_that_of_its_config_too(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path, (*TOKENS, "<intent:stop>", "<intent:go>"), pad_token="[PAD]")
    head = encoder_config(architectures=["Wav2Vec2ForCTC"], vocab_size=8, pad_token_id=0)
    task = build_task(Slu(), source=folder, model_config=head, corpus=corpus_of_texts("ab"))
    assert not task.new_head
    assert task.fields() == {"vocab_size": 8, "pad_token_id": 0}
    assert "the padding token '[PAD]', 8, while the blank" in task.notes[0]


def test_a_vocabulary_without_an_unknown_token_loses_unknown_characters_alone(tmp_path: Path) -> None:
    task = task_of(tokenizer_folder(tmp_path, ("<pad>", "|", "a", "b")), outputs=4, pad_token_id=0)
    (utterance,) = corpus_of_texts("ab xa x").utterances
    assert task.reference_text(utterance) == "ab a"
    assert task.target_tokens(utterance).unknown_characters == "xx"


def test_tokens_behind_the_outputs_of_a_head_are_not_written(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path, TOKENS, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    task = task_of(folder, outputs=7, pad_token_id=0)  # <s> is an output, </s> is none
    usable_rows = task.filter(corpus_of_texts("ab", "a</s>"), frames_of)
    assert [utterance.text for utterance in usable_rows.corpus.utterances] == ["ab", "a</s>"]
    assert all(
        token < 6 for utterance in usable_rows.corpus.utterances for token in task.target_tokens(utterance).tokens
    )
    with pytest.raises(ConfigError, match="has 8 tokens, but the model's CTC head has 9 outputs"):
        task_of(folder, outputs=9, pad_token_id=0)
    with pytest.raises(ConfigError, match="has 8 tokens, but the model's CTC head has 5 outputs"):
        task_of(folder, outputs=5, pad_token_id=0)


CASES: dict[str, tuple[str, str, str, str, str]] = {
    # letters, case, a text, how it is read back, what is lost of it
    "a capital among small letters": (SMALL + "I", "lower", "HELLO I AM", "hello i am", ""),
    "small letters among capitals": (LARGE + "x", "upper", "Hello xX", "HELLO XX", ""),
    "ß among capitals": (LARGE + "ÄÖÜß", "upper", "Straße über", "STRAßE ÜBER", ""),
    "capitals without ß": (LARGE, "upper", "Straße", "STRASSE", ""),
    "small letters without ß": (SMALL, "lower", "Straße", "strae", "ß"),
    "a small letter that is there as a capital alone": (SMALL[:-1] + "Z", "lower", "ZAZ", "ZaZ", ""),
    "a capital that is there as a small letter alone": (LARGE + "ä", "upper", "Ärger", "äRGER", ""),
    "both cases": (SMALL + LARGE, "keep", "Hello", "Hello", ""),
    "both cases, some capitals missing": (SMALL + LARGE[:20], "keep", "Ab Zb", "Ab b", "Z"),
    "digits": ("0123456789", "keep", "12 ab", "12", "ab"),
    "a script without case": ("アイウ", "keep", "アイ a", "アイ", "a"),
    "Greek": ("αβγδορσς", "lower", "ΟΔΟΣ ΟΔΟΣ", "οδος οδος", ""),
    "Turkish in small letters": (SMALL + "çğıöşü", "lower", "ISI İki", "ısı iki", ""),
    "Turkish in capitals": (LARGE + "ÇĞİÖŞÜ", "upper", "ısı iki", "ISI İKİ", ""),
    "a dotless i that is no Turkish": (SMALL + "ı", "lower", "ISI", "isi", ""),
    "a dotted capital in other small letters": (SMALL, "lower", "İki", "iki", "\u0307"),
}


@pytest.mark.parametrize("name", CASES)
def test_letters_take_the_case_of_most_of_the_vocabulary(name: str, tmp_path: Path) -> None:
    letters, case, text, written_text, lost_value = CASES[name]
    task = task_of(tokenizer_folder(tmp_path, (*MARKS, *letters)), outputs=3 + len(letters))
    (utterance,) = corpus_of_texts(text).utterances
    assert task.vocabulary.case == case
    assert task.reference_text(utterance) == written_text
    assert task.target_tokens(utterance).unknown_characters == lost_value


def test_lost_characters_are_counted_by_name_also_where_they_do_not_show(tmp_path: Path) -> None:
    task = task_of(tokenizer_folder(tmp_path, (*MARKS, *SMALL)), outputs=29)
    assert task.filter(corpus_of_texts("Straße İyi", "weiß\u200b"), frames_of).notes == (
        "characters outside the vocabulary dropped from the texts, 4 in all: 'ß' (2), U+0307 COMBINING DOT ABOVE (1), "
        "U+200B ZERO WIDTH SPACE (1)",
    )


def test_a_tokenizer_that_writes_capitals_over_small_letters_is_refused_by_its_flag(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path, (*MARKS, *SMALL), do_lower_case=True)
    for outputs in (29, None):
        with pytest.raises(
            ConfigError, match=r"do_lower_case set, .* set do_lower_case to false in its tokenizer_config"
        ):
            task_of(folder, outputs=outputs)


def test_a_tokenizer_that_writes_capitals_over_capitals_loses_nothing(tmp_path: Path) -> None:
    task = task_of(tokenizer_folder(tmp_path, (*MARKS, *LARGE), do_lower_case=True), outputs=29)
    (utterance,) = corpus_of_texts("Hello I am").utterances
    assert task.target_tokens(utterance).unknown_characters == ""
    assert task.reference_text(utterance) == "hello i am"


def test_a_case_that_is_asked_for_is_taken(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder(tmp_path, (*MARKS, *SMALL, "I")))
    assert Vocabulary(tokenizer, case="keep").clean("I am X") == ("I am", "X")
