"""Fields: from the named values of a line or row to an entry, and which rows are let through."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.data.corpus import SAMPLE_RATE
from secateur.data.entries import Entry, expand_user, require_entries
from secateur.errors import DataError, did_you_mean

# Of NeMo's manifests.
FIELD_ALIASES = {"audio": "audio_filepath"}
NUMBER_FIELDS = ("offset", "duration", "samples")
# No recording has so many seconds or samples, and products with a rate stay finite below it.
MAX_NUMBER = 1e15


def make_entry(fields: Mapping[str, Any], location: str, folder: Path) -> Entry:
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
    audio = fields.get("audio", fields.get(FIELD_ALIASES["audio"]))
    if not isinstance(audio, str) or not audio:
        field_names = ", ".join(fields) or "none"
        raise DataError(
            f"{location} needs the audio file's path in `audio` (or NeMo's `audio_filepath`); its fields are {field_names}."
        )
    offset = _number_field(fields, "offset", location) or 0.0
    samples, seconds = _number_field(fields, "samples", location), _number_field(fields, "duration", location)
    return Entry(
        id=_text_field(fields, "id", location) or "",
        display_path=audio,
        path=str(folder / expand_user(audio)),
        text=_text_field(fields, "text", location),
        tagged=_text_field(fields, "tagged", location),
        speaker=_text_field(fields, "speaker", location),
        label=_text_field(fields, "label", location),
        split=_text_field(fields, "split", location),
        offset=offset,
        seconds=seconds if samples is None else samples / SAMPLE_RATE,
    )


class RowFilter:
    """Which rows `split` and `where` let through, and what those said that they did not."""

    def __init__(self, where: Mapping[str, tuple[str, ...]], split: str | None = None) -> None:
        self._allowed_values = {name: set(values) for name, values in where.items()}
        if split is not None:
            self._allowed_values["split"] = self._allowed_values.get("split", {split}) & {split}
        self._seen_values: dict[str, set[str]] = {name: set() for name in self._allowed_values}

    def __call__(self, fields: Mapping[str, Any]) -> bool:
        """Whether a row is let through."""
        values = {name: _value_texts(fields.get(name)) for name in self._allowed_values}
        for name, row_values in values.items():
            self._seen_values[name] |= row_values
        return all(values[name] & allowed_values for name, allowed_values in self._allowed_values.items())

    def require_entries(self, entries: list[Entry], path: str) -> list[Entry]:
        """The entries that were let through, of which there must be any.

        Raises:
            DataError: There are none; says what was asked for and what is there.
        """
        if not entries and any(self._seen_values.values()):
            raise DataError(f"No line of {path} is let through. {self._describe_unmet_conditions()}")
        return require_entries(entries, path)

    def _describe_unmet_conditions(self) -> str:
        conditions = []
        for name, values in self._allowed_values.items():
            seen_values = sorted(self._seen_values[name])
            hints = "".join(did_you_mean(value, seen_values) for value in sorted(values - self._seen_values[name]))
            value_list = ", ".join(seen_values[:10]) + (", …" if len(seen_values) > 10 else "")
            conditions.append(
                f"`{name}` must be {' or '.join(sorted(values)) or 'nothing'}; it is {value_list}.{hints}"
            )
        return " ".join(conditions)


def parse_json_object(line: str, location: str, *, expected: str = "an `audio` field") -> dict[str, Any]:
    """The JSON object on a line; `needed` is what it must have, for the message when it is something else."""
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{location} is not JSON: {error.msg} at column {error.colno}.") from None
    except (ValueError, RecursionError):
        raise DataError(f"{location} holds a number of thousands of digits, or brackets as deep.") from None
    if not isinstance(fields, dict):
        raise DataError(f"{location} must be a JSON object with {expected}; got {line[:40]!r}.")
    if "\\ud" in line.lower():
        try:
            json.dumps(fields, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{location} holds half of a character, such as '\\ud83d' without its other half."
            ) from None
    return fields


def _value_texts(value: Any) -> set[str]:
    """A field's values as text, as JSON writes them (`true`, `null`); one for each item of a list."""
    items = value if isinstance(value, list) else [value]
    return {item if isinstance(item, str) else json.dumps(item, default=str) for item in items}


def _number_field(fields: Mapping[str, Any], name: str, location: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MAX_NUMBER:
        raise DataError(f"{location}: `{name}` must be a number, 0 or more and below {MAX_NUMBER:g}; got {value!r}.")
    return float(value)


def _text_field(fields: Mapping[str, Any], name: str, location: str) -> str | None:
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{location}: `{name}` must be text or null; got {value!r}.")
    return str(value)
