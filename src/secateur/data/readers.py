"""Readers: from a manifest or folder to the list of what it names, before any audio is looked at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from secateur.data.config import FolderData, JsonlData, LibriSpeechData, TsvData
from secateur.data.entries import Entry, existing, expanded, known, lines, some
from secateur.data.fields import Wanted, entry, json_object
from secateur.errors import DataError

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")


def read_folder(config: FolderData) -> list[Entry]:
    """Every audio file below a folder, sorted by path; hidden files and folders are left out."""
    root = existing(config.path, folder=True)
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
    numbered = lines(config.path)
    number, first = next(numbered, (0, ""))
    if not number or "\t" in first:
        raise DataError(f"{config.path} must have the root folder of its paths on line 1; got {first!r}.")
    root = expanded(config.root) if config.root else expanded(config.path).parent / first.strip()
    if not root.is_dir():
        raise DataError(f"The root folder {root} of {config.path} is not there; set `root` to where it is.")
    entries = []
    for number, line in numbered:
        name, _, samples = line.rstrip().partition("\t")
        if not name or not samples.isdecimal():
            raise DataError(
                f"{config.path}, line {number}: got {line!r}, expected a path, a tab and a number of samples."
            )
        entries.append(Entry(id=name, shown=name, path=str(root / name), frames=int(samples)))
    return some(entries, config.path)


def read_jsonl(config: JsonlData) -> list[Entry]:
    """The lines of a JSONL manifest that `split` and `where` let through; `fields.entry` documents their fields."""
    folder = expanded(config.path).parent
    wanted = Wanted(config.where, config.split)
    entries = []
    for number, line in lines(config.path):
        place = f"{config.path}, line {number}"
        fields = json_object(line, place)
        if wanted(fields):
            entries.append(entry(fields, place, folder))
    return wanted.some(entries, config.path)


def read_librispeech(config: LibriSpeechData) -> list[Entry]:
    """The utterances of LibriSpeech below `path`, with text, speaker and subset, sorted by id."""
    root = existing(config.path, folder=True)
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
    if config.split is not None:
        known(config.split, subsets, path=config.path, what="subset")
    return some(entries, config.path)


def _transcripts(file: Path) -> dict[str, str | None]:
    """Texts by id; None where a line has an id alone, as of what nobody could understand."""
    split = (line.strip().partition(" ") for _, line in lines(str(file)))
    return {id: text.strip() or None for id, _, text in split}


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
