"""Datasets of the library `datasets`, against a stand-in that refuses to decode and, where installed, the library."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secateur.data import DatasetsData, FolderData, open_corpus
from secateur.errors import DataError

Write = Callable[..., NDArray[np.float32]]  # the fixture in conftest.py


@dataclass(frozen=True)
class Audio:
    decode: bool = True


@dataclass(frozen=True)
class ClassLabel:
    names: list[str]


@dataclass(frozen=True)
class Table:
    """The part of `datasets.Dataset` that is used; audio that is not cast to `decode=False` must not be touched."""

    rows: list[dict[str, Any]]
    features: dict[str, Any] = field(default_factory=dict)
    split: str | None = None

    @property
    def column_names(self) -> list[str]:
        return list(self.features)

    def __len__(self) -> int:
        return len(self.rows) if self.features else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        for feature in self.features.values():
            assert not (isinstance(feature, Audio) and feature.decode), "this would need torchcodec"
        return {name: self.rows[index][name] for name in self.features}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def select_columns(self, names: list[str]) -> Table:
        return replace(self, features={name: self.features[name] for name in names})

    def with_format(self, kind: str) -> Table:
        assert kind == "numpy"
        return self

    def cast_column(self, name: str, feature: Audio) -> Table:
        assert not isinstance(self.features[name], Mapping), "this would encode every row, and need torchcodec"
        rows = [
            {**row, name: {"bytes": None, "path": v} if isinstance(v := row[name], str) else v} for row in self.rows
        ]
        if any(not isinstance(row[name], dict | None) for row in rows):
            raise TypeError("Couldn't cast")
        return Table(rows, {**self.features, name: feature})


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts the stand-in in the library's place, with these splits of a dataset `acme/speech`."""

    def offer(**splits: Table) -> None:
        def load_dataset(path: str, name: str | None, split: str | None) -> Table | Mapping[str, Table]:
            if path != "acme/speech":
                raise FileNotFoundError(f"Dataset '{path}' doesn't exist on the Hub.\nMore of it")
            if name == "files":
                missing = ImportError("To support encoding audio data, please install 'torchcodec'.")
                raise RuntimeError("An error occurred while generating the dataset") from missing
            if split is not None and split not in splits:
                raise ValueError(f'Unknown split "{split}".')
            return splits if split is None else splits[split]

        module = SimpleNamespace(
            load_dataset=load_dataset, load_from_disk=lambda path: splits["train"], Audio=Audio, ClassLabel=ClassLabel
        )
        monkeypatch.setitem(sys.modules, "datasets", module)

    return offer


def content(folder: Path, write: Write, name: str, **options: Any) -> bytes:
    write(name, **options)
    return (folder / name).read_bytes()


FEATURES: dict[str, Any] = {"audio": Audio(), "text": None, "intent": ClassLabel(["dim", "off"]), "who": None}


def test_rows_become_utterances_with_audio_from_bytes_or_paths(
    tmp_path: Path, write: Write, offer: Callable[..., None]
) -> None:
    names = ["a.wav", "b.flac", "c.mp3", "d.opus"]
    held_value = [
        content(tmp_path, write, f"wav/{name}", seconds=2, rate=48_000, seed=n) for n, name in enumerate(names)
    ]
    rows = [{"audio": {"bytes": data, "path": None}, "text": "hi", "intent": 1, "who": 7} for data in held_value[:3]]
    rows += [{"audio": {"bytes": None, "path": str(tmp_path / "wav/d.opus")}, "text": None, "intent": -1, "who": 8}]
    offer(train=Table(rows, FEATURES))
    columns = {"label": "intent", "speaker": "who"}
    for options in ({"scan": False, "memory_hours": 0.0}, {}):
        corpus = open_corpus(DatasetsData(path="acme/speech", columns=columns, **options))  # type: ignore[arg-type]
        assert corpus.name == "speech"
        assert [(u.id, u.text, u.label, u.speaker, u.split) for u in corpus.utterances] == [
            *((f"train/{n}", "hi", "off", "7", "train") for n in range(3)),
            ("train/3", None, None, "8", "train"),
        ]
        files = open_corpus(FolderData(path=str(tmp_path / "wav")))
        for index in range(4):
            np.testing.assert_array_equal(corpus.audio(index), files.audio(index))


