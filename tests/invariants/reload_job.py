"""Run in a new process: load saved models by the Auto classes, run them, and store what they give."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

import secateur
from secateur.hf.models import AUTO_CLASSES


def main(folder: Path) -> None:
    """Every subfolder of `folder` is a model; `job.json` names the ending of its class."""
    torch.set_num_threads(1)
    assert secateur.__version__
    jobs: dict[str, Any] = json.loads((folder / "job.json").read_text())
    audio = load_file(folder / "audio.safetensors")
    for name, ending in jobs.items():
        auto = getattr(transformers, AUTO_CLASSES[ending][0])
        model = auto.from_pretrained(folder / name).eval()
        save_file(run(model, audio), folder / f"{name}.first.safetensors")
        model.save_pretrained(folder / f"{name}-again")
        reloaded = auto.from_pretrained(folder / f"{name}-again").eval()
        save_file(run(reloaded, audio), folder / f"{name}.second.safetensors")


@torch.no_grad()
def run(model: Any, audio: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Hidden states and output by position."""
    for parameter in model.parameters():  # BLAS sums products of one row by where they lie, in a file anywhere
        parameter.data = parameter.data.clone()
    name = model.main_input_name
    result = model(audio[name], attention_mask=audio[f"{name}.mask"], output_hidden_states=True)
    tensors = [*result.hidden_states, result[0]]
    return {str(index): tensor.contiguous().clone() for index, tensor in enumerate(tensors)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
