"""JSON files that are written whole or not at all."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import os
from collections.abc import Mapping, Set
from pathlib import Path, PurePath
from typing import Any

from secateur.errors import SecateurError

#: Metadata of a dataclass field whose key is left out of the JSON where the value is None or empty.
OMITTED: Mapping[str, Any] = {"json": "omitted if empty"}
#: Metadata of a dataclass field that is written as ``{}`` where the value is None.
EMPTY_IF_NONE: Mapping[str, Any] = {"json": "{} if None"}


def plain(obj: Any) -> Any:
    """Return the JSON form of a value: dataclasses and mappings as dicts, sequences and arrays as lists.

    Sets are sorted; paths and enum values become text. A number that is not finite becomes "nan", "inf" or "-inf",
    which `float` reads back, since JSON cannot represent it.

    Raises:
        TypeError: The value has a type that JSON cannot represent.
    """
    match obj:
        case None | bool() | str() if not isinstance(obj, enum.Enum):
            return obj
        case enum.Enum():
            return plain(obj.value)
        case int():
            # Subclasses of int and float, such as NumPy's float64, become the built-in types.
            return int(obj)
        case float():
            return float(obj) if math.isfinite(obj) else str(float(obj))
        case PurePath():
            return obj.as_posix()
        case Mapping():
            return {_key(key): plain(value) for key, value in obj.items()}
        case list() | tuple():
            return [plain(value) for value in obj]
        case Set():
            return sorted(plain(value) for value in obj)
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return _plain_fields(obj)
    if hasattr(obj, "tolist"):  # NumPy arrays and scalars, torch tensors; without importing either
        return plain(obj.tolist())
    raise TypeError(f"a {type(obj).__name__} cannot go into a record: {obj!r}")


def _plain_fields(obj: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name, subject to the metadata `OMITTED` and `EMPTY_IF_NONE`."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(obj):
        value = getattr(obj, field.name)
        if field.metadata == OMITTED and (value is None or value == {} or value == ()):
            continue
        is_empty_section = field.metadata == EMPTY_IF_NONE and value is None
        values[field.name] = {} if is_empty_section else plain(value)
    return values


def _key(key: Any) -> str:
    name = plain(key)
    # Keys of JSON are text: 3 -> "3", True -> "true".
    return name if isinstance(name, str) else json.dumps(name)


def to_line(obj: Any) -> str:
    """Return a line of JSON with sorted keys and a newline; equal values give equal bytes."""
    return json.dumps(plain(obj), sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: str | Path, obj: Any, *, indent: int | None = 2) -> None:
    """Replace a JSON file atomically, so that a reader never finds a part of the content.

    Args:
        path: File to write.
        obj: Any value that `plain` accepts.
        indent: Spaces a level; None writes one line.
    """
    path = Path(path)
    text = json.dumps(plain(obj), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    # Same folder, so that `os.replace` stays on the file system and is atomic.
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            # On disk before the rename: a power failure must not leave an empty file with the final name.
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    # Also after Ctrl-C: no partial file stays behind.
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        SecateurError: The file is missing, or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SecateurError(f"{path}: there is no such file; a JSON record was expected there.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SecateurError(f"{path}: not a JSON record ({error}).") from None
