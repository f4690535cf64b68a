"""Folders of tiny models with changed files, as in published checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from support import tiny, tiny_config
from torch import Tensor

import wav2vec2_axes as names
from secateur.architectures.registry import FAMILIES
from secateur.hf.configs import make_composite_config
from secateur.hf.models import class_for
from secateur.structure import Selection

Change = Callable[[dict[str, Tensor]], Any]

#: The last convolution of a tiny front end with three of its seven channels.
NARROW = Selection(axes={names.channels(2): (0, 2, 5)})


def folder_of(path: Path, model: Any, change: Change | None = None, **config: Any) -> Path:
    """Write a folder with a model, changed weights and changed config fields."""
    model.save_pretrained(path)
    if change is not None:
        state = load_file(path / "model.safetensors")
        change(state)
        save_file({name: value.contiguous() for name, value in state.items()}, path / "model.safetensors")
    fields = json.loads((path / "config.json").read_text()) | config
    (path / "config.json").write_text(json.dumps(fields))
    return path


def pickled(folder: Path, change: Change | None = None) -> Path:
    """Move the weights of a folder to pytorch_model.bin."""
    state: dict[str, Any] = load_file(folder / "model.safetensors")
    if change is not None:
        change(state)
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def same(remaining: Any, right: Any) -> bool:
    actual, reference = remaining.state_dict(), right.state_dict()
    return actual.keys() == reference.keys() and all(
        torch.equal(value, reference[name]) for name, value in actual.items()
    )


def with_head_of(family: str, ending: str) -> Any:
    """Return a tiny model with a head, also of FastConformers."""
    if not FAMILIES[family].composite_model_types:
        return tiny(family, "base", ending)
    fields = {"vocab_size": 9, "pad_token_id": 2}
    if ending != "ForCTC":
        fields |= {"decoder_hidden_size": 8, "num_decoder_layers": 1, "blank_token_id": 8}
    return class_for(tiny_config(family, "base"), ending)(
        make_composite_config(tiny_config(family, "base"), ending, fields)
    )


def drop(*starts: str) -> Change:
    def change(state: dict[str, Tensor]) -> None:
        for name in [name for name in state if name.startswith(starts)]:
            del state[name]

    return change


def add(**shapes: tuple[int, ...]) -> Change:
    def change(state: dict[str, Tensor]) -> None:
        generator = torch.Generator().manual_seed(0)
        state |= {n.replace("__", "."): torch.randn(shape, generator=generator) for n, shape in shapes.items()}

    return change
