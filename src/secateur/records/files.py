"""Records: the JSON a stage leaves behind, written whole or not at all, and what it ran on."""

from __future__ import annotations

import dataclasses
import enum
import importlib.metadata
import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Set
from pathlib import Path, PurePath
from typing import Any

from secateur.errors import SecateurError


def plain(obj: Any) -> Any:
    """The JSON-safe form of a value: dataclasses and mappings as dicts, sequences and arrays as lists.

    Sets are sorted; paths and enum values become text. A number that is not finite becomes "nan", "inf" or
    "-inf", which `float` reads back, since JSON has no word for it.
    """
    match obj:
        case None | bool() | str() if not isinstance(obj, enum.Enum):
            return obj
        case enum.Enum():
            return plain(obj.value)
        case int():
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
        return {f.name: plain(getattr(obj, f.name)) for f in dataclasses.fields(obj)}
    if hasattr(obj, "tolist"):  # NumPy arrays and scalars, torch tensors; without importing either
        return plain(obj.tolist())
    raise TypeError(f"a {type(obj).__name__} cannot go into a record: {obj!r}")


def _key(key: Any) -> str:
    name = plain(key)
    return name if isinstance(name, str) else json.dumps(name)


def to_line(obj: Any) -> str:
    """One line of JSON with sorted keys, its newline included: the same value gives the same bytes."""
    return json.dumps(plain(obj), sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: str | Path, obj: Any, *, indent: int | None = 2) -> None:
    """Write a record so that a reader finds the old one or the new one, whole, whenever it looks.

    Args:
        path: the file.
        obj: anything `plain` takes.
        indent: spaces a level; None writes one line.
    """
    path = Path(path)
    text = json.dumps(plain(obj), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: str | Path) -> Any:
    """Read a record.

    Raises:
        SecateurError: the file is not there, or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SecateurError(f"{path}: there is no such file; a JSON record was expected there.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SecateurError(f"{path}: not a JSON record ({error}).") from None


def append_jsonl(path: str | Path, obj: Any) -> None:
    """Append one line of JSON, in one write."""
    with Path(path).open("ab") as handle:
        handle.write(to_line(obj).encode())


def environment() -> dict[str, Any]:
    """What a figure was made on: versions, processor, threads and accelerators.

    Holds no host name, user or path. Threads and accelerators are torch's where torch is loaded already.
    """
    torch = sys.modules.get("torch")
    accelerators: list[str] = []
    if torch is not None and torch.cuda.is_available():
        accelerators = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("secateur", "torch", "transformers", "accelerate")},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": _cores(),
        "threads": torch.get_num_threads() if torch is not None else _cores(),
        "accelerators": accelerators,
        "float32_products": torch.get_float32_matmul_precision() if torch is not None else None,
        "malloc": {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cores() -> int:
    """The cores this process may use, which in a container are often fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as handle:
            for line in handle:
                name, _, value = line.partition(":")
                if name.strip() == "model name":
                    return value.strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
