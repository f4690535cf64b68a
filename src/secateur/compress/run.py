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
from transformers import PreTrainedModel

from secateur.compress.batches import Feed
from secateur.compress.config import FromFile, FromGates, FromScore, Training
from secateur.compress.fidelity import fidelity, score, speed
from secateur.compress.imitate import Imitator, learning_part
from secateur.compress.progressive import Progressive
from secateur.compress.regularise import regularised
from secateur.compress.setting import Setting
from secateur.compress.step import Imitation, Objective, Pruning
from secateur.compress.student import Student
from secateur.engine import LoopConfig, LoopResult, Progress, process, run
from secateur.errors import CheckpointError, SecateurError
from secateur.gates import GateSet
from secateur.masking.attach import base_of
from secateur.modules.norm import leave_padding_out
from secateur.objective.tasks import Task
from secateur.records import read_json, write_json
from secateur.structure import Selection, Structure, close
from secateur.surgery.choose import Choice, best_share, choose
from secateur.surgery.cut import cut
from secateur.surgery.folder import whole_folder, write_model
from secateur.surgery.load import load_model
from secateur.surgery.scores import first, magnitude
from secateur.surgery.verify import verify

logger = logging.getLogger(__name__)
OnProgress = Callable[[Progress], None] | None

#: Audio of each timed forward pass, and how many there are of each model.
TIMED_SECONDS, TIMED_REPEATS = 10.0, 7


def finetune(setting: Setting, folder: Path, *, resume: bool, on_progress: OnProgress = None) -> Setting:
    """Fine-tune the dense model for its task; leaves ``finetuned/``.

    Returns:
        The setting in which the fine-tuned model is what is pruned, and the teacher.
    """
    training, finetuned = setting.config.finetune, folder / "finetuned"
    if training is None:
        return setting
    task = _own(setting.task)
    assert task is not None
    if not _left(finetuned):
        student = copy.deepcopy(setting.teacher).requires_grad_(True)
        objective = Objective(distill=None, task=task)
        imitator = _imitator(student, training, objective)
        trainee = Imitation(imitator, setting.teacher, setting.feed, setting.held_out(), training, objective)
        result = _run(trainee, training, setting, folder, phase="finetune", resume=resume, on_progress=on_progress)
        if _first():
            with whole_folder(finetuned) as partial:
                write(partial, student.cpu(), setting, task)
                write_json(partial / "finetuned.json", _timed(result))
        process().wait_for_everyone()
    teacher = load_model(finetuned).requires_grad_(False)
    leave_padding_out(base_of(teacher))
    task.head.cpu()
    task.restore(finetuned)
    return replace(setting, teacher=teacher, task=task, new_head=False)


def learn(setting: Setting, folder: Path, *, resume: bool, on_progress: OnProgress = None) -> None:
    """Learn weights and gates together; leaves ``learned/``."""
    learned = folder / "learned"
    if _left(learned):
        return
    config = setting.config
    dense = setting.student()
    gates = GateSet(setting.structure, config.gated, seed=config.seed)
    student = Student(dense, setting.structure, static=config.learn.compile)
    objective = _objective(setting)
    imitator = _imitator(dense, config.learn, objective)
    progressive = None
    if config.learn.freeze is not None:
        steps = config.learn.steps
        progressive = Progressive(config.learn.freeze, gates, setting.limits(), student, imitator, steps=steps)
    trainee = Pruning(
        imitator,
        setting.teacher,
        _feed(setting, "learn"),
        setting.held_out(),
        config.learn,
        gates=gates,
        student=student,
        bounds=setting.bounds,
        objective=objective,
        progressive=progressive,
    )
    result = _run(trainee, config.learn, setting, folder, phase="learn", resume=resume, on_progress=on_progress)
    opened = gates.open_probability().detach()
    expected = {bound.constraint.name: float(bound.cost.expected(opened)) for bound in setting.bounds}
    student.masking.remove()
    freezing = {} if progressive is None else {"freezing": progressive.summary()}
    if _first():
        with whole_folder(learned) as partial:
            write(partial, student.model.cpu(), setting, objective.task)
            save_file(_by_axis(gates), partial / "gates.safetensors")
            save_file(dict(imitator.maps.cpu().state_dict()), partial / "maps.safetensors")
            write_json(partial / "learned.json", {"expected": expected, **freezing, **_timed(result)})
    process().wait_for_everyone()


