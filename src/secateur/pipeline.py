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
from secateur.errors import ConfigError, SecateurError, nearest
from secateur.records import plain, read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from secateur.compress.config import PruneConfig
    from secateur.compress.run import OnProgress
    from secateur.cost.table import Table

logger = logging.getLogger(__name__)

#: Where the recipes that ship with the package lie; a recipe is named by its folder.
RECIPES = Path(__file__).parent / "recipes"

#: The table of latencies that a run goes by, in its folder.
LATENCIES = "latency.json"

#: The resolved recipe in a run folder, of pruning and of pre-training: only the former can be verified and reported on.
RECIPE, PRETRAINING = "recipe.yaml", "pretrain.yaml"


def prune(
    recipe: str | Path | Mapping[str, Any] | PruneConfig = "quickstart",
    *,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    on_progress: OnProgress = None,
) -> dict[str, Any]:
    """Prune a speech encoder: learn, choose, shrink, recover, report.

    Args:
        recipe: A YAML file, the name of a recipe that ships with the package, plain fields, or a config.
        overrides: Fields that differ, by dotted name.
        resume: Go on where an interrupted run of the same recipe stopped.
        on_progress: Called after each step.

    Returns:
        The record, also in ``record.json`` of the run folder, beside ``report.html`` and ``model/``.
    """
    from secateur.compress import run
    from secateur.compress.config import PruneConfig
    from secateur.compress.record import record_of_run
    from secateur.compress.setting import prepare
    from secateur.engine import process

    config = recipe if isinstance(recipe, PruneConfig) else configs.load(recipe, PruneConfig, overrides, search=RECIPES)
    folder = Path(config.out or f"runs/{config.name}")
    _check_run(folder, configs.dump(config), resume=resume)
    begun = (folder / "metrics.jsonl").exists()
    setting = prepare(config, table=_latencies(folder, config, on_progress, begun=begun))
    process().wait_for_everyone()  # all have looked before the first writes
    if process().is_main_process:
        _open_run(folder, configs.dump(config), setting.table)
    process().wait_for_everyone()
    setting = run.finetune(setting, folder, resume=resume, on_progress=on_progress)
    if config.choose.kind == "gates":
        run.learn(setting, folder, resume=resume, on_progress=on_progress)
    run.select(setting, folder, folder / "learned")
    small = run.shrink(setting, folder, folder / "learned")
    run.recover(setting, folder, small, resume=resume, on_progress=on_progress)
    record = record_of_run(setting, folder) | {"folder": str(folder)}
    if process().is_main_process:
        write_json(folder / "record.json", {key: value for key, value in record.items() if key != "folder"})
        report(folder)
    process().wait_for_everyone()
    return record


def sweep(
    recipe: str | Path | Mapping[str, Any] = "quickstart",
    *,
    grid: Mapping[str, Sequence[Any]],
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    on_progress: OnProgress = None,
) -> dict[str, Any]:
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
    from secateur.compress.sweep import SWEEP, combinations, folder_of, sweep_record
    from secateur.report import write_sweep

    given = dict(overrides or {})
    runs = combinations(grid)
    clash = sorted(set(grid) & set(given))
    if clash:
        raise ConfigError(f"--sweep {clash[0]}: the same field is given by --{clash[0]} too; leave one out.")

    def read(values: Mapping[str, Any]) -> PruneConfig:
        return configs.load(recipe, PruneConfig, given | dict(values), search=RECIPES)

    planned = [read(values) for values in runs]  # a mistake in any is told before the first one runs
    folder = Path(planned[0].out or f"runs/{planned[0].name}-sweep")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{str(folder)!r} is a file: give another --out.")
    if folder.exists() and not resume and any(folder.iterdir()):
        raise ConfigError(f"The folder {str(folder)!r} is in use: add --resume to go on with its sweep, or give --out.")
    planned = [
        replace(config, out=str(folder / folder_of(values))) for config, values in zip(planned, runs, strict=True)
    ]
    for config in planned:  # finished ones too: all of a sweep have one recipe
        _check_run(Path(str(config.out)), configs.dump(config), resume=resume)
    done, failed = [], []
    for config, values in zip(planned, runs, strict=True):
        try:
            if not (resume and (Path(str(config.out)) / "record.json").is_file()):
                logger.info("sweep: %s", config.out)
                prune(config, resume=resume, on_progress=on_progress)
            done.append(values)
        except SecateurError as error:
            logger.warning("sweep: %s failed: %s", config.out, error)
            failed.append((values, str(error)))
            if len(failed) == len(planned):
                raise
    record = sweep_record(planned[0].name, folder, done, failed)
    write_json(folder / SWEEP, record)
    write_sweep(folder)
    return record | {"folder": str(folder)}


