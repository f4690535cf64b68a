"""Checkpoints: folders that are whole or not there, holding tensors and JSON and nothing that runs code.

    checkpoints/learn-0000500/state.safetensors        what the trainee gave
                              optimisers.safetensors   the tensors of optimisers and random generators
                              meta.json                phase, step, format, and the rest of both as JSON

One is written under a name that begins with a dot, forced to the disk and renamed; one is removed by renaming
it back to such a name first. So a folder with a checkpoint's name is whole, wherever the process was killed.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from secateur.errors import CheckpointError, SecateurError
from secateur.records import read_json, write_json

FORMAT = 1
FOLDER = "checkpoints"
_STATE, _OPTIMISERS, _META = "state.safetensors", "optimisers.safetensors", "meta.json"
_NAME = re.compile(r"(?P<phase>[A-Za-z0-9_-]+)-(?P<step>\d{7,})")


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A whole checkpoint on disk."""

    path: Path
    phase: str
    step: int


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a checkpoint holds."""

    phase: str
    step: int
    """Optimiser steps finished; those of the whole phase are `steps`."""
    steps: int
    state: dict[str, Tensor]
    extras: dict[str, Any] = field(default_factory=dict)
    """Nested dicts (keys text or numbers), lists, tuples, tensors and scalars: optimisers and generators."""


class Checkpoints:
    """The checkpoints of one phase in a run folder.

    Args:
        folder: the run folder.
        phase: letters, digits, `_` and `-`.
        keep: how many of the newest are kept; those of other phases are never touched.
    """

    def __init__(self, folder: Path, *, phase: str, keep: int) -> None:
        if _NAME.fullmatch(f"{phase}-0000000") is None:
            raise CheckpointError(f"phase: got {phase!r}, allowed are letters, digits, '_' and '-'.")
        self.root = folder / FOLDER
        self.phase = phase
        self.keep = keep

    def clean(self) -> None:
        """Remove what an interrupted save or removal left behind, and what it had yet to remove."""
        self.root.mkdir(parents=True, exist_ok=True)
        for leftover in self.root.glob(".*.partial"):
            shutil.rmtree(leftover)
        self._drop_old()

    def all(self) -> list[Saved]:
        """The whole checkpoints of this phase, oldest first."""
        found = []
        for path in self.root.glob(f"{self.phase}-*"):
            match = _NAME.fullmatch(path.name)
            whole = all((path / name).is_file() for name in (_STATE, _OPTIMISERS, _META))
            if match is not None and match["phase"] == self.phase and whole:
                found.append(Saved(path=path, phase=self.phase, step=int(match["step"])))
        return sorted(found, key=lambda saved: saved.step)

    def latest(self) -> Saved | None:
        """The newest whole checkpoint of this phase."""
        return max(self.all(), key=lambda saved: saved.step, default=None)

    def last_good(self) -> str:
        """A phrase that names the newest whole checkpoint, for error messages."""
        latest = self.latest()
        return f"the last good checkpoint is {latest.path}" if latest else "no checkpoint was saved before"

    def save(self, contents: Contents) -> Saved:
        """Write a checkpoint, then drop the oldest ones beyond `keep`.

        Raises:
            CheckpointError: the disk is full or not writable; the last good checkpoint stays and is named.
        """
        path = self.root / f"{contents.phase}-{contents.step:07d}"
        partial = self.root / f".{path.name}.partial"
        try:
            partial.mkdir(parents=True)
            write(partial, contents)
            _sync(partial)
            partial.rename(path)
            _sync(self.root)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise CheckpointError(
                f"The checkpoint of phase {contents.phase!r} at step {contents.step} could not be written to "
                f"{self.root} ({error.strerror or error}); {self.last_good()}. Free some space or choose "
                "another run folder, then resume."
            ) from error
        self._drop_old()
        return Saved(path=path, phase=contents.phase, step=contents.step)

    def _drop_old(self) -> None:
        """Remove the oldest checkpoints beyond `keep`."""
        for old in self.all()[: -self.keep]:
            removed = old.path.with_name(f".{old.path.name}.removed.partial")
            old.path.rename(removed)
            shutil.rmtree(removed)


def write(folder: Path, contents: Contents) -> None:
    """Write the three files of a checkpoint into an existing folder and force them to the disk."""
    tensors: dict[str, Tensor] = {}
    tree = pack(contents.extras, "", tensors)
    for name, part in ((_STATE, contents.state), (_OPTIMISERS, tensors)):
        try:
            save_file(_own_storage(part), folder / name)
        except SafetensorError as error:  # the library wraps the operating system's errors in its own
            raise OSError(str(error)) from error
        _sync(folder / name)
    head = {"format": FORMAT, "phase": contents.phase, "step": contents.step, "steps": contents.steps}
    write_json(folder / _META, {**head, "extras": tree}, indent=None)


def read(path: Path, *, phase: str) -> Contents:
    """Read a checkpoint of `phase`.

    Raises:
        CheckpointError: it is of another phase or format, or a file of it is damaged.
    """
    try:
        meta = read_json(path / _META)
        got = meta.get("format")
        if got != FORMAT:
            raise CheckpointError(
                f"{path}: got a checkpoint of format {got!r}, this version reads format {FORMAT}. Resume it "
                "with the version that wrote it, or start the phase again in another run folder."
            )
        if meta["phase"] != phase:
            raise CheckpointError(
                f"{path}: got a checkpoint of phase {meta['phase']!r}, expected one of {phase!r}. Resume "
                "the phase it belongs to."
            )
        state, tensors = load_file(path / _STATE), load_file(path / _OPTIMISERS)
        extras = unpack(meta["extras"], tensors)
        return Contents(phase=phase, step=meta["step"], steps=meta["steps"], state=state, extras=extras)
    except CheckpointError:
        raise
    except (SafetensorError, SecateurError, OSError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: the checkpoint is damaged ({_reason(error)}). Delete that folder to resume from the one "
            "before it."
        ) from error


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, SafetensorError | SecateurError | OSError) else repr(error)


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The JSON form of a nested value, its tensors put into `tensors` under their dotted path.

    Each container becomes a one-key mapping, so that tuples and keys that are numbers come back as they were.
    """
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    inside = f"{name}." if name else ""
    if isinstance(value, Mapping):
        return {"dict": [[key, pack(item, f"{inside}{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [pack(item, f"{inside}{i}", tensors) for i, item in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{name}: a {type(value).__name__} cannot go into a checkpoint")


def unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that `pack` was given."""
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    match kind:
        case "tensor":
            return tensors[value]
        case "dict":
            return {key: unpack(item, tensors) for key, item in value}
        case "list":
            return [unpack(item, tensors) for item in value]
        case "tuple":
            return tuple(unpack(item, tensors) for item in value)
    raise KeyError(kind)


def _own_storage(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous, no two in one storage, as safetensors demands; few are copied."""
    owned: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
            storage = tensor.untyped_storage()
        seen.add(storage.data_ptr())
        owned[name] = tensor
    return owned


def _sync(path: Path) -> None:
    """Force a file, or the entries of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
