"""Conversion of the named values of a manifest line or table row to an entry, and filtering of rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.data.corpus import SAMPLE_RATE
from secateur.data.entries import Entry, expand_user, require_entries
from secateur.errors import DataError, did_you_mean

# Field names of NeMo's manifests.
FIELD_ALIASES = {"audio": "audio_filepath"}
NUMBER_FIELDS = ("offset", "duration", "samples")
# Above the seconds or samples of any recording, and small enough that products with a rate stay finite.
MAX_NUMBER = 1e15


def make_entry(fields: Mapping[str, Any], location: str, folder: Path) -> Entry:
    """Return the entry for the fields of a line or row.

    Fields, with NeMo's names in parentheses; all other fields are ignored:

    * `audio` (`audio_filepath`): the file, relative to `folder` or absolute; the only required field.
    * `id`: unique; by default made of the file name, the offset and, where these repeat, the length
      (`entries.with_ids`).
    * `offset`, `duration`: start and length of the utterance in the file, in seconds; by default the whole file.
    * `samples`: length at 16 kHz, whatever the rate of file and model; takes precedence over `duration`, which is often
      rounded.
    * `text`, `tagged`, `speaker`, `label`, `split`: text or null (numbers are converted to text); `tagged` is the
      text with entities in brackets, `[type : words]`.

    Args:
        fields: Values by field name.
        location: The line or row, for messages.
        folder: The folder that audio paths are relative to.

    Raises:
        DataError: There is no audio, or a field has the wrong type.
    """
    audio = fields.get("audio", fields.get(FIELD_ALIASES["audio"]))
    if not isinstance(audio, str) or not audio:
        field_names = ", ".join(fields) or "none"
        raise DataError(
            f"{location} needs the audio file's path in `audio` (or NeMo's `audio_filepath`); its fields are "
            f"{field_names}."
        )
    offset = _number_field(fields, "offset", location) or 0.0
    samples = _number_field(fields, "samples", location)
    seconds = _number_field(fields, "duration", location)
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
    """A filter of rows by `split` and `where`, with a record of the values met, for the message if no row matches."""

    def __init__(self, where: Mapping[str, tuple[str, ...]], split: str | None = None) -> None:
        self._allowed_values = {name: set(values) for name, values in where.items()}
        if split is not None:  # in addition to a condition on `split` in `where`
            self._allowed_values["split"] = self._allowed_values.get("split", {split}) & {split}
        self._seen_values: dict[str, set[str]] = {name: set() for name in self._allowed_values}

    def __call__(self, fields: Mapping[str, Any]) -> bool:
        """Return whether a row matches all conditions."""
        values = {name: _value_texts(fields.get(name)) for name in self._allowed_values}
        for name, row_values in values.items():
            self._seen_values[name] |= row_values
        return all(values[name] & allowed_values for name, allowed_values in self._allowed_values.items())

    def require_entries(self, entries: list[Entry], path: str) -> list[Entry]:
        """Return the entries of the rows that matched.

        Raises:
            DataError: No row matched; the message lists the conditions and the values that are there.
        """
        if not entries and any(self._seen_values.values()):
            raise DataError(f"No line of {path} matches. {self._describe_unmet_conditions()}")
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
    """Parse the JSON object on a line.

    Args:
        line: The line.
        location: File and line number, for messages.
        expected: The required fields, for messages.

    Raises:
        DataError: The line is no JSON object, or has numbers, nesting or surrogates that cannot be handled.
    """
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{location} is not JSON: {error.msg} at column {error.colno}.") from None
    except (ValueError, RecursionError):
        raise DataError(f"{location} has a number with too many digits, or is nested too deeply.") from None
    if not isinstance(fields, dict):
        raise DataError(f"{location}: expected a JSON object with {expected}, got {line[:40]!r}.")
    if "\\ud" in line.lower():  # escapes of surrogates, which must come in pairs
        try:
            json.dumps(fields, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise DataError(f"{location} has half of a surrogate pair, such as '\\ud83d' alone.") from None
    return fields


def _value_texts(value: Any) -> set[str]:
    """Return the values of a field, or of the items of a list, as text in JSON's notation (`true`, `null`)."""
    items = value if isinstance(value, list) else [value]
    return {item if isinstance(item, str) else json.dumps(item, default=str) for item in items}


def _number_field(fields: Mapping[str, Any], name: str, location: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MAX_NUMBER:
        raise DataError(f"{location}: `{name}`: expected a number >= 0 and < {MAX_NUMBER:g}, got {value!r}.")
    return float(value)


def _text_field(fields: Mapping[str, Any], name: str, location: str) -> str | None:
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{location}: `{name}`: expected text or null, got {value!r}.")
    return str(value)
