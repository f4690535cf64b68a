"""Entries: what a manifest says of each utterance, and the files that manifests are read from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from secateur.errors import DataError, nearest


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
    tagged: str | None = None
    split: str | None = None
    offset: float = 0.0
    seconds: float | None = None
    frames: int | None = None


def some(entries: list[Entry], path: str) -> list[Entry]:
    """The entries of a manifest, of which there must be any."""
    if not entries:
        raise DataError(f"{path} is empty: it names no audio.")
    return entries


def lines(path: str) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, numbered from 1, without their line ends."""
    file = existing(path, folder=False)
    try:
        with file.open(encoding="utf-8-sig") as text:
            for number, line in enumerate(text, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except UnicodeDecodeError:
        raise no_text(path) from None


def no_text(path: str) -> DataError:
    """The error for a manifest that is not text."""
    return DataError(f"{path} is not UTF-8 text; is it the manifest, not an audio file?")


def expanded(path: str) -> Path:
    """The path with `~` as the home folder of whom it names; as it is where there is nobody of that name."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def existing(path: str, *, folder: bool) -> Path:
    """The folder or file at `path`.

    Raises:
        DataError: It is not there, or the other of the two.
    """
    found = expanded(path)
    if folder and found.is_file():
        raise DataError(f"{path} is a file; a folder is needed here.")
    if not folder and found.is_dir():
        raise DataError(f"{path} is a folder; a manifest file is needed here.")
    if not found.exists():
        kind = "Folder" if folder else "File"
        beside = found.parent.iterdir() if found.parent.is_dir() else ()
        siblings = [sibling.name for sibling in beside if sibling.is_dir() == folder]
        raise DataError(f"{kind} {path} is not there.{nearest(found.name, siblings)}")
    return found


def known(word: str, there: Iterable[str], *, path: str, what: str) -> str:
    """`word`, which must be one of those that are there.

    Raises:
        DataError: It is not; `what` is the kind of thing, such as "subset".
    """
    there = sorted(there)
    if word not in there:
        raise DataError(f"{path} has no {what} {word!r}; it has {', '.join(there) or 'none'}.{nearest(word, there)}")
    return word
