"""Files of a run folder that phases write and later phases read."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from secateur.compress.run_context import RunContext
from secateur.engine import process
from secateur.errors import CheckpointError
from secateur.gates import GateSet
from secateur.hf.model_view import ModelView
from secateur.hf.save import write_model
from secateur.records.section import Section
from secateur.structure import Selection, Structure
from secateur.tasks import Task

SectionT = TypeVar("SectionT", bound=Section)


def is_finished(path: Path) -> bool:
    """Return whether the result of a phase exists; all ranks return the same, since the main process writes later."""
    # The first wait lets earlier writes finish; the second keeps the main process from writing before all have looked.
    process().wait_for_everyone()
    exists = path.exists()
    process().wait_for_everyone()
    return exists


def is_main_process() -> bool:
    """Return whether the process is the writing process of a run."""
    return bool(process().is_main_process)


def read_result(path: Path, section: type[SectionT]) -> SectionT:
    """Return the result that a phase wrote, or an empty result if the file is missing."""
    return section.read(path) if path.is_file() else section()


def write_run_model(
    folder: Path, view: ModelView, context: RunContext, task: Task | None, selection: Selection | None = None
) -> None:
    """Write a model with the files beside the model of the teacher, and the files of the task."""
    weights = context.extra.state_dict(context.teacher_view, view)
    write_model(folder, view, source=context.source, selection=selection, weights=weights)
    if task is not None:
        task.save(folder)


def gate_tensors(gates: GateSet) -> dict[str, Tensor]:
    """Return the scores and scales of gates by axis, the contents of ``gates.safetensors``."""
    scores = gates.scores()
    scales = gates.scales()
    offsets = gates.structure.offsets
    tensors = {}
    for axis in gates.axes:
        # Example: an axis of 4 units at offset 6 has the units 6:10.
        units = slice(offsets[axis.name], offsets[axis.name] + axis.size)
        tensors[f"{axis.name}:score"] = scores[units].clone()
        tensors[f"{axis.name}:scale"] = scales[units].clone()
    return tensors


def gate_scores(structure: Structure, learned_folder: Path) -> tuple[Tensor, Tensor]:
    """Return the scores and scales that the learn phase wrote: (units,) each.

    Units without a gate have an infinite score and a scale of 1.
    """
    gate_tensors = load_tensors(learned_folder / "gates.safetensors")
    scores = torch.full((structure.size,), float("inf"))
    scales = torch.ones(structure.size)
    for name, axis in structure.axes.items():
        if f"{name}:score" in gate_tensors:
            units = slice(structure.offsets[name], structure.offsets[name] + axis.size)
            scores[units] = gate_tensors[f"{name}:score"]
            scales[units] = gate_tensors[f"{name}:scale"]
    return scores, scales


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors that the learn phase wrote.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is missing or damaged ({error}): put it back, or delete the folder {path.parent} and resume, "
            "which makes it again from the last checkpoint."
        ) from None
