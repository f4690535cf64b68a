"""What every phase of a run needs: teacher, structure, costs, audio."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.resources import files
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from secateur.arch import declare
from secateur.compress.batches import Feed, MicroBatch, held_out, split_off
from secateur.compress.config import Factorising, FromFile, FromGates, FromScore, PruneConfig
from secateur.compress.step import Bound
from secateur.cost import Cost, Terms
from secateur.cost.latency import latency
from secateur.cost.table import Table
from secateur.data.corpus import SAMPLE_RATE, Corpus, Skip
from secateur.data.hearing import Hearing
from secateur.data.open import open_corpus
from secateur.engine import check_compiler, check_tensorboard, process
from secateur.errors import ConfigError, DataError
from secateur.gates.set import check_kinds
from secateur.masking.attach import base_of
from secateur.modules.norm import leave_padding_out
from secateur.objective.constraint import Constraint
from secateur.objective.pairing import teacher_layers
from secateur.objective.tasks import Rnnt, Surroundings, Task, build_task
from secateur.structure import Selection, Structure, close
from secateur.structure.axis import HEAD_KINDS
from secateur.structure.structure import TRANSDUCER
from secateur.surgery.bundles import Bundles
from secateur.surgery.choose import Limit, check_reachable, counted_by
from secateur.surgery.factorise import factorise, factorised_config, ranks_of
from secateur.surgery.folder import companion
from secateur.surgery.hearing import hearing_of
from secateur.surgery.load import load_model, with_head

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
        notes: What was left out of the audio or mended, in sentences.
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


def prepare(config: PruneConfig, *, table: Callable[[PreTrainedConfig], Table], learned: bool = False) -> Setting:
    """Load the teacher, open the audio, and check that every constraint can be met.

    Args:
        config: The recipe.
        table: Where measured times of the teacher's blocks come from; asked last, and only for a constraint on latency.
        learned: Whether gates have learned already, so that each has a verdict that needs no constraint.

    Raises:
        SecateurError: A part is missing, unfit, or a target cannot be reached; told before anything is trained.
    """
    phases = [phase for phase in (config.finetune, config.learn, config.recover) if phase is not None]
    if any(phase.compile for phase in phases):
        check_compiler()
    if any(phase.tensorboard for phase in phases):
        check_tensorboard()
    source = model_path(config.model)
    teacher = load_model(source)
    teacher.requires_grad_(False)
    structure = _structure(config, teacher.config)
    gated = frozenset() if _awaits_head(config, structure) else _gated(config, structure)
    if config.distill is not None:
        teacher_layers(config.distill.pairing, len(list(structure.of_kinds(("layer",)))))
    train, held, notes = _audio(config)
    hearing = hearing_of(source, structure)
    task, new_head = None, False
    if config.task is not None:
        around = Surroundings(hearing=hearing, structure=structure, beside=partial(companion, source))
        task = build_task(config.task, source=source, model_config=teacher.config, corpus=train, around=around)
        for note in task.notes:
            logger.warning("%s", note)
        train, ours = usable(task, train, structure, longest=config.batching.longest)
        held, theirs = usable(task, held, structure)
        notes = (*notes, *task.notes, *ours, *theirs)
        if not task.ending and base_of(teacher) is not teacher:
            notes = (*notes, f"the head of {config.model!r} is left out, since this task leaves a bare encoder")
        new_head = task.new_head
        teacher = _ready(config, teacher, task).requires_grad_(False)
        if new_head:
            before, structure = structure, _structure(config, teacher.config)
            gated = gated if structure.axes.keys() == before.axes.keys() else _gated(config, structure)
            _check_new_head(config, structure)
    notes = (*notes, *_never_drawn(train, config.batching.shortest))
    timed = any(constraint.cost == "latency" for constraint in config.limits)
    times = table(teacher.config) if timed else None
    bounds = _bounds(config, structure, gated, times)
    _check_bounds(config, structure, bounds, gated, learned=learned)
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
        new_head=new_head,
        notes=notes,
    )
    _ = setting.feed, setting.held_out()  # too little audio, or too short, is told now
    return setting


def _structure(config: PruneConfig, model: PreTrainedConfig) -> Structure:
    """What is pruned: the encoder, factorised where that is asked for; with a transducer's head where that is meant."""
    structure = declare(model)
    if config.factorise is not None:
        structure = declare(factorised_config(model, _ranks(config.factorise, structure)))
    meant = isinstance(config.choose, FromFile) or any(kind in HEAD_KINDS for kind in config.pruned)
    meant |= any(limit.scope == TRANSDUCER or structure.in_head(limit.scope) for limit in config.limits)
    return structure if meant else structure.without_head