def test_splits_are_all_read_or_one_and_rows_are_picked_by_class(
    tmp_path: Path, write: Write, offer: Callable[..., None]
) -> None:
    held_value = content(tmp_path, write, "a.wav")
    rows = [{"audio": {"bytes": held_value, "path": None}, "text": "x", "intent": n % 2, "who": n} for n in range(3)]
    other_value = {"audio": Audio(), "picture": Audio()}  # a column that must be left alone
    offer(train=Table(rows, FEATURES), test=Table([{**rows[0], "picture": None}], other_value))

    def ids(**options: Any) -> list[str]:
        return [u.id for u in open_corpus(DatasetsData(path="acme/speech", **options)).utterances]

    assert ids() == ["train/0", "train/1", "train/2", "test/0"]
    assert ids(split="test") == ["test/0"]
    assert ids(split="train", where={"intent": ("off",)}) == ["train/1"]
    assert ids(split="train", columns={"id": "who"}) == ["0", "1", "2"]
    with pytest.raises(DataError, match=r"`intent` must be of; it is dim, off\. Did you mean 'off'\?"):
        ids(split="train", where={"intent": ("of",)})


def test_rows_without_usable_audio_are_skipped_with_the_reason(
    tmp_path: Path, write: Write, offer: Callable[..., None]
) -> None:
    rows: list[dict[str, Any]] = [
        {"audio": {"bytes": content(tmp_path, write, "a.wav"), "path": "a.wav"}},
        {"audio": {"bytes": b"", "path": None}},
        {"audio": {"bytes": b"no audio at all", "path": None}},
        {"audio": {"bytes": None, "path": str(tmp_path / "gone.wav")}},
        {"audio": None},
        {"audio": {"bytes": None, "path": str(tmp_path)}},
    ]
    offer(train=Table(rows, {"audio": Audio()}))
    corpus = open_corpus(DatasetsData(path="acme/speech", max_skipped=0.9))
    assert [u.id for u in corpus.utterances] == ["train/0"]
    reasons = {skip.path: skip.reason for skip in corpus.skipped}
    assert reasons["train/1"] == "is empty"
    assert reasons["train/2"].startswith("cannot be decoded")
    assert reasons["train/3"] == f"names {tmp_path / 'gone.wav'}, which does not exist"
    assert reasons["train/4"] == "holds no audio"
    assert reasons["train/5"] == f"names {tmp_path}, which is a folder, not a file"


def arrays(kind: str = "float64") -> dict[str, Any]:
    """The features of rows of {array, sampling_rate}, the former of numbers of one kind."""
    array = SimpleNamespace(feature=[SimpleNamespace(dtype=kind)])
    return {"audio": {"array": array, "path": None, "sampling_rate": None}, "text": None}


@pytest.mark.parametrize("kind", ["float64", "float32", "int16", "int64", "int32"])
@pytest.mark.parametrize("shape", ["samples", "channels first", "channels last"])
def test_arrays_that_were_never_cast_to_audio_are_read(
    tmp_path: Path, write: Write, offer: Callable[..., None], kind: str, shape: str
) -> None:
    audio = write("a.wav", rate=8_000, subtype="FLOAT").astype("float64")
    scale = {"int16": 1 << 15, "int64": 1 << 15, "int32": 1 << 31}.get(kind, 1)
    array = (audio * scale).astype(kind)
    if shape != "samples":
        array = np.stack([array, array], axis=0 if shape == "channels first" else 1)
    offer(
        train=Table([{"audio": {"array": array, "path": "x.wav", "sampling_rate": 8_000}, "text": "a"}], arrays(kind))
    )
    corpus = open_corpus(DatasetsData(path="acme/speech"))
    assert [(u.id, u.text, u.samples) for u in corpus.utterances] == [("train/0", "a", 16_000)]
    files = open_corpus(FolderData(path=str(tmp_path)))
    np.testing.assert_allclose(corpus.audio(0), files.audio(0), atol=1e-4)


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "uint8", "uint16", "uint32"])
def test_integers_are_scaled_by_the_type_of_their_column_however_quiet_a_row_is(
    offer: Callable[..., None], kind: str
) -> None:
    limits = np.iinfo(kind)
    full = (limits.max - limits.min + 1) / 2
    center = limits.min + full
    wave = np.sin(np.arange(4_000) / 7)
    levels = (0.5, 8 / full)  # eight steps of it
    # The library widens them when it gives them.
    rows = [np.round(wave * level * full + center).astype("int64") for level in levels]
    sound = [{"audio": {"array": row, "path": None, "sampling_rate": 16_000}, "text": "a"} for row in rows]
    offer(train=Table(sound, arrays(kind)))
    if levels[1] < 1e-4:
        del sound[1]  # below what is silent at 16 bits
    corpus = open_corpus(DatasetsData(path="acme/speech", max_skipped=1))
    assert len(corpus) == len(sound)
    for index, level in enumerate(levels[: len(sound)]):
        np.testing.assert_allclose(corpus.audio(index), wave * level, atol=0.6 / full + 1e-7)


