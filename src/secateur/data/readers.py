"""Readers: from a manifest or folder to the list of what it names, before any audio is looked at."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.data.config import FolderData, JsonlData, LibriSpeechData, TsvData
from secateur.data.corpus import SAMPLE_RATE
from secateur.errors import DataError, nearest

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What a manifest says of one utterance.

    Attributes:
        shown: The audio file as the manifest names it, for messages and records.
        path: The audio file, absolute or relative to the working folder.
        seconds: Length of the segment; None reaches to the end of the file.
        frames: The file's length as the manifest claims it, at the file's own rate.

    The others are those of `Utterance`.
    """

    id: str
    shown: str
    path: str
    text: str | None = None
    speaker: str | None = None
    label: str | None = None
    split: str | None = None
    offset: float = 0.0
    seconds: float | None = None
    frames: int | None = None


def read_folder(config: FolderData) -> list[Entry]:
    """Every audio file below a folder, sorted by path; hidden files and folders are left out."""
    root = _existing(config.path, folder=True)
    found, others = [], set()
    for path in _walk(root):
        if path.suffix.lower() in SUFFIXES:
            found.append(path.relative_to(root).as_posix())
        else:
            others.add(path.suffix.lower() or path.name)
    if not found:
        there = f"only {', '.join(sorted(others)[:5])}" if others else "no files at all"
        raise DataError(f"Folder {config.path} holds no audio ({', '.join(SUFFIXES)}), {there}.")
    return [Entry(id=name, shown=name, path=str(root / name)) for name in sorted(found)]


def read_tsv(config: TsvData) -> list[Entry]:
    """The files of a fairseq TSV, each with the length that it claims."""
    lines = _lines(config.path)
    number, first = next(lines, (0, ""))
    if not number or "\t" in first:
        raise DataError(f"{config.path} must have the root folder of its paths on line 1; got {first!r}.")
    root = Path(config.root).expanduser() if config.root else Path(config.path).parent / first.strip()
    if not root.is_dir():
        raise DataError(f"The root folder {root} of {config.path} is not there; set `root` to where it is.")
    entries = []
    for number, line in lines:
        name, _, samples = line.rstrip().partition("\t")
        if not name or not samples.isdecimal():
            raise DataError(
                f"{config.path}, line {number}: got {line!r}, expected a path, a tab and a number of samples."
            )
        entries.append(Entry(id=name, shown=name, path=str(root / name), frames=int(samples)))
    return _some(entries, config.path)


def read_jsonl(config: JsonlData) -> list[Entry]:
    """The lines of a JSONL manifest that `split` and `where` let through.

    Fields of a line; those of NeMo's manifests in parentheses, any others are ignored:

    * `audio` (`audio_filepath`): the file, relative to the manifest or absolute; the only one needed.
    * `id`: unique; by default the file, with its offset where there is one.
    * `offset`, `duration`: where in the file the utterance starts and how long it is, in seconds;
      by default the whole file.
    * `samples`: its length at 16 kHz; goes before `duration`, which is often rounded.
    * `text`, `speaker`, `label`, `split`: text or null (numbers are taken as text).
    """
    folder = Path(config.path).expanduser().parent
    entries: list[Entry] = []
    seen: dict[str, set[str]] = {name: set() for name in config.where}
    if config.split is not None:
        seen["split"] = set()
    wanted = {name: set(values) for name, values in config.where.items()}
    if config.split is not None:
        wanted["split"] = wanted.get("split", {config.split}) & {config.split}
    for number, line in _lines(config.path):
        place = f"{config.path}, line {number}"
        fields = _object(line, place)
        values = {name: _values(fields.get(name)) for name in wanted}
        for name in wanted:
            seen[name] |= values[name]
        if all(values[name] & allowed for name, allowed in wanted.items()):
            entries.append(_entry(fields, place, folder))
    if not entries and any(seen.values()):
        raise DataError(f"No line of {config.path} is let through. " + _unmet(wanted, seen))
    return _some(entries, config.path)


