"""Opening a corpus: what is read, what is skipped and what is refused, counted by hand."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from secateur.config import check
from secateur.data import FolderData, JsonlData, LibriSpeechData, TsvData, open_corpus
from secateur.data import open as opening
from secateur.errors import ConfigError, DataError

Write = Callable[..., NDArray[np.float32]]  # the fixture in conftest.py


def spoil(folder: Path, write: Write) -> None:
    """One good recording (1 s) and one of each kind of bad ones: seven."""
    write("good.wav", subtype="FLOAT")
    write("short.wav", seconds=0.05)
    write("silent.wav", np.zeros(16_000, dtype=np.float32))
    write("constant.wav", np.full(16_000, 0.25, dtype=np.float32))
    write("nan.wav", np.full(16_000, np.nan, dtype=np.float32), subtype="FLOAT")
    (folder / "empty.wav").touch()
    (folder / "text.mp3").write_text("this is no audio at all" * 40)
    write("broken.flac", seconds=4)
    damaged = folder / "broken.flac"
    damaged.write_bytes(damaged.read_bytes()[:20_000])


def manifest(folder: Path, *lines: object) -> str:
    path = folder / "m.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return str(path)


def test_bad_files_are_skipped_and_each_is_listed_with_its_reason(tmp_path: Path, write: Write) -> None:
    spoil(tmp_path, write)
    corpus = open_corpus(FolderData(path=str(tmp_path), max_skipped=0.9))
    assert [utterance.id for utterance in corpus.utterances] == ["good.wav"]
    reasons = {skip.path: skip.reason for skip in corpus.skipped}
    assert reasons.keys() == {
        "broken.flac", "constant.wav", "empty.wav", "nan.wav", "short.wav", "silent.wav", "text.mp3",
    }  # fmt: skip
    assert reasons["short.wav"] == "is 0.050 s long, shorter than min_seconds 0.1"
    assert reasons["silent.wav"] == "is silent"
    assert reasons["nan.wav"] == "holds NaN or infinite samples"
    assert reasons["empty.wav"] == "is empty"


def test_too_large_a_share_of_bad_files_is_an_error_that_names_the_first(tmp_path: Path, write: Write) -> None:
    spoil(tmp_path, write)
    expected = (
        r"7 of 8 files of .* \(87\.5%\) cannot be used, more than max_skipped allows \(10\.0%\): "
        r"broken\.flac \(.*\), constant\.wav \(is silent \(a constant\)\), empty\.wav \(is empty\) and 4 more"
    )
    with pytest.raises(DataError, match=expected):
        open_corpus(FolderData(path=str(tmp_path)))
    (tmp_path / "good.wav").unlink()
    with pytest.raises(DataError, match="None of the 7 files"):
        open_corpus(FolderData(path=str(tmp_path), max_skipped=1))


def test_without_a_scan_a_silent_file_is_found_when_it_is_read(tmp_path: Path, write: Write) -> None:
    write("silent.wav", np.zeros(16_000, dtype=np.float32))
    corpus = open_corpus(FolderData(path=str(tmp_path), scan=False))
    assert not corpus.skipped
    with pytest.raises(DataError, match=r"silent\.wav is silent\. Remove the file, or .*scan: true"):
        corpus.audio(0)


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("hours", [0.0, 1.0])
def test_audio_is_the_same_kept_in_memory_or_not(
    tmp_path: Path, write: Write, scan: bool, hours: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = write("a.wav", subtype="FLOAT")
    calls: list[str] = []
    decode = opening.decode

    def counted(path: str, **place: float | None) -> np.ndarray:
        calls.append(path)
        return decode(path, **place)  # type: ignore[arg-type]

    monkeypatch.setattr(opening, "decode", counted)
    corpus = open_corpus(FolderData(path=str(tmp_path), scan=scan, memory_hours=hours))
    for _ in range(3):
        np.testing.assert_array_equal(corpus.audio(0), expected)
    assert len(calls) == (1 if hours else 3 + scan)
    assert not corpus.audio(0).flags.writeable


def test_a_folder_is_read_in_depth_sorted_and_without_hidden_files(tmp_path: Path, write: Write) -> None:
    for name in ("b/x.WAV", "a/y.flac", "c.opus", ".hidden/z.wav", "a/._y.flac"):
        write(name)
    (tmp_path / "a" / "readme.txt").write_text("hello")
    (tmp_path / "loop").symlink_to(tmp_path)
    corpus = open_corpus(FolderData(path=str(tmp_path)))
    assert [utterance.id for utterance in corpus.utterances] == ["a/y.flac", "b/x.WAV", "c.opus"]
    assert corpus.seconds == pytest.approx(3)


def test_missing_and_empty_folders_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "speech").mkdir()
    with pytest.raises(DataError, match=r"Folder .*speach does not exist\. Did you mean 'speech'\?"):
        open_corpus(FolderData(path=str(tmp_path / "speach")))
    with pytest.raises(DataError, match=r"holds no audio .* no files at all"):
        open_corpus(FolderData(path=str(tmp_path / "speech")))
    (tmp_path / "speech" / "a.m4a").touch()
    with pytest.raises(DataError, match=r"holds no audio .* only \.m4a"):
        open_corpus(FolderData(path=str(tmp_path / "speech")))


def test_a_fairseq_tsv_is_read_and_wrong_claims_are_said(
    tmp_path: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    write("wav/a.wav", seconds=1)
    write("wav/b.wav", seconds=2, rate=8_000)
    (tmp_path / "train.tsv").write_text(f"{tmp_path}/wav\na.wav\t16000\nb.wav\t15000\n")
    corpus = open_corpus(TsvData(path=str(tmp_path / "train.tsv")))
    assert [(u.id, u.samples) for u in corpus.utterances] == [("a.wav", 16_000), ("b.wav", 32_000)]
    assert "1 files have another length than in the manifest (first b.wav)" in caplog.text
    slow = open_corpus(TsvData(path=str(tmp_path / "train.tsv")), sample_rate=8_000)
    assert [u.samples for u in slow.utterances] == [8_000, 16_000]  # what a file claims is at its own rate
    (tmp_path / "moved.tsv").write_text("/elsewhere\na.wav\t16000\n")
    assert len(open_corpus(TsvData(path=str(tmp_path / "moved.tsv"), root=str(tmp_path / "wav")))) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected the root folder of the paths"),
        ("a.wav\t16000\n", "line 1: expected the root folder of the paths"),
        ("/elsewhere\na.wav\t1\n", "root folder /elsewhere of .* does not exist; set `root`"),
        (".\n", "is empty"),
        (".\na.wav 16000\n", "line 2: expected a path, a tab and a number of samples, got 'a.wav 16000'"),
        (".\n\na.wav\tmany\n", "line 3"),
    ],
)
def test_malformed_tsvs_are_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.tsv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_corpus(TsvData(path=str(tmp_path / "m.tsv")))


def test_our_manifest_and_nemos_give_the_same_corpus(tmp_path: Path, write: Write) -> None:
    write("a/long.wav", seconds=3)
    lines = [
        {"id": "1", "audio": "a/long.wav", "offset": 0.5, "samples": 16_000, "text": "one", "speaker": 7},
        {
            "id": "2",
            "audio": "a/long.wav",
            "offset": 2,
            "text": "two",
            "label": "x",
            "split": "dev",
            "lang": "en",
        },
    ]
    actual = open_corpus(JsonlData(path=manifest(tmp_path, *lines)))
    assert [(u.id, u.samples, u.text, u.speaker) for u in actual.utterances] == [
        ("1", 16_000, "one", "7"),
        ("2", 16_000, "two", None),
    ]
    slow = open_corpus(JsonlData(path=manifest(tmp_path, *lines)), sample_rate=8_000)
    assert [u.samples for u in slow.utterances] == [8_000, 8_000]
    nemo = [
        {"audio_filepath": str(tmp_path / "a/long.wav"), "duration": 1.0, "offset": offset, "text": text}
        for offset, text in ((0.5, "one"), (2.0, "two"))
    ]
    reference = open_corpus(JsonlData(path=manifest(tmp_path, *nemo)))
    for index in range(2):
        np.testing.assert_array_equal(actual.audio(index), reference.audio(index))
    assert reference.utterances[0].id.endswith("a/long.wav@0.5")


def test_a_manifest_carries_texts_with_entities_and_empty_texts_are_counted(
    tmp_path: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [
        {"audio": "a.wav", "text": "wake me at five", "tagged": "wake me at [time : five]"},
        {"audio": "b.wav", "text": "", "tagged": None},
    ]
    for name in "ab":
        write(f"{name}.wav")
    with caplog.at_level(logging.WARNING):
        corpus = open_corpus(JsonlData(path=manifest(tmp_path, *lines)))
    assert [(u.text, u.tagged) for u in corpus.utterances] == [
        ("wake me at five", "wake me at [time : five]"),
        ("", None),
    ]
    assert "1 of 2 utterances have no text (first b.wav)" in caplog.text
    assert "1 of 2 utterances have no tagged" in caplog.text
    with pytest.raises(DataError, match=r"`tagged`: expected text or null, got \['x'\]"):
        open_corpus(JsonlData(path=manifest(tmp_path, {"audio": "a.wav", "tagged": ["x"]})))


def test_a_manifest_is_filtered_by_split_and_by_any_field(tmp_path: Path, write: Write) -> None:
    for name in "abc":
        write(f"{name}.wav")
    path = manifest(
        tmp_path,
        {"audio": "a.wav", "split": "train", "nc": True, "tasks": ["asr", "sid"]},
        {"audio": "b.wav", "split": "train", "nc": False, "tasks": ["kws"]},
        {"audio": "c.wav", "split": "dev", "nc": False, "tasks": ["asr"]},
    )

    def ids(**options: object) -> str:
        corpus = open_corpus(JsonlData(path=path, **options))  # type: ignore[arg-type]
        return "".join(utterance.id[0] for utterance in corpus.utterances)

    assert ids() == "abc"
    assert ids(split="train") == "ab"
    assert ids(where={"nc": ("false",)}) == "bc"
    assert ids(split="train", where={"tasks": ("asr", "st")}) == "a"
    with pytest.raises(DataError, match=r"`split` must be trian; it is dev, train\. Did you mean 'train'\?"):
        ids(split="trian")
    assert len(open_corpus(JsonlData(path=path)).split("dev")) == 1
    with pytest.raises(DataError, match=r"no split 'test'; it has dev, train"):
        open_corpus(JsonlData(path=path)).split("test")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "is empty: expected at least one audio file"),
        ([{"audio": "a.wav"}, "{oops"], "line 2 is not JSON: .* at column 2"),
        (["[1]"], "line 1: expected a JSON object with an `audio` field"),
        ([{"path": "a.wav", "text": "x"}], r"line 1 needs .* `audio` .*; its fields are path, text"),
        ([{"audio": "a.wav", "duration": "3"}], r"`duration`: expected a number >= 0 and < 1e\+15, got '3'"),
        ([{"audio": "a.wav", "offset": -1}], r"`offset`: expected a number >= 0 and < 1e\+15, got -1"),
        ([{"audio": "a.wav", "duration": 10**400}], r"`duration`: expected a number .* < 1e\+15, got 1000"),
        (['{"audio": "a.wav", "samples": ' + "1" * 5000 + "}"], "line 1 has a number with too many digits"),
        ([{"audio": "a.wav"}, "[" * 99_999], "line 2 has .* nested too deeply"),
        ([{"audio": "a.wav", "text": "\ud83d"}], "line 1 has half of a surrogate pair"),
        ([{"audio": "~nobody-of-this-name/a.wav"}], r"~nobody-of-this-name/a\.wav \(does not exist\)"),
        ([{"audio": "a.wav", "text": ["x"]}], r"`text`: expected text or null, got \['x'\]"),
        ([{"id": "x", "audio": "a.wav"}, {"id": "x", "audio": "b.wav"}], "uses 1 ids more than once, the first 'x'"),
        ([{"audio": "gone.wav"}], r"None of the 1 files .* gone\.wav \(does not exist\)"),
    ],
)
def test_malformed_manifests_are_one_sentence(tmp_path: Path, write: Write, lines: list[object], message: str) -> None:
    write("a.wav")
    with pytest.raises(DataError, match=message):
        open_corpus(JsonlData(path=manifest(tmp_path, *lines)))


def test_a_manifest_that_is_no_text_or_no_file_is_one_sentence(tmp_path: Path, write: Write) -> None:
    write("a.flac")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        open_corpus(JsonlData(path=str(tmp_path / "a.flac")))
    with pytest.raises(DataError, match="is a folder; expected a manifest file"):
        open_corpus(JsonlData(path=str(tmp_path)))
    with pytest.raises(DataError, match="is a file; expected a folder"):
        open_corpus(FolderData(path=str(tmp_path / "a.flac")))


@pytest.mark.parametrize("below", ["", "dev-clean", "dev-clean/84"])
def test_librispeech_is_read_from_any_folder_above_the_chapters(tmp_path: Path, write: Write, below: str) -> None:
    root = tmp_path / "LibriSpeech"
    for id in ("84-121-0000", "84-121-0001"):
        write(f"LibriSpeech/dev-clean/84/121/{id}.flac")
    (root / "dev-clean/84/121/84-121.trans.txt").write_text("84-121-0000 GO ON\n84-121-0001 MISTER\n")
    corpus = open_corpus(LibriSpeechData(path=str(root / below)))
    assert [(u.id, u.text, u.speaker, u.split) for u in corpus.utterances] == [
        ("84-121-0000", "GO ON", "84", "dev-clean"),
        ("84-121-0001", "MISTER", "84", "dev-clean"),
    ]


def test_librispeech_without_a_subset_or_a_recording_says_so(tmp_path: Path, write: Write) -> None:
    write("dev-clean/84/121/84-121-0000.flac")
    transcripts = tmp_path / "dev-clean/84/121/84-121.trans.txt"
    transcripts.write_text("84-121-0000 GO ON\n84-121-0001 MISTER\n")
    with pytest.raises(DataError, match=r"no subset 'dev-claen'; it has dev-clean\. Did you mean"):
        open_corpus(LibriSpeechData(path=str(tmp_path), split="dev-claen"))
    with pytest.raises(DataError, match=r"84-121-0001\.flac \(does not exist\)"):
        open_corpus(LibriSpeechData(path=str(tmp_path)))
    transcripts.write_text("84-121-0000\n")  # nothing that could be understood
    assert open_corpus(LibriSpeechData(path=str(tmp_path))).utterances[0].text is None
    transcripts.unlink()
    with pytest.raises(DataError, match=r"has no \*\.trans\.txt"):
        open_corpus(LibriSpeechData(path=str(tmp_path)))


def test_skipped_files_within_the_share_are_warned_of(
    tmp_path: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    for index in range(9):
        write(f"{index}.wav", seed=index)
    (tmp_path / "bad.wav").touch()
    with caplog.at_level(logging.WARNING):
        corpus = open_corpus(FolderData(path=str(tmp_path)))
    assert len(corpus) == 9
    assert "skipped 1 of 10 files: bad.wav (is empty)" in caplog.text


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_skipped: expected a number >= 0 and <= 1, got 10"):
        check(FolderData(path="x", max_skipped=10))
    with pytest.raises(ConfigError, match="path: expected the folder or manifest"):
        FolderData(path="")
    with pytest.raises(ConfigError, match="min_seconds: expected a number >= 0, got -1"):
        check(FolderData(path="x", min_seconds=-1))
    with pytest.raises(ConfigError, match="memory_hours: expected a number >= 0, got nan"):
        check(FolderData(path="x", memory_hours=float("nan")))
