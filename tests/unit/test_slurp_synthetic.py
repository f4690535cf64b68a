"""SLURP's sentences in synthetic voices, as the benchmark chooses, divides and writes them."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import soundfile

import slurp_synthetic
from secateur import config
from secateur.compress.config import PruneConfig
from secateur.data.open import open_corpus
from secateur.data.sources import SlurpData
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
    lines_by_intent = subset([*alarms(12), odd, *jokes], intents=6)
    assert [*lines_by_intent] == ["alarm_set"]
    assert {type for own_values in lines_by_intent.values() for item in own_values for type in types_of(item)} == {
        "time"
    }


def test_of_more_intents_than_asked_for_the_most_frequent_are_taken() -> None:
    other_value = [item | {"scenario": "bell", "sentence": item["sentence"] + " now"} for item in alarms(40)]
    other_value = [item | {"sentence_annotation": item["sentence_annotation"] + " now"} for item in other_value]
    assert [*subset([*alarms(12), *other_value], intents=1)] == ["bell_set"]


def test_no_sentence_is_in_two_splits_and_all_are_in_one() -> None:
    lines_by_intent = {"alarm_set": alarms(40)}
    parts = splits(lines_by_intent)
    assert {name: len(lines) for name, lines in parts.items()} == {"train": 28, "devel": 4, "test": 8}
    assert sorted(entry["slurp_id"] for lines in parts.values() for entry in lines) == list(range(40))


def test_known_sentences_are_in_every_split_those_with_entities_first() -> None:
    plain = line(99, "wake me please")
    parts = slurp_synthetic.known_sentences({"alarm_set": [plain, *alarms(3)], "bell_set": alarms(2)}, sentences=3)
    assert parts["train"] == parts["devel"] == parts["test"] == [*alarms(3), *alarms(2)]


def test_what_is_written_is_read_as_slurp_with_no_voice_in_two_splits(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    lines = alarms(3)
    write_corpus({"train": lines[:1], "devel": lines[1:2], "test": lines[2:]}, tmp_path / "slurp")
    inputs: dict[str, set[str | None]] = {}
    for split, (transcript,) in {"train": lines[:1], "devel": lines[1:2], "test": lines[2:]}.items():
        corpus = open_corpus(SlurpData(path=str(tmp_path / "slurp"), split=split))
        assert len(corpus) == slurp_synthetic.TAKES[split]
        assert not corpus.skipped
        assert {(entry.text, entry.tagged, entry.label) for entry in corpus.utterances} == {
            (transcript["sentence"], transcript["sentence_annotation"], "alarm_set")
        }
        assert {soundfile.info(entry.path).samplerate for entry in corpus.utterances} == {16_000}
        inputs[split] = {entry.speaker for entry in corpus.utterances}
        assert len(inputs[split]) == len(corpus)
    assert not inputs["train"] & inputs["test"]
    assert not inputs["train"] & inputs["devel"]
    assert not inputs["devel"] & inputs["test"]


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
    benchmark_recipe = config.load(RECIPE, PruneConfig, recipe_of(options), search=RECIPES)
    recipe_config = config.load(RECIPE, PruneConfig, search=RECIPES)
    assert (benchmark_recipe.target, benchmark_recipe.gates, benchmark_recipe.distill) == (
        recipe_config.target,
        recipe_config.gates,
        recipe_config.distill,
    )
    assert benchmark_recipe.finetune is not None
    assert [phase.steps for phase in (benchmark_recipe.finetune, benchmark_recipe.learn, benchmark_recipe.recover)] == [
        5,
        4,
        3,
    ]
    assert isinstance(benchmark_recipe.validation.data, SlurpData)
    assert (benchmark_recipe.data.split, benchmark_recipe.validation.data.split) == ("train", "devel")  # type: ignore[union-attr]


def test_the_table_names_what_a_task_does_not_measure_by_a_dash() -> None:
    stage = {"name": "dense", "parameters": 2_000_000, "macs": 145_000_000, "ms": 97.6, "scores": {"accuracy": 0.5}}
    row = table([{"task": "classification", "stages": [stage]}]).splitlines()[-1]
    assert row == "| classification | dense, fine-tuned | 50.0% | – | – | – | 2,000,000 | 145,000,000 | 98 |"
