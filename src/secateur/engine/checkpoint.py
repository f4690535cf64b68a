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
from secateur.records.files import read_json, write_json

FORMAT = 1
FOLDER = "checkpoints"
_STATE, _OPTIMISERS, _META = "state.safetensors", "optimisers.safetensors", "meta.json"
_NAME = re.compile(r"(?P<phase>[A-Za-z0-9_-]+)-(?P<step>\d{7,})")


@dataclass(frozen=True, kw_only=True)
class SavedCheckpoint:
    """A whole checkpoint on disk."""

    path: Path
    phase: str
    step: int


@dataclass(frozen=True, kw_only=True)
class CheckpointContents:
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
        self._remove_oldest()

    def list_complete(self) -> list[SavedCheckpoint]:
        """The whole checkpoints of this phase, oldest first."""
        checkpoints = []
        for path in self.root.glob(f"{self.phase}-*"):
            match = _NAME.fullmatch(path.name)
            is_complete = all((path / name).is_file() for name in (_STATE, _OPTIMISERS, _META))
            if match is not None and match["phase"] == self.phase and is_complete:
                checkpoints.append(SavedCheckpoint(path=path, phase=self.phase, step=int(match["step"])))
        return sorted(checkpoints, key=lambda checkpoint: checkpoint.step)

    def latest(self) -> SavedCheckpoint | None:
        """The newest whole checkpoint of this phase."""
        return max(self.list_complete(), key=lambda checkpoint: checkpoint.step, default=None)

    def describe_latest(self) -> str:
        """A phrase that names the newest whole checkpoint, for error messages."""
        latest = self.latest()
        return f"the last good checkpoint is {latest.path}" if latest else "no checkpoint was saved before"

    def save(self, contents: CheckpointContents) -> SavedCheckpoint:
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
                f"{self.root} ({error.strerror or error}); {self.describe_latest()}. Free some space or choose "
                "another run folder, then resume."
            ) from error
        self._remove_oldest()
        return SavedCheckpoint(path=path, phase=contents.phase, step=contents.step)

    def _remove_oldest(self) -> None:
        """Remove the oldest checkpoints beyond `keep`."""
        for checkpoint in self.list_complete()[: -self.keep]:
            partial = checkpoint.path.with_name(f".{checkpoint.path.name}.removed.partial")
            checkpoint.path.rename(partial)
            shutil.rmtree(partial)


def write(folder: Path, contents: CheckpointContents) -> None:
    """Write the three files of a checkpoint into an existing folder and force them to the disk."""
    tensors: dict[str, Tensor] = {}
    tree = pack(contents.extras, "", tensors)
    for name, part in ((_STATE, contents.state), (_OPTIMISERS, tensors)):
        try:
            save_file(_separate_storages(part), folder / name)
        except SafetensorError as error:  # the library wraps the operating system's errors in its own
            raise OSError(str(error)) from error
        _sync(folder / name)
    header = {"format": FORMAT, "phase": contents.phase, "step": contents.step, "steps": contents.steps}
    write_json(folder / _META, {**header, "extras": tree}, indent=None)


def read(path: Path, *, phase: str) -> CheckpointContents:
    """Read a checkpoint of `phase`.

    Raises:
        CheckpointError: it is of another phase or format, or a file of it is damaged.
    """
    try:
        meta = read_json(path / _META)
        file_format = meta.get("format")
        if file_format != FORMAT:
            raise CheckpointError(
                f"{path}: got a checkpoint of format {file_format!r}, this version reads format {FORMAT}. Resume it "
                "with the version that wrote it, or start the phase again in another run folder."
            )
        if meta["phase"] != phase:
            raise CheckpointError(
                f"{path}: got a checkpoint of phase {meta['phase']!r}, expected one of {phase!r}. Resume "
                "the phase it belongs to."
            )
        state, tensors = load_file(path / _STATE), load_file(path / _OPTIMISERS)
        extras = unpack(meta["extras"], tensors)
        return CheckpointContents(phase=phase, step=meta["step"], steps=meta["steps"], state=state, extras=extras)
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
    prefix = f"{name}." if name else ""
    if isinstance(value, Mapping):
        return {"dict": [[key, pack(item, f"{prefix}{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [pack(item, f"{prefix}{i}", tensors) for i, item in enumerate(value)]}
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


def _separate_storages(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous, no two in one storage, as safetensors demands; few are copied."""
    separate_tensors: dict[str, Tensor] = {}
    storage_pointers: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in storage_pointers or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
            storage = tensor.untyped_storage()
        storage_pointers.add(storage.data_ptr())
        separate_tensors[name] = tensor
    return separate_tensors


def _sync(path: Path) -> None:
    """Force a file, or the entries of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
