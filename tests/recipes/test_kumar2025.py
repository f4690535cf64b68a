"""Every cell of the grid of Kumar et al. 2025 takes two steps of each of its phases, and ends in a transducer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transducer_toy import MELS, write_encoders
from transformers import (
    AutoModelForRNNT,
)

from secateur import config as configs
from secateur.compress.config import FromGates, PruneConfig
from secateur.pipeline import RECIPES, prune
from secateur.records.run import RunRecord
from secateur.tasks import Rnnt

ROOT = RECIPES / "kumar2025"
CELLS = [
    "dense",
    "joint/kd",
    "joint/lrf",
    "joint/l0",
    "joint/lrf_kd",
    "joint/l0_kd",
    "first/kd",
    "first/lrf",
    "first/l0",
    "first/lrf_kd",
    "first/l0_kd",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pre-trained encoders, as far as random ones are, and recordings with texts."""
    return write_encoders(tmp_path_factory.mktemp("kumar2025"), texts={})


def two_steps(name: str, folder: Path, model: Path, out: Path) -> RunRecord:
    """The record of a recipe that differs in nothing but its scale."""
    recipe: Any = configs.load(f"kumar2025/{name}", PruneConfig, search=RECIPES)
    overrides: dict[str, Any] = {
        "model": str(model),
        "out": str(out),
        "data": {"kind": "jsonl", "path": str(folder / "speech" / "manifest.jsonl")},
        "validation": {"data": None, "seconds": 0.5},
        "batching": {"seconds": 1.0, "longest": 0.6, "shortest": 0.1, "accumulate": 1},
        "target": max(recipe.target, 0.7),
        "recover": {"steps": 2, "precision": "fp32"},
        "learn": {"steps": 2, "precision": "fp32"},
    }
    if isinstance(recipe.task, Rnnt):
        overrides["task.width"] = 12
    record = prune(f"kumar2025/{name}", overrides=overrides)
    learned = {"learn": 2} if isinstance(recipe.choose, FromGates) else {}
    assert {phase.name: phase.steps for phase in record.phases} == learned | {"recover": 2}
    assert record.verification is not None
    assert record.verification.holds
    assert all(constraint.counted <= constraint.limit for constraint in record.constraints)
    return record


@pytest.mark.parametrize("kind", ["offline", "streaming"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_ends_in_a_transducer_of_the_shape_that_was_chosen(
    cell: str, kind: str, folder: Path, tmp_path: Path
) -> None:
    prefix = "" if kind == "offline" else "streaming/"
    record = two_steps(prefix + cell, folder, folder / kind, tmp_path / "run")
    shape = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    if cell.startswith("first/"):
        assert (record.task.kind if record.task else None) == (None if "kd" in cell else "best_rq")
        assert "encoder_config" not in shape  # an encoder alone, which the second run begins with and leaves as it is
        repeated = two_steps(f"{prefix}first/rnnt", folder, tmp_path / "run" / "model", tmp_path / "rnnt")
        assert repeated.stages[-1].parameters == record.stages[-1].parameters
        end = tmp_path / "rnnt" / "model"
    else:
        assert record.task is not None
        assert record.task.order == "pruned while it was fine-tuned"
        end = tmp_path / "run" / "model"
    model: Any = AutoModelForRNNT.from_pretrained(end)
    assert type(model).__name__ == (
        "SecateurParakeetForRNNT" if kind == "offline" else "SecateurNemotronAsrStreamingForRNNT"
    )
    num_kept = sum(parameter.numel() for parameter in model.encoder.parameters())
    dense = record.stages[0].parameters
    assert num_kept == dense if cell == "dense" else 0.5 * dense < num_kept <= 0.7 * dense
    shape = json.loads((end / "config.json").read_text())["encoder_config"]["secateur"]
    assert ("factorised" in shape) == ("lrf" in cell)
    words = model.generate(torch.randn(1, 40, MELS), max_new_tokens=20).sequences
    assert int(words[0, 0]) == model.config.blank_token_id


def test_the_grid_has_a_recipe_for_every_cell() -> None:
    methods = ("kd", "lrf", "l0", "lrf_kd", "l0_kd")
    assert set(CELLS) == {"dense", *(f"{order}/{method}" for order in ("joint", "first") for method in methods)}
    cells = [*CELLS, "first/rnnt"]
    results = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.rglob("recipe.yaml")}
    assert results == {".", *cells, *(f"streaming/{cell}" for cell in cells)}


def test_streaming_recipes_differ_in_the_model_alone() -> None:
    for cell in CELLS:
        plain, streaming = (
            configs.load(f"kumar2025/{prefix}{cell}", PruneConfig, search=RECIPES) for prefix in ("", "streaming/")
        )
        assert configs.differences(configs.dump(plain), configs.dump(streaming)) == ["name", "model"]
