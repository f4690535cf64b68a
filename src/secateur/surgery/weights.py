"""The files with a model's weights: safetensors where there are any, else PyTorch's own, read without running code."""

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

from secateur.errors import ModelError, cause_of
from secateur.records import read_json
from secateur.surgery.hub import companion

_SAFE, _PICKLED = "model.safetensors", "pytorch_model.bin"

#: What the weights of a model may lie in, an index of several files included; the first that is there is read.
FILES = (_SAFE, f"{_SAFE}.index.json", _PICKLED, f"{_PICKLED}.index.json")

#: What other tools leave, which is not read.
_OTHERS = ("tf_model.h5", "flax_model.msgpack", "pytorch_model.pt", "model.pt", "model.nemo")
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The tensors of a checkpoint.

    Attributes:
        file: Name of the file, or of the index of several files, that they were read from.
        tensors: By their names in it.
    """

    file: str
    tensors: dict[str, Tensor]

    @property
    def note(self) -> str:
        """What a user should know of the file, in a sentence; empty for safetensors."""
        return "" if self.file.startswith(_SAFE) else f"the weights are read from {self.file}, without running its code"


def weights_file(source: str | Path) -> Path | None:
    """Return the file or index with the weights of a folder or hub id; None where there is none."""
    return next((path for name in FILES if (path := companion(source, name)) is not None), None)


def read_weights(source: str | Path) -> Weights:
    """Return all tensors of a folder or hub id, on the CPU.

    Raises:
        ModelError: There is no file of weights, or it is damaged, no checkpoint, or needs code to be run.
    """
    path = weights_file(source)
    if path is None:
        other = next((name for name in _OTHERS if Path(source, name).is_file()), None)
        hint = f"; {other} is not read" if other else ""
        raise ModelError(
            f"The weights of {str(source)!r} cannot be loaded: there is no {_SAFE} or {_PICKLED}, nor an index of "
            f"several{hint}."
        )
    if path.suffix != ".json":
        return Weights(file=path.name, tensors=read_tensors(path))
    index = read_json(path)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise ModelError(f"{str(path)!r} is no index of weights: expected a 'weight_map' from tensors to files.")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(shards.values())):
        shard = companion(source, name)
        if shard is None:
            raise ModelError(
                f"The weights of {str(source)!r} are not complete: {path.name} names {name}, which is gone."
            )
        tensors |= read_tensors(shard)
    return Weights(file=path.name, tensors=tensors)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one file by name, on the CPU.

    Raises:
        ModelError: It is damaged, no checkpoint, or needs code to be run.
    """
    _refuse_pointer(path)
    if path.suffix != ".safetensors":
        return _unpickled(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from None


def check_tensors(path: Path) -> None:
    """Raise a ModelError unless `read_tensors` can read a file; of safetensors the header and the size are enough."""
    if path.suffix != ".safetensors":
        read_tensors(path)
        return
    _refuse_pointer(path)
    try:
        with safe_open(path, framework="pt"):
            pass
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from None


def _refuse_pointer(path: Path) -> None:
    """Raise a ModelError when a file is what Git has in place of a large one."""
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise ModelError(f"{str(path)!r} is a Git LFS pointer, not the weights: run `git lfs pull` in its folder.")


def _unpickled(path: Path) -> dict[str, Tensor]:
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged pickle torch raises whatever its parts do
        if problem := _other_format(path):
            raise ModelError(f"The weights of {str(path)!r} cannot be loaded: {problem}.") from None
        if not isinstance(error, pickle.UnpicklingError):
            raise _damaged(path, error) from None
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


def _other_format(path: Path) -> str:
    """Return which format that is not read a file has, in words; empty for what `torch.save` writes."""
    anew = "save the weights anew by `save_pretrained` with the tool that wrote them"
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK":
        return f"this is a program (TorchScript): {anew}" if _is_program(path) else ""
    if not start:
        return "the file is empty"
    if tarfile.is_tarfile(path):
        return f"this is the format of PyTorch before 0.1.10, a tar archive: {anew}"
    return "" if start[:1] == pickle.PROTO else "this is no file of PyTorch"


def _is_program(path: Path) -> bool:
    """Return whether a zip archive is what `torch.jit.save` writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # a damaged archive, which may be wrong in any way
        return False


def _damaged(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"The weights of {str(path)!r} cannot be loaded: they are damaged or cut short ({cause_of(error)})."
    )
