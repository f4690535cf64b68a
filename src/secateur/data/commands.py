"""Speech Commands and Fluent Speech Commands: readers for short commands with a class each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from secateur.data.config import CsvData, FluentSpeechCommandsData, SpeechCommandsData
from secateur.data.entries import Entry, existing, known, lines, some
from secateur.data.readers import SUFFIXES
from secateur.data.tables import read_csv
from secateur.errors import DataError

# Minutes of noise without words, which are not utterances.
_NOISE = "_background_noise_"
_LISTS = {"dev": "validation_list.txt", "test": "testing_list.txt"}
_FLUENT = ("train", "valid", "test")


def read_speech_commands(config: SpeechCommandsData) -> list[Entry]:
    """The words of Speech Commands, sorted by file, each its own text and label.

    Warden, 2018, "Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition",
    https://arxiv.org/abs/1804.03209. The speaker is what stands before `_nohash_` in the file's name. Recordings may
    have been converted to another format than WAV, which the lists name.
    """
    root = existing(config.path, folder=True)
    missing = [name for name in _LISTS.values() if not (root / name).is_file()]
    if missing:
        raise DataError(
            f"{config.path} has no {missing[0]}; expected Speech Commands as downloaded: a folder per word, "
            f"{' and '.join(_LISTS.values())}."
        )
    names = (file.relative_to(root).as_posix() for file in sorted(root.glob("*/*")) if file.suffix.lower() in SUFFIXES)
    by_stem = {_stem(name): name for name in names if not name.startswith((_NOISE, "."))}
    splits = dict.fromkeys(by_stem.values(), "train")
    for split, list_name in _LISTS.items():
        listed = [name.strip() for _, name in lines(str(root / list_name))]
        splits |= {by_stem.get(_stem(name), name): split for name in listed}
    if config.split is not None:
        known(config.split, set(splits.values()), path=config.path, what="split")
    entries = [_word(root, name, split) for name, split in sorted(splits.items()) if config.split in (None, split)]
    return some(entries, config.path)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _word(root: Path, name: str, split: str) -> Entry:
    word, _, file = name.partition("/")
    speaker, mark, _ = file.partition("_nohash_")
    return Entry(
        id=name,
        shown=name,
        path=str(root / name),
        text=word,
        label=word,
        speaker=speaker if mark else None,
        split=split,
    )


def read_fluent_speech_commands(config: FluentSpeechCommandsData) -> list[Entry]:
    """The commands of Fluent Speech Commands, in the order of its files; the label is `action_object_location`.

    Lugosch et al., 2019, "Speech Model Pre-training for End-to-End Spoken Language Understanding",
    https://arxiv.org/abs/1904.03670. The three slots are scored as one intent, right only where all are.
    """
    root = existing(config.path, folder=True)
    there = [split for split in _FLUENT if (root / "data" / f"{split}_data.csv").is_file()]
    if not there:
        raise DataError(
            f"{config.path} holds no data/train_data.csv; expected Fluent Speech Commands as downloaded: data/*.csv "
            "and wavs."
        )
    if config.split is not None:
        there = [known(config.split, there, path=config.path, what="split")]
    columns: dict[str, str | tuple[str, ...]] = {
        "audio": "path",
        "text": "transcription",
        "speaker": "speakerId",
        "label": ("action", "object", "location"),
    }
    entries = []
    for split in there:
        table = CsvData(path=str(root / "data" / f"{split}_data.csv"), root=str(root), columns=columns)
        entries += [replace(entry, split=split) for entry in read_csv(table)]
    return entries