def select(setting: Setting, folder: Path, learned: Path) -> None:
    """Choose what stays; leaves ``selection.json`` and ``choice.json``.

    Args:
        setting: The run.
        folder: Where to.
        learned: What the learn phase left.
    """
    if _left(folder / "selection.json"):
        return
    how, structure, limits = setting.config.choose, setting.structure, setting.limits()
    if isinstance(how, FromFile):
        closed = close(structure, Selection.load(how.path))
        counted = {limit.name: limit.cost.count(closed.selection) for limit in limits}
        choice = Choice(
            selection=closed.selection,
            verdict=counted,
            counted=counted,
            binding=min(limits, key=lambda limit: limit.most / limit.cost.dense - counted[limit.name]).name,
            moved=0,
            gated=0,
            notes=closed.notes,
        )
    elif isinstance(how, FromScore):
        by_size = how.score == "magnitude"
        scores = magnitude(setting.student(), structure) if by_size else first(structure)
        choice = best_share(structure, scores, how.kinds, limits, round_to=setting.config.round_to)
    else:
        scores, scales = gate_scores(structure, learned)
        choice = choose(structure, scores, scales, limits, round_to=setting.config.round_to)
    if _first():
        record = {name: value for name, value in asdict(choice).items() if name != "selection"}
        write_json(folder / "choice.json", record)
        write_json(folder / "selection.json", choice.selection.to_json(), indent=None)
    process().wait_for_everyone()


def gate_scores(structure: Structure, learned: Path) -> tuple[Tensor, Tensor]:
    """Scores and scales that the learn phase left, as flat vectors over all units."""
    stored = _tensors(learned / "gates.safetensors")
    scores, scales = torch.full((structure.size,), float("inf")), torch.ones(structure.size)
    for name, axis in structure.axes.items():
        if f"{name}:score" in stored:
            units = slice(structure.offsets[name], structure.offsets[name] + axis.size)
            scores[units], scales[units] = stored[f"{name}:score"], stored[f"{name}:scale"]
    return scores, scales


def shrink(setting: Setting, folder: Path, learned: Path) -> PreTrainedModel:
    """Cut the learned student, and prove that the cut model is the masked model; leaves ``verified.json``.

    A line of the drop-in contract that does not hold is logged and stands in the file; it does not stop the run.

    Args:
        setting: The run.
        folder: Where ``selection.json`` lies.
        learned: What the learn phase left; without one the teacher is cut.

    Raises:
        SecateurError: The proof fails.
    """
    gated = isinstance(setting.config.choose, FromGates)
    dense = load_model(learned) if gated else setting.student()
    selection = Selection.load(folder / "selection.json")
    small = cut(dense, selection)
    if not _left(folder / "verified.json") or not _is_proven(results(folder, "verified.json")):
        proof = verify(small, dense, selection)
        if _first():
            write_json(folder / "verified.json", proof.to_json())
        if not proof.is_proven:
            raise SecateurError(proof.refusal)
        for check in proof.checks:
            if not check.holds:
                logger.warning("the drop-in contract does not hold: %s (%s)", check.name, check.detail)
        process().wait_for_everyone()
    return small


def _is_proven(verification: Mapping[str, Any]) -> bool:
    """Return whether a stored verification proved the cut; older ones say only whether every line held."""
    return bool(verification.get("proven", verification["holds"]))


def recover(
    setting: Setting, folder: Path, small: PreTrainedModel, *, resume: bool, on_progress: OnProgress = None
) -> None:
    """Distil the small model; leaves ``model/`` and ``stages.json``."""
    config = setting.config
    done = _left(folder / "model")
    if done and not (folder / "stages.json").is_file():
        raise CheckpointError(f"{folder} has a model/ but no stages.json: delete model/ and resume, which makes both.")
    if not done:
        shrunk, objective = copy.deepcopy(small).eval(), _objective(setting)
        imitator = _imitator(small.requires_grad_(True), config.recover, objective)
        maps = folder / "learned" / "maps.safetensors"
        if maps.is_file():
            imitator.maps.load_state_dict(_tensors(maps))
            if objective.task is not None:
                objective.task.restore(maps.parent)
        as_cut = _Stage(shrunk, Imitator(shrunk, config.distill), _own(objective.task))
        as_cut.imitator.maps = copy.deepcopy(imitator.maps)
        result = None
        if config.recover.steps:
            trainee = Imitation(
                imitator,
                setting.teacher,
                _feed(setting, "recover"),
                setting.held_out(),
                config.recover,
                objective,
            )
            result = _run(
                trainee, config.recover, setting, folder, phase="recover", resume=resume, on_progress=on_progress
            )
        imitator.cpu()
        dense = _Stage(setting.teacher.cpu(), Imitator(setting.teacher, config.distill), setting.task)
        recovered = _Stage(small.eval(), imitator, objective.task)
        if _first():
            stages = _stages(setting, {"dense": dense, "shrunk": as_cut, "recovered": recovered})
            _, left_out = setting.extra.fitting(setting.teacher.config, small)
            for note in left_out:
                logger.warning("%s", note)
            timed = _timed(result) if result else {}
            write_json(folder / "stages.json", {"stages": stages, "left_out": left_out, **timed})
            selection = Selection.load(folder / "selection.json")
            with whole_folder(folder / "model") as partial:
                write(partial, small, setting, objective.task, selection)
    process().wait_for_everyone()


class _Stage(NamedTuple):
    """A model, the same with its maps, and the task with its own head, as they are at a point of the run."""

    model: PreTrainedModel
    imitator: Imitator
    task: Task | None


