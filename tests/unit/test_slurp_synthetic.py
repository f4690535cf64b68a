"""SLURP's sentences in synthetic voices, as the benchmark chooses, divides and writes them."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import soundfile

import slurp_synthetic
from secateur import config
from secateur.compress.config import PruneConfig
from secateur.data.config import SlurpData
from secateur.data.open import open_corpus
from secateur.pipeline import RECIPES
from slurp_synthetic import RECIPE, recipe_of, splits, subset, table, types_of, write_corpus


def line(number: int, sentence: str, intent: str = "alarm_set", annotation: str | None = None) -> dict[str, Any]:
    scenario, _, action = intent.partition("_")
    return {
        "slurp_id": number,
        "sentence": sentence,
        "sentence_annotation": annotation or sentence,
        "intent": intent,
        "scenario": scenario,
        "action": action,
        "tokens": [],
        "recordings": [{"file": f"audio-{number}.flac"}],
        "entities": [],
    }


def alarms(count: int) -> list[dict[str, Any]]:
    words = [f"{a}{b}" for a in "abcdefgh" for b in "aeiou"][:count]
    return [line(n, f"wake me at {word}", annotation=f"wake me at [time : {word}]") for n, word in enumerate(words)]


def test_the_subset_holds_short_plain_sentences_once_with_the_words_of_their_annotation() -> None:
    good = alarms(12)
    bad = [
        line(100, "stop"),
        line(101, "one two three four five six seven eight nine"),
        line(102, "wake me at 5"),
        line(103, "wake me at ab", annotation="wake me at [time : ba]"),
        good[3] | {"slurp_id": 104},
    ]
    assert subset([*good, *bad], intents=3) == {"alarm_set": good}


def test_intents_without_entities_and_rare_types_of_entities_are_left_out() -> None:
    odd = line(200, "wake me in town", annotation="wake me in [place : town]")
    jokes = [line(300 + n, f"tell me a {'x' * (n + 1)}", "general_joke") for n in range(30)]
    chosen = subset([*alarms(12), odd, *jokes], intents=6)
    assert [*chosen] == ["alarm_set"]
    assert {type for mine in chosen.values() for each in mine for type in types_of(each)} == {"time"}


def test_of_more_intents_than_asked_for_the_most_frequent_are_taken() -> None:
    other = [each | {"scenario": "bell", "sentence": each["sentence"] + " now"} for each in alarms(40)]
    other = [each | {"sentence_annotation": each["sentence_annotation"] + " now"} for each in other]
    assert [*subset([*alarms(12), *other], intents=1)] == ["bell_set"]


def test_no_sentence_is_in_two_splits_and_all_are_in_one() -> None:
    chosen = {"alarm_set": alarms(40)}
    parts = splits(chosen)
    assert {name: len(lines) for name, lines in parts.items()} == {"train": 28, "devel": 4, "test": 8}
    assert sorted(each["slurp_id"] for lines in parts.values() for each in lines) == list(range(40))


def test_known_sentences_are_in_every_split_those_with_entities_first() -> None:
    plain = line(99, "wake me please")
    parts = slurp_synthetic.known({"alarm_set": [plain, *alarms(3)], "bell_set": alarms(2)}, sentences=3)
    assert parts["train"] == parts["devel"] == parts["test"] == [*alarms(3), *alarms(2)]


def test_what_is_written_is_read_as_slurp_with_no_voice_in_two_splits(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    lines = alarms(3)
    write_corpus({"train": lines[:1], "devel": lines[1:2], "test": lines[2:]}, tmp_path / "slurp")
    heard: dict[str, set[str | None]] = {}
    for split, (said,) in {"train": lines[:1], "devel": lines[1:2], "test": lines[2:]}.items():
        corpus = open_corpus(SlurpData(path=str(tmp_path / "slurp"), split=split))
        assert len(corpus) == slurp_synthetic.TAKES[split]
        assert not corpus.skipped
        assert {(each.text, each.tagged, each.label) for each in corpus.utterances} == {
            (said["sentence"], said["sentence_annotation"], "alarm_set")
        }
        assert {soundfile.info(each.path).samplerate for each in corpus.utterances} == {16_000}
        heard[split] = {each.speaker for each in corpus.utterances}
        assert len(heard[split]) == len(corpus)
    assert not heard["train"] & heard["test"]
    assert not heard["train"] & heard["devel"]
    assert not heard["devel"] & heard["test"]


def test_the_fields_of_a_run_fit_the_recipe_and_change_neither_its_target_nor_its_gates(tmp_path: Path) -> None:
    options = Namespace(
        data="slurp",
        work=tmp_path,
        model=None,
        task="slu",
        split="devel",
        seed=3,
        steps=(5, 4, 3),
        seconds=6.0,
        rate=3e-3,
    )
    mine = config.load(RECIPE, PruneConfig, recipe_of(options), search=RECIPES)
    its = config.load(RECIPE, PruneConfig, search=RECIPES)
    assert (mine.target, mine.gates, mine.distill) == (its.target, its.gates, its.distill)
    assert mine.finetune is not None
    assert [phase.steps for phase in (mine.finetune, mine.learn, mine.recover)] == [5, 4, 3]
    assert isinstance(mine.validation.data, SlurpData)
    assert (mine.data.split, mine.validation.data.split) == ("train", "devel")  # type: ignore[union-attr]


def test_the_table_names_what_a_task_does_not_measure_by_a_dash() -> None:
    stage = {"name": "dense", "parameters": 2_000_000, "macs": 145_000_000, "ms": 97.6, "scores": {"accuracy": 0.5}}
    row = table([{"task": "classification", "stages": [stage]}]).splitlines()[-1]
    assert row == "| classification | dense, fine-tuned | 50.0% | – | – | – | 2,000,000 | 145,000,000 | 98 |"
