"""The public verbs: a config in, a record out, and no logic of their own.

Each is what the command of the same name calls. Heavy imports wait until a verb needs them.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur import config as configs
from secateur.errors import ConfigError, SecateurError, did_you_mean
from secateur.records.files import plain, write_json

if TYPE_CHECKING:
    from secateur.compress.config import PruneConfig
    from secateur.compress.phases import OnProgress
    from secateur.cost.latency_table import LatencyTable
    from secateur.hf.model_view import ConfigView, ModelView
    from secateur.records.bench import BenchRecord
    from secateur.records.choice import ChooseRecord, ShrinkRecord
    from secateur.records.costs import ProfileRecord
    from secateur.records.evaluation import EvaluateRecord
    from secateur.records.export import ExportRecord
    from secateur.records.finding import Finding
    from secateur.records.pretraining import PretrainRecord
    from secateur.records.run import RunRecord
    from secateur.records.sweep import SweepRecord
    from secateur.records.verification import VerifyRecord

logger = logging.getLogger(__name__)

#: Where the recipes that ship with the package lie; a recipe is named by its folder.
RECIPES = Path(__file__).parent / "recipes"

#: The table of latencies that a run goes by, in its folder.
LATENCY_TABLE_FILE = "latency.json"

#: The resolved recipe in a run folder, of pruning and of pre-training: only the former can be verified and reported on.
RECIPE_FILE, PRETRAIN_FILE = "recipe.yaml", "pretrain.yaml"


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
    _check_run_folder(folder, configs.dump(config), resume=resume)
    has_started = (folder / "metrics.jsonl").exists()
    context = prepare_run(
        config, make_latency_table=_latency_table_loader(folder, config, on_progress, has_started=has_started)
    )
    process().wait_for_everyone()  # all have looked before the first writes
    if process().is_main_process:
        _open_run_folder(folder, configs.dump(config), context.table)
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
    """Prune once for each combination of some fields; ends in one table and one plot.

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
        _check_run_folder(Path(str(config.out)), configs.dump(config), resume=resume)
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
    """Choose again for another target from what a run learned, without learning again.

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
        recipe, make_latency_table=_latency_table_loader(folder, recipe, on_progress), has_learned_gates=True
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


def shrink(
    model: str | Path, *, selection: str | Path, out: str | Path, layout: str = "registered", force: bool = False
) -> ShrinkRecord:
    """Cut a model by a selection, prove that it is the masked model, and write it.

    Args:
        model: A model folder or hub id.
        selection: A selection file.
        out: The folder to write.
        layout: ``registered`` or ``stock``.
        force: Replace `out` if it exists.
    """
    from secateur.cost import breakdown
    from secateur.hf.feature_extractor import read_sample_rate
    from secateur.hf.save import atomic_folder, check_replaceable
    from secateur.records.choice import ShrinkRecord
    from secateur.structure import Selection
    from secateur.surgery import load_checkpoint
    from secateur.surgery.cut_checkpoint import cut_checkpoint

    layouts = ("registered", "stock")
    if layout not in layouts:
        raise ConfigError(
            f"Unknown layout {layout!r}; allowed are {' and '.join(layouts)}.{did_you_mean(layout, layouts)}"
        )
    check_replaceable(Path(out), replace=force)
    requested_selection = Selection.load(selection)
    source = _resolve_source(model)
    checkpoint = load_checkpoint(source).drop_damaged_head()
    sample_rate = read_sample_rate(source)
    cut = cut_checkpoint(checkpoint, requested_selection, layout=layout)  # type: ignore[arg-type]
    record = ShrinkRecord(
        sample_rate=sample_rate,
        before=breakdown(checkpoint.view.structure, samples=sample_rate),
        after=breakdown(cut.view.structure, samples=sample_rate),
        notes=tuple(cut.notes),
        verification=cut.verification,
        folder=str(out),
    )
    with atomic_folder(Path(out), replace=force) as folder:
        cut.write(folder, source=source)
    return record


def export(model: str | Path, *, target: str, out: str | Path, force: bool = False) -> ExportRecord:
    """Write a model in the form of an export target, and prove that the outputs are those of the model.

    Args:
        model: A model folder or hub id, dense or cut.
        target: Name of the target, such as ``stock``.
        out: The folder to write.
        force: Replace `out` if it exists.
    """
    from secateur.export.export import export_model

    return export_model(_resolve_source(model), target=target, out=Path(out), force=force)


def profile(model: str | Path, *, seconds: float = 1.0, selection: str | Path | None = None) -> ProfileRecord:
    """Parameters and MACs of a model by block; a folder with only ``config.json`` is enough.

    Args:
        model: A model folder, a config file or a hub id.
        seconds: Audio length for the MACs.
        selection: Count what a selection would leave instead.
    """
    from secateur.cost import breakdown
    from secateur.hf.feature_extractor import read_sample_rate
    from secateur.hf.load import load_config_view
    from secateur.records.costs import ProfileRecord
    from secateur.structure import Selection, normalize

    if not 0 < seconds < math.inf:
        raise ConfigError(f"seconds: got {seconds:g}, allowed is above 0.")
    source = _resolve_source(model)
    structure, sample_rate = load_config_view(source).structure, read_sample_rate(source)
    normalized_selection = normalize(structure, Selection.load(selection)).selection if selection else None
    costs = breakdown(structure, samples=round(sample_rate * seconds), selection=normalized_selection)
    return ProfileRecord(model_type=structure.model_type, sample_rate=sample_rate, **costs.fields_of())


def verify(
    model: str | Path,
    *,
    against: str | Path | None = None,
    selection: str | Path | None = None,
    compile: bool = False,
) -> VerifyRecord:
    """Prove that a cut model is the masked model, and check the drop-in contract.

    Args:
        model: A run folder; or a cut model, with `against` and its selection.
        against: The dense model.
        selection: The selection; None takes the one in the cut model's folder.
        compile: Also run `torch.compile`.
    """
    from secateur.compress.targets import make_student_model
    from secateur.hf.load import load_view
    from secateur.records.verification import VerifyRecord
    from secateur.structure import Selection
    from secateur.surgery.cut import cut_view
    from secateur.surgery.verify import verify as prove

    folder = Path(model)
    if against is not None:
        path = Path(selection) if selection else folder / "selection.json"
        proof = prove(
            load_view(_resolve_source(model)),
            load_view(_resolve_source(against)),
            Selection.load(path),
            compile=compile,
        )
        return VerifyRecord(**proof.fields_of())
    if not _is_run_folder(folder):
        raise ConfigError(f"{str(model)!r} is not a run folder: give one, or add --against the dense model.")
    teacher, model_folder = _find_run_models(folder)
    learned_folder = folder / "learned"
    if learned_folder.is_dir():
        dense = load_view(learned_folder)
    else:
        dense = make_student_model(load_view(teacher), _load_run_recipe(folder).factorise)
    chosen_selection = Selection.load(selection or folder / "selection.json")
    proof = prove(cut_view(dense, chosen_selection), dense, chosen_selection, compile=compile)
    model_view, teacher_view = load_view(model_folder), load_view(teacher)
    if _load_run_recipe(folder).task is not None and _head_shapes(model_view) != _head_shapes(teacher_view):
        # The head is new: compare with the learned dense model, which has the same head, or without any head.
        if learned_folder.is_dir():
            teacher_view = dense
        else:
            model_view, teacher_view = model_view.encoder_view, teacher_view.encoder_view
    contract = prove(model_view, teacher_view, None, compile=compile)
    return VerifyRecord(
        holds=proof.holds and contract.holds,
        proven=proof.is_proven,
        checks=(*(check for check in proof.checks if check.is_proof), *contract.checks),
        differences=proof.differences,
    )


def bench(
    model: str | Path, *, against: Sequence[str | Path] = (), out: str | Path | None = None, **fields: Any
) -> BenchRecord:
    """Measure time and memory of models side by side, as they are and in their inference-only form.

    Args:
        model: A model folder, a config file (random weights) or a hub id; or a run folder, whose model is measured
            against its teacher, and in which the record stays, for the report.
        against: Others; the first of them is what all are compared with, in a run folder the teacher.
        out: Where the record goes; of a run None is ``bench.json`` in its folder.
        fields: The other fields of `secateur.benchmarking.bench.Bench`.
    """
    from secateur.benchmarking.bench import BenchConfig
    from secateur.benchmarking.bench import bench as measure
    from secateur.report.write import BENCH

    run_folder = Path(model) if _is_run_folder(Path(model)) else None
    if run_folder is not None:
        teacher, model = _find_run_models(run_folder)
        against, out = (teacher, *against), run_folder / BENCH if out is None else out
    if out is not None and (Path(out).is_dir() or not Path(out).absolute().parent.is_dir()):
        raise ConfigError(f"out: got {str(out)!r}, allowed is a file in a folder that exists.")
    names = tuple(str(_resolve_source(name)) for name in (*against, model))
    record = measure(BenchConfig(models=names, **fields))
    if out is not None:
        record.write(out)
    if run_folder is not None and (run_folder / "record.json").is_file():
        report(run_folder)
    return record


def evaluate(model: str | Path, *, fields: Mapping[str, Any] | None = None) -> EvaluateRecord:
    """How well a model with a task head does its task, such as its word error rate.

    Args:
        model: A model folder or hub id, dense or cut.
        fields: The other fields of `secateur.evaluation.evaluate.EvaluateConfig`, by dotted name: `data` and `task`.
    """
    from secateur.evaluation import evaluate as evaluating

    config = configs.load({"model": str(model)}, evaluating.EvaluateConfig, fields)
    return evaluating.evaluate(config)


def report(run_folder: str | Path, *, out: str | Path | None = None) -> Path:
    """Write the HTML report of a run, or of a sweep, from its records."""
    from secateur.compress.sweep import SWEEP_FILE
    from secateur.report import write_report, write_sweep

    folder = Path(run_folder)
    if (folder / SWEEP_FILE).is_file():
        if out is not None:
            raise ConfigError("out: the page of a sweep lies beside its runs, which it links to; leave it out.")
        return write_sweep(folder)
    return write_report(folder, Path(out) if out else None)


def doctor() -> list[Finding]:
    """Look at this machine and installation, and say what to mend."""
    from secateur.doctor.doctor import examine_installation

    return list(examine_installation())


def pretrain(recipe: str | Path, *, overrides: Mapping[str, Any] | None = None, resume: bool = False) -> PretrainRecord:
    """Train a small encoder from nothing by BEST-RQ, as the teacher that ships with the package was."""
    from secateur.pretraining import pretrain as pretraining

    config = configs.load(recipe, pretraining.PretrainConfig, overrides, search=RECIPES)
    folder, resolved = Path(config.out), configs.dump(config)
    _check_run_folder(folder, resolved, resume=resume, name=PRETRAIN_FILE)
    record = pretraining.pretrain(
        config, resume=resume, on_start=lambda: _open_run_folder(folder, resolved, None, name=PRETRAIN_FILE)
    )
    return replace(record, folder=str(folder))


def _resolve_source(model: str | Path) -> str | Path:
    from secateur.compress.run_context import model_path

    return model_path(str(model))


def _is_run_folder(folder: Path) -> bool:
    """Whether this is the folder of a run."""
    return (folder / RECIPE_FILE).is_file()


def _find_run_models(run: Path) -> tuple[str | Path, Path]:
    """The teacher and the model of a finished run; the teacher of a run that fine-tuned it is what came of that."""
    if not (run / "model").is_dir():
        raise ConfigError(f"The run in {str(run)!r} has no model/ yet: finish it with `secateur prune … --resume`.")
    finetuned = run / "finetuned"
    return finetuned if finetuned.is_dir() else _resolve_source(_load_run_recipe(run).model), run / "model"


def _load_run_recipe(run: Path) -> PruneConfig:
    """The recipe of a run."""
    from secateur.compress.config import PruneConfig

    return configs.load(run / RECIPE_FILE, PruneConfig)


def _head_shapes(view: ModelView) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's weights outside its encoder."""
    model = view.model
    encoder_prefix = view.prefix or f"{model.base_model_prefix}."
    return {
        name: tuple(value.shape) for name, value in model.state_dict().items() if not name.startswith(encoder_prefix)
    }


