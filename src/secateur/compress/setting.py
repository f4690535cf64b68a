"""What every phase of a run needs: teacher, structure, costs, audio."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.resources import files
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from secateur.compress.batches import Feed, MicroBatch, held_out, split_off
from secateur.compress.config import PruneConfig
from secateur.compress.pruned import (
    awaits_head,
    bounds_of,
    check_bounds,
    check_new_head,
    gated_in,
    start_of,
    structure_of,
)
from secateur.compress.regularise import check_regularised
from secateur.compress.step import Bound
from secateur.cost.table import Table
from secateur.data.corpus import Corpus, Skip
from secateur.data.hearing import Hearing
from secateur.data.open import open_corpus
from secateur.engine import check_compiler, check_tensorboard, process
from secateur.errors import ConfigError, DataError, ModelError
from secateur.masking.attach import base_of
from secateur.modules.norm import leave_padding_out
from secateur.objective.pairing import teacher_layers
from secateur.objective.tasks import Surroundings, Task, build_task
from secateur.objective.tasks.task import long_enough
from secateur.structure import Structure
from secateur.surgery.choose import Limit
from secateur.surgery.comparison import inference, random_audio, run_model
from secateur.surgery.extra import Extra
from secateur.surgery.hearing import hearing_of
from secateur.surgery.hub import companion
from secateur.surgery.load import Checkpoint, load_checkpoint, with_head

logger = logging.getLogger(__name__)

#: The name of the teacher that ships with the package.
TINY = "tiny"


def model_path(model: str) -> str | Path:
    """The folder or hub id that a recipe's `model` stands for."""
    return Path(str(files("secateur") / "teacher")) if model == TINY else model


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The fixed part of a run.

    Attributes:
        source: The teacher's folder or hub id.
        teacher: The dense model, frozen, with its head; with a task, the task's.
        task: What is learned beside or instead of imitating the teacher, with a head of its own as it is before that.
        new_head: Whether the teacher's head is new and has learned nothing.
        extra: Weights beside the teacher's encoder and head, in the file that it came from.
        notes: What was left out of the audio or the model's file, or mended, in sentences.
        structure: Of what is pruned: the teacher's encoder, factorised where the recipe asks for it, and of its head
            where that is pruned.
        table: Measured times of its blocks; None where no constraint is on latency.
        bounds: The constraints with their costs.
        train: Training audio.
        held: Held-out audio.
        hearing: How the teacher hears audio.
        equal: Whether the crops of a step have one length.
    """

    config: PruneConfig
    source: str | Path
    teacher: PreTrainedModel
    structure: Structure
    table: Table | None
    bounds: tuple[Bound, ...]
    train: Corpus
    held: Corpus
    hearing: Hearing
    equal: bool
    task: Task | None
    new_head: bool
    extra: Extra
    notes: tuple[str, ...]

    @cached_property
    def feed(self) -> Feed:
        """Training audio as micro-batches."""
        return Feed(
            self.train,
            self.structure,
            self.config.batching,
            seed=self.config.seed,
            hearing=self.hearing,
            equal=self.equal,
            task=self.task,
            world=process().num_processes,
        )

    def student(self) -> PreTrainedModel:
        """What is pruned, with weights that learn."""
        return start_of(self.teacher, self.config.factorise).requires_grad_(True)

    def held_out(self) -> list[MicroBatch]:
        """Held-out audio as micro-batches."""
        return held_out(
            self.held,
            self.structure,
            seconds=self.config.validation.seconds,
            longest=self.config.batching.longest,
            hearing=self.hearing,
            task=self.task,
            seed=self.config.seed,
        )

    def limits(self) -> list[Limit]:
        """The constraints by count."""
        return [Limit(name=b.constraint.name, cost=b.cost, share=b.share) for b in self.bounds]


def prepare(config: PruneConfig, *, table: Callable[[PreTrainedConfig, int], Table], learned: bool = False) -> Setting:
    """Load the teacher, open the audio, and check that every constraint can be met.

    Args:
        config: The recipe.
        table: Where measured times of the teacher's blocks come from, given its config and its sampling rate; asked
            last, and only for a constraint on latency.
        learned: Whether gates have learned already, so that each has a verdict that needs no constraint.

    Raises:
        SecateurError: A part is missing, unfit, or a target cannot be reached; told before anything is trained.
    """
    phases = config.phases
    if any(phase.compile for phase in phases.values()):
        check_compiler()
    if any(phase.tensorboard for phase in phases.values()):
        check_tensorboard()
    source = model_path(config.model)
    checkpoint = _checkpoint(config, source)
    teacher = checkpoint.model.requires_grad_(False)
    for name, phase in phases.items():
        check_regularised(teacher, phase, phase=name)
    structure = structure_of(config, teacher.config)
    _check_finite(teacher, structure, config.model)
    gated = frozenset() if awaits_head(config, structure) else gated_in(config, structure)
    if config.distill is not None:
        teacher_layers(config.distill.pairing, len(list(structure.of_kinds(("layer",)))))
    hearing = hearing_of(source, structure)
    train, held, notes = _audio(config, hearing.sample_rate)
    task = None
    if config.task is None:
        train, ours = usable(None, train, structure)
        held, theirs = usable(None, held, structure)
        notes = (*notes, *ours, *theirs)
    else:
        around = Surroundings(hearing=hearing, structure=structure, beside=partial(companion, source))
        task = build_task(config.task, source=source, model_config=teacher.config, corpus=train, around=around)
        train, ours = usable(task, train, structure, longest=config.batching.longest)
        held, theirs = usable(task, held, structure)
        if not task.new_head:
            checkpoint.intact()
        notes = (*notes, *_told(task, teacher, config.model), *ours, *theirs, *_short_masks(config, train, structure))
        teacher = _ready(config, teacher, task).requires_grad_(False)
        if task.new_head:
            before, structure = structure, structure_of(config, teacher.config)
            gated = gated if structure.axes.keys() == before.axes.keys() else gated_in(config, structure)
            check_new_head(config, structure)
    timed = any(constraint.cost == "latency" for constraint in config.limits)
    times = table(teacher.config, hearing.sample_rate) if timed else None
    bounds = bounds_of(config, structure, gated, times, hearing.sample_rate)
    check_bounds(config, structure, bounds, gated, learned=learned)
    setting = Setting(
        config=config,
        source=source,
        teacher=teacher,
        structure=structure,
        table=times,
        bounds=bounds,
        train=train,
        held=held,
        hearing=hearing,
        equal=structure.sees_padding if task is None else not task.whole,
        task=task,
        new_head=task is not None and task.new_head,
        extra=checkpoint.extra,
        notes=(*checkpoint.notes, *notes),
    )
    _ = setting.feed, setting.held_out()  # too little audio, or too short, is told now
    return setting


def _check_finite(teacher: PreTrainedModel, structure: Structure, name: str) -> None:
    """Raise a ModelError where a model with finite weights gives NaN or infinite hidden states for noise."""
    generator = torch.Generator().manual_seed(0)
    with inference(teacher):
        audio = random_audio(structure, max(8000, structure.shortest), teacher.dtype, generator)
        states = run_model(cast(PreTrainedModel, base_of(teacher)), audio).hidden_states
    if not all(bool(torch.isfinite(state).all()) for state in states):
        raise ModelError(
            f"The model {name!r} gives NaN or infinite values for noise, although its weights are finite: they are too "
            "large, or not those that its config describes."
        )


def _checkpoint(config: PruneConfig, source: str | Path) -> Checkpoint:
    """Return the teacher's checkpoint, without a head that is damaged where the run has no use for one."""
    checkpoint = load_checkpoint(source)
    heedless = config.task is None or config.task.kind == "best_rq"
    return checkpoint.without_damage() if heedless else checkpoint


