"""The phases of a run: finetune (optional, with a task), learn, choose, shrink, recover.

A phase writes the result into the run folder atomically, and a resumed run continues after the last result:

    finetuned/       the dense model, fine-tuned for the task, with finetuned.json
    learned/         the student before the cut, a plain model folder, with gates.safetensors and maps.safetensors
    selection.json   the kept units, with choice.json about the choice
    verified.json    the proof that the cut model equals the masked model
    model/           the small model, recovered
    stages.json      fidelity and speed of the dense, the shrunk and the recovered model
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from safetensors.torch import save_file

from secateur.compress.audio_batches import AudioFeed
from secateur.compress.config import FromFile, FromGates, FromScore, TrainingConfig
from secateur.compress.distiller import DistillationModel, trainable_part
from secateur.compress.phase_files import (
    gate_scores,
    gate_tensors,
    is_finished,
    is_main_process,
    load_tensors,
    write_run_model,
)
from secateur.compress.progressive import ProgressiveShrinking
from secateur.compress.regularization import regularized
from secateur.compress.run_context import RunContext
from secateur.compress.stage_measurements import RunStage, stage_records
from secateur.compress.step import DistillUnit, Objective, PruneUnit
from secateur.compress.student import Student
from secateur.engine import LoopConfig, LoopResult, Progress, process, run
from secateur.errors import CheckpointError, SecateurError
from secateur.gates import make_gates
from secateur.hf.load import load_view
from secateur.hf.model_view import ModelView
from secateur.hf.save import atomic_folder
from secateur.nn.norm import replace_group_norm
from secateur.records.files import write_json
from secateur.records.phase_record import LearnResult, RecoverResult, TrainingResult
from secateur.records.verification import Verification
from secateur.structure import Selection, normalize
from secateur.surgery.choose import Choice, binding_limit_name, choose, choose_uniform_share
from secateur.surgery.cut import cut_view
from secateur.surgery.importance import magnitude_scores, order_scores
from secateur.surgery.verify import verify
from secateur.tasks import Task

logger = logging.getLogger(__name__)
OnProgress = Callable[[Progress], None] | None


def finetune(context: RunContext, folder: Path, *, resume: bool, on_progress: OnProgress = None) -> RunContext:
    """Fine-tune the dense model for the task, and write ``finetuned/``.

    Returns:
        The context with the fine-tuned model as the teacher and the model to prune.
    """
    training = context.config.finetune
    finetuned_folder = folder / "finetuned"
    if training is None:
        return context
    task = _copy_task(context.task)
    assert task is not None
    if not is_finished(finetuned_folder):
        student_view = context.teacher_view.copy()
        student_view.model.requires_grad_(True)  # the teacher is frozen, and so is its copy
        objective = Objective(distill=None, task=task)
        distiller = _make_distiller(student_view, training, objective)
        train_unit = DistillUnit(
            distiller, context.teacher_view, context.feed, context.held_out_batches(), training, objective
        )
        result = _train_phase(
            train_unit, training, context, folder, phase="finetune", resume=resume, on_progress=on_progress
        )
        if is_main_process():
            with atomic_folder(finetuned_folder) as partial_folder:
                student_view.model.cpu()
                write_run_model(partial_folder, student_view, context, task)
                _training_result(result).write(partial_folder / "finetuned.json")
        process().wait_for_everyone()
    # Also in the process that trained the model, so that a resumed run continues with the same weights.
    teacher_view = load_view(finetuned_folder)
    teacher_view.model.requires_grad_(False)
    replace_group_norm(teacher_view.encoder)
    task.head.cpu()
    task.restore(finetuned_folder)
    return replace(context, teacher_view=teacher_view, task=task, has_new_head=False)


def learn(context: RunContext, folder: Path, *, resume: bool, on_progress: OnProgress = None) -> None:
    """Learn weights and gates together, and write ``learned/``."""
    learned_folder = folder / "learned"
    if is_finished(learned_folder):
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
    open_probability = gates.open_probability().detach()  # (units,)
    expected_costs = {
        cost_target.constraint.name: float(cost_target.cost.expected(open_probability))
        for cost_target in context.cost_targets
    }
    # Masks off first: the saved folder holds a plain model.
    student.masking.remove()
    learn_result = LearnResult(
        expected=expected_costs,
        freezing=None if progressive is None else progressive.summary(),
        steps=result.steps,
        seconds=result.seconds,
    )
    if is_main_process():
        with atomic_folder(learned_folder) as partial_folder:
            student.model.cpu()
            write_run_model(partial_folder, student.view, context, objective.task)
            save_file(gate_tensors(gates), partial_folder / "gates.safetensors")
            save_file(dict(distiller.maps.cpu().state_dict()), partial_folder / "maps.safetensors")
            learn_result.write(partial_folder / "learned.json")
    process().wait_for_everyone()


def select(context: RunContext, folder: Path, learned_folder: Path) -> None:
    """Choose the kept units, and write ``selection.json`` and ``choice.json``.

    Args:
        context: The context of the run.
        folder: The folder for the files.
        learned_folder: The result of the learn phase.
    """
    if is_finished(folder / "selection.json"):
        return
    choice_config = context.config.choose
    structure = context.structure
    limits = context.cost_limits()
    if isinstance(choice_config, FromFile):
        normalized = normalize(structure, Selection.load(choice_config.path))
        counted_costs = {limit.name: limit.cost.count(normalized.selection) for limit in limits}
        choice = Choice(
            selection=normalized.selection,
            hard_decision_costs=counted_costs,
            counted_costs=counted_costs,
            binding_limit=binding_limit_name(limits, counted_costs),
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
    if is_main_process():
        choice.to_record().write(folder / "choice.json")
        write_json(folder / "selection.json", choice.selection.to_json(), indent=None)  # on one line: every kept unit
    process().wait_for_everyone()


def shrink(context: RunContext, folder: Path, learned_folder: Path) -> ModelView:
    """Cut the learned student, prove that the cut model equals the masked model, and write ``verified.json``.

    A check of the drop-in contract that fails is logged and written, and does not stop the run.

    Args:
        context: The context of the run.
        folder: The folder with ``selection.json``.
        learned_folder: The result of the learn phase; not read if the recipe chooses without gates.

    Returns:
        The cut model.

    Raises:
        SecateurError: The proof fails.
    """
    has_gates = isinstance(context.config.choose, FromGates)
    dense = load_view(learned_folder) if has_gates else context.make_student()
    selection = Selection.load(folder / "selection.json")
    cut_model = cut_view(dense, selection)
    if not is_finished(folder / "verified.json") or not Verification.read(folder / "verified.json").is_proven:
        verification = verify(cut_model, dense, selection)
        if is_main_process():
            verification.write(folder / "verified.json")
        if not verification.is_proven:
            raise SecateurError(verification.refusal)
        for check in verification.broken:
            logger.warning("the drop-in contract does not hold: %s (%s)", check.name, check.detail)
        process().wait_for_everyone()
    return cut_model


def recover(
    context: RunContext, folder: Path, cut_model: ModelView, *, resume: bool, on_progress: OnProgress = None
) -> None:
    """Train the small model, and write ``model/`` and ``stages.json``."""
    config = context.config
    is_recovered = is_finished(folder / "model")
    if is_recovered and not (folder / "stages.json").is_file():
        raise CheckpointError(f"{folder} has a model/ but no stages.json: delete model/ and resume, which makes both.")
    if not is_recovered:
        # A copy to measure, since training changes the cut model in place.
        shrunk_model = cut_model.copy()
        shrunk_model.model.eval()
        objective = _objective(context)
        cut_model.model.requires_grad_(True)
        distiller = _make_distiller(cut_model, config.recover, objective)
        # Written by the learn phase, which a choice by score or from a file leaves out.
        maps = folder / "learned" / "maps.safetensors"
        if maps.is_file():
            distiller.maps.load_state_dict(load_tensors(maps))
            if objective.task is not None:
                objective.task.restore(maps.parent)
        shrunk_stage = RunStage(
            shrunk_model, DistillationModel(shrunk_model, config.distill), _copy_task(objective.task)
        )
        # Copied before they learn on in this phase.
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
        # All stages are measured on the CPU.
        distiller.cpu()
        context.teacher.cpu()
        dense_stage = RunStage(
            context.teacher_view, DistillationModel(context.teacher_view, config.distill), context.task
        )
        cut_model.model.eval()
        recovered_stage = RunStage(cut_model, distiller, objective.task)
        if is_main_process():
            stages = {"dense": dense_stage, "shrunk": shrunk_stage, "recovered": recovered_stage}
            _write_recovered(context, folder, stages, result)
    process().wait_for_everyone()


def _write_recovered(
    context: RunContext, folder: Path, stages: Mapping[str, RunStage], result: LoopResult | None
) -> None:
    """Measure the stages, and write ``stages.json`` and then ``model/``, which marks the phase as finished."""
    recovered = stages["recovered"]
    records = stage_records(context, stages)
    _, left_out = context.extra.select_fitting(context.teacher_view, recovered.view)
    for note in left_out:
        logger.warning("%s", note)
    recover_result = RecoverResult(
        stages=records,
        left_out=tuple(left_out),
        steps=result.steps if result else None,
        seconds=result.seconds if result else None,
    )
    recover_result.write(folder / "stages.json")
    selection = Selection.load(folder / "selection.json")
    with atomic_folder(folder / "model") as partial_folder:
        write_run_model(partial_folder, recovered.view, context, recovered.task, selection)


def _feed(context: RunContext, phase: Literal["learn", "recover"]) -> AudioFeed:
    """Return the training audio behind the audio of the earlier phases."""
    config = context.config
    # Example: after 100 steps of finetune and 1000 of learn, recover begins with the audio of step 1100.
    previous_steps = config.finetune.steps if config.finetune is not None else 0
    if phase == "recover" and isinstance(config.choose, FromGates):
        previous_steps += config.learn.steps
    return context.feed.starting_at(previous_steps)


def _copy_task(task: Task | None) -> Task | None:
    """Return a copy of a task with a copy of the head, so that the head of the original does not learn."""
    if task is None:
        return None
    task_copy = copy.copy(task)
    task_copy.head = copy.deepcopy(task.head)
    return task_copy


def _objective(context: RunContext) -> Objective:
    config = context.config
    return Objective(distill=config.distill, task=_copy_task(context.task), task_weight=config.task_weight)


def _make_distiller(view: ModelView, training: TrainingConfig, objective: Objective) -> DistillationModel:
    """Return the module to train: the student with projections, and the head that a task keeps outside the model."""
    task = objective.task
    if task is not None:
        # Batches of a task may be padded, and the stock GroupNorm counts padding in its statistics.
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
    """Train a phase, with the model set up for the settings of the phase."""
    module = train_unit.module
    # A function, since progressive shrinking replaces the student in the course of the phase.
    with regularized(lambda: module.student_view, training.regularise, freeze_frontend=training.freeze_frontend):
        return run(
            train_unit,
            _loop_config(training, context.config.seed),
            phase=phase,
            folder=folder,
            resume=resume,
            on_progress=on_progress,
        )


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


def _training_result(result: LoopResult) -> TrainingResult:
    return TrainingResult(steps=result.steps, seconds=result.seconds)
