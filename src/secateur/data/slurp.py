"""SLURP: a reader for its annotations, one utterance per recording.

Bastianelli et al., 2020, "SLURP: A Spoken Language Understanding Resource Package", https://arxiv.org/abs/2011.13205.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from secateur.data.config import SlurpData
from secateur.data.entries import MAC, Entry, existing, expanded, known, lines, some
from secateur.data.fields import json_object
from secateur.errors import DataError

logger = logging.getLogger(__name__)

SPLITS = ("train", "train_synthetic", "devel", "test")
AUDIO = ("slurp_real", "slurp_synth")
_NEEDED = {"sentence": str, "sentence_annotation": str, "scenario": str, "action": str, "recordings": list}


def read_slurp(config: SlurpData) -> list[Entry]:
    """The recordings of SLURP, in the order of its files.

    * `text` is the field `sentence`, `id` the recording's file, `split` the annotations' file.
    * `label` is `scenario_action`, which SLURP's own evaluation scores as the intent. The field `intent` is not
      used: in over 1 % of the lines it is the action alone, which makes classes of their own out of a few sentences.
    * `tagged` is `sentence_annotation` in lower case, as are all sentences, and as that evaluation compares
      entities; about 1 % of the annotations have capitals. Without its brackets it may still differ from the
      sentence: some entities are spelt in another way.
    * `speaker` is the recording's `usrid` in `metadata.json`, where that file is there.

    A recording that is named again is left out.
    """
    folder = _annotations(config)
    found = [split for split in SPLITS if (folder / f"{split}.jsonl").is_file()]
    if config.split is not None:
        asked = (config.split,) if isinstance(config.split, str) else config.split
        there = [file.stem for file in folder.glob("*.jsonl") if not file.name.startswith(MAC)]
        found = [known(split, there, path=str(folder), what="split") for split in asked]
    audio = _audio(config, folder)
    speakers = _speakers(folder)
    entries: dict[str, Entry] = {}
    unspoken = again = 0
    for split in found:
        path = str(folder / f"{split}.jsonl")
        for number, line in lines(path):
            sentence = _sentence(line, f"{path}, line {number}")
            unspoken += not sentence["recordings"]
            for recording in sentence["recordings"]:
                file = recording["file"]
                again += file in entries
                entries.setdefault(file, _entry(sentence, file, _place(file, audio), speakers.get(file), split))
    if unspoken or again:
        message = "%s: %d sentences have no recording, %d recordings are named again and left out"
        logger.warning(message, config.path, unspoken, again)
    return some(list(entries.values()), config.path)


def _entry(sentence: dict[str, Any], file: str, path: str, speaker: str | None, split: str) -> Entry:
    return Entry(
        id=file,
        shown=file,
        path=path,
        text=sentence["sentence"],
        tagged=sentence["sentence_annotation"].lower(),
        label=f"{sentence['scenario']}_{sentence['action']}",
        speaker=speaker,
        split=split,
    )


def _annotations(config: SlurpData) -> Path:
    """The folder with the annotations: `path`, or `dataset/slurp` in it."""
    root = existing(config.path, folder=True)
    for folder in (root, root / "dataset" / "slurp"):
        if any(not file.name.startswith(MAC) for file in folder.glob("*.jsonl")):
            return folder
    expected = ", ".join(f"{split}.jsonl" for split in SPLITS)
    raise DataError(f"{config.path} holds no annotations of SLURP; expected {expected}, in it or in dataset/slurp.")


def _audio(config: SlurpData, folder: Path) -> list[Path]:
    """The folders that recordings are looked for in, first to last."""
    if config.audio:
        named = [existing(name, folder=True) for name in config.audio]
        return [place for name in named for place in (name, *_below(name))]
    root = expanded(config.path)
    # Annotations lie in dataset/slurp of the repository, recordings in its audio.
    around = [root, root / "audio", folder.absolute().parent.parent / "audio"]
    found = [place for name in around for place in _below(name)]
    if not found:
        raise DataError(
            f"{config.path} has no folder {' or '.join(AUDIO)}, and none in audio; name the folders with SLURP's "
            "recordings in `audio`."
        )
    return found


def _below(folder: Path) -> Iterable[Path]:
    return [folder / name for name in AUDIO if (folder / name).is_dir()]


def _place(file: str, folders: list[Path]) -> str:
    """Where a recording is; in the first folder, where it will be missed, when it is nowhere."""
    paths = [str(folder / file) for folder in folders]
    return next((path for path in paths if os.path.isfile(path)), paths[0])


def _sentence(line: str, place: str) -> dict[str, Any]:
    """The annotations of one sentence, with the fields that are needed."""
    sentence = json_object(line, place, needed="the fields of SLURP")
    missing = [name for name in _NEEDED if not isinstance(sentence.get(name), _NEEDED[name])]
    if missing:
        raise DataError(f"{place} has no `{missing[0]}`; expected a line of SLURP, with {', '.join(_NEEDED)}.")
    if not all(isinstance(item, dict) and isinstance(item.get("file"), str) for item in sentence["recordings"]):
        raise DataError(f"{place} has a recording without a `file`.")
    return sentence


def _speakers(folder: Path) -> dict[str, str]:
    """Who made each recording, from `metadata.json`; empty without it."""
    path = folder / "metadata.json"
    if not path.is_file():
        logger.info("%s is not there, so speakers are not known", path)
        return {}
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        recordings = [item for sentence in metadata.values() for item in sentence["recordings"].items()]
        return {file: said["usrid"] for file, said in recordings if said.get("usrid")}
    except (ValueError, KeyError, AttributeError, TypeError):
        raise DataError(f"{path} is not SLURP's metadata; put it back as downloaded, or remove it.") from None
