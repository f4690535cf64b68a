"""Entries: what a manifest says of each utterance, and the files that manifests are read from."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from secateur.data.corpus import escape_surrogates
from secateur.errors import DataError, did_you_mean

logger = logging.getLogger(__name__)

# What a Mac leaves beside each file on a disk that is not its own: no audio, whatever its ending.
MAC_PREFIX = "._"


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
    display_path: str
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
        for name in ("id", "display_path", "text", "speaker", "label", "tagged", "split"):
            value = getattr(self, name)
            if value is not None and not value.isascii():
                object.__setattr__(self, name, escape_surrogates(value))


def require_entries(entries: list[Entry], path: str) -> list[Entry]:
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
    id_counts = Counter(entry.id for entry in entries if entry.id)
    repeated_ids = [id for id, occurrences in id_counts.items() if occurrences > 1]
    if repeated_ids:
        raise DataError(
            f"{path} uses {len(repeated_ids)} ids more than once, the first {repeated_ids[0]!r}; give each utterance "
            "an `id` of its own."
        )
    unique_entries = list(dict.fromkeys(entries))
    if len(unique_entries) < len(entries):
        repeated_entry = next(entry for entry, occurrences in Counter(entries).items() if occurrences > 1)
        message = "%s: %d lines repeat another one in every field (first %s); each utterance is used once"
        logger.warning(message, path, len(entries) - len(unique_entries), repeated_entry.display_path)
    used_ids = set(id_counts)
    result = []
    for entry in unique_entries:
        id = entry.id or next(id for id in _candidate_ids(entry) if id not in used_ids)
        used_ids.add(id)
        result.append(entry if entry.id else replace(entry, id=id))
    return result


def _candidate_ids(entry: Entry) -> Iterator[str]:
    """Yield the ids that an entry may have, from the shortest on."""
    id = f"{entry.display_path}@{_format_number(entry.offset)}" if entry.offset else entry.display_path
    yield id
    if entry.seconds is not None:
        yield f"{id}+{_format_number(entry.seconds)}"
    yield from (f"{id}#{number}" for number in count(2))


def _format_number(value: float) -> str:
    """Return a number as text from which the same number is read."""
    short_text = f"{value:g}"
    return short_text if float(short_text) == value else repr(value)


def without_mac_files(entries: list[Entry], path: str) -> list[Entry]:
    """Return the entries without those of a Mac's `._` files, whose number is logged."""
    audio = [entry for entry in entries if not Path(entry.path).name.startswith(MAC_PREFIX)]
    if len(audio) < len(entries):
        logger.warning("%s: left out %d `._` files of a Mac, which hold no audio", path, len(entries) - len(audio))
    return audio


def read_lines(path: str) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, numbered from 1, without their line ends."""
    file = require_path(path, folder=False)
    try:
        with file.open(encoding="utf-8-sig") as text:
            for number, line in enumerate(text, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except UnicodeDecodeError:
        raise not_text_error(path) from None


def not_text_error(path: str) -> DataError:
    """The error for a manifest that is not text."""
    return DataError(f"{path} is not UTF-8 text; is it the manifest, not an audio file?")


def expand_user(path: str) -> Path:
    """The path with `~` as the home folder of whom it names; as it is where there is nobody of that name."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def require_path(path: str, *, folder: bool) -> Path:
    """The folder or file at `path`.

    Raises:
        DataError: It is not there, or the other of the two.
    """
    expanded_path = expand_user(path)
    if folder and expanded_path.is_file():
        raise DataError(f"{path} is a file; a folder is needed here.")
    if not folder and expanded_path.is_dir():
        raise DataError(f"{path} is a folder; a manifest file is needed here.")
    if not expanded_path.exists():
        kind = "Folder" if folder else "File"
        parent_items = expanded_path.parent.iterdir() if expanded_path.parent.is_dir() else ()
        sibling_names = [sibling.name for sibling in parent_items if sibling.is_dir() == folder]
        raise DataError(f"{kind} {path} is not there.{did_you_mean(expanded_path.name, sibling_names)}")
    return expanded_path


def require_choice(choice: str, choices: Iterable[str], *, path: str, kind: str) -> str:
    """`word`, which must be one of those that are there.

    Raises:
        DataError: It is not; `what` is the kind of thing, such as "subset".
    """
    choices = sorted(choices)
    if choice not in choices:
        raise DataError(
            f"{path} has no {kind} {choice!r}; it has {', '.join(choices) or 'none'}.{did_you_mean(choice, choices)}"
        )
    return choice
