"""Understanding by a CTC head: the vocabulary, round trips of the tokenizer, and scores by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from task_toy import corpus_of, ctc_path, encoder_config, frames_of, logits_of_paths

from secateur.data.corpus import Corpus
from secateur.errors import DataError
from secateur.tasks import Slu, build_task
from secateur.tasks.slu import SluTask
from secateur.tasks.slurp_tags import Entity

CORPUS = corpus_of(
    {"label": "alarm_set", "text": "wake me at five am", "tagged": "wake me at [time : five am]"},
    {"label": "call person", "text": "call bob", "tagged": "call [person_name : bob]"},
    {"label": "alarm_set", "text": "set it"},
)


def task_of(folder: Path, corpus: Corpus = CORPUS, config: Slu | None = None, **fields: object) -> SluTask:
    task = build_task(config or Slu(), source=folder, model_config=encoder_config(**fields), corpus=corpus)
    assert isinstance(task, SluTask)
    return task


def test_the_vocabulary_is_characters_intents_types_and_one_closing_token(tmp_path: Path) -> None:
    tokens = list(task_of(tmp_path).vocabulary.tokens)
    longer = ["<intent:alarm_set>", "<intent:call person>", "<slot:person_name>", "<slot:time>", "</slot>"]
    assert tokens == ["<pad>", "<unk>", "|", *sorted(set("wakemeatfiveamcallbobsetit")), *longer]


def test_a_script_survives_the_tokenizer_and_one_loaded_again(tmp_path: Path) -> None:
    task = task_of(tmp_path)
    task.save(tmp_path)
    reloaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(reloaded) == task.fields()["vocab_size"]
    text = "<intent:alarm_set>wake me at<slot:time>five am</slot>"
    for utterance, written_text in zip(
        CORPUS.utterances,
        (text, "<intent:call person>call<slot:person_name>bob</slot>", "<intent:alarm_set>set it"),
        strict=True,
    ):
        tokens = list(task.target_tokens(utterance).tokens)
        assert task.reference_text(utterance) == written_text
        assert reloaded.encode(written_text) == tokens
        assert reloaded.decode(tokens, group_tokens=False) == written_text
    # three tokens, sixteen characters, and the spaces within the two stretches of words
    assert task.step_targets(CORPUS.utterances[:1], ()).count == 3 + len("wake|me|at") + len("five|am")


def test_a_meaning_is_read_from_a_script(tmp_path: Path) -> None:
    task = task_of(tmp_path)
    meaning = task.reference_frame(CORPUS.utterances[0])
    assert meaning.intent == "alarm_set"
    assert meaning.entities == (Entity("time", "five am"),)
    assert meaning.words == CORPUS.utterances[0].text


def test_figures_are_those_counted_by_hand(tmp_path: Path) -> None:
    task = task_of(tmp_path)
    inputs = (
        "<intent:alarm_set>wake me at<slot:time>five</slot>am",
        "<intent:alarm_set>call<slot:person_name>bob</slot>",
        "<intent:alarm_set>set it",
    )
    logits, frames = logits_of_paths([ctc_path(task.vocabulary.encode(text)) for text in inputs], len(task.vocabulary))
    scorer = task.metric()
    scorer.update(logits, frames, CORPUS.utterances)
    # The time is half right: words 1/2, characters " am", 3 of 7; bob is right. No word is wrong.
    expected = {
        "slu_f1": 4 / (4 + 1 / 2 + 3 / 7),
        "intent_accuracy": 2 / 3,
        "entity_f1": 2 * 1 / (2 * 1 + 1 + 1),
        "word_f1": 2 / (2 + 1 / 2),
        "char_f1": 2 / (2 + 3 / 7),
        "wer": 0.0,
    }
    assert scorer.compute() == pytest.approx(expected)
    assert task.primary_metric == "slu_f1"


def test_silence_scores_nothing_and_does_not_fail(tmp_path: Path) -> None:
    task = task_of(tmp_path)
    logits, frames = logits_of_paths([[0, 0]] * 3, len(task.vocabulary))
    scorer = task.metric()
    scorer.update(logits, frames, CORPUS.utterances)
    zero = dict.fromkeys(("slu_f1", "intent_accuracy", "entity_f1", "word_f1", "char_f1"), 0.0)
    assert scorer.compute() == zero | {"wer": 1.0}


def test_without_entities_the_intent_is_the_primary_metric(tmp_path: Path) -> None:
    task = task_of(tmp_path, corpus_of({"label": "on", "text": "lights on"}, {"label": "off", "text": "lights off"}))
    assert task.primary_metric == "intent_accuracy"
    assert "</slot>" not in task.vocabulary.tokens


def test_what_cannot_be_learned_is_left_out_and_counted(tmp_path: Path) -> None:
    task = task_of(tmp_path)
    corpus = corpus_of(
        {"label": "alarm_set", "text": "Wake me! at five", "tagged": "wake me! at [time : five]"},
        {"label": None, "text": "call bob"},
        {"label": "alarm_query", "text": "call bob"},
        {"label": "alarm_set", "text": "call bob", "tagged": "call [relation : bob]"},
        {"label": "alarm_set", "text": "call bob", "tagged": "call [person_name : bob"},
        {"label": "alarm_set", "text": None},
        {"label": "alarm_set", "text": "wake me", "samples": 320 * 7},  # the intent and seven characters
        {"label": "alarm_set", "text": "wake me", "samples": 320 * 8},
    )
    usable_rows = task.filter(corpus, frames_of)
    assert [utterance.id for utterance in usable_rows.corpus.utterances] == ["0", "7"]
    assert [skip.reason.partition(":")[0] for skip in usable_rows.skipped] == [
        "has no label, which names its intent",
        "has an intent outside the vocabulary",
        "has an entity outside the vocabulary",
        "has tags that cannot be read",
        "has no text",
        "is too short for its text",
    ]
    assert usable_rows.notes[-1] == "characters outside the vocabulary dropped from the texts, 1 in all: '!' (1)"
    assert task.reference_text(corpus.utterances[0]) == "<intent:alarm_set>wake me at<slot:time>five</slot>"


def test_letters_are_written_as_asked_and_tokens_keep_their_case(tmp_path: Path) -> None:
    task = task_of(tmp_path, config=Slu(case="upper"))
    assert task.reference_text(CORPUS.utterances[1]) == "<intent:call person>CALL<slot:person_name>BOB</slot>"


def test_a_model_that_writes_intents_keeps_its_head_and_any_other_gets_a_new_one(tmp_path: Path) -> None:
    task = task_of(tmp_path)
    task.save(tmp_path)
    head = {"architectures": ["Wav2Vec2ForCTC"], "vocab_size": len(task.vocabulary)}
    other_value = corpus_of({"label": "alarm_set", "text": "call"})
    kept_task = task_of(tmp_path, other_value, **head)
    assert not kept_task.new_head
    assert kept_task.vocabulary.tokens == task.vocabulary.tokens
    assert kept_task.vocabulary.case == "lower"
    assert task_of(tmp_path, other_value).new_head


def test_a_corpus_without_intents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has a label, which names its intent"):
        task_of(tmp_path, corpus_of({"text": "call bob"}))
    with pytest.raises(DataError, match="has a text"):
        task_of(tmp_path, corpus_of({"label": "alarm_set"}))
    with pytest.raises(DataError, match="named 'a<b'"):
        task_of(tmp_path, corpus_of({"label": "a<b", "text": "call bob"}))
