"""The four phases of a run: learn, choose, shrink, recover; and before them, where a task asks for it, finetune.

Each phase leaves its result in the run folder, whole or not at all, and a resumed run goes on behind the last of them:

    finetuned/       the dense model, fine-tuned for the task, with finetuned.json
    learned/         the student before the cut, a plain model folder, with gates.safetensors and maps.safetensors
    selection.json   what stays, with choice.json about how it was chosen
    verified.json    the proof that the cut model is the masked model
    model/           the small model, recovered
    stages.json      fidelity and speed of the dense, the shrunk and the recovered model
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from secateur.compress.audio_batches import AudioFeed
from secateur.compress.config import FromFile, FromGates, FromScore, TrainingConfig
from secateur.compress.distiller import DistillationModel, trainable_part
from secateur.compress.fidelity import fidelity, score_task, time_encoders
from secateur.compress.progressive import ProgressiveShrinking
from secateur.compress.regularization import regularized
from secateur.compress.run_context import RunContext
from secateur.compress.step import DistillUnit, Objective, PruneUnit
from secateur.compress.student import Student
from secateur.engine import LoopConfig, LoopResult, Progress, process, run
from secateur.errors import CheckpointError, SecateurError
from secateur.gates import GateSet, make_gates
from secateur.hf.load import load_view
from secateur.hf.model_view import ModelView
from secateur.hf.save import atomic_folder, write_model
from secateur.nn.norm import replace_group_norm
from secateur.records.files import read_json, write_json
from secateur.structure import Selection, Structure, normalize
from secateur.surgery.choose import Choice, choose, choose_uniform_share
from secateur.surgery.cut import cut_view
from secateur.surgery.importance import magnitude_scores, order_scores
from secateur.surgery.verify import verify
from secateur.tasks import Task

logger = logging.getLogger(__name__)
OnProgress = Callable[[Progress], None] | None

#: Audio of each timed forward pass, and how many there are of each model.
TIMED_SECONDS, TIMED_REPEATS = 10.0, 7


def finetune(context: RunContext, folder: Path, *, resume: bool, on_progress: OnProgress = None) -> RunContext:
    """Fine-tune the dense model for its task; leaves ``finetuned/``.

    Returns:
        The setting in which the fine-tuned model is what is pruned, and the teacher.
    """
    training, finetuned_folder = context.config.finetune, folder / "finetuned"
    if training is None:
        return context
    task = _copy_task(context.task)
    assert task is not None
    if not _is_finished(finetuned_folder):
        student_view = context.teacher_view.copy()
        student_view.model.requires_grad_(True)
        objective = Objective(distill=None, task=task)
        distiller = _make_distiller(student_view, training, objective)
        train_unit = DistillUnit(
            distiller, context.teacher_view, context.feed, context.held_out_batches(), training, objective
        )
        result = _train_phase(
            train_unit, training, context, folder, phase="finetune", resume=resume, on_progress=on_progress
        )
        if _is_main_process():
            with atomic_folder(finetuned_folder) as partial_folder:
                student_view.model.cpu()
                write_run_model(partial_folder, student_view, context, task)
                write_json(partial_folder / "finetuned.json", _timing_record(result))
        process().wait_for_everyone()
    teacher_view = load_view(finetuned_folder)
    teacher_view.model.requires_grad_(False)
    replace_group_norm(teacher_view.encoder)
    task.head.cpu()
    task.restore(finetuned_folder)
    return replace(context, teacher_view=teacher_view, task=task, has_new_head=False)


def learn(context: RunContext, folder: Path, *, resume: bool, on_progress: OnProgress = None) -> None:
    """Learn weights and gates together; leaves ``learned/``."""
    learned_folder = folder / "learned"
    if _is_finished(learned_folder):
        return
    config = context.config
    dense = context.make_student()
    gates = make_gates(context.structure, config.gate_configs, seed=config.seed)
    student = Student(dense, context.structure, static=config.learn.compile)
    objective = _objective(context)
    distiller = _make_distiller(dense, config.learn, objective)
    progressive = None
    if config.learn.freeze is not None:
        steps = config.learn.steps
        progressive = ProgressiveShrinking(
            config.learn.freeze, gates, context.cost_limits(), student, distiller, steps=steps
        )
    train_unit = PruneUnit(
        distiller,
        context.teacher_view,
        _feed(context, "learn"),
        context.held_out_batches(),
        config.learn,
        gates=gates,
        student=student,
        cost_targets=context.cost_targets,
        objective=objective,
        progressive=progressive,
    )
    result = _train_phase(
        train_unit, config.learn, context, folder, phase="learn", resume=resume, on_progress=on_progress
    )
    open_probability = gates.open_probability().detach()
    expected_costs = {
        cost_target.constraint.name: float(cost_target.cost.expected(open_probability))
        for cost_target in context.cost_targets
    }
    student.masking.remove()
    freezing = {} if progressive is None else {"freezing": progressive.summary()}
    if _is_main_process():
        with atomic_folder(learned_folder) as partial_folder:
            student.model.cpu()
            write_run_model(partial_folder, student.view, context, objective.task)
            save_file(_gate_tensors(gates), partial_folder / "gates.safetensors")
            save_file(dict(distiller.maps.cpu().state_dict()), partial_folder / "maps.safetensors")
            write_json(
                partial_folder / "learned.json", {"expected": expected_costs, **freezing, **_timing_record(result)}
            )
    process().wait_for_everyone()


def select(context: RunContext, folder: Path, learned_folder: Path) -> None:
    """Choose what stays; leaves ``selection.json`` and ``choice.json``.

    Args:
        setting: The run.
        folder: Where to.
        learned: What the learn phase left.
    """
    if _is_finished(folder / "selection.json"):
        return
    choice_config, structure, limits = context.config.choose, context.structure, context.cost_limits()
    if isinstance(choice_config, FromFile):
        normalized = normalize(structure, Selection.load(choice_config.path))
        counted_costs = {limit.name: limit.cost.count(normalized.selection) for limit in limits}
        choice = Choice(
            selection=normalized.selection,
            hard_decision_costs=counted_costs,
            counted_costs=counted_costs,
            binding_limit=min(
                limits, key=lambda limit: limit.max_cost / limit.cost.dense - counted_costs[limit.name]
            ).name,
            moved_units=0,
            gated_units=0,
            notes=normalized.adjustments,
        )
    elif isinstance(choice_config, FromScore):
        uses_magnitude = choice_config.score == "magnitude"
        scores = magnitude_scores(context.make_student(), structure) if uses_magnitude else order_scores(structure)
        choice = choose_uniform_share(structure, scores, choice_config.kinds, limits, round_to=context.config.round_to)
    else:
        scores, scales = gate_scores(structure, learned_folder)
        choice = choose(structure, scores, scales, limits, round_to=context.config.round_to)
    if _is_main_process():
        write_json(folder / "choice.json", choice.to_json())
        write_json(folder / "selection.json", choice.selection.to_json(), indent=None)
    process().wait_for_everyone()


def gate_scores(structure: Structure, learned_folder: Path) -> tuple[Tensor, Tensor]:
    """Scores and scales that the learn phase left, as flat vectors over all units."""
    gate_tensors = _load_tensors(learned_folder / "gates.safetensors")
    scores, scales = torch.full((structure.size,), float("inf")), torch.ones(structure.size)
    for name, axis in structure.axes.items():
        if f"{name}:score" in gate_tensors:
            units = slice(structure.offsets[name], structure.offsets[name] + axis.size)
            scores[units], scales[units] = gate_tensors[f"{name}:score"], gate_tensors[f"{name}:scale"]
    return scores, scales


def shrink(context: RunContext, folder: Path, learned_folder: Path) -> ModelView:
    """Cut the learned student, and prove that the cut model is the masked model; leaves ``verified.json``.

    A line of the drop-in contract that does not hold is logged and stands in the file; it does not stop the run.

    Args:
        setting: The run.
        folder: Where ``selection.json`` lies.
        learned: What the learn phase left; without one the teacher is cut.

    Raises:
        SecateurError: The proof fails.
    """
    has_gates = isinstance(context.config.choose, FromGates)
    dense = load_view(learned_folder) if has_gates else context.make_student()
    selection = Selection.load(folder / "selection.json")
    cut_model = cut_view(dense, selection)
    if not _is_finished(folder / "verified.json") or not _is_proven(read_result(folder, "verified.json")):
        verification = verify(cut_model, dense, selection)
        if _is_main_process():
            write_json(folder / "verified.json", verification.to_json())
        if not verification.is_proven:
            raise SecateurError(verification.refusal)
        for check in verification.checks:
            if not check.holds:
                logger.warning("the drop-in contract does not hold: %s (%s)", check.name, check.detail)
        process().wait_for_everyone()
    return cut_model


def _is_proven(verification: Mapping[str, Any]) -> bool:
    """Return whether a stored verification proved the cut; older ones say only whether every line held."""
    return bool(verification.get("proven", verification["holds"]))


def recover(
    context: RunContext, folder: Path, cut_model: ModelView, *, resume: bool, on_progress: OnProgress = None
) -> None:
    """Distil the small model; leaves ``model/`` and ``stages.json``."""
    config = context.config
    is_recovered = _is_finished(folder / "model")
    if is_recovered and not (folder / "stages.json").is_file():
        raise CheckpointError(f"{folder} has a model/ but no stages.json: delete model/ and resume, which makes both.")
    if not is_recovered:
        shrunk_model, objective = cut_model.copy(), _objective(context)
        shrunk_model.model.eval()
        cut_model.model.requires_grad_(True)
        distiller = _make_distiller(cut_model, config.recover, objective)
        maps = folder / "learned" / "maps.safetensors"
        if maps.is_file():
            distiller.maps.load_state_dict(_load_tensors(maps))
            if objective.task is not None:
                objective.task.restore(maps.parent)
        shrunk_stage = _RunStage(
            shrunk_model, DistillationModel(shrunk_model, config.distill), _copy_task(objective.task)
        )
        shrunk_stage.distiller.maps = copy.deepcopy(distiller.maps)
        result = None
        if config.recover.steps:
            train_unit = DistillUnit(
                distiller,
                context.teacher_view,
                _feed(context, "recover"),
                context.held_out_batches(),
                config.recover,
                objective,
            )
            result = _train_phase(
                train_unit, config.recover, context, folder, phase="recover", resume=resume, on_progress=on_progress
            )
        distiller.cpu()
        context.teacher.cpu()
        dense_stage = _RunStage(
            context.teacher_view, DistillationModel(context.teacher_view, config.distill), context.task
        )
        cut_model.model.eval()
        recovered_stage = _RunStage(cut_model, distiller, objective.task)
        if _is_main_process():
            stages = _stage_records(
                context, {"dense": dense_stage, "shrunk": shrunk_stage, "recovered": recovered_stage}
            )
            _, left_out = context.extra.select_fitting(context.teacher_view, cut_model)
            for note in left_out:
                logger.warning("%s", note)
            timing = _timing_record(result) if result else {}
            write_json(folder / "stages.json", {"stages": stages, "left_out": left_out, **timing})
            selection = Selection.load(folder / "selection.json")
            with atomic_folder(folder / "model") as partial_folder:
                write_run_model(partial_folder, cut_model, context, objective.task, selection)
    process().wait_for_everyone()


class _RunStage(NamedTuple):
    """A model, the same with its maps, and the task with its own head, as they are at a point of the run."""

    view: ModelView
    distiller: DistillationModel
    task: Task | None


def _stage_records(context: RunContext, stages: Mapping[str, _RunStage]) -> list[dict[str, Any]]:
    """Fidelity, figures of the task and speed of the dense, the shrunk and the recovered model."""
    batches = context.held_out_batches()
    threads = torch.get_num_threads()
    views = {name: stage.view for name, stage in stages.items()}
    rate = context.input_features.sample_rate
    times = time_encoders(views, sample_rate=rate, seconds=TIMED_SECONDS, repeats=TIMED_REPEATS)
    stage_records = []
    for name, (view, distiller, task) in stages.items():
        time = {**asdict(times[name]), "seconds_of_audio": TIMED_SECONDS, "batch": 1, "threads": threads}
        encoder_parameters = sum(parameter.numel() for parameter in view.encoder.parameters())
        head_parameters = sum(parameter.numel() for parameter in view.model.parameters()) - encoder_parameters
        stage_record: dict[str, Any] = {
            "name": name,
            "parameters": encoder_parameters,
            "head": head_parameters,
            "time": time,
        }
        if context.config.distill is not None:
            distance = fidelity(distiller.cpu(), context.teacher_view.encoder_view, batches)
            stage_record |= {"loss": distance.loss, "cosine": list(distance.cosine)}
        if task is not None and not (name == "dense" and context.has_new_head):
            stage_record["scores"] = score_task(task, view, batches)
        stage_records.append(stage_record)
    return stage_records


def _feed(context: RunContext, phase: Literal["learn", "recover"]) -> AudioFeed:
    """Training audio behind what earlier phases have heard."""
    config = context.config
    previous_steps = config.finetune.steps if config.finetune is not None else 0
    if phase == "recover" and isinstance(config.choose, FromGates):
        previous_steps += config.learn.steps
    return context.feed.starting_at(previous_steps)


def _copy_task(task: Task | None) -> Task | None:
    """A task whose own head learns from here on, and leaves that of the other as it is."""
    if task is None:
        return None
    task_copy = copy.copy(task)
    task_copy.head = copy.deepcopy(task.head)
    return task_copy


def _objective(context: RunContext) -> Objective:
    config = context.config
    return Objective(distill=config.distill, task=_copy_task(context.task), task_weight=config.task_weight)


def _make_distiller(view: ModelView, training: TrainingConfig, objective: Objective) -> DistillationModel:
    """The student with its maps, and with a head where the task has one."""
    task = objective.task
    if task is not None:
        replace_group_norm(view.encoder)
    return DistillationModel(
        trainable_part(view, task),
        objective.distill,
        head=None if task is None else task.head,
        compile=training.compile,
        gradient_checkpointing=training.gradient_checkpointing,
    )


def _train_phase(
    train_unit: DistillUnit,
    training: TrainingConfig,
    context: RunContext,
    folder: Path,
    *,
    phase: str,
    resume: bool,
    on_progress: OnProgress,
) -> LoopResult:
    """Train one phase, its model set up for it."""
    module = train_unit.module
    with regularized(lambda: module.student_view, training.regularise, freeze_frontend=training.freeze_frontend):
        return run(
            train_unit,
            _loop_config(training, context.config.seed),
            phase=phase,
            folder=folder,
            resume=resume,
            on_progress=on_progress,
        )


def write_run_model(
    folder: Path, view: ModelView, context: RunContext, task: Task | None, selection: Selection | None = None
) -> None:
    """A model with its companions, and what belongs to its task."""
    weights = context.extra.state_dict(context.teacher_view, view)
    write_model(folder, view, source=context.source, selection=selection, weights=weights)
    if task is not None:
        task.save(folder)


def _loop_config(training: TrainingConfig, seed: int) -> LoopConfig:
    return LoopConfig(
        steps=training.steps,
        precision=training.precision,
        log_every=training.log_every,
        validate_every=training.validate_every,
        save_every=training.save_every,
        seed=seed,
        tensorboard=training.tensorboard,
    )


def _gate_tensors(gates: GateSet) -> dict[str, Tensor]:
    scores, scales, offsets = gates.scores(), gates.scales(), gates.structure.offsets
    tensors = {}
    for axis in gates.axes:
        units = slice(offsets[axis.name], offsets[axis.name] + axis.size)
        tensors[f"{axis.name}:score"], tensors[f"{axis.name}:scale"] = scores[units].clone(), scales[units].clone()
    return tensors


def _timing_record(result: LoopResult) -> dict[str, Any]:
    return {"steps": result.steps, "seconds": result.seconds}


def _load_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors that the learn phase left."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is missing or damaged ({error}): put it back, or delete the folder {path.parent} and resume, "
            "which makes it again from the last checkpoint."
        ) from None


def _is_finished(path: Path) -> bool:
    """Whether a phase left its result, the same answer on every rank: none writes before all have looked."""
    process().wait_for_everyone()
    exists = path.exists()
    process().wait_for_everyone()
    return exists


def _is_main_process() -> bool:
    return bool(process().is_main_process)


def read_result(folder: Path, name: str) -> dict[str, Any]:
    """A phase's JSON, empty when it left none."""
    path = folder / name
    return read_json(path) if path.is_file() else {}