def read_librispeech(config: LibriSpeechData) -> list[Entry]:
    """The utterances of LibriSpeech below `path`, with text, speaker and subset, sorted by id."""
    root = _existing(config.path, folder=True)
    files = sorted(root.rglob("*.trans.txt"))
    if not files:
        raise DataError(
            f"{config.path} holds no *.trans.txt; expected LibriSpeech as downloaded: "
            "subset/speaker/chapter/*.flac and *.trans.txt."
        )
    entries, subsets = [], set()
    for file in files:
        chapter = file.absolute().parent
        speaker, subset = chapter.parent.name, chapter.parent.parent.name
        subsets.add(subset)
        if config.split not in (None, subset):
            continue
        texts = {flac.stem: None for flac in chapter.glob("*.flac")} | _transcripts(file)
        for id, text in sorted(texts.items()):
            path = file.parent / f"{id}.flac"
            entries.append(
                Entry(
                    id=id,
                    shown=path.relative_to(root).as_posix(),
                    path=str(path),
                    text=text,
                    speaker=speaker,
                    split=subset,
                )
            )
    if not entries and config.split is not None and config.split not in subsets:
        raise DataError(
            f"{config.path} has no subset {config.split!r}; it has {', '.join(sorted(subsets))}."
            + nearest(config.split, subsets)
        )
    return _some(entries, config.path)


def _transcripts(file: Path) -> dict[str, str | None]:
    texts: dict[str, str | None] = {}
    for number, line in _lines(str(file)):
        id, _, text = line.strip().partition(" ")
        if not text.strip():
            raise DataError(f"{file}, line {number}: got {line!r}, expected an id, a space and the text.")
        texts[id] = text.strip()
    return texts


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{place} is not JSON: {error.msg} at column {error.colno}.") from None
    if not isinstance(fields, dict):
        raise DataError(f"{place} must be a JSON object with an `audio` field; got {line[:40]!r}.")
    return fields


def _entry(fields: Mapping[str, Any], place: str, folder: Path) -> Entry:
    audio = fields.get("audio", fields.get("audio_filepath"))
    if not isinstance(audio, str) or not audio:
        have = ", ".join(fields) or "none"
        raise DataError(
            f"{place} needs the audio file's path in `audio` (or NeMo's `audio_filepath`); its fields are {have}."
        )
    offset = _number(fields, "offset", place) or 0.0
    samples, seconds = _number(fields, "samples", place), _number(fields, "duration", place)
    return Entry(
        id=_text(fields, "id", place) or (f"{audio}@{offset:g}" if offset else audio),
        shown=audio,
        path=str(folder / Path(audio).expanduser()),
        text=_text(fields, "text", place),
        speaker=_text(fields, "speaker", place),
        label=_text(fields, "label", place),
        split=_text(fields, "split", place),
        offset=offset,
        seconds=seconds if samples is None else samples / SAMPLE_RATE,
    )


def _values(value: Any) -> set[str]:
    """A field's values as text, as JSON writes them (`true`, `null`); one for each item of a list."""
    items = value if isinstance(value, list) else [value]
    return {item if isinstance(item, str) else json.dumps(item) for item in items}


def _number(fields: Mapping[str, Any], name: str, place: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise DataError(f"{place}: `{name}` must be a number, 0 or more; got {value!r}.")
    return float(value)


def _text(fields: Mapping[str, Any], name: str, place: str) -> str | None:
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{place}: `{name}` must be text or null; got {value!r}.")
    return str(value)


def _unmet(wanted: Mapping[str, set[str]], seen: Mapping[str, set[str]]) -> str:
    parts = []
    for name, values in wanted.items():
        there = sorted(seen[name])
        hints = "".join(nearest(value, there) for value in sorted(values - seen[name]))
        shown = ", ".join(there[:10]) + (", …" if len(there) > 10 else "")
        parts.append(f"`{name}` must be {' or '.join(sorted(values)) or 'nothing'}; it is {shown}.{hints}")
    return " ".join(parts)


def _some(entries: list[Entry], path: str) -> list[Entry]:
    if not entries:
        raise DataError(f"{path} is empty: it names no audio.")
    return entries


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, numbered from 1, without their line ends."""
    file = _existing(path, folder=False)
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; is it the manifest, not an audio file?") from None


def _existing(path: str, *, folder: bool) -> Path:
    found = Path(path).expanduser()
    if folder and found.is_file():
        raise DataError(f"{path} is a file; a folder is needed here.")
    if not folder and found.is_dir():
        raise DataError(f"{path} is a folder; a manifest file is needed here.")
    if not found.exists():
        kind = "Folder" if folder else "File"
        raise DataError(f"{kind} {path} is not there.{_neighbour(found)}")
    return found


def _neighbour(path: Path) -> str:
    siblings = [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
    return nearest(path.name, siblings)


def _walk(root: Path) -> Iterator[Path]:
    """All files below `root`; linked folders are followed, each real folder once."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(folder) / name
