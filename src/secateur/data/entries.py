"""Manifest entries, of an utterance each, and reading of manifest files."""

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

# macOS writes such a file with metadata beside each file on a foreign disk. It holds no audio, whatever its suffix.
MAC_PREFIX = "._"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """An utterance as described by a manifest.

    Attributes:
        id: Empty if the manifest has none; then `with_ids` makes one.
        display_path: The audio file as the manifest names it, for messages and records.
        path: The audio file, absolute or relative to the working folder.
        seconds: Length of the segment; None reaches to the end of the file.
        frames: Length of the file according to the manifest, in samples at the file's own rate.

    All other fields are those of `Utterance`. All fields but `path` go through `escape_surrogates`.
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
    """Return the entries of a manifest; raise a DataError if the list is empty."""
    if not entries:
        raise DataError(f"{path} is empty: expected at least one audio file.")
    return entries


def with_ids(entries: list[Entry], path: str) -> list[Entry]:
    """Return the entries with unique ids and without exact duplicates.

    An entry without an id gets the first of these that is not used before: the file name as in the manifest, with `@`
    and the offset where the offset is not 0; the same with `+` and the length in seconds; the same with `#` and a
    number. For example `a.wav`, `a.wav@2.5`, `a.wav@2.5+1.25`, `a.wav@2.5#2`.

    Raises:
        DataError: The manifest has the same id more than once.
    """
    id_counts = Counter(entry.id for entry in entries if entry.id)
    repeated_ids = [id for id, occurrences in id_counts.items() if occurrences > 1]
    if repeated_ids:
        raise DataError(
            f"{path} uses {len(repeated_ids)} ids more than once, the first {repeated_ids[0]!r}; give each utterance a "
            "unique `id`."
        )
    unique_entries = list(dict.fromkeys(entries))
    if len(unique_entries) < len(entries):
        repeated_entry = next(entry for entry, occurrences in Counter(entries).items() if occurrences > 1)
        message = "%s: %d lines repeat another line in every field (first %s); each utterance is used once"
        logger.warning(message, path, len(entries) - len(unique_entries), repeated_entry.display_path)
    used_ids = set(id_counts)
    result = []
    for entry in unique_entries:
        id = entry.id or next(id for id in _candidate_ids(entry) if id not in used_ids)
        used_ids.add(id)
        result.append(entry if entry.id else replace(entry, id=id))
    return result


def _candidate_ids(entry: Entry) -> Iterator[str]:
    """Yield candidates for the id of an entry, the shortest first."""
    id = f"{entry.display_path}@{_format_number(entry.offset)}" if entry.offset else entry.display_path
    yield id
    if entry.seconds is not None:
        yield f"{id}+{_format_number(entry.seconds)}"
    yield from (f"{id}#{number}" for number in count(2))


def _format_number(value: float) -> str:
    """Return the shortest of two texts of a number that is parsed back to the same number."""
    short_text = f"{value:g}"  # 6 digits
    return short_text if float(short_text) == value else repr(value)


def without_mac_files(entries: list[Entry], path: str) -> list[Entry]:
    """Return the entries without macOS `._` metadata files, and log the number of files left out."""
    audio_entries = [entry for entry in entries if not Path(entry.path).name.startswith(MAC_PREFIX)]
    if len(audio_entries) < len(entries):
        skipped_count = len(entries) - len(audio_entries)
        logger.warning("%s: left out %d `._` files of a Mac, which hold no audio", path, skipped_count)
    return audio_entries


def read_lines(path: str) -> Iterator[tuple[int, str]]:
    """Yield number, from 1, and text of each line of a text file that is not blank, without line ends."""
    file = require_path(path, folder=False)
    try:
        with file.open(encoding="utf-8-sig") as text:
            for number, line in enumerate(text, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except UnicodeDecodeError:
        raise not_text_error(path) from None


def not_text_error(path: str) -> DataError:
    """Return the error for a manifest that is not text."""
    return DataError(f"{path} is not UTF-8 text; expected a manifest. Is it an audio file?")


def expand_user(path: str) -> Path:
    """Return the path with `~` or `~user` expanded; unchanged if the user does not exist."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def require_path(path: str, *, folder: bool) -> Path:
    """Return the path of an existing folder or file, with `~` expanded.

    Args:
        path: The path.
        folder: Whether a folder is expected, instead of a file.

    Raises:
        DataError: There is no such path, or it is a file instead of a folder or vice versa.
    """
    expanded_path = expand_user(path)
    if folder and expanded_path.is_file():
        raise DataError(f"{path} is a file; expected a folder.")
    if not folder and expanded_path.is_dir():
        raise DataError(f"{path} is a folder; expected a manifest file.")
    if not expanded_path.exists():
        kind = "Folder" if folder else "File"
        parent_items = expanded_path.parent.iterdir() if expanded_path.parent.is_dir() else ()
        sibling_names = [sibling.name for sibling in parent_items if sibling.is_dir() == folder]
        raise DataError(f"{kind} {path} does not exist.{did_you_mean(expanded_path.name, sibling_names)}")
    return expanded_path


def require_choice(choice: str, choices: Iterable[str], *, path: str, kind: str) -> str:
    """Return `choice`; raise a DataError if `choices` does not have that value.

    Args:
        choice: The value to check.
        choices: All allowed values.
        path: The data set, for messages.
        kind: The kind of value, such as "subset", for messages.

    Raises:
        DataError: The value is not among the choices.
    """
    choices = sorted(choices)
    if choice not in choices:
        raise DataError(
            f"{path} has no {kind} {choice!r}; it has {', '.join(choices) or 'none'}.{did_you_mean(choice, choices)}"
        )
    return choice