def choose(
    run_folder: str | Path,
    *,
    constraint: Mapping[str, Any],
    choosing: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    on_progress: OnProgress = None,
) -> dict[str, Any]:
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
    from secateur.compress import run
    from secateur.compress.config import FromGates, PruneConfig
    from secateur.compress.setting import prepare
    from secateur.modules.transducer import is_of_head
    from secateur.objective.constraint import Constraint
    from secateur.structure import Selection
    from secateur.surgery.folder import check_free, whole_folder

    folder = Path(run_folder)
    if not (folder / "learned").is_dir():
        raise SecateurError(f"{str(folder)!r} has no learned/ folder: give the folder of a run that learned gates.")
    wanted = configs.load(dict(constraint), Constraint)
    recipe = configs.load(folder / RECIPE, PruneConfig)
    how = configs.load(plain(recipe.choose) | dict(choosing or {}), FromGates)
    apart = (limit for limit in recipe.limits if is_of_head(limit.scope) != is_of_head(wanted.scope))
    recipe = replace(recipe, target=None, constraints=(wanted, *apart), choose=how)
    target = Path(out) if out else folder / f"choose-{wanted.name}-{wanted.asked}"
    check_free(target)
    setting = prepare(recipe, table=_latencies(folder, recipe, on_progress), learned=True)
    with whole_folder(target) as partial:
        if setting.table is not None:
            write_json(partial / LATENCIES, setting.table)
        run.select(setting, partial, folder / "learned")
        small = run.shrink(setting, partial, folder / "learned")
        selection = Selection.load(partial / "selection.json")
        (partial / "model").mkdir()
        if setting.task is not None:
            setting.task.restore(folder / "learned")
        run.write(partial / "model", small, setting, setting.task, selection)
        record = read_json(partial / "choice.json") | {"verification": read_json(partial / "verified.json")}
        record = {"format": 1, "kind": "choose", "constraint": plain(wanted), **record}
        write_json(partial / "record.json", record)
    return record | {"folder": str(target)}


def shrink(
    model: str | Path, *, selection: str | Path, out: str | Path, layout: str = "registered", force: bool = False
) -> dict[str, Any]:
    """Cut a model by a selection, prove that it is the masked model, and write it.

    Args:
        model: A model folder or hub id.
        selection: A selection file.
        out: The folder to write.
        layout: ``registered`` or ``stock``.
        force: Replace `out` if it exists.
    """
    from secateur.arch import declare
    from secateur.cost import breakdown
    from secateur.structure import Selection, close
    from secateur.surgery import cut, load_checkpoint
    from secateur.surgery.folder import check_free, save_model
    from secateur.surgery.hearing import sample_rate_of
    from secateur.surgery.verify import verify as prove

    layouts = ("registered", "stock")
    if layout not in layouts:
        raise ConfigError(f"Unknown layout {layout!r}; allowed are {' and '.join(layouts)}.{nearest(layout, layouts)}")
    check_free(Path(out), replace=force)
    chosen = Selection.load(selection)
    source = _source(model)
    checkpoint = load_checkpoint(source).without_damage()
    dense, extra = checkpoint.model, checkpoint.extra
    structure, sample_rate = declare(dense.config), sample_rate_of(source)
    closed = close(structure, chosen)
    for note in closed.notes:
        logger.warning("%s", note)
    small = cut(dense, closed.selection, layout=layout)  # type: ignore[arg-type]
    proof = prove(small, dense, closed.selection)
    _, left_out = extra.fitting(dense.config, small)
    for note in left_out:
        logger.warning("%s", note)
    record = {
        "format": 1,
        "kind": "shrink",
        "sample_rate": sample_rate,
        "before": breakdown(structure, samples=sample_rate).to_json(),
        "after": breakdown(declare(small.config), samples=sample_rate).to_json(),
        "notes": [*checkpoint.notes, *closed.notes, *left_out],
        "verification": proof.to_json(),
        "folder": str(out),
    }
    if not proof.is_proven:
        raise SecateurError(f"{proof.refusal} Nothing was written.")
    weights = extra.state_dict(dense.config, small)
    save_model(out, small, source=source, selection=closed.selection, weights=weights, replace=force)
    return record


