"""Corpora as they are distributed, in miniature; what is read is counted by hand."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secateur.compress.config import PruneConfig
from secateur.config import load
from secateur.data import FluentSpeechCommandsData, SlurpData, SpeechCommandsData, open_corpus
from secateur.errors import DataError

Write = Callable[..., NDArray[np.float32]]  # the fixture in conftest.py


def sentence(tagged: str, text: str, *files: str, intent: str = "lamp_dim", **changes: object) -> dict[str, Any]:
    """A line in the form of SLURP's annotations."""
    scenario, _, action = intent.partition("_")
    line = {
        "slurp_id": 1,
        "sentence": text,
        "sentence_annotation": tagged,
        "intent": action,
        "scenario": scenario,
        "action": action,
        "tokens": [],
        "entities": [],
        "recordings": [{"file": file, "wer": 0.0, "ent_wer": None, "status": "correct"} for file in files],
    }
    return line | changes


def annotate(folder: Path, **splits: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, lines in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def slurp(folder: Path, write: Write, *, audio: str = "", annotations: str = "") -> None:
    annotate(
        folder / annotations,
        train=[sentence("dim it on [date : Sunday]", "dim it on sunday", "a.flac", "a-headset.flac")],
        train_synthetic=[sentence("dim it", "dim it", "s.flac", intent="lamp_off")],
        devel=[sentence("dim [thing : the hall]", "dim the hall", "d.flac")],
    )
    for name in ("a", "a-headset", "d"):
        write(f"{folder.name}/{audio}/slurp_real/{name}.flac")
    write(f"{folder.name}/{audio}/slurp_synth/s.flac")


def test_slurp_has_one_utterance_per_recording_with_entities_and_intent(tmp_path: Path, write: Write) -> None:
    slurp(tmp_path / "slurp", write)
    train = open_corpus(SlurpData(path=str(tmp_path / "slurp"), split="train"))
    assert [(u.id, u.text, u.tagged, u.label, u.speaker, u.split) for u in train.utterances] == [
        (name, "dim it on sunday", "dim it on [date : sunday]", "lamp_dim", None, "train")
        for name in ("a.flac", "a-headset.flac")
    ]
    pair = open_corpus(SlurpData(path=str(tmp_path / "slurp"), split=("train_synthetic", "devel")))
    assert [(u.id, u.label) for u in pair.utterances] == [("s.flac", "lamp_off"), ("d.flac", "lamp_dim")]
    full_corpus = open_corpus(SlurpData(path=str(tmp_path / "slurp")))
    assert [u.split for u in full_corpus.utterances] == ["train", "train", "train_synthetic", "devel"]
    np.testing.assert_array_equal(full_corpus.split("devel").audio(0), pair.audio(1))


@pytest.mark.parametrize("below", ["", "dataset/slurp"])
def test_slurp_is_found_in_its_repository_and_speakers_in_its_metadata(
    tmp_path: Path, write: Write, below: str
) -> None:
    slurp(tmp_path / "slurp", write, audio="audio", annotations="dataset/slurp")
    recordings = {"a.flac": {"usrid": "FE-001"}, "a-headset.flac": {"status": "correct"}}
    (tmp_path / "slurp/dataset/slurp/metadata.json").write_text(json.dumps({"1": {"recordings": recordings}}))
    corpus = open_corpus(SlurpData(path=str(tmp_path / "slurp" / below), split="train"))
    assert [u.speaker for u in corpus.utterances] == ["FE-001", None]


@pytest.mark.parametrize("audio", ["elsewhere", "elsewhere/slurp_real"])
def test_slurps_recordings_may_lie_in_any_folder(tmp_path: Path, write: Write, audio: str) -> None:
    annotate(tmp_path / "text", test=[sentence("dim", "dim", "a.flac")])
    with pytest.raises(DataError, match=r"no folder slurp_real or slurp_synth, .*name the folders .* in `audio`"):
        open_corpus(SlurpData(path=str(tmp_path / "text")))
    write("elsewhere/slurp_real/a.flac")
    assert len(open_corpus(SlurpData(path=str(tmp_path / "text"), audio=(str(tmp_path / audio),)))) == 1
    with pytest.raises(DataError, match=r"Folder .*elsewhen does not exist\. Did you mean 'elsewhere'\?"):
        open_corpus(SlurpData(path=str(tmp_path / "text"), audio=(str(tmp_path / "elsewhen"),)))


def test_a_recipe_names_one_file_of_slurp_or_several() -> None:
    for split, read in (("train", "train"), (["train", "train_synthetic"], ("train", "train_synthetic"))):
        config = load({"data": {"kind": "slurp", "path": "x", "split": split}}, PruneConfig)
        assert config.data == SlurpData(path="x", split=read)  # type: ignore[arg-type]


def test_slurps_missing_recordings_are_skipped_up_to_the_share_allowed(tmp_path: Path, write: Write) -> None:
    slurp(tmp_path / "slurp", write)
    (tmp_path / "slurp/slurp_real/a.flac").unlink()
    corpus = open_corpus(SlurpData(path=str(tmp_path / "slurp"), max_skipped=0.25))
    assert [(skip.path, skip.reason) for skip in corpus.skipped] == [("a.flac", "does not exist")]
    with pytest.raises(DataError, match=r"1 of 4 files of .* \(25\.0%\) cannot be used.* a\.flac \(does not exist\)"):
        open_corpus(SlurpData(path=str(tmp_path / "slurp")))


def test_slurps_recordings_named_again_and_sentences_without_any_are_told(
    tmp_path: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [sentence("dim", "dim", "a.flac"), sentence("off", "off", "a.flac"), sentence("on", "on")]
    annotate(tmp_path / "slurp", train=lines)
    write("slurp/slurp_real/a.flac")
    with caplog.at_level(logging.WARNING):
        corpus = open_corpus(SlurpData(path=str(tmp_path / "slurp")))
    assert [u.text for u in corpus.utterances] == ["dim"]
    assert "1 sentences have no recording, 1 repeated recordings are left out" in caplog.text


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{oops"], "line 1 is not JSON"),
        (["[1]"], "line 1: expected a JSON object with the fields of SLURP"),
        ([json.dumps({"sentence": "x", "recordings": []})], "line 1 has no `sentence_annotation`; expected a line of"),
        ([json.dumps(sentence("x", "x", recordings=["a.flac"]))], "line 1 has a recording without a `file`"),
        ([json.dumps(sentence("x", "x", recordings=None))], "line 1 has no `recordings`"),
        ([json.dumps(sentence("x", "x"))], "is empty: expected at least one audio file"),
    ],
)
def test_malformed_annotations_of_slurp_are_one_sentence(tmp_path: Path, lines: list[str], message: str) -> None:
    (tmp_path / "slurp_real").mkdir()
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        open_corpus(SlurpData(path=str(tmp_path)))


def test_a_folder_that_is_not_slurp_and_a_split_it_does_not_have_are_one_sentence(tmp_path: Path, write: Write) -> None:
    with pytest.raises(DataError, match=r"has no annotations of SLURP; expected train\.jsonl, .*dataset/slurp"):
        open_corpus(SlurpData(path=str(tmp_path)))
    slurp(tmp_path / "slurp", write)
    expected = r"no split 'dev'; it has devel, train, train_synthetic\. Did you mean 'devel'\?"
    with pytest.raises(DataError, match=expected):
        open_corpus(SlurpData(path=str(tmp_path / "slurp"), split="dev"))
    (tmp_path / "slurp/metadata.json").write_text("[]")
    with pytest.raises(DataError, match=r"metadata\.json is not SLURP's metadata"):
        open_corpus(SlurpData(path=str(tmp_path / "slurp")))


def test_speech_commands_are_split_by_the_lists_and_noise_is_left_out(tmp_path: Path, write: Write) -> None:
    for name in ("bed/0a_nohash_0.wav", "bed/0a_nohash_1.wav", "cat/1b_nohash_0.wav", "cat/odd.wav"):
        write(name)
    write("_background_noise_/hum.wav")
    (tmp_path / "README.md").write_text("words")
    (tmp_path / "validation_list.txt").write_text("cat/1b_nohash_0.wav\n")
    (tmp_path / "testing_list.txt").write_text("bed/0a_nohash_1.wav\n")
    corpus = open_corpus(SpeechCommandsData(path=str(tmp_path)))
    assert [(u.id, u.text, u.label, u.speaker, u.split) for u in corpus.utterances] == [
        ("bed/0a_nohash_0.wav", "bed", "bed", "0a", "train"),
        ("bed/0a_nohash_1.wav", "bed", "bed", "0a", "test"),
        ("cat/1b_nohash_0.wav", "cat", "cat", "1b", "dev"),
        ("cat/odd.wav", "cat", "cat", None, "train"),
    ]
    assert [u.id for u in open_corpus(SpeechCommandsData(path=str(tmp_path), split="dev")).utterances] == [
        "cat/1b_nohash_0.wav"
    ]


def test_speech_commands_without_lists_or_with_a_file_gone_say_so(tmp_path: Path, write: Write) -> None:
    write("bed/0a_nohash_0.wav")
    (tmp_path / "validation_list.txt").write_text("bed/0a_nohash_7.wav\n")
    with pytest.raises(DataError, match=r"has no testing_list\.txt; expected Speech Commands as downloaded"):
        open_corpus(SpeechCommandsData(path=str(tmp_path)))
    (tmp_path / "testing_list.txt").touch()
    with pytest.raises(DataError, match=r"1 of 2 files .* bed/0a_nohash_7\.wav \(does not exist\)"):
        open_corpus(SpeechCommandsData(path=str(tmp_path)))
    with pytest.raises(DataError, match="has no split 'test'; it has dev, train"):
        open_corpus(SpeechCommandsData(path=str(tmp_path), split="test"))


def fluent(folder: Path, write: Write) -> None:
    (folder / "data").mkdir()
    for number, split in enumerate(("train", "valid")):
        path = f"wavs/speakers/s{number}/{split}.wav"
        write(path)
        (folder / f"data/{split}_data.csv").write_text(
            ",path,speakerId,transcription,action,object,location\n"
            f'0,{path},s{number},"Lights, on",switch on,lights,none\n'
        )


def test_fluent_speech_commands_join_their_slots_to_one_label(tmp_path: Path, write: Write) -> None:
    fluent(tmp_path, write)
    corpus = open_corpus(FluentSpeechCommandsData(path=str(tmp_path)))
    assert [(u.id, u.text, u.speaker, u.label, u.split) for u in corpus.utterances] == [
        (f"wavs/speakers/s{n}/{split}.wav", "Lights, on", f"s{n}", "switch on_lights_none", split)
        for n, split in enumerate(("train", "valid"))
    ]
    assert len(open_corpus(FluentSpeechCommandsData(path=str(tmp_path), split="valid"))) == 1


def test_fluent_speech_commands_that_are_not_whole_say_so(tmp_path: Path, write: Write) -> None:
    with pytest.raises(DataError, match=r"has no data/train_data\.csv; expected Fluent Speech Commands"):
        open_corpus(FluentSpeechCommandsData(path=str(tmp_path)))
    fluent(tmp_path, write)
    with pytest.raises(DataError, match="has no split 'test'; it has train, valid"):
        open_corpus(FluentSpeechCommandsData(path=str(tmp_path), split="test"))
    (tmp_path / "data/train_data.csv").write_text("path,speakerId,transcript\nx.wav,1,hello\n")
    with pytest.raises(DataError, match=r"no column 'transcription'; .* Did you mean 'transcript'\?"):
        open_corpus(FluentSpeechCommandsData(path=str(tmp_path)))