def _awaits_head(config: PruneConfig, structure: Structure) -> bool:
    """Whether something is to be pruned of a transducer's head that is yet to be made."""
    scopes = [limit.scope for limit in config.limits]
    meant = any(kind in HEAD_KINDS for kind in config.pruned) or TRANSDUCER in scopes
    return meant and isinstance(config.task, Rnnt) and not structure.head


def _check_new_head(config: PruneConfig, structure: Structure) -> None:
    """Raise a ConfigError where something of a head is to be chosen before it has learned anything."""
    how = config.choose
    axes = Selection.load(how.path).axes if isinstance(how, FromFile) else {}
    named = any(structure.in_head(name.rpartition("/")[0]) for name in axes)
    chosen = named or (isinstance(how, FromScore) and any(kind in HEAD_KINDS for kind in how.kinds))
    if chosen and config.finetune is None:
        raise ConfigError(
            f"choose: {config.model!r} has no predictor and joiner yet, and new ones have nothing to choose by; "
            "fine-tune first, by 'finetune', or learn gates."
        )


def start_of(teacher: PreTrainedModel, factorising: Factorising | None) -> PreTrainedModel:
    """The model that a student begins as: a copy of its teacher, factorised where that is asked for."""
    if factorising is None:
        return copy.deepcopy(teacher)
    return factorise(teacher, _ranks(factorising, declare(teacher.config)))


def _ranks(factorising: Factorising, structure: Structure) -> dict[str, int]:
    return ranks_of(structure, factorising.linears, factorising.start)


def usable(
    task: Task, corpus: Corpus, structure: Structure, *, longest: float = math.inf
) -> tuple[Corpus, tuple[str, ...]]:
    """The utterances of a corpus that a task can be learned from; the rest is told.

    Args:
        task: What they are for.
        corpus: All of them.
        structure: Of the encoder, for frame counts.
        longest: Seconds above which those are left out that the task could learn from as a whole alone.

    Returns:
        The corpus, and what was left out of it or mended, in sentences.
    """
    found = task.usable(corpus, lambda samples: structure.lengths(samples)[-1])
    most = (longest if task.whole else math.inf) * SAMPLE_RATE
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


def _never_drawn(corpus: Corpus, shortest: float) -> tuple[str, ...]:
    """How many utterances are too short to be learned from, in a sentence; none where none are."""
    short = sum(utterance.samples < shortest * SAMPLE_RATE for utterance in corpus.utterances)
    told = f"{corpus.name}: {short} of {len(corpus)} utterances below {shortest:g} s (batching.shortest) never drawn"
    return (told,) if short else ()


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
    leave_padding_out(base_of(teacher))
    return teacher


def _bounds(config: PruneConfig, structure: Structure, gated: frozenset[str], table: Table | None) -> tuple[Bound, ...]:
    """The constraints with their costs."""
    terms = Terms(structure)

    def bound(constraint: Constraint) -> Bound:
        if table is not None and constraint.cost == "latency":
            cost = latency(terms, table, scope=constraint.scope)
        else:
            samples = round(constraint.length * SAMPLE_RATE)
            cost = Cost.of(terms, cost=constraint.cost, scope=constraint.scope, samples=samples, gated=gated)
        return Bound(
            constraint=constraint, cost=cost, share=constraint.share(dense=cost.dense, audio=config.latency.audio)
        )

    return tuple(bound(constraint) for constraint in config.limits)


