"""Readers of Speech Commands and Fluent Speech Commands: short commands with a class label."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from secateur.data.entries import Entry, read_lines, require_choice, require_entries, require_path
from secateur.data.readers import AUDIO_SUFFIXES
from secateur.data.sources import CsvData, FluentSpeechCommandsData, SpeechCommandsData
from secateur.data.tables import read_csv
from secateur.errors import DataError

# A folder with minutes of noise without words, which is no class.
_NOISE_FOLDER = "_background_noise_"
_SPLIT_LISTS = {"dev": "validation_list.txt", "test": "testing_list.txt"}
_FLUENT_SPLITS = ("train", "valid", "test")


def read_speech_commands(config: SpeechCommandsData) -> list[Entry]:
    """Return the recordings of Speech Commands, sorted by file; the word is text and label.

    Warden, 2018, "Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition",
    https://arxiv.org/abs/1804.03209. The speaker is the part of the file name before `_nohash_`. Recordings may have
    been converted from WAV, which the lists name, to another format.
    """
    root = require_path(config.path, folder=True)
    missing = [name for name in _SPLIT_LISTS.values() if not (root / name).is_file()]
    if missing:
        raise DataError(
            f"{config.path} has no {missing[0]}; expected Speech Commands as downloaded: a folder per word, "
            f"{' and '.join(_SPLIT_LISTS.values())}."
        )
    names = (
        file.relative_to(root).as_posix() for file in sorted(root.glob("*/*")) if file.suffix.lower() in AUDIO_SUFFIXES
    )
    # "yes/0a7c2a8d_nohash_0" -> "yes/0a7c2a8d_nohash_0.flac", for lists that name the file as .wav.
    by_stem = {_stem(name): name for name in names if not name.startswith((_NOISE_FOLDER, "."))}
    splits = dict.fromkeys(by_stem.values(), "train")
    for split, list_name in _SPLIT_LISTS.items():
        listed_names = [name.strip() for _, name in read_lines(str(root / list_name))]
        splits |= {by_stem.get(_stem(name), name): split for name in listed_names}
    if config.split is not None:
        require_choice(config.split, set(splits.values()), path=config.path, kind="split")
    entries = [
        _word_entry(root, name, split) for name, split in sorted(splits.items()) if config.split in (None, split)
    ]
    return require_entries(entries, config.path)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _word_entry(root: Path, name: str, split: str) -> Entry:
    word, _, file = name.partition("/")
    speaker, nohash_mark, _ = file.partition("_nohash_")
    return Entry(
        id=name,
        display_path=name,
        path=str(root / name),
        text=word,
        label=word,
        speaker=speaker if nohash_mark else None,
        split=split,
    )


def read_fluent_speech_commands(config: FluentSpeechCommandsData) -> list[Entry]:
    """Return the commands of Fluent Speech Commands, in file order; the label is `action_object_location`.

    Lugosch et al., 2019, "Speech Model Pre-training for End-to-End Spoken Language Understanding",
    https://arxiv.org/abs/1904.03670. The three slots are scored as one intent, which is correct if all three are.
    """
    root = require_path(config.path, folder=True)
    available_splits = [split for split in _FLUENT_SPLITS if (root / "data" / f"{split}_data.csv").is_file()]
    if not available_splits:
        raise DataError(
            f"{config.path} has no data/train_data.csv; expected Fluent Speech Commands as downloaded: data/*.csv and "
            "wavs."
        )
    if config.split is not None:
        available_splits = [require_choice(config.split, available_splits, path=config.path, kind="split")]
    columns: dict[str, str | tuple[str, ...]] = {
        "audio": "path",
        "text": "transcription",
        "speaker": "speakerId",
        "label": ("action", "object", "location"),
    }
    entries = []
    for split in available_splits:
        table = CsvData(path=str(root / "data" / f"{split}_data.csv"), root=str(root), columns=columns)
        entries += [replace(entry, split=split) for entry in read_csv(table)]
    return entries