def profile(model: str | Path, *, seconds: float = 1.0, selection: str | Path | None = None) -> dict[str, Any]:
    """Parameters and MACs of a model by block; a folder with only ``config.json`` is enough.

    Args:
        model: A model folder, a config file or a hub id.
        seconds: Audio length for the MACs.
        selection: Count what a selection would leave instead.
    """
    from secateur.arch import declare
    from secateur.cost import breakdown
    from secateur.structure import Selection, close
    from secateur.surgery import load_config
    from secateur.surgery.hearing import sample_rate_of

    if not 0 < seconds < math.inf:
        raise ConfigError(f"seconds: got {seconds:g}, allowed is above 0.")
    source = _source(model)
    structure, sample_rate = declare(load_config(source)), sample_rate_of(source)
    kept = close(structure, Selection.load(selection)).selection if selection else None
    found = breakdown(structure, samples=round(sample_rate * seconds), selection=kept)
    named = {"model_type": structure.model_type, "sample_rate": sample_rate}
    return {"format": 1, "kind": "profile", **named, **found.to_json()}


def verify(
    model: str | Path,
    *,
    against: str | Path | None = None,
    selection: str | Path | None = None,
    compile: bool = False,
) -> dict[str, Any]:
    """Prove that a cut model is the masked model, and check the drop-in contract.

    Args:
        model: A run folder; or a cut model, with `against` and its selection.
        against: The dense model.
        selection: The selection; None takes the one in the cut model's folder.
        compile: Also run `torch.compile`.
    """
    from secateur.compress.pruned import start_of
    from secateur.masking.attach import base_of
    from secateur.structure import Selection
    from secateur.surgery import cut, load_model
    from secateur.surgery.verify import verify as prove

    folder = Path(model)
    if against is not None:
        path = Path(selection) if selection else folder / "selection.json"
        proof = prove(load_model(_source(model)), load_model(_source(against)), Selection.load(path), compile=compile)
        return {"format": 1, "kind": "verify", **proof.to_json()}
    if not _is_run(folder):
        raise ConfigError(f"{str(model)!r} is not a run folder: give one, or add --against the dense model.")
    teacher, small = _models_of(folder)
    learned = folder / "learned"
    dense = load_model(learned) if learned.is_dir() else start_of(load_model(teacher), _recipe_of(folder).factorise)
    chosen = Selection.load(selection or folder / "selection.json")
    proof = prove(cut(dense, chosen), dense, chosen, compile=compile)
    ours: Any = load_model(small)
    theirs: Any = load_model(teacher)
    if _recipe_of(folder).task is not None and _head_shapes(ours) != _head_shapes(theirs):  # its head is new
        ours, theirs = (ours, dense) if learned.is_dir() else (base_of(ours), base_of(theirs))
    contract = prove(ours, theirs, None, compile=compile)
    return {
        "format": 1,
        "kind": "verify",
        "holds": proof.holds and contract.holds,
        "proven": proof.is_proven,
        "checks": plain([*(check for check in proof.checks if check.is_proof), *contract.checks]),
        "differences": list(proof.differences),
    }


def bench(
    model: str | Path, *, against: Sequence[str | Path] = (), out: str | Path | None = None, **fields: Any
) -> dict[str, Any]:
    """Measure time and memory of models side by side, as they are and in their inference-only form.

    Args:
        model: A model folder, a config file (random weights) or a hub id; or a run folder, whose model is measured
            against its teacher, and in which the record stays, for the report.
        against: Others; the first of them is what all are compared with, in a run folder the teacher.
        out: Where the record goes; of a run None is ``bench.json`` in its folder.
        fields: The other fields of `secateur.evaluate.bench.Bench`.
    """
    from secateur.evaluate.bench import Bench
    from secateur.evaluate.bench import bench as measure
    from secateur.report.write import BENCH

    run = Path(model) if _is_run(Path(model)) else None
    if run is not None:
        teacher, model = _models_of(run)
        against, out = (teacher, *against), run / BENCH if out is None else out
    if out is not None and (Path(out).is_dir() or not Path(out).absolute().parent.is_dir()):
        raise ConfigError(f"out: got {str(out)!r}, allowed is a file in a folder that exists.")
    names = tuple(str(_source(name)) for name in (*against, model))
    record = measure(Bench(models=names, **fields))
    if out is not None:
        write_json(out, record)
    if run is not None and (run / "record.json").is_file():
        report(run)
    return record