def _stages(setting: Setting, stages: Mapping[str, _Stage]) -> list[dict[str, Any]]:
    """Fidelity, figures of the task and speed of the dense, the shrunk and the recovered model."""
    batches, teacher = setting.held_out(), setting.teacher
    threads = torch.get_num_threads()
    models = {name: stage.model for name, stage in stages.items()}
    rate = setting.hearing.sample_rate
    times = speed(models, sample_rate=rate, seconds=TIMED_SECONDS, repeats=TIMED_REPEATS)
    out = []
    for name, (model, imitator, task) in stages.items():
        time = {**asdict(times[name]), "seconds_of_audio": TIMED_SECONDS, "batch": 1, "threads": threads}
        count = sum(parameter.numel() for parameter in base_of(model).parameters())
        head = sum(parameter.numel() for parameter in model.parameters()) - count
        found: dict[str, Any] = {"name": name, "parameters": count, "head": head, "time": time}
        if setting.config.distill is not None:
            near = fidelity(imitator.cpu(), base_of(teacher), batches)
            found |= {"loss": near.loss, "cosine": list(near.cosine)}
        if task is not None and not (name == "dense" and setting.new_head):
            found["scores"] = score(task, model, batches)
        out.append(found)
    return out


def _feed(setting: Setting, phase: Literal["learn", "recover"]) -> Feed:
    """Training audio behind what earlier phases have heard."""
    config = setting.config
    heard = config.finetune.steps if config.finetune is not None else 0
    if phase == "recover" and isinstance(config.choose, FromGates):
        heard += config.learn.steps
    return setting.feed.behind(heard)


def _own(task: Task | None) -> Task | None:
    """A task whose own head learns from here on, and leaves that of the other as it is."""
    if task is None:
        return None
    own = copy.copy(task)
    own.head = copy.deepcopy(task.head)
    return own


def _objective(setting: Setting) -> Objective:
    config = setting.config
    return Objective(distill=config.distill, task=_own(setting.task), task_weight=config.task_weight)


def _imitator(student: PreTrainedModel, training: Training, objective: Objective) -> Imitator:
    """The student with its maps, and with a head where the task has one."""
    task = objective.task
    if task is not None:
        leave_padding_out(base_of(student))
    return Imitator(
        learning_part(student, task),
        objective.distill,
        head=None if task is None else task.head,
        compile=training.compile,
        recompute=training.gradient_checkpointing,
    )


def _run(
    trainee: Imitation,
    training: Training,
    setting: Setting,
    folder: Path,
    *,
    phase: str,
    resume: bool,
    on_progress: OnProgress,
) -> LoopResult:
    """Train one phase, its model set up for it."""
    module = trainee.module
    with regularised(lambda: module.student, training.regularise, freeze_frontend=training.freeze_frontend):
        return run(
            trainee,
            _loop(training, setting.config.seed),
            phase=phase,
            folder=folder,
            resume=resume,
            on_progress=on_progress,
        )


def write(
    folder: Path, model: PreTrainedModel, setting: Setting, task: Task | None, selection: Selection | None = None
) -> None:
    """A model with its companions, and what belongs to its task."""
    weights = setting.extra.state_dict(setting.teacher.config, model)
    write_model(folder, model, source=setting.source, selection=selection, weights=weights)
    if task is not None:
        task.save(folder)


def _loop(training: Training, seed: int) -> LoopConfig:
    return LoopConfig(
        steps=training.steps,
        precision=training.precision,
        log_every=training.log_every,
        validate_every=training.validate_every,
        save_every=training.save_every,
        seed=seed,
        tensorboard=training.tensorboard,
    )


def _by_axis(gates: GateSet) -> dict[str, Tensor]:
    scores, scales, offsets = gates.scores(), gates.scales(), gates.structure.offsets
    out = {}
    for axis in gates.axes:
        units = slice(offsets[axis.name], offsets[axis.name] + axis.size)
        out[f"{axis.name}:score"], out[f"{axis.name}:scale"] = scores[units].clone(), scales[units].clone()
    return out


def _timed(result: LoopResult) -> dict[str, Any]:
    return {"steps": result.steps, "seconds": result.seconds}


def _tensors(path: Path) -> dict[str, Tensor]:
    """Tensors that the learn phase left."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is missing or damaged ({error}): put it back, or delete the folder {path.parent} and resume, "
            "which makes it again from the last checkpoint."
        ) from None


def _left(path: Path) -> bool:
    """Whether a phase left its result, the same answer on every rank: none writes before all have looked."""
    process().wait_for_everyone()
    there = path.exists()
    process().wait_for_everyone()
    return there


def _first() -> bool:
    return bool(process().is_main_process)


def results(folder: Path, name: str) -> dict[str, Any]:
    """A phase's JSON, empty when it left none."""
    path = folder / name
    return read_json(path) if path.is_file() else {}
