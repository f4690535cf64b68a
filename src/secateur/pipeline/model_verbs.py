"""Verbs on models: shrink, profile, verify, bench, evaluate and export; and doctor, on the machine."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from secateur import config as configs
from secateur.errors import ConfigError, did_you_mean
from secateur.pipeline.run_folder import find_run_models, is_run_folder, load_run_recipe, resolve_source
from secateur.pipeline.run_verbs import report

if TYPE_CHECKING:
    from secateur.hf.model_view import ModelView
    from secateur.records.bench_record import BenchRecord
    from secateur.records.choice import ShrinkRecord
    from secateur.records.cost_record import ProfileRecord
    from secateur.records.evaluation import EvaluateRecord
    from secateur.records.export_record import ExportRecord
    from secateur.records.finding import Finding
    from secateur.records.verification import VerifyRecord

logger = logging.getLogger(__name__)

#: Longest audio that `profile` counts for: eleven days.
MAX_SECONDS = 1_000_000


def shrink(
    model: str | Path, *, selection: str | Path, out: str | Path, layout: str = "registered", force: bool = False
) -> ShrinkRecord:
    """Cut a model by a selection, prove that the cut model computes the masked model, and write the cut model.

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
    from secateur.surgery.cut import Layout
    from secateur.surgery.cut_checkpoint import cut_checkpoint

    layouts = get_args(Layout)
    if layout not in layouts:
        raise ConfigError(
            f"Unknown layout {layout!r}; allowed are {' and '.join(layouts)}.{did_you_mean(layout, layouts)}"
        )
    check_replaceable(Path(out), replace=force)
    requested_selection = Selection.load(selection)
    source = resolve_source(model)
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


def profile(model: str | Path, *, seconds: float = 1.0, selection: str | Path | None = None) -> ProfileRecord:
    """Count parameters and MACs of a model by block; a folder with only ``config.json`` is enough.

    Args:
        model: A model folder, a config file or a hub id.
        seconds: Audio length for the MACs.
        selection: Count what a selection would leave instead.
    """
    from secateur.cost import breakdown
    from secateur.hf.feature_extractor import read_sample_rate
    from secateur.hf.load import load_config_view
    from secateur.records.cost_record import ProfileRecord
    from secateur.structure import Selection, normalize

    if not 0 < seconds <= MAX_SECONDS:
        raise ConfigError(f"seconds: got {seconds:g}, allowed is above 0 and at most {MAX_SECONDS:,}.")
    source = resolve_source(model)
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
    """Prove that a cut model computes the masked model, and check the drop-in contract.

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
            load_view(resolve_source(model)),
            load_view(resolve_source(against)),
            Selection.load(path),
            compile=compile,
        )
        return VerifyRecord(**proof.fields_of())
    if not is_run_folder(folder):
        raise ConfigError(f"{str(model)!r} is not a run folder: give one, or add --against the dense model.")
    teacher, model_folder = find_run_models(folder)
    learned_folder = folder / "learned"
    if learned_folder.is_dir():
        dense = load_view(learned_folder)
    else:
        dense = make_student_model(load_view(teacher), load_run_recipe(folder).factorise)
    chosen_selection = Selection.load(selection or folder / "selection.json")
    proof = prove(cut_view(dense, chosen_selection), dense, chosen_selection, compile=compile)
    model_view, teacher_view = load_view(model_folder), load_view(teacher)
    if load_run_recipe(folder).task is not None and _head_shapes(model_view) != _head_shapes(teacher_view):
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
    """Measure time and memory of models side by side, also in the inference-only form.

    Args:
        model: A model folder, a config file (random weights) or a hub id; or a run folder, whose model is measured
            against its teacher, and in which the record stays, for the report.
        against: Others; the first of them is what all are compared with, in a run folder the teacher.
        out: Where the record goes; of a run None is ``bench.json`` in its folder.
        fields: The other fields of `secateur.benchmarking.bench.BenchConfig`.
    """
    from secateur.benchmarking.bench import BenchConfig
    from secateur.benchmarking.bench import bench as measure
    from secateur.report.write import BENCH

    run_folder = Path(model) if is_run_folder(Path(model)) else None
    if run_folder is not None:
        teacher, model = find_run_models(run_folder)
        against, out = (teacher, *against), run_folder / BENCH if out is None else out
    if out is not None and (Path(out).is_dir() or not Path(out).absolute().parent.is_dir()):
        raise ConfigError(f"out: got {str(out)!r}, allowed is a file in a folder that exists.")
    names = tuple(str(resolve_source(name)) for name in (*against, model))
    record = measure(BenchConfig(models=names, **fields))
    if out is not None:
        record.write(out)
    if run_folder is not None and (run_folder / "record.json").is_file():
        report(run_folder)
    return record


def evaluate(model: str | Path, *, fields: Mapping[str, Any] | None = None) -> EvaluateRecord:
    """Score a model with a task head on the task, such as by word error rate.

    Args:
        model: A model folder or hub id, dense or cut.
        fields: The other fields of `secateur.evaluation.evaluate.EvaluateConfig`, by dotted name: `data` and `task`.
    """
    from secateur.evaluation import evaluate as evaluating

    config = configs.load({"model": str(model)}, evaluating.EvaluateConfig, fields)
    return evaluating.evaluate(config)


def export(model: str | Path, *, target: str, out: str | Path, force: bool = False) -> ExportRecord:
    """Write a model in the form of an export target, and prove that the outputs are the outputs of the model.

    Args:
        model: A model folder or hub id, dense or cut.
        target: Name of the target, such as ``stock``.
        out: The folder to write.
        force: Replace `out` if it exists.
    """
    from secateur.export.export_model import export_model

    return export_model(resolve_source(model), target=target, out=Path(out), force=force)


def doctor() -> list[Finding]:
    """Examine machine and installation, and name remedies for problems."""
    from secateur.doctor.doctor import examine_installation

    return list(examine_installation())


def _head_shapes(view: ModelView) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's weights outside the encoder."""
    model = view.model
    encoder_prefix = view.prefix or f"{model.base_model_prefix}."
    return {
        name: tuple(value.shape) for name, value in model.state_dict().items() if not name.startswith(encoder_prefix)
    }