def evaluate(model: str | Path, *, fields: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """How well a model with a task head does its task, such as its word error rate.

    Args:
        model: A model folder or hub id, dense or cut.
        fields: The other fields of `secateur.compress.evaluate.EvaluateConfig`, by dotted name: `data` and `task`.
    """
    from secateur.compress import evaluate as evaluating

    config = configs.load({"model": str(model)}, evaluating.EvaluateConfig, fields)
    return evaluating.evaluate(config)


def report(run_folder: str | Path, *, out: str | Path | None = None) -> Path:
    """Write the HTML report of a run, or of a sweep, from its records."""
    from secateur.compress.sweep import SWEEP
    from secateur.report import write_report, write_sweep

    folder = Path(run_folder)
    if (folder / SWEEP).is_file():
        if out is not None:
            raise ConfigError("out: the page of a sweep lies beside its runs, which it links to; leave it out.")
        return write_sweep(folder)
    return write_report(folder, Path(out) if out else None)


def doctor() -> list[Any]:
    """Look at this machine and installation, and say what to mend."""
    from secateur.evaluate.doctor import examine

    return list(examine())


def pretrain(recipe: str | Path, *, overrides: Mapping[str, Any] | None = None, resume: bool = False) -> dict[str, Any]:
    """Train a small encoder from nothing by BEST-RQ, as the teacher that ships with the package was."""
    from secateur.compress import pretrain as pretraining

    config = configs.load(recipe, pretraining.PretrainConfig, overrides, search=RECIPES)
    folder, resolved = Path(config.out), configs.dump(config)
    _check_run(folder, resolved, resume=resume, name=PRETRAINING)
    record = pretraining.pretrain(
        config, resume=resume, on_start=lambda: _open_run(folder, resolved, None, name=PRETRAINING)
    )
    return record | {"folder": str(folder)}


def _source(model: str | Path) -> str | Path:
    from secateur.compress.setting import model_path

    return model_path(str(model))


def _is_run(folder: Path) -> bool:
    """Whether this is the folder of a run."""
    return (folder / RECIPE).is_file()


def _models_of(run: Path) -> tuple[str | Path, Path]:
    """The teacher and the model of a finished run; the teacher of a run that fine-tuned it is what came of that."""
    if not (run / "model").is_dir():
        raise ConfigError(f"The run in {str(run)!r} has no model/ yet: finish it with `secateur prune … --resume`.")
    finetuned = run / "finetuned"
    return finetuned if finetuned.is_dir() else _source(_recipe_of(run).model), run / "model"


def _recipe_of(run: Path) -> PruneConfig:
    """The recipe of a run."""
    from secateur.compress.config import PruneConfig

    return configs.load(run / RECIPE, PruneConfig)


def _head_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's weights outside its encoder."""
    from secateur.modules.families import encoder_path

    inside = f"{encoder_path(model) or model.base_model_prefix}."
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if not name.startswith(inside)}


def _check_run(folder: Path, recipe: str, *, resume: bool, name: str = RECIPE) -> None:
    """Raise a ConfigError when the run folder is not ours to write to."""
    written = folder / name
    if written.is_file():
        if not resume:
            raise ConfigError(
                f"The run folder {str(folder)!r} is in use: add --resume to go on with it, or give another --out."
            )
        others = configs.differences(written.read_text(encoding="utf-8", errors="replace"), recipe)
        if others:
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            raise ConfigError(
                f"The run in {str(folder)!r} was started with another recipe (see its {name}; other now: "
                f"{', '.join(others[:3])}{more}): resume with that one, or give another --out."
            )
    elif folder.exists() and (not folder.is_dir() or any(entry.suffix != ".partial" for entry in folder.iterdir())):
        raise ConfigError(f"{str(folder)!r} exists and is not a run folder: give another --out.")


def _latencies(
    folder: Path, config: PruneConfig, on_progress: OnProgress, *, begun: bool = False
) -> Callable[[PreTrainedConfig, int], Table]:
    """Return what finds the table of latencies of a run, by config and sampling rate: in the run's folder, so that it
    goes on with the one that it began with, else in the cache or by a measurement on this machine, by the first rank
    for all.

    Args:
        folder: The run folder.
        config: Its recipe.
        on_progress: Told how far the measuring is.
        begun: Whether the run has learned by a table already.
    """
    from secateur.cost.table import Table
    from secateur.engine import Progress, made_once
    from secateur.evaluate.latency import table_for

    def tell(done: int, steps: int) -> None:
        if on_progress is not None:
            on_progress(Progress(phase="latency", step=done, steps=steps, parts={}, seconds_left=None))

    def find(model: PreTrainedConfig, sample_rate: int) -> Table:
        kept = folder / LATENCIES
        if kept.is_file():
            return Table.load(kept)
        if begun:
            logger.warning("%s is gone: the run goes on with another table, and does not end as it would have", kept)
        return table_for(model, config.latency, sample_rate=sample_rate, on_step=tell)

    return lambda model, sample_rate: made_once(lambda: find(model, sample_rate))


def _open_run(folder: Path, recipe: str, table: Table | None, *, name: str = RECIPE) -> None:
    """Make the run folder, or clear an existing one of what an interruption left half-written."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*.partial*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    written = folder / name
    if not written.is_file():
        temporary = folder / f".{name}.partial"
        temporary.write_text(recipe, encoding="utf-8")
        temporary.rename(written)
    if table is not None and not (folder / LATENCIES).is_file():
        write_json(folder / LATENCIES, table)
