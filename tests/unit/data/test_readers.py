"""What readers take of a folder or list, what they leave out and tell, and the ids they give; counted by hand."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from secateur.data import (
    CsvData,
    FolderData,
    JsonlData,
    LibriSpeechData,
    Skip,
    SlurpData,
    SpeechCommandsData,
    TsvData,
    open_corpus,
)
from secateur.data.decode import locate
from secateur.errors import DataError

Write = Callable[..., NDArray[np.float32]]  # the fixture in conftest.py


def manifest(folder: Path, *lines: object) -> str:
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_a_folder_is_read_whatever_the_format_and_what_cannot_be_read_is_counted(
    tmp_path: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("a.aiff", "b.AIF", "c.au", "d.snd", "e.w64", "f.caf", "g.rf64", "h.oga", "i.Wav", "j.flac", "k.voc")
    kinds = {".snd": "AU", ".oga": "OGG", ".aif": "AIFF"}
    for name in names:
        write(name, kind=kinds.get(Path(name).suffix.lower()))
    write("l.SPH", kind="NIST", subtype="PCM_16")
    for name in ("a.m4a", "b.M4A", "c.webm", "a.txt", "Thumbs.db", "desktop.ini", ".DS_Store", "LICENSE"):
        (tmp_path / name).write_bytes(b"no audio")
    with caplog.at_level(logging.INFO):
        corpus = open_corpus(FolderData(path=str(tmp_path)))
    assert [utterance.id for utterance in corpus.utterances] == [*names, "l.SPH"]
    assert "left out 2 .m4a, 1 .webm, 1 .txt, 1 LICENSE; convert audio that cannot be read here" in caplog.text
    assert next(record.levelname for record in caplog.records if "left out" in record.message) == "WARNING"


def test_hidden_audio_and_hidden_folders_are_counted(
    tmp_path: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.wav", ".b.wav", ".c.WAV", "d/.e.flac", ".f/g.wav"):
        write(name)
    (tmp_path / ".gitignore").touch()
    with caplog.at_level(logging.INFO):
        assert len(open_corpus(FolderData(path=str(tmp_path)))) == 1
    assert f"{tmp_path}: left out 2 hidden .wav, 1 hidden .flac, 1 hidden folders\n" in caplog.text
    assert next(record.levelname for record in caplog.records if "left out" in record.message) == "WARNING"
    (tmp_path / "a.wav").unlink()
    with pytest.raises(
        DataError, match=r"no audio that can be read .*, only hidden \.flac, hidden \.wav, hidden folders"
    ):
        open_corpus(FolderData(path=str(tmp_path)))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_files_whose_names_are_no_utf_8_are_read_and_can_be_written_to_a_record(
    tmp_path: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    write("a.wav")
    folder = tmp_path / os.fsdecode(b"yes\xe9")
    folder.mkdir()
    for name in ("validation_list.txt", "testing_list.txt"):
        (tmp_path / name).touch()
    (tmp_path / "a.wav").rename(folder / os.fsdecode(b"a\xff_nohash_0.wav"))
    for raw in (b"broken\xfe_nohash_1.wav", b"x.\xfe"):
        (folder / os.fsdecode(raw)).write_bytes(b"no audio")
    with caplog.at_level(logging.INFO):
        corpora = [open_corpus(kind(path=str(tmp_path), max_skipped=0.5)) for kind in (FolderData, SpeechCommandsData)]
    for corpus in corpora:
        assert len(corpus.audio(0)) == 16_000
        assert corpus.skipped[0].path == "yes\\udce9/broken\\udcfe_nohash_1.wav"
        assert corpus.utterances[0].id == "yes\\udce9/a\\udcff_nohash_0.wav"
    assert corpora[1].utterances[0].label == "yes\\udce9"
    assert "1 .\\udcfe" in caplog.text
    caplog.text.encode()
    path = str(folder / os.fsdecode(b"broken\xfe_nohash_1.wav"))
    with pytest.raises(DataError) as raised:
        locate(path)
    str(raised.value).encode()
    assert Skip(path, f"is {path}").path.isascii()


def test_what_is_no_audio_beside_audio_is_no_warning(
    tmp_path: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    write("a.wav")
    for name in ("a.txt", "b.txt", *(f"x.{ending}" for ending in "abcdefghij")):
        (tmp_path / name).touch()
    with caplog.at_level(logging.INFO):
        open_corpus(FolderData(path=str(tmp_path)))
    assert "left out 2 .txt, 1 .a, 1 .b" in caplog.text
    assert "and files of 1 other endings" in caplog.text
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


APPLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(4_000)


def test_the_files_that_a_mac_leaves_are_left_out_by_every_reader(
    tmp_path: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    """Each file has one beside it, so that they would be more than may be skipped."""
    write("LibriSpeech/dev/1/2/1-2-0000.flac")
    (tmp_path / "LibriSpeech/dev/1/2/1-2.trans.txt").write_text("1-2-0000 GO ON\n")
    write("commands/bed/0a_nohash_0.wav")
    for name in ("validation_list.txt", "testing_list.txt"):
        (tmp_path / "commands" / name).touch()
    write("slurp/slurp_real/a.flac")
    recordings = [{"file": "a.flac"}]
    line = {"sentence": "x", "sentence_annotation": "x", "scenario": "a", "action": "b", "recordings": recordings}
    (tmp_path / "slurp/train.jsonl").write_text(json.dumps(line))
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        (path.parent / f"._{path.name}").write_bytes(APPLE)
    audio = "commands/bed/0a_nohash_0.wav"
    sibling = "commands/bed/._0a_nohash_0.wav"
    jsonl = manifest(tmp_path, {"audio": sibling}, {"audio": audio})
    (tmp_path / "m.tsv").write_text(f".\n{sibling}\t100\n{audio}\t16000\n")
    (tmp_path / "m.csv").write_text(f"audio\n{sibling}\n{audio}\n")
    for config, reported in (
        (FolderData(path=str(tmp_path / "LibriSpeech")), True),
        (LibriSpeechData(path=str(tmp_path / "LibriSpeech")), True),
        (SpeechCommandsData(path=str(tmp_path / "commands")), True),
        (SlurpData(path=str(tmp_path / "slurp")), False),
        (JsonlData(path=jsonl), True),
        (TsvData(path=str(tmp_path / "m.tsv")), True),
        (CsvData(path=str(tmp_path / "m.csv")), True),
    ):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            corpus = open_corpus(config)
        assert len(corpus) == 1
        assert not corpus.skipped
        assert ("left out 1 `._` files of a Mac" in caplog.text) == reported


def test_a_folder_of_nothing_but_what_a_mac_leaves_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "._a.wav").write_bytes(APPLE)
    with pytest.raises(DataError, match="is empty: expected at least one audio file"):
        open_corpus(FolderData(path=str(tmp_path)))


def test_segments_have_ids_of_their_own_which_later_lines_do_not_change(tmp_path: Path, write: Write) -> None:
    write("a.wav", seconds=1300, rate=1_000)
    lines = [
        {"audio": "a.wav", "text": "x"},
        {"audio": "a.wav", "text": "y"},  # the file again, with another text
        {"audio": "a.wav", "offset": 1234.561, "duration": 1.0},
        {"audio": "a.wav", "offset": 1234.564, "duration": 1.0},  # 3 ms later
        {"audio": "a.wav", "offset": 3, "duration": 1.0, "speaker": "s"},
        {"audio": "a.wav", "offset": 3.0, "duration": 2.5, "speaker": "s"},
        {"audio": "a.wav", "offset": 3.0, "duration": 2.5, "speaker": "t"},
        {"audio": "a.wav", "offset": 3.0, "duration": 2.5, "speaker": "u"},
        {"audio": "a.wav", "duration": 1.0, "id": "a.wav#2"},  # an id that would have been made
    ]
    ids = [
        "a.wav", "a.wav#3", "a.wav@1234.561", "a.wav@1234.564", "a.wav@3", "a.wav@3+2.5", "a.wav@3#2", "a.wav@3#3",
        "a.wav#2",
    ]  # fmt: skip
    for count in (3, 6, 9):
        corpus = open_corpus(JsonlData(path=manifest(tmp_path, lines[-1], *lines[: count - 1]), scan=False))
        assert [utterance.id for utterance in corpus.utterances] == [ids[-1], *ids[: count - 1]]
        assert len({utterance.id for utterance in corpus.utterances}) == count


def test_lines_that_repeat_another_one_are_used_once_and_counted(
    tmp_path: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    write("a.wav")
    line = {"audio": "a.wav", "text": "x"}
    corpus = open_corpus(JsonlData(path=manifest(tmp_path, line, {**line, "text": "y"}, line, line)))
    assert [(utterance.id, utterance.text) for utterance in corpus.utterances] == [("a.wav", "x"), ("a.wav#2", "y")]
    assert "2 lines repeat another line in every field (first a.wav); each utterance is used once" in caplog.text
    (tmp_path / "m.tsv").write_text(".\na.wav\t16000\na.wav\t16000\n")
    assert len(open_corpus(TsvData(path=str(tmp_path / "m.tsv")))) == 1


def test_files_that_break_off_without_having_told_a_length_are_counted(
    tmp_path: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    write("a.opus", seconds=3)
    (tmp_path / "b.opus").write_bytes((tmp_path / "a.opus").read_bytes()[:-1000])
    with caplog.at_level(logging.WARNING):
        corpus = open_corpus(FolderData(path=str(tmp_path)))
    assert len(corpus) == 2
    assert "1 files are cut off before their end (first b.opus); the part that exists is used" in caplog.text


def test_librispeech_is_read_after_it_was_converted(tmp_path: Path, write: Write) -> None:
    for name in ("84-121-0000.wav", "84-121-0001.opus", "84-121-0001.flac"):
        write(f"dev-clean/84/121/{name}")
    transcripts = tmp_path / "dev-clean/84/121/84-121.trans.txt"
    transcripts.write_text("84-121-0000 GO ON\n84-121-0001 MISTER\n")
    corpus = open_corpus(LibriSpeechData(path=str(tmp_path)))
    assert [(Path(u.path).name, u.text) for u in corpus.utterances] == [
        ("84-121-0000.wav", "GO ON"),
        ("84-121-0001.flac", "MISTER"),
    ]


def test_speech_commands_are_read_after_they_were_converted(tmp_path: Path, write: Write) -> None:
    for name in ("bed/0a_nohash_0.flac", "bed/0a_nohash_1.opus", "cat/1b_nohash_0.WAV"):
        write(name)
    (tmp_path / "validation_list.txt").write_text("bed/0a_nohash_1.wav\n")
    (tmp_path / "testing_list.txt").write_text("cat/1b_nohash_0.wav\n")
    corpus = open_corpus(SpeechCommandsData(path=str(tmp_path)))
    assert [(u.id, u.label, u.split) for u in corpus.utterances] == [
        ("bed/0a_nohash_0.flac", "bed", "train"),
        ("bed/0a_nohash_1.opus", "bed", "dev"),
        ("cat/1b_nohash_0.WAV", "cat", "test"),
    ]
