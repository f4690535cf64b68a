"""Checkpoints: folders that are written atomically, with tensors and JSON and without pickled code.

    checkpoints/learn-0000500/state.safetensors        state of the train unit
                              optimisers.safetensors   tensors of optimizers and random generators
                              meta.json                phase, step, format, and the rest of both as JSON

A checkpoint is written to a folder with a name that starts with a dot, synced to disk and renamed; before removal, the
folder is renamed back to such a name. So a folder with the name of a checkpoint is complete, even after the process was
killed.
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
_STATE = "state.safetensors"
_OPTIMIZERS = "optimisers.safetensors"
_META = "meta.json"
# learn-0000500 -> phase "learn", step "0000500"; from ten million steps on, the number has more digits.
_NAME = re.compile(r"(?P<phase>[A-Za-z0-9_-]+)-(?P<step>\d{7,})")


@dataclass(frozen=True, kw_only=True)
class SavedCheckpoint:
    """A complete checkpoint on disk."""

    path: Path
    phase: str
    step: int


@dataclass(frozen=True, kw_only=True)
class CheckpointContents:
    """The contents of a checkpoint."""

    phase: str
    step: int
    """Number of completed optimizer steps."""
    steps: int
    """Number of optimizer steps of the whole phase."""
    state: dict[str, Tensor]
    extras: dict[str, Any] = field(default_factory=dict)
    """State of optimizers and generators: nested dicts (with text or number keys), lists, tuples, tensors, scalars."""


class Checkpoints:
    """The checkpoints of a phase in a run folder.

    Args:
        folder: The run folder.
        phase: Name of the phase, of letters, digits, `_` and `-`.
        keep: Number of the newest checkpoints to keep; checkpoints of other phases are never removed.
    """

    def __init__(self, folder: Path, *, phase: str, keep: int) -> None:
        if _NAME.fullmatch(f"{phase}-0000000") is None:
            raise CheckpointError(f"phase: expected letters, digits, '_' and '-', got {phase!r}.")
        self.root = folder / FOLDER
        self.phase = phase
        self.keep = keep

    def clean(self) -> None:
        """Remove leftovers of an interrupted save or removal, and the oldest checkpoints beyond `keep`."""
        self.root.mkdir(parents=True, exist_ok=True)
        for leftover in self.root.glob(".*.partial"):
            shutil.rmtree(leftover)
        self._remove_oldest()

    def list_complete(self) -> list[SavedCheckpoint]:
        """Return the complete checkpoints of the phase, oldest first."""
        checkpoints = []
        for path in self.root.glob(f"{self.phase}-*"):  # may match other phases: "learn-*" matches learn-2-0000500
            match = _NAME.fullmatch(path.name)
            is_complete = all((path / name).is_file() for name in (_STATE, _OPTIMIZERS, _META))
            if match is not None and match["phase"] == self.phase and is_complete:
                checkpoints.append(SavedCheckpoint(path=path, phase=self.phase, step=int(match["step"])))
        return sorted(checkpoints, key=lambda checkpoint: checkpoint.step)

    def latest(self) -> SavedCheckpoint | None:
        """Return the newest complete checkpoint of the phase, or `None` without any checkpoint."""
        return max(self.list_complete(), key=lambda checkpoint: checkpoint.step, default=None)

    def describe_latest(self) -> str:
        """Return a phrase with the newest complete checkpoint, for error messages."""
        latest = self.latest()
        return f"the last good checkpoint is {latest.path}" if latest else "no checkpoint was saved before"

    def save(self, contents: CheckpointContents) -> SavedCheckpoint:
        """Write a checkpoint, then remove the oldest checkpoints beyond `keep`.

        Raises:
            CheckpointError: The disk is full or not writable; the message names the last good checkpoint, which stays.
        """
        path = self.root / f"{contents.phase}-{contents.step:07d}"  # learn-0000500
        partial = self.root / f".{path.name}.partial"  # .learn-0000500.partial
        try:
            partial.mkdir(parents=True)
            write(partial, contents)
            # Contents reach the disk before the name does, so that a power failure leaves no incomplete checkpoint.
            _sync(partial)
            partial.rename(path)
            _sync(self.root)  # the new name itself
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise CheckpointError(
                f"The checkpoint of phase {contents.phase!r} at step {contents.step} could not be written to "
                f"{self.root} ({error.strerror or error}); {self.describe_latest()}. Free some disk space or use "
                "another run folder, then resume."
            ) from error
        self._remove_oldest()
        return SavedCheckpoint(path=path, phase=contents.phase, step=contents.step)

    def _remove_oldest(self) -> None:
        """Remove the oldest checkpoints beyond `keep`."""
        for checkpoint in self.list_complete()[: -self.keep]:  # keep 2 of steps 100, 200, 300: removes 100
            partial = checkpoint.path.with_name(f".{checkpoint.path.name}.removed.partial")
            checkpoint.path.rename(partial)
            shutil.rmtree(partial)


def write(folder: Path, contents: CheckpointContents) -> None:
    """Write the three files of a checkpoint into an existing folder and sync the files to disk."""
    tensors: dict[str, Tensor] = {}
    tree = pack(contents.extras, "", tensors)
    for name, part in ((_STATE, contents.state), (_OPTIMIZERS, tensors)):
        try:
            save_file(_separate_storages(part), folder / name)
        except SafetensorError as error:  # safetensors wraps errors of the operating system
            raise OSError(str(error)) from error
        _sync(folder / name)
    header = {"format": FORMAT, "phase": contents.phase, "step": contents.step, "steps": contents.steps}
    write_json(folder / _META, {**header, "extras": tree}, indent=None)


def read(path: Path, *, phase: str) -> CheckpointContents:
    """Read a checkpoint of `phase`.

    Raises:
        CheckpointError: The checkpoint has another phase or format, or a file is damaged.
    """
    try:
        meta = read_json(path / _META)
        file_format = meta.get("format")
        if file_format != FORMAT:
            raise CheckpointError(
                f"{path}: expected a checkpoint of format {FORMAT}, got format {file_format!r}. Resume with the "
                "version that wrote the checkpoint, or start the phase again in another run folder."
            )
        if meta["phase"] != phase:
            raise CheckpointError(
                f"{path}: expected a checkpoint of phase {phase!r}, got phase {meta['phase']!r}. Resume that phase."
            )
        state = load_file(path / _STATE)
        extras = unpack(meta["extras"], load_file(path / _OPTIMIZERS))
        return CheckpointContents(phase=phase, step=meta["step"], steps=meta["steps"], state=state, extras=extras)
    except CheckpointError:
        raise
    except (SafetensorError, SecateurError, OSError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: the checkpoint is damaged ({_reason(error)}). Delete that folder to resume from the checkpoint "
            "before."
        ) from error


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, SafetensorError | SecateurError | OSError) else repr(error)


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return the JSON form of a nested value, and store the tensors of the value in `tensors` by dotted path.

    Each container becomes a mapping with a single key, its type, so that tuples and number keys are restored. For
    example, {"state": {0: (tensor, 1.5)}} becomes
    {"dict": [["state", {"dict": [[0, {"tuple": [{"tensor": "state.0.0"}, 1.5]}]]}]]}.
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
    """Return the nested value of a JSON form made by `pack`."""
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()  # {"tensor": "state.0.0"} -> "tensor", "state.0.0"
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
    """Return the tensors on the CPU, contiguous and without shared storage, as required by safetensors.

    Only views and tensors that share storage with a tensor before are copied.
    """
    separate_tensors: dict[str, Tensor] = {}
    storage_pointers: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        # A storage larger than the tensor means a view, whose whole storage safetensors refuses to write.
        if storage.data_ptr() in storage_pointers or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
            storage = tensor.untyped_storage()
        storage_pointers.add(storage.data_ptr())
        separate_tensors[name] = tensor
    return separate_tensors


def _sync(path: Path) -> None:
    """Sync a file, or the entries of a folder, to disk."""
    # A folder cannot be opened for writing, and fsync does not need write access.
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
