"""Base classes of all records: dataclasses that are written to JSON and read back tolerantly.

An attribute has the name of its JSON key, and the order of the attributes is the order of the keys. Reading trusts
nothing: every part may be missing, unknown keys are ignored, and a value of the wrong type is one clear sentence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self

import pydantic

from secateur.bounds import NonNegativeInt, Positive, PositiveInt
from secateur.errors import SecateurError
from secateur.records.files import plain, read_json, write_json

#: Version of the record files.
FORMAT = 1
#: Sampling rate in hertz of records that were written before the rate was recorded.
UNRECORDED_SAMPLE_RATE = 16_000


def _keep_integer(value: Any, validate: pydantic.ValidatorFunctionWrapHandler) -> float:
    """Validate a number and keep an integer an integer, so that writing a record gives the JSON that was read."""
    number: float = validate(value)
    return value if type(value) is int else number


#: Integer or float, NaN and infinity included; JSON has those as "nan", "inf" and "-inf".
Number = Annotated[float, pydantic.WrapValidator(_keep_integer)]
#: Number of units, parameters, samples, steps or files.
Count = NonNegativeInt
Hertz = PositiveInt
Milliseconds = Positive


@dataclass(frozen=True, kw_only=True)
class Section:
    """Part of a record, or a record without a version number."""

    def to_dict(self) -> dict[str, Any]:
        """Return the section as a JSON object, nested sections included."""
        values: dict[str, Any] = plain(self)
        return values

    @classmethod
    def from_dict(cls, data: object, *, path: str | Path = "record") -> Self:
        """Build the section from parsed JSON.

        Args:
            data: Parsed JSON.
            path: File that the error message names.

        Raises:
            SecateurError: `data` is not a JSON object, or a value has the wrong type.
        """
        if not isinstance(data, dict):
            raise SecateurError(f"{path}: expected a JSON object, got a {type(data).__name__}.")
        optional = {field.name for field in dataclasses.fields(cls) if _has_default(field)}
        # An empty section says no more than a missing one.
        sections = {name: value for name, value in data.items() if name not in optional or value not in (None, {})}
        try:
            return _adapter(cls).validate_python(sections)  # type: ignore[no-any-return, arg-type]
        except pydantic.ValidationError as error:
            raise SecateurError(f"{path}: not a record that a report can be made of: {_describe(error)}.") from None

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read the section from a JSON file.

        Raises:
            SecateurError: The file is missing, is not JSON, has another format, or a value has the wrong type.
        """
        return cls.from_dict(read_json(path), path=path)

    def write(self, path: str | Path) -> None:
        """Write the section to a JSON file, whole or not at all."""
        write_json(path, self)

    def fields_of(self) -> dict[str, Any]:
        """Return the attributes by name, as arguments for the constructor of a record with further attributes."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclass(frozen=True, kw_only=True)
class Record(Section):
    """Record of a command, with the version number of the file format."""

    format: int = FORMAT

    @classmethod
    def from_dict(cls, data: object, *, path: str | Path = "record") -> Self:
        """Build the record from parsed JSON.

        Raises:
            SecateurError: `data` is not a JSON object of this format, or a value has the wrong type.
        """
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            actual_format = repr(data.get("format")) if isinstance(data, Mapping) else f"a {type(data).__name__}"
            raise SecateurError(
                f'{path}: a record is a JSON object with "format": {FORMAT}; got {actual_format}. '
                "Make the record again, or use the version of secateur that wrote it."
            )
        return super().from_dict(data, path=path)


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


@cache
def _adapter(cls: type[Section]) -> pydantic.TypeAdapter[Any]:
    # Cached, since pydantic builds the validators of all nested sections here.
    return pydantic.TypeAdapter(cls)


def _describe(error: pydantic.ValidationError) -> str:
    """Return the location and message of the first mistake, and the number of further mistakes."""
    mistakes = error.errors(include_url=False, include_context=False)
    first_mistake = mistakes[0]
    # ("rows", 0, "median_ms") -> "rows.0.median_ms"
    location = ".".join(str(section) for section in first_mistake["loc"])
    message = first_mistake["msg"]
    remainder_text = f" ({len(mistakes) - 1} more like it)" if len(mistakes) > 1 else ""
    # The value may be a whole section: the first 60 characters are enough to recognize it.
    value_text = str(first_mistake["input"])[:60]
    return f"at {location}, {message[:1].lower()}{message[1:]}; got {value_text!r}{remainder_text}"