def usable(
    task: Task | None, corpus: Corpus, structure: Structure, *, longest: float = math.inf
) -> tuple[Corpus, tuple[str, ...]]:
    """Return the utterances of a corpus that can be learned from; the rest is told.

    Args:
        task: What they are for; None: of any that gives a frame the hidden states can be imitated.
        corpus: All of them.
        structure: Of the encoder, for frame counts.
        longest: Seconds above which those are left out that the task could learn from as a whole alone.

    Returns:
        The corpus, and what was left out of it or mended, in sentences.
    """

    def frames(samples: int) -> int:
        return structure.lengths(samples)[-1]

    found = long_enough(corpus, frames) if task is None else task.usable(corpus, frames)
    most = (longest if task is not None and task.whole else math.inf) * corpus.sample_rate
    long = [utterance for utterance in found.corpus.utterances if utterance.samples > most]
    if long and len(long) == len(found.corpus.utterances):
        raise DataError(
            f"Every utterance of {corpus.name!r} is longer than batching.longest, {longest:g} s, and with a "
            "task none can be cropped: raise it."
        )
    told = [*found.notes] + ([f"{len(long)} utterances above {longest:g} s left out"] if long else [])
    notes = tuple(f"{corpus.name}: {note}" for note in told)
    for note in notes:
        logger.warning("%s", note)
    why = f"is longer than batching.longest, {longest:g} s"
    skipped = (*found.corpus.skipped, *found.skipped, *(Skip(utterance.path, why) for utterance in long))
    return replace(found.corpus.select(lambda utterance: utterance.samples <= most), skipped=skipped), notes


