"""Atomic writing of model folders: weights, config, selection and files copied from the source model."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import Tensor

from secateur.errors import SecateurError
from secateur.hf.extra_weights import copy_adapters
from secateur.hf.hub_files import find_file
from secateur.hf.model_view import ModelView
from secateur.records.files import write_json
from secateur.structure import Selection

logger = logging.getLogger(__name__)

#: Files beside the weights that are copied from the source model.
SIDECAR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "vocab.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "LICENSE",
)


def check_replaceable(path: Path, *, replace: bool = False) -> None:
    """Raise a SecateurError if `path` is a file, or a non-empty folder without `replace`."""
    if path.exists() and not path.is_dir():
        raise SecateurError(f"{str(path)!r} is a file: choose another folder.")
    if path.is_dir() and not replace and any(path.iterdir()):
        raise SecateurError(f"{str(path)!r} exists already and is not empty: choose another folder or remove it.")


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that is moved to `path` if no error occurs.

    Args:
        path: Final path of the folder.
        replace: Whether an existing folder may be replaced.

    Raises:
        SecateurError: The path exists and may not be replaced.
    """
    check_replaceable(path, replace=replace)
    new_parents = [parent for parent in path.parents if not parent.exists()]  # innermost first
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_folder = path.with_name(f".{path.name}.partial-{os.getpid()}")
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir()
    try:
        yield partial_folder
        if path.is_dir():
            old_folder = path.with_name(f".{path.name}.old-{os.getpid()}")
            path.rename(old_folder)
            partial_folder.rename(path)
            shutil.rmtree(old_folder)
        else:
            partial_folder.rename(path)
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)
        if not path.exists():
            with suppress(OSError):  # another process may have put a file there
                for parent in new_parents:
                    parent.rmdir()


def write_model(
    folder: Path,
    view: ModelView,
    *,
    source: str | Path | None,
    selection: Selection | None = None,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Write a model, and files copied from the source model, into an existing folder.

    Args:
        folder: Destination.
        view: The model.
        source: Folder or hub id of the source model, for feature extractor, tokenizer, adapters and license; None if
            the model has no source.
        selection: The normalized selection of a cut model.
        weights: State dict to write; None writes the model's own.
    """
    view.model.save_pretrained(folder, state_dict=weights)
    if source is not None:
        copy_adapters(source, view, folder)
    copied_files = [name for name in SIDECAR_FILES if source is not None and _copy_file(source, name, folder)]
    if "preprocessor_config.json" not in copied_files and "processor_config.json" not in copied_files:
        logger.warning("%s has no preprocessor_config.json: the model is written without a feature extractor", source)
    if selection is not None:
        write_json(folder / "selection.json", selection.to_json(), indent=None)


def _copy_file(source: str | Path, name: str, folder: Path) -> bool:
    path = find_file(source, name)
    if path is not None:
        shutil.copyfile(path, folder / name)
    return path is not None
