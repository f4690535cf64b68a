"""Files of a run folder: the recipe, the models and the latency table."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from secateur import config as configs
from secateur.errors import ConfigError
from secateur.records.files import write_json

if TYPE_CHECKING:
    from secateur.compress.config import PruneConfig
    from secateur.compress.phases import OnProgress
    from secateur.cost.latency_table import LatencyTable
    from secateur.hf.model_view import ConfigView

logger = logging.getLogger(__name__)

#: Where the recipes that ship with the package lie; a recipe is named by its folder.
RECIPES = Path(__file__).parents[1] / "recipes"

#: The table of latencies that a run goes by, in its folder.
LATENCY_TABLE_FILE = "latency.json"

#: The resolved recipe in a run folder, of pruning and of pre-training: only the former can be verified and reported on.
RECIPE_FILE, PRETRAIN_FILE = "recipe.yaml", "pretrain.yaml"


def resolve_source(model: str | Path) -> str | Path:
    """Return the folder or hub id of a model; ``tiny`` is the teacher in the package."""
    from secateur.compress.run_context import model_path

    return model_path(str(model))


def is_run_folder(folder: Path) -> bool:
    """Return whether a folder is the folder of a pruning run."""
    return (folder / RECIPE_FILE).is_file()


def find_run_models(run: Path) -> tuple[str | Path, Path]:
    """Return teacher and model of a finished run; the teacher is the fine-tuned model where the run fine-tuned."""
    if not (run / "model").is_dir():
        raise ConfigError(f"The run in {str(run)!r} has no model/ yet: finish it with `secateur prune … --resume`.")
    finetuned = run / "finetuned"
    return finetuned if finetuned.is_dir() else resolve_source(load_run_recipe(run).model), run / "model"


def load_run_recipe(run: Path) -> PruneConfig:
    """Load the resolved recipe of a run."""
    from secateur.compress.config import PruneConfig

    return configs.load(run / RECIPE_FILE, PruneConfig)


def check_run_folder(folder: Path, recipe: str, *, resume: bool, name: str = RECIPE_FILE) -> None:
    """Raise a ConfigError if the run folder belongs to another run, or is no run folder."""
    recipe_path = folder / name
    if recipe_path.is_file():
        if not resume:
            raise ConfigError(
                f"The run folder {str(folder)!r} is in use: add --resume to go on with it, or give another --out."
            )
        differences = configs.differences(recipe_path.read_text(encoding="utf-8", errors="replace"), recipe)
        changed_fields = [field for field in differences if field != "out"]  # a run folder can be moved
        if changed_fields:
            remainder_text = f" and {len(changed_fields) - 3} more" if len(changed_fields) > 3 else ""
            raise ConfigError(
                f"The run in {str(folder)!r} was started with another recipe (see its {name}; other now: "
                f"{', '.join(changed_fields[:3])}{remainder_text}): resume with that one, or give another --out."
            )
    elif folder.exists() and (not folder.is_dir() or any(entry.suffix != ".partial" for entry in folder.iterdir())):
        raise ConfigError(f"{str(folder)!r} exists and is not a run folder: give another --out.")


def open_run_folder(folder: Path, recipe: str, table: LatencyTable | None, *, name: str = RECIPE_FILE) -> None:
    """Make the run folder, or remove half-written files of an interruption from an existing folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*.partial*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    recipe_path = folder / name
    if not recipe_path.is_file():
        temporary = folder / f".{name}.partial"
        temporary.write_text(recipe, encoding="utf-8")
        temporary.rename(recipe_path)
    if table is not None and not (folder / LATENCY_TABLE_FILE).is_file():
        write_json(folder / LATENCY_TABLE_FILE, table)


def latency_table_loader(
    folder: Path, config: PruneConfig, on_progress: OnProgress, *, has_started: bool = False
) -> Callable[[ConfigView, int], LatencyTable]:
    """Return a function that finds the latency table of a run, given model config and sampling rate.

    A resumed run takes the table in the run folder, and so goes on with the numbers of its start. Otherwise the first
    rank takes a table from the cache or measures on this machine, for all ranks.

    Args:
        folder: The run folder.
        config: The recipe of the run.
        on_progress: Called after each step of a measurement.
        has_started: Whether the run has learned with a table already.
    """
    from secateur.benchmarking.latency import load_or_measure_table
    from secateur.cost.latency_table import LatencyTable
    from secateur.engine import Progress, run_on_main_rank

    def report_progress(completed_steps: int, steps: int) -> None:
        if on_progress is not None:
            on_progress(Progress(phase="latency", step=completed_steps, steps=steps, parts={}, seconds_left=None))

    def find_table(model: ConfigView, sample_rate: int) -> LatencyTable:
        table_path = folder / LATENCY_TABLE_FILE
        if table_path.is_file():
            return LatencyTable.load(table_path)
        if has_started:
            logger.warning(
                "%s is gone: the run goes on with another table, and does not end as it would have", table_path
            )
        return load_or_measure_table(model, config.latency, sample_rate=sample_rate, on_step=report_progress)

    return lambda model, sample_rate: run_on_main_rank(lambda: find_table(model, sample_rate))