def _short_masks(config: PruneConfig, train: Corpus, structure: Structure) -> tuple[str, ...]:
    """Return how many utterances get shorter masks of time than the recipe asks for, in a sentence for each length."""
    settings = [phase.regularise for phase in config.phases.values() if phase.regularise.time_masks]
    frames = [structure.lengths(utterance.samples)[-1] for utterance in train.utterances] if settings else []
    notes = []
    for length in sorted({each.time_mask_length for each in settings}):
        short = sum(count < 2 * length for count in frames)
        if short:
            notes.append(
                f"{train.name}: {short} of {len(frames)} utterances have fewer than {2 * length} frames, and get time "
                f"masks of half their frames instead of {length}"
            )
    for note in notes:
        logger.warning("%s", note)
    return tuple(notes)


def _told(task: Task, teacher: PreTrainedModel, model: str) -> tuple[str, ...]:
    """Return what becomes of a model's head, in sentences."""
    notes: tuple[str, ...] = ()
    if base_of(teacher) is not teacher and (task.new_head or not task.ending):
        why = "this task has a new one" if task.ending else "this task leaves a bare encoder"
        notes = (f"the head of {model!r}, a {type(teacher).__name__}, is left out, since {why}",)
    for note in (*task.notes, *notes):
        logger.warning("%s", note)
    return (*task.notes, *notes)


def _ready(config: PruneConfig, teacher: PreTrainedModel, task: Task) -> PreTrainedModel:
    """The dense model with the head of a task, its own where it has one, and a front end that leaves padding out."""
    if not task.ending and config.distill is not None and config.distill.logits is not None:
        raise ConfigError("distill.logits: this task leaves a bare encoder, which has none to imitate; set it to null.")
    if task.new_head:
        if config.distill is not None and config.distill.logits is not None and config.finetune is None:
            raise ConfigError(
                f"distill.logits: {config.model!r} has no head for this task to imitate; fine-tune it first, by "
                "'finetune'."
            )
        if not config.task_weight and config.finetune is None:
            raise ConfigError(
                f"task_weight: got 0, but {config.model!r} has no head for this task yet, and a new one would learn "
                "nothing; give the task's loss a weight, or fine-tune first, by 'finetune'."
            )
        logger.info("%s gets a new head for the task", config.model)
        teacher = with_head(teacher, task.ending, task.fields(), seed=config.seed) if task.ending else teacher
        task.begin(teacher)
    elif task.ending == "ForCTC":
        teacher.config.update(task.fields())  # its blank, where the config names none that it could be
    leave_padding_out(base_of(teacher))
    return teacher


def _audio(config: PruneConfig, sample_rate: int) -> tuple[Corpus, Corpus, tuple[str, ...]]:
    """Return training and held-out audio at a rate in hertz, and what was left out of both, in sentences."""
    corpus = open_corpus(config.data, sample_rate=sample_rate)
    if config.validation.data is not None:
        try:
            return corpus, open_corpus(config.validation.data, sample_rate=sample_rate), ()
        except DataError as error:
            raise DataError(f"validation.data: {error}") from None
    train, held = split_off(corpus, seconds=config.validation.seconds)
    unused = len(corpus) - len(train) - len(held)
    if not unused:
        return train, held, ()
    note = f"{corpus.name}: {unused} utterances of test splits neither learned from nor held out"
    logger.info("%s", note)
    return train, held, (note,)