def test_integers_of_64_bits_are_scaled_by_all_rows_of_all_splits_or_refused(
    offer: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    wave = np.sin(np.arange(4_000) / 7)

    def scaled(*peaks: float, center: int = 0) -> list[float]:
        tables = {}
        for number, peak in enumerate(peaks):
            array = np.round(wave * peak).astype("int64") + center
            row = {"audio": {"array": array, "path": None, "sampling_rate": 16_000}, "text": "a"}
            tables[f"part{number}"] = Table([row], arrays("int64"))
        offer(**tables)
        corpus = open_corpus(DatasetsData(path="acme/speech"))
        return [float(np.abs(corpus.audio(index)).max()) for index in range(len(corpus))]

    with caplog.at_level("INFO"):
        assert scaled(30_000, 90) == pytest.approx([30_000 / (1 << 15), 90 / (1 << 15)], rel=0.01)
    assert "acme/speech: integers in 'audio' are read as samples of 16 bits" in caplog.text
    assert scaled(8_000_000, 900) == pytest.approx([8_000_000 / (1 << 23), 900 / (1 << 23)], rel=0.01)
    assert scaled(1 << 30, 1 << 20) == pytest.approx([0.5, 1 / (1 << 11)], rel=0.01)
    for peaks, center in (((90, 120), 0), ((90,), 128), ((1 << 40,), 0)):
        with pytest.raises(DataError, match=r"holds 64-bit integers from -?\d+ to \d+, from which the sample width"):
            scaled(*peaks, center=center)
    row = {"audio": {"array": wave, "path": None, "sampling_rate": 16_000}, "text": "a"}
    offer(train=Table([row], arrays("int16")), test=Table([row], arrays("float32")))
    with pytest.raises(DataError, match="holds float32 and int16 in different splits; cast them to one type"):
        open_corpus(DatasetsData(path="acme/speech"))


def test_arrays_that_cannot_be_used_are_skipped_with_the_reason(offer: Callable[..., None]) -> None:
    good = {"array": np.linspace(-0.5, 0.5, 16_000), "path": None, "sampling_rate": np.int64(16_000)}
    other_value: list[tuple[Any, str]] = [
        (None, "holds no audio"),
        ({**good, "array": None}, "holds no audio"),
        ({**good, "array": np.zeros(0)}, "is empty"),
        ({**good, "array": np.zeros(16_000)}, "is silent"),
        ({**good, "array": np.array(["a", "b"])}, "expected numbers of 1 or 2 axes"),
        ({**good, "array": np.zeros((2, 2, 16_000))}, "expected numbers of 1 or 2 axes, got float64 of 3 axes"),
        ({**good, "sampling_rate": None}, "needs a `sampling_rate` in Hz, expected an integer >= 1, got None"),
        ({**good, "sampling_rate": 0}, "needs a `sampling_rate`"),
        ({**good, "sampling_rate": float("nan")}, "needs a `sampling_rate`"),
        ({**good, "sampling_rate": "16000"}, "needs a `sampling_rate` in Hz, expected an integer >= 1, got '16000'"),
        ({**good, "sampling_rate": True}, "needs a `sampling_rate` in Hz"),
        ({**good, "array": np.ones((1500, 1500))}, "cannot be read as audio, shape (1500, 1500)"),
        ({**good, "array": np.arange(-9, 16_000)}, "holds int64, but the column has another type"),
    ]
    rows = [{"audio": audio, "text": "x"} for audio in (good, *(audio for audio, _ in other_value))]
    offer(train=Table(rows, arrays()))
    corpus = open_corpus(DatasetsData(path="acme/speech", max_skipped=1))
    assert [u.id for u in corpus.utterances] == ["train/0"]
    for skip, (_, reason) in zip(corpus.skipped, other_value, strict=True):
        assert skip.reason.startswith(reason)
    offer(train=Table([{"audio": {"array": [0.1]}}], {"audio": {"array": None}}))
    with pytest.raises(DataError, match="'audio' holds arrays without a `sampling_rate`, only array"):
        open_corpus(DatasetsData(path="acme/speech"))


def test_what_the_library_cannot_load_is_one_sentence(offer: Callable[..., None]) -> None:
    offer(train=Table([{"audio": 1, "text": "x"}], {"audio": None, "text": None}))
    with pytest.raises(DataError, match=r"'acme/speach' could not be loaded: .* doesn't exist on the Hub\.$"):
        open_corpus(DatasetsData(path="acme/speach"))
    with pytest.raises(DataError, match=r"could not be loaded: Unknown split \"dev\"\.$"):
        open_corpus(DatasetsData(path="acme/speech", split="dev"))
    with pytest.raises(DataError, match=r"not stored as Parquet or Arrow, .*torchcodec'\); name .* by kind `csv`"):
        open_corpus(DatasetsData(path="acme/speech", name="files"))
    with pytest.raises(DataError, match=r"expected audio, paths of files or rows of .* in the column 'audio'"):
        open_corpus(DatasetsData(path="acme/speech"))
    with pytest.raises(DataError, match=r"no column 'sound'; it has audio, text\."):
        open_corpus(DatasetsData(path="acme/speech", columns={"audio": "sound"}))
    with pytest.raises(DataError, match=r"columns\.audio: expected one column"):
        open_corpus(DatasetsData(path="acme/speech", columns={"audio": ("audio", "text")}))


def test_a_dataset_saved_to_disk_is_read_as_the_split_it_is(
    tmp_path: Path, write: Write, offer: Callable[..., None]
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/state.json").touch()
    rows = [{"audio": {"bytes": content(tmp_path, write, "a.wav"), "path": None}}]
    offer(train=Table(rows, {"audio": Audio()}, split="train"))
    assert open_corpus(DatasetsData(path=str(tmp_path / "set"))).utterances[0].id == "train/0"
    with pytest.raises(DataError, match=r"has no split 'dev'; it has train\."):
        open_corpus(DatasetsData(path=str(tmp_path / "set"), split="dev"))


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the package `datasets`.*`pip install 'secateur\[datasets\]'"):
        open_corpus(DatasetsData(path="acme/speech"))


@pytest.mark.parametrize("saved", [True, False])
def test_the_library_itself_gives_the_same_audio(tmp_path: Path, write: Write, saved: bool) -> None:
    datasets = pytest.importorskip("datasets")
    held_value = [content(tmp_path, write, f"wav/{name}.wav", seed=n) for n, name in enumerate("ab")]
    audio = [{"bytes": data, "path": f"{name}.wav"} for name, data in zip("ab", held_value, strict=True)]
    created = datasets.Dataset.from_dict({"audio": audio, "text": ["x", "y"], "label": [1, 0]})
    # Cast, not declared while building: that would encode, which needs torchcodec.
    created = created.cast_column("audio", datasets.Audio()).cast_column("label", datasets.ClassLabel(names=["p", "q"]))
    if saved:
        datasets.DatasetDict({"train": created}).save_to_disk(str(tmp_path / "set"))
    else:
        created.to_parquet(str(tmp_path / "set" / "train.parquet"))
    corpus = open_corpus(DatasetsData(path=str(tmp_path / "set"), split="train"))
    assert [(u.id, u.text, u.label) for u in corpus.utterances] == [("train/0", "x", "q"), ("train/1", "y", "p")]
    files = open_corpus(FolderData(path=str(tmp_path / "wav")))
    for index in range(2):
        np.testing.assert_array_equal(corpus.audio(index), files.audio(index))


def test_the_library_itself_gives_arrays_as_they_were_stored(tmp_path: Path, write: Write) -> None:
    datasets = pytest.importorskip("datasets")
    audio = write("wav/a.wav", subtype="FLOAT")
    integers, value = (audio * 32_768).astype(int), datasets.Value
    kept_units = [
        (audio.tolist(), None),
        (np.stack([audio, audio]).tolist(), None),
        (integers.tolist(), None),
        (integers.tolist(), datasets.Sequence(value("int16"))),
        ((integers + 32_768).tolist(), datasets.LargeList(value("uint16"))),
        ((integers[:, None] * 65_536).tolist(), datasets.Sequence(datasets.Sequence(value("int32")))),
    ]
    for number, (array, kind) in enumerate(kept_units):
        features = {"audio": {"array": kind, "sampling_rate": value("int32")}}
        created = datasets.Dataset.from_list(
            [{"audio": {"array": array, "sampling_rate": 16_000}}],
            features=datasets.Features(features) if kind is not None else None,
        )
        created.to_parquet(str(tmp_path / f"{number}" / "train.parquet"))
        corpus = open_corpus(DatasetsData(path=str(tmp_path / f"{number}")))
        np.testing.assert_allclose(corpus.audio(0), audio, atol=1e-4)
