"""Fields: from the named values of a line or row to an entry, and which rows are let through."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.data.corpus import SAMPLE_RATE
from secateur.data.entries import Entry, expanded, some
from secateur.errors import DataError, nearest

# Of NeMo's manifests.
ALIASES = {"audio": "audio_filepath"}
NUMBERS = ("offset", "duration", "samples")
# No recording has so many seconds or samples, and products with a rate stay finite below it.
LARGEST = 1e15


def entry(fields: Mapping[str, Any], place: str, folder: Path) -> Entry:
    """The entry that the fields of one line or row make.

    Fields; those of NeMo's manifests in parentheses, any others are ignored:

    * `audio` (`audio_filepath`): the file, relative to `folder` or absolute; the only one needed.
    * `id`: unique; by default made of the file, its offset and, where these repeat, its length (`entries.with_ids`).
    * `offset`, `duration`: where in the file the utterance starts and how long it is, in seconds;
      by default the whole file.
    * `samples`: its length at 16 kHz, whatever the rate of file and model; goes before `duration`, which is often
      rounded.
    * `text`, `tagged`, `speaker`, `label`, `split`: text or null (numbers are taken as text); `tagged` is the
      text with its entities in brackets, `[type : words]`.

    Args:
        fields: By name.
        place: Where they stand, for messages.
        folder: What audio paths are relative to.

    Raises:
        DataError: There is no audio, or a field is of the wrong type.
    """
    audio = fields.get("audio", fields.get(ALIASES["audio"]))
    if not isinstance(audio, str) or not audio:
        have = ", ".join(fields) or "none"
        raise DataError(
            f"{place} needs the audio file's path in `audio` (or NeMo's `audio_filepath`); its fields are {have}."
        )
    offset = _number(fields, "offset", place) or 0.0
    samples, seconds = _number(fields, "samples", place), _number(fields, "duration", place)
    return Entry(
        id=_text(fields, "id", place) or "",
        shown=audio,
        path=str(folder / expanded(audio)),
        text=_text(fields, "text", place),
        tagged=_text(fields, "tagged", place),
        speaker=_text(fields, "speaker", place),
        label=_text(fields, "label", place),
        split=_text(fields, "split", place),
        offset=offset,
        seconds=seconds if samples is None else samples / SAMPLE_RATE,
    )


class Wanted:
    """Which rows `split` and `where` let through, and what those said that they did not."""

    def __init__(self, where: Mapping[str, tuple[str, ...]], split: str | None = None) -> None:
        self._wanted = {name: set(values) for name, values in where.items()}
        if split is not None:
            self._wanted["split"] = self._wanted.get("split", {split}) & {split}
        self._seen: dict[str, set[str]] = {name: set() for name in self._wanted}

    def __call__(self, fields: Mapping[str, Any]) -> bool:
        """Whether a row is let through."""
        values = {name: _values(fields.get(name)) for name in self._wanted}
        for name, own in values.items():
            self._seen[name] |= own
        return all(values[name] & allowed for name, allowed in self._wanted.items())

    def some(self, entries: list[Entry], path: str) -> list[Entry]:
        """The entries that were let through, of which there must be any.

        Raises:
            DataError: There are none; says what was asked for and what is there.
        """
        if not entries and any(self._seen.values()):
            raise DataError(f"No line of {path} is let through. {self._unmet()}")
        return some(entries, path)

    def _unmet(self) -> str:
        parts = []
        for name, values in self._wanted.items():
            there = sorted(self._seen[name])
            hints = "".join(nearest(value, there) for value in sorted(values - self._seen[name]))
            shown = ", ".join(there[:10]) + (", …" if len(there) > 10 else "")
            parts.append(f"`{name}` must be {' or '.join(sorted(values)) or 'nothing'}; it is {shown}.{hints}")
        return " ".join(parts)


def json_object(line: str, place: str, *, needed: str = "an `audio` field") -> dict[str, Any]:
    """The JSON object on a line; `needed` is what it must have, for the message when it is something else."""
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{place} is not JSON: {error.msg} at column {error.colno}.") from None
    except (ValueError, RecursionError):
        raise DataError(f"{place} holds a number of thousands of digits, or brackets as deep.") from None
    if not isinstance(fields, dict):
        raise DataError(f"{place} must be a JSON object with {needed}; got {line[:40]!r}.")
    if "\\ud" in line.lower():
        try:
            json.dumps(fields, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise DataError(f"{place} holds half of a character, such as '\\ud83d' without its other half.") from None
    return fields


def _values(value: Any) -> set[str]:
    """A field's values as text, as JSON writes them (`true`, `null`); one for each item of a list."""
    items = value if isinstance(value, list) else [value]
    return {item if isinstance(item, str) else json.dumps(item, default=str) for item in items}


def _number(fields: Mapping[str, Any], name: str, place: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < LARGEST:
        raise DataError(f"{place}: `{name}` must be a number, 0 or more and below {LARGEST:g}; got {value!r}.")
    return float(value)


def _text(fields: Mapping[str, Any], name: str, place: str) -> str | None:
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{place}: `{name}` must be text or null; got {value!r}.")
    return str(value)