def _check_run_folder(folder: Path, recipe: str, *, resume: bool, name: str = RECIPE_FILE) -> None:
    """Raise a ConfigError when the run folder is not ours to write to."""
    recipe_path = folder / name
    if recipe_path.is_file():
        if not resume:
            raise ConfigError(
                f"The run folder {str(folder)!r} is in use: add --resume to go on with it, or give another --out."
            )
        changed_fields = configs.differences(recipe_path.read_text(encoding="utf-8", errors="replace"), recipe)
        if changed_fields:
            remainder_text = f" and {len(changed_fields) - 3} more" if len(changed_fields) > 3 else ""
            raise ConfigError(
                f"The run in {str(folder)!r} was started with another recipe (see its {name}; other now: "
                f"{', '.join(changed_fields[:3])}{remainder_text}): resume with that one, or give another --out."
            )
    elif folder.exists() and (not folder.is_dir() or any(entry.suffix != ".partial" for entry in folder.iterdir())):
        raise ConfigError(f"{str(folder)!r} exists and is not a run folder: give another --out.")


def _latency_table_loader(
    folder: Path, config: PruneConfig, on_progress: OnProgress, *, has_started: bool = False
) -> Callable[[ConfigView, int], LatencyTable]:
    """Return what finds the table of latencies of a run, by config and sampling rate: in the run's folder, so that it
    goes on with the one that it began with, else in the cache or by a measurement on this machine, by the first rank
    for all.

    Args:
        folder: The run folder.
        config: Its recipe.
        on_progress: Told how far the measuring is.
        begun: Whether the run has learned by a table already.
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


def _open_run_folder(folder: Path, recipe: str, table: LatencyTable | None, *, name: str = RECIPE_FILE) -> None:
    """Make the run folder, or clear an existing one of what an interruption left half-written."""
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
