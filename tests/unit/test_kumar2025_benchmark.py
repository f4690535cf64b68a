"""The grid of Kumar et al. 2025 as its benchmark runs it: cells, scale, and the table of what was measured."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from kumar2025 import CELLS, NAMED, TASK, scale, table
from secateur import config
from secateur.compress.config import PruneConfig
from secateur.pipeline import RECIPES


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_is_a_recipe_that_takes_the_scale(cell: str, tmp_path: Path) -> None:
    fields = scale(cell, Namespace(manifest=tmp_path / "manifest.jsonl", imitation=0.3))
    fields |= {} if "first/" in cell else TASK
    recipe: Any = config.load(f"kumar2025/{cell}", PruneConfig, fields, search=RECIPES)
    assert (recipe.recover.head_learning_rate is None) == ("first/" in cell)
    assert recipe.constraints[0].ramp[1] == (0.5, 1)


def test_the_grid_is_whole_and_has_the_cells_to_be_measured() -> None:
    assert len(CELLS) == 2 * (1 + 2 * 5)
    assert set(NAMED) <= set(CELLS)


def test_errors_are_counted_against_the_dense_model_of_the_same_kind_and_seeds() -> None:
    def row(cell: str, seed: int, wer: float) -> dict[str, Any]:
        metric_values = {"parameters": 0.35, "macs": 0.5, "times_as_fast": 2.0, "seconds": 10.0}
        return {"cell": cell, "seed": seed, "scores": {"wer": wer}} | metric_values

    rows = [row("dense", 0, 0.10), row("dense", 1, 0.30), row("streaming/dense", 0, 0.5)]
    rows += [row("joint/l0", 1, 0.33), row("streaming/joint/l0", 0, 0.4), row("joint/kd", 2, 0.4)]
    results = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:4] for line in table(rows).splitlines()[2:]}
    assert results["dense"] == ["20.00 % ± 14.14", "10.00 30.00", ""]
    assert results["joint/l0"] == ["33.00 %", "33.00", "+10.0%"]
    assert results["streaming/joint/l0"] == ["40.00 %", "40.00", "-20.0%"]
    assert results["joint/kd"] == ["40.00 %", "40.00", ""]
    other_value = {
        line.split(" | ")[0].strip("| "): line.split(" | ")[3] for line in table(rows, "joint/l0").splitlines()[2:]
    }
    assert other_value["dense"] == "-9.1%"
    assert other_value["streaming/dense"] == "+25.0%"
