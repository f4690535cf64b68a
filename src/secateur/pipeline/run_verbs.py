"""Verbs on run folders: prune, sweep, choose, pretrain and report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur import config as configs
from secateur.errors import ConfigError, SecateurError
from secateur.pipeline.run_folder import (
    LATENCY_TABLE_FILE,
    PRETRAIN_FILE,
    RECIPE_FILE,
    RECIPES,
    check_run_folder,
    latency_table_loader,
    open_run_folder,
)
from secateur.records.files import plain, write_json

if TYPE_CHECKING:
    from secateur.compress.config import PruneConfig
    from secateur.compress.phases import OnProgress
    from secateur.records.choice import ChooseRecord
    from secateur.records.pretraining import PretrainRecord
    from secateur.records.run import RunRecord
    from secateur.records.sweep_record import SweepRecord

logger = logging.getLogger(__name__)


def prune(
    recipe: str | Path | Mapping[str, Any] | PruneConfig = "quickstart",
    *,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    on_progress: OnProgress = None,
) -> RunRecord:
    """Prune a speech encoder: learn, choose, shrink, recover, report.

    Args:
        recipe: A YAML file, the name of a recipe that ships with the package, plain fields, or a config.
        overrides: Fields that differ, by dotted name.
        resume: Go on where an interrupted run of the same recipe stopped.
        on_progress: Called after each step.

    Returns:
        The record, also in ``record.json`` of the run folder, beside ``report.html`` and ``model/``.
    """
    from secateur.compress import phases as run
    from secateur.compress.config import PruneConfig
    from secateur.compress.run_context import prepare_run
    from secateur.compress.run_record import record_of_run
    from secateur.engine import process

    if isinstance(recipe, PruneConfig):
        config = configs.check(recipe)
    else:
        config = configs.load(recipe, PruneConfig, overrides, search=RECIPES)
    folder = Path(config.out or f"runs/{config.name}")
    check_run_folder(folder, configs.dump(config), resume=resume)
    has_started = (folder / "metrics.jsonl").exists()
    context = prepare_run(
        config, make_latency_table=latency_table_loader(folder, config, on_progress, has_started=has_started)
    )
    process().wait_for_everyone()  # all have looked before the first writes
    if process().is_main_process:
        open_run_folder(folder, configs.dump(config), context.table)
    process().wait_for_everyone()
    context = run.finetune(context, folder, resume=resume, on_progress=on_progress)
    if config.choose.kind == "gates":
        run.learn(context, folder, resume=resume, on_progress=on_progress)
    run.select(context, folder, folder / "learned")
    cut_model = run.shrink(context, folder, folder / "learned")
    run.recover(context, folder, cut_model, resume=resume, on_progress=on_progress)
    record = record_of_run(context, folder)
    if process().is_main_process:
        record.write(folder / "record.json")
        report(folder)
    process().wait_for_everyone()
    return replace(record, folder=str(folder))


def sweep(
    recipe: str | Path | Mapping[str, Any] = "quickstart",
    *,
    grid: Mapping[str, Sequence[Any]],
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    on_progress: OnProgress = None,
) -> SweepRecord:
    """Prune for every combination of some fields, and write a table and a plot of all runs.

    A run that cannot be done, such as one whose target cannot be met, does not keep the others from being done: the
    record has it under ``failed`` with the reason, and `resume` tries it again.

    Args:
        recipe: As in `prune`.
        grid: Values by dotted name of the field, such as ``{"target": [0.9, 0.7], "seed": [0, 1, 2]}``.
        overrides: Fields that differ from the recipe in all runs, by dotted name.
        resume: Go on with an interrupted sweep: finished runs stay as they are.
        on_progress: Called after each step.

    Returns:
        The record, also in ``sweep.json`` of the sweep's folder, beside ``sweep.html`` and the runs' folders.

    Raises:
        SecateurError: No run could be done; what the last one said.
    """
    from secateur.compress.config import PruneConfig
    from secateur.compress.sweep import SWEEP_FILE, combinations, folder_of, sweep_record
    from secateur.report import write_sweep

    base_overrides = dict(overrides or {})
    runs = combinations(grid)
    conflicts = sorted(set(grid) & set(base_overrides))
    if conflicts:
        raise ConfigError(f"--sweep {conflicts[0]}: the same field is given by --{conflicts[0]} too; leave one out.")

    def load_config(values: Mapping[str, Any]) -> PruneConfig:
        return configs.load(recipe, PruneConfig, base_overrides | dict(values), search=RECIPES)

    run_configs = [load_config(values) for values in runs]  # a mistake in any is told before the first one runs
    folder = Path(run_configs[0].out or f"runs/{run_configs[0].name}-sweep")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{str(folder)!r} is a file: give another --out.")
    if folder.exists() and not resume and any(folder.iterdir()):
        raise ConfigError(f"The folder {str(folder)!r} is in use: add --resume to go on with its sweep, or give --out.")
    run_configs = [
        replace(config, out=str(folder / folder_of(values))) for config, values in zip(run_configs, runs, strict=True)
    ]
    for config in run_configs:  # finished ones too: all of a sweep have one recipe
        check_run_folder(Path(str(config.out)), configs.dump(config), resume=resume)
    finished_runs, failed_runs = [], []
    for config, values in zip(run_configs, runs, strict=True):
        try:
            if not (resume and (Path(str(config.out)) / "record.json").is_file()):
                logger.info("sweep: %s", config.out)
                prune(config, resume=resume, on_progress=on_progress)
            finished_runs.append(values)
        except SecateurError as error:
            logger.warning("sweep: %s failed: %s", config.out, error)
            failed_runs.append((values, str(error)))
            if len(failed_runs) == len(run_configs):
                raise
    record = sweep_record(run_configs[0].name, folder, finished_runs, failed_runs)
    record.write(folder / SWEEP_FILE)
    write_sweep(folder)
    return replace(record, folder=str(folder))


def choose(
    run_folder: str | Path,
    *,
    constraint: Mapping[str, Any],
    choosing: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    on_progress: OnProgress = None,
) -> ChooseRecord:
    """Choose units for another target from the learned gates of a run, without learning again.

    Args:
        run_folder: A run folder with ``learned/``.
        constraint: Fields of the constraint to meet in place of the run's, such as ``{"target": 0.3}``. Of a transducer
            whose head was pruned too, those on the other part stay: on its head, or on its encoder.
        choosing: Fields of the recipe's ``choose`` that differ from the run's, such as ``{"round_to": "auto"}``.
        out: Where the new selection and the shrunk model go; None: a folder in the run folder, named by the target.
        on_progress: Called after each step of measuring latencies, where there is no table of them yet.

    Returns:
        Record of the choice: counts, what the repair moved, what rounding cost, the proof.
    """
    from secateur.architectures.transducer import is_of_head
    from secateur.compress import phases as run
    from secateur.compress.config import FromGates, PruneConfig
    from secateur.compress.phase_files import write_run_model
    from secateur.compress.run_context import prepare_run
    from secateur.hf.save import atomic_folder, check_replaceable
    from secateur.losses.constraint import Constraint
    from secateur.records.choice import ChoiceRecord, ChooseRecord
    from secateur.records.verification import Verification
    from secateur.structure import Selection

    folder = Path(run_folder)
    if not (folder / "learned").is_dir():
        raise SecateurError(f"{str(folder)!r} has no learned/ folder: give the folder of a run that learned gates.")
    new_constraint = configs.load(dict(constraint), Constraint)
    recipe = configs.load(folder / RECIPE_FILE, PruneConfig)
    choose_config = configs.load(plain(recipe.choose) | dict(choosing or {}), FromGates)
    other_limits = (
        limit for limit in recipe.targeted_constraints if is_of_head(limit.scope) != is_of_head(new_constraint.scope)
    )
    recipe = replace(recipe, target=None, constraints=(new_constraint, *other_limits), choose=choose_config)
    out_folder = Path(out) if out else folder / f"choose-{new_constraint.name}-{new_constraint.target_label}"
    check_replaceable(out_folder)
    context = prepare_run(
        recipe, make_latency_table=latency_table_loader(folder, recipe, on_progress), has_learned_gates=True
    )
    with atomic_folder(out_folder) as partial_folder:
        if context.table is not None:
            write_json(partial_folder / LATENCY_TABLE_FILE, context.table)
        run.select(context, partial_folder, folder / "learned")
        cut_model = run.shrink(context, partial_folder, folder / "learned")
        selection = Selection.load(partial_folder / "selection.json")
        (partial_folder / "model").mkdir()
        if context.task is not None:
            context.task.restore(folder / "learned")
        write_run_model(partial_folder / "model", cut_model, context, context.task, selection)
        record = ChooseRecord(
            constraint=plain(new_constraint),
            **ChoiceRecord.read(partial_folder / "choice.json").fields_of(),
            verification=Verification.read(partial_folder / "verified.json"),
        )
        record.write(partial_folder / "record.json")
    return replace(record, folder=str(out_folder))


def pretrain(recipe: str | Path, *, overrides: Mapping[str, Any] | None = None, resume: bool = False) -> PretrainRecord:
    """Pre-train a small encoder by BEST-RQ, as the teacher in the package was pre-trained."""
    from secateur.pretraining import pretrain as pretraining

    config = configs.load(recipe, pretraining.PretrainConfig, overrides, search=RECIPES)
    folder, resolved = Path(config.out), configs.dump(config)
    check_run_folder(folder, resolved, resume=resume, name=PRETRAIN_FILE)
    record = pretraining.pretrain(
        config, resume=resume, on_start=lambda: open_run_folder(folder, resolved, None, name=PRETRAIN_FILE)
    )
    return replace(record, folder=str(folder))


def report(run_folder: str | Path, *, out: str | Path | None = None) -> Path:
    """Write the HTML report of a run or sweep from the records in the folder."""
    from secateur.compress.sweep import SWEEP_FILE
    from secateur.report import write_report, write_sweep

    folder = Path(run_folder)
    if (folder / SWEEP_FILE).is_file():
        if out is not None:
            raise ConfigError("out: the page of a sweep lies beside its runs, which it links to; leave it out.")
        return write_sweep(folder)
    return write_report(folder, Path(out) if out else None)
