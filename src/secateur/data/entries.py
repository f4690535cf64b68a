"""Entries: what a manifest says of each utterance, and the files that manifests are read from."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from secateur.data.corpus import printable
from secateur.errors import DataError, nearest

logger = logging.getLogger(__name__)

# What a Mac leaves beside each file on a disk that is not its own: no audio, whatever its ending.
MAC = "._"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What a manifest says of one utterance.

    Attributes:
        id: Empty where the manifest gives none; `with_ids` makes one.
        shown: The audio file as the manifest names it, for messages and records.
        path: The audio file, absolute or relative to the working folder.
        seconds: Length of the segment; None reaches to the end of the file.
        frames: The file's length as the manifest claims it, at the file's own rate.

    The others are those of `Utterance`. All but the path are as `printable` makes them.
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

    def __post_init__(self) -> None:
        for name in ("id", "shown", "text", "speaker", "label", "tagged", "split"):
            value = getattr(self, name)
            if value is not None and not value.isascii():
                object.__setattr__(self, name, printable(value))


def some(entries: list[Entry], path: str) -> list[Entry]:
    """The entries of a manifest, of which there must be any."""
    if not entries:
        raise DataError(f"{path} is empty: it names no audio.")
    return entries


def with_ids(entries: list[Entry], path: str) -> list[Entry]:
    """Return the entries, each with an id of its own; what is there twice in every field is there once.

    An id that the manifest does not give is the file's name as it stands there, behind it `@` and the offset, if there
    is one. Where an entry further up has this id, `+` and the length in seconds follow, or else `#` and a number.

    Raises:
        DataError: The manifest gives an id more than once.
    """
    given = Counter(entry.id for entry in entries if entry.id)
    repeated = [id for id, times in given.items() if times > 1]
    if repeated:
        raise DataError(
            f"{path} uses {len(repeated)} ids more than once, the first {repeated[0]!r}; give each utterance "
            "an `id` of its own."
        )
    unique = list(dict.fromkeys(entries))
    if len(unique) < len(entries):
        again = next(entry for entry, times in Counter(entries).items() if times > 1)
        message = "%s: %d lines repeat another one in every field (first %s); each utterance is used once"
        logger.warning(message, path, len(entries) - len(unique), again.shown)
    taken = set(given)
    result = []
    for entry in unique:
        id = entry.id or next(id for id in _ids(entry) if id not in taken)
        taken.add(id)
        result.append(entry if entry.id else replace(entry, id=id))
    return result


def _ids(entry: Entry) -> Iterator[str]:
    """Yield the ids that an entry may have, from the shortest on."""
    id = f"{entry.shown}@{_number(entry.offset)}" if entry.offset else entry.shown
    yield id
    if entry.seconds is not None:
        yield f"{id}+{_number(entry.seconds)}"
    yield from (f"{id}#{number}" for number in count(2))


def _number(value: float) -> str:
    """Return a number as text from which the same number is read."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def without_mac_files(entries: list[Entry], path: str) -> list[Entry]:
    """Return the entries without those of a Mac's `._` files, whose number is logged."""
    audio = [entry for entry in entries if not Path(entry.path).name.startswith(MAC)]
    if len(audio) < len(entries):
        logger.warning("%s: left out %d `._` files of a Mac, which hold no audio", path, len(entries) - len(audio))
    return audio


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
