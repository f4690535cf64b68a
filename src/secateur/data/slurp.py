"""Reader of SLURP, with an utterance for each recording.

Bastianelli et al., 2020, "SLURP: A Spoken Language Understanding Resource Package", https://arxiv.org/abs/2011.13205.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from secateur.data.entries import (
    MAC_PREFIX,
    Entry,
    expand_user,
    read_lines,
    require_choice,
    require_entries,
    require_path,
)
from secateur.data.fields import parse_json_object
from secateur.data.sources import SlurpData
from secateur.errors import DataError

logger = logging.getLogger(__name__)

SPLITS = ("train", "train_synthetic", "devel", "test")
RECORDING_FOLDERS = ("slurp_real", "slurp_synth")
_REQUIRED_FIELDS = {"sentence": str, "sentence_annotation": str, "scenario": str, "action": str, "recordings": list}


def read_slurp(config: SlurpData) -> list[Entry]:
    """Return the recordings of SLURP in the order of the annotation files.

    * `text` is the field `sentence`, `id` the file of the recording, `split` the file of the annotations.
    * `label` is `scenario_action`, which SLURP's own evaluation scores as the intent. The field `intent` is not
      used: in over 1 % of the lines it holds only the action, which would make extra classes of a few sentences.
    * `tagged` is `sentence_annotation` in lower case, like all sentences, and like the entities in SLURP's evaluation;
      about 1 % of the annotations have capitals. Without brackets, the annotation may still differ from the sentence,
      since some entities are spelled differently.
    * `speaker` is the `usrid` of the recording in `metadata.json`, if that file exists.

    If a recording is listed several times, the first is used.
    """
    folder = _find_annotations(config)
    splits = [split for split in SPLITS if (folder / f"{split}.jsonl").is_file()]
    if config.split is not None:
        requested_splits = (config.split,) if isinstance(config.split, str) else config.split
        available_splits = [file.stem for file in folder.glob("*.jsonl") if not file.name.startswith(MAC_PREFIX)]
        splits = [require_choice(split, available_splits, path=str(folder), kind="split") for split in requested_splits]
    audio_folders = _find_audio_folders(config, folder)
    speakers = _read_speakers(folder)
    entries: dict[str, Entry] = {}
    unrecorded_count = duplicate_count = 0
    for split in splits:
        path = str(folder / f"{split}.jsonl")
        for number, line in read_lines(path):
            sentence = _parse_sentence(line, f"{path}, line {number}")
            unrecorded_count += not sentence["recordings"]
            for recording in sentence["recordings"]:
                file = recording["file"]
                duplicate_count += file in entries
                entries.setdefault(
                    file, _make_entry(sentence, file, _recording_path(file, audio_folders), speakers.get(file), split)
                )
    if unrecorded_count or duplicate_count:
        message = "%s: %d sentences have no recording, %d repeated recordings are left out"
        logger.warning(message, config.path, unrecorded_count, duplicate_count)
    return require_entries(list(entries.values()), config.path)


def _make_entry(sentence: dict[str, Any], file: str, path: str, speaker: str | None, split: str) -> Entry:
    return Entry(
        id=file,
        display_path=file,
        path=path,
        text=sentence["sentence"],
        tagged=sentence["sentence_annotation"].lower(),
        label=f"{sentence['scenario']}_{sentence['action']}",
        speaker=speaker,
        split=split,
    )


def _find_annotations(config: SlurpData) -> Path:
    """Return the folder with the annotations: `path`, or `dataset/slurp` below `path`."""
    root = require_path(config.path, folder=True)
    for folder in (root, root / "dataset" / "slurp"):
        if any(not file.name.startswith(MAC_PREFIX) for file in folder.glob("*.jsonl")):
            return folder
    expected = ", ".join(f"{split}.jsonl" for split in SPLITS)
    raise DataError(f"{config.path} has no annotations of SLURP; expected {expected}, here or in dataset/slurp.")


def _find_audio_folders(config: SlurpData, folder: Path) -> list[Path]:
    """Return the folders to search for recordings, in order."""
    if config.audio:
        named_folders = [require_path(name, folder=True) for name in config.audio]
        return [directory for name in named_folders for directory in (name, *_recording_subfolders(name))]
    root = expand_user(config.path)
    # In SLURP's repository, annotations are in dataset/slurp and recordings in audio.
    search_folders = [root, root / "audio", folder.absolute().parent.parent / "audio"]
    recording_folders = [directory for name in search_folders for directory in _recording_subfolders(name)]
    if not recording_folders:
        raise DataError(
            f"{config.path} has no folder {' or '.join(RECORDING_FOLDERS)}, and neither has audio; name the folders "
            "with SLURP's recordings in `audio`."
        )
    return recording_folders


def _recording_subfolders(folder: Path) -> Iterable[Path]:
    return [folder / name for name in RECORDING_FOLDERS if (folder / name).is_dir()]


def _recording_path(file: str, folders: list[Path]) -> str:
    """Return the path of a recording; if no folder has the file, a path in the first, to be reported as missing."""
    paths = [str(folder / file) for folder in folders]
    return next((path for path in paths if os.path.isfile(path)), paths[0])


def _parse_sentence(line: str, location: str) -> dict[str, Any]:
    """Parse the annotations of a sentence; raise a DataError if a required field is missing."""
    sentence = parse_json_object(line, location, expected="the fields of SLURP")
    missing = [name for name in _REQUIRED_FIELDS if not isinstance(sentence.get(name), _REQUIRED_FIELDS[name])]
    if missing:
        raise DataError(
            f"{location} has no `{missing[0]}`; expected a line of SLURP, with {', '.join(_REQUIRED_FIELDS)}."
        )
    if not all(isinstance(item, dict) and isinstance(item.get("file"), str) for item in sentence["recordings"]):
        raise DataError(f"{location} has a recording without a `file`.")
    return sentence


def _read_speakers(folder: Path) -> dict[str, str]:
    """Return the speaker of each recording from `metadata.json`; empty without that file."""
    path = folder / "metadata.json"
    if not path.is_file():
        logger.info("%s does not exist, so speakers are unknown", path)
        return {}
    try:
        # {"SLURP_ID": {"recordings": {"audio-1.flac": {"usrid": "F-44", …}, …}, …}, …}
        metadata = json.loads(path.read_text(encoding="utf-8"))
        recordings = [item for sentence in metadata.values() for item in sentence["recordings"].items()]
        return {file: recording_info["usrid"] for file, recording_info in recordings if recording_info.get("usrid")}
    except (ValueError, KeyError, AttributeError, TypeError):
        raise DataError(f"{path} is not SLURP's metadata; put it back as downloaded, or remove it.") from None
