"""Reading of weight files, safetensors or PyTorch's pickles, without running code from the file."""

from __future__ import annotations

import pickle
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from secateur.errors import ModelError, describe_cause
from secateur.hf.hub_files import find_file
from secateur.records.files import read_json

_SAFETENSORS_FILE, _PICKLE_FILE = "model.safetensors", "pytorch_model.bin"

#: Names of weight files and of indices of several files; the first existing file is read.
WEIGHT_FILES = (_SAFETENSORS_FILE, f"{_SAFETENSORS_FILE}.index.json", _PICKLE_FILE, f"{_PICKLE_FILE}.index.json")

#: Weight files of other tools, which are not supported.
_UNREAD_FILES = ("tf_model.h5", "flax_model.msgpack", "pytorch_model.pt", "model.pt", "model.nemo")
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, kw_only=True)
class CheckpointTensors:
    """Tensors of a checkpoint.

    Attributes:
        file: Name of the file, or of the index of several files.
        tensors: The tensors, by name in the file.
    """

    file: str
    tensors: dict[str, Tensor]

    @property
    def load_note(self) -> str:
        """Note on a pickled file for the user; empty for safetensors."""
        return (
            ""
            if self.file.startswith(_SAFETENSORS_FILE)
            else f"the weights are read from {self.file}, without running its code"
        )


def find_weights_file(source: str | Path) -> Path | None:
    """Return the path of the weight file or index of a folder or hub id, or None."""
    return next((path for name in WEIGHT_FILES if (path := find_file(source, name)) is not None), None)


def read_weights(source: str | Path) -> CheckpointTensors:
    """Return all tensors of a folder or hub id, on the CPU.

    Raises:
        ModelError: The weight file is missing, damaged, no checkpoint, or requires running code.
    """
    path = find_weights_file(source)
    if path is None:
        unread_file = next((name for name in _UNREAD_FILES if Path(source, name).is_file()), None)
        hint = f"; {unread_file} is not read" if unread_file else ""
        raise ModelError(
            f"The weights of {str(source)!r} cannot be loaded: there is no {_SAFETENSORS_FILE} or {_PICKLE_FILE}, nor "
            f"an index of several{hint}."
        )
    if path.suffix != ".json":
        return CheckpointTensors(file=path.name, tensors=read_tensors(path))
    index = read_json(path)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise ModelError(f"{str(path)!r} is no index of weights: expected a 'weight_map' from tensors to files.")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(shards.values())):
        shard = find_file(source, name)
        if shard is None:
            raise ModelError(
                f"The weights of {str(source)!r} are not complete: {path.name} names {name}, which is gone."
            )
        tensors |= read_tensors(shard)
    return CheckpointTensors(file=path.name, tensors=tensors)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one file by name, on the CPU.

    Raises:
        ModelError: The file is damaged, no checkpoint, or requires running code.
    """
    _check_not_lfs_pointer(path)
    if path.suffix != ".safetensors":
        return _read_pickle(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged_error(path, error) from None


def check_tensors(path: Path) -> None:
    """Raise a ModelError unless `read_tensors` can read a file; only header and size of safetensors are checked."""
    if path.suffix != ".safetensors":
        read_tensors(path)
        return
    _check_not_lfs_pointer(path)
    try:
        with safe_open(path, framework="pt"):
            pass
    except (OSError, SafetensorError) as error:
        raise _damaged_error(path, error) from None


def _check_not_lfs_pointer(path: Path) -> None:
    """Raise a ModelError if a file is a Git LFS pointer."""
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise ModelError(f"{str(path)!r} is a Git LFS pointer, not the weights: run `git lfs pull` in its folder.")


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many types for a damaged pickle
        if problem := _describe_format(path):
            raise ModelError(f"The weights of {str(path)!r} cannot be loaded: {problem}.") from None
        if not isinstance(error, pickle.UnpicklingError):
            raise _damaged_error(path, error) from None
        raise ModelError(
            f"The weights of {str(path)!r} need more than tensors, so that reading them would run code of the file: "
            "load them with the tool that wrote them, if you trust it, and save the model anew by `save_pretrained`."
        ) from None
    if not isinstance(loaded, dict):
        raise ModelError(f"{str(path)!r} holds a {type(loaded).__name__}: expected tensors by name.")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelError(
                f"{str(path)!r} holds a {type(value).__name__} under {name!r}: expected tensors by name, such as "
                "`save_pretrained` writes."
            )
        if value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_nested:
            raise ModelError(f"{str(path)!r} holds {name!r} without plain values: expected dense tensors.")
    return {name: value.detach() for name, value in loaded.items()}


def _describe_format(path: Path) -> str:
    """Return a phrase on the unsupported format of a file; empty for the format of `torch.save`."""
    remedy = "save the weights anew by `save_pretrained` with the tool that wrote them"
    with path.open("rb") as file:
        header = file.read(2)
    if header == b"PK":
        return f"this is a program (TorchScript): {remedy}" if _is_torchscript(path) else ""
    if not header:
        return "the file is empty"
    if tarfile.is_tarfile(path):
        return f"this is the format of PyTorch before 0.1.10, a tar archive: {remedy}"
    return "" if header[:1] == pickle.PROTO else "this is no file of PyTorch"


def _is_torchscript(path: Path) -> bool:
    """Return whether a zip archive was written by `torch.jit.save`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # a damaged archive, which may be wrong in any way
        return False


def _damaged_error(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"The weights of {str(path)!r} cannot be loaded: they are damaged or cut short ({describe_cause(error)})."
    )