def _gated(config: PruneConfig, structure: Structure) -> frozenset[str]:
    """Names of the axes that the run prunes."""
    kinds = config.pruned
    check_kinds(kinds)
    axes = [axis for axis in structure.of_kinds(kinds) if axis.size]
    if isinstance(config.choose, FromFile):
        return frozenset(axis.name for axis in axes)
    if "rank" in kinds and not any(axis.kind == "rank" for axis in axes):
        raise ConfigError(
            "The kind 'rank' is to be pruned, but no linear map of this model is factorised: name some under "
            "'factorise', such as {linears: [q_proj, k_proj, v_proj, out_proj]}."
        )
    _check_head_kinds(config, structure)
    if not axes:
        raise ConfigError(
            f"No axis of this model is of the kinds {', '.join(kinds) or '(none)'} that are to be pruned: name some "
            "under 'gates' (or under 'choose.kinds' when choosing by score)."
        )
    for kind in sorted(set(kinds) - {axis.kind for axis in axes}):
        logger.warning("this %s model has no axis of the kind %s: it is passed over", structure.model_type, kind)
    return frozenset(axis.name for axis in axes)


def _check_head_kinds(config: PruneConfig, structure: Structure) -> None:
    """Raise a ConfigError where kinds of a transducer's head are to be pruned that is not there, or does not learn."""
    kinds = [kind for kind in config.pruned if kind in HEAD_KINDS]
    if kinds and not structure.head:
        raise ConfigError(
            f"The kind {kinds[0]!r} is to be pruned, which only transducers have (ForRNNT, ForTDT), and this model is "
            "none: leave it out, or name {kind: rnnt} under 'task'."
        )
    is_run = isinstance(config.task, Rnnt) and config.task_weight
    if kinds and isinstance(config.choose, FromGates) and not is_run:
        raise ConfigError(
            f"gates.{kinds[0]}: a transducer's head is run for its task alone, without which its gates would learn "
            "nothing; name {kind: rnnt} under 'task', or choose by score."
        )


def _check_bounds(
    config: PruneConfig,
    structure: Structure,
    bounds: Sequence[Bound],
    gated: frozenset[str],
    *,
    learned: bool,
) -> None:
    """Raise an error for a constraint on nothing, or one that cannot be met; or for a selection that does not fit."""
    for bound in bounds:
        if not bound.cost.dense:
            raise ConfigError(
                f"The constraint {bound.constraint.name} is on {bound.cost.brief}, which is 0 in this model: name "
                "another scope, or longer audio."
            )
    if isinstance(config.choose, FromFile):
        close(structure, Selection.load(config.choose.path))
        return
    for axis in structure.of_kinds(HEAD_KINDS if not learned else ()):
        units = slice(start := structure.offsets[axis.name], start + axis.size)
        if axis.name in gated and not any(counted_by(b.cost, structure.size)[units].any() for b in bounds):
            raise ConfigError(
                f"The kind {axis.kind!r} is to be pruned, but no constraint counts it, so that nothing would: add one, "
                "such as {cost: parameters, scope: transducer, target: 0.5}."
            )
    scores = torch.cat(
        [torch.full((axis.size,), 0.0 if axis.name in gated else math.inf) for axis in structure.axes.values()]
    )
    limits = [Limit(name=b.constraint.name, cost=b.cost, share=b.share) for b in bounds]
    check_reachable(Bundles.of(structure, scores, config.round_to), limits)


def _audio(config: PruneConfig) -> tuple[Corpus, Corpus, tuple[str, ...]]:
    """Training and held-out audio, and what was left out of both, in sentences."""
    corpus = open_corpus(config.data)
    if config.validation.data is not None:
        try:
            return corpus, open_corpus(config.validation.data), ()
        except DataError as error:
            raise DataError(f"validation.data: {error}") from None
    train, held = split_off(corpus, seconds=config.validation.seconds)
    unused = len(corpus) - len(train) - len(held)
    if not unused:
        return train, held, ()
    note = f"{corpus.name}: {unused} utterances of test splits neither learned from nor held out"
    logger.info("%s", note)
    return train, held, (note,)
