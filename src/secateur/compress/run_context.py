"""The context of a run, shared by all phases: teacher, structure, costs, audio, task."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.resources import files
from pathlib import Path

import torch
from transformers import PreTrainedModel

from secateur.compress.audio_batches import AudioFeed, MicroBatch, held_out_micro_batches, split_held_out
from secateur.compress.config import PruneConfig
from secateur.compress.regularization import check_regularization
from secateur.compress.targets import (
    CostTarget,
    check_cost_targets,
    check_new_head,
    cost_targets_of,
    make_student_model,
    needs_new_head,
    pruned_axes,
    pruned_structure,
)
from secateur.cost.latency_table import LatencyTable
from secateur.data.corpus import Corpus, Skip
from secateur.data.input_features import InputFeatures
from secateur.data.open import open_corpus
from secateur.engine import check_compiler, check_tensorboard, process
from secateur.errors import ConfigError, DataError, ModelError
from secateur.hf.extra_weights import ExtraWeights
from secateur.hf.feature_extractor import load_input_features
from secateur.hf.hub_files import find_file
from secateur.hf.load import LoadedCheckpoint, load_checkpoint, with_head
from secateur.hf.model_view import ConfigView, ModelView
from secateur.losses.layer_mapping import teacher_layers
from secateur.nn.norm import replace_group_norm
from secateur.structure import Structure
from secateur.surgery.comparison import inference_mode, random_audio, run_model
from secateur.surgery.limits import CostLimit
from secateur.tasks import EncoderInfo, Task, build_task
from secateur.tasks.task import filter_short_audio

logger = logging.getLogger(__name__)

#: The name of the teacher that ships with the package.
TINY_MODEL = "tiny"


def model_path(model: str) -> str | Path:
    """Return the folder or hub id for the field `model` of a recipe."""
    return Path(str(files("secateur") / "teacher")) if model == TINY_MODEL else model


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """The fixed part of a run.

    Attributes:
        config: The recipe.
        source: Folder or hub id of the teacher.
        teacher_view: The dense model, frozen, with a head; with a task, the head is the head of the task.
        structure: Structure of the pruned part: the encoder, and the head of a transducer if the recipe prunes the
            head. Linear maps named by `factorise` are two maps.
        table: Measured times of blocks; None without a constraint on latency.
        cost_targets: The constraints with their costs.
        train: Training audio.
        held_out: Held-out audio.
        input_features: The features that the teacher takes.
        equal_lengths: Whether all crops of a step have the same length.
        task: The task with an untrained head; None for distillation alone.
        has_new_head: Whether the head of the teacher is new and untrained.
        extra: Weights in the file of the teacher that belong to neither encoder nor head.
        notes: Sentences about audio and weights that were left out or repaired.
    """

    config: PruneConfig
    source: str | Path
    teacher_view: ModelView
    structure: Structure
    table: LatencyTable | None
    cost_targets: tuple[CostTarget, ...]
    train: Corpus
    held_out: Corpus
    input_features: InputFeatures
    equal_lengths: bool
    task: Task | None
    has_new_head: bool
    extra: ExtraWeights
    notes: tuple[str, ...]

    @property
    def teacher(self) -> PreTrainedModel:
        """The model of `teacher_view`."""
        return self.teacher_view.model  # type: ignore[no-any-return]

    @cached_property
    def feed(self) -> AudioFeed:
        """The training audio as micro-batches."""
        return AudioFeed(
            self.train,
            self.structure,
            self.config.batching,
            seed=self.config.seed,
            input_features=self.input_features,
            equal_lengths=self.equal_lengths,
            task=self.task,
            world=process().num_processes,
        )

    def make_student(self) -> ModelView:
        """Return the model to prune, with trainable weights."""
        student_view = make_student_model(self.teacher_view, self.config.factorise)
        student_view.model.requires_grad_(True)
        return student_view

    def held_out_batches(self) -> list[MicroBatch]:
        """Return the held-out audio as micro-batches."""
        return held_out_micro_batches(
            self.held_out,
            self.structure,
            seconds=self.config.validation.seconds,
            max_seconds=self.config.batching.longest,
            input_features=self.input_features,
            task=self.task,
            seed=self.config.seed,
        )

    def cost_limits(self) -> list[CostLimit]:
        """Return the limits on the costs while units are chosen by count."""
        return [target.limit for target in self.cost_targets]


def prepare_run(
    config: PruneConfig,
    *,
    make_latency_table: Callable[[ConfigView, int], LatencyTable],
    has_learned_gates: bool = False,
) -> RunContext:
    """Load the teacher, open the audio, and check that every constraint can be met.

    Args:
        config: The recipe.
        make_latency_table: Returns measured times of the blocks of the teacher, given the config and the sampling rate
            of the teacher. Called last, and only for a constraint on latency.
        has_learned_gates: Whether the gates have learned already, so that gates without a constraint can decide, too.

    Raises:
        SecateurError: A part is missing or does not fit, or a target cannot be reached.
    """
    source = model_path(config.model)
    _check_installation(config)
    checkpoint = _load_teacher(config, source)
    teacher_view = checkpoint.view
    teacher_view.model.requires_grad_(False)
    for name, phase in config.phases.items():
        check_regularization(teacher_view, phase, phase=name)
    structure = pruned_structure(config, teacher_view)
    _check_finite(teacher_view, structure, config.model)
    # The axes of a new transducer head are known only after the head is made, below.
    gated_axes = frozenset() if needs_new_head(config, structure) else pruned_axes(config, structure)
    if config.distill is not None:
        # The result is unused: this raises early if a layer does not exist.
        teacher_layers(config.distill.pairing, len(list(structure.axes_of_kinds(("layer",)))))
    input_features = load_input_features(source, structure)
    train, held_out_corpus, notes = _open_audio(config, input_features.sample_rate)
    task = None
    if config.task is not None:
        info = EncoderInfo(input_features=input_features, structure=structure, find_file=partial(find_file, source))
        task = build_task(config.task, source=source, model_config=teacher_view.config, corpus=train, encoder_info=info)
        notes += _head_notes(task, teacher_view, config.model)
    train, train_notes = filter_corpus(task, train, structure, max_seconds=config.batching.longest)
    held_out_corpus, held_out_notes = filter_corpus(task, held_out_corpus, structure)
    notes += (*train_notes, *held_out_notes)
    if task is not None:
        if not task.new_head:
            checkpoint.require_intact()
        notes += _short_mask_notes(config, train, structure)
        teacher_view = _add_task_head(config, teacher_view, task)
        teacher_view.model.requires_grad_(False)
        if task.new_head:
            headless_structure, structure = structure, pruned_structure(config, teacher_view)
            # Only the head of a transducer adds axes to the structure.
            if structure.axes.keys() != headless_structure.axes.keys():
                gated_axes = pruned_axes(config, structure)
            check_new_head(config, structure)
    needs_latency_table = any(constraint.cost == "latency" for constraint in config.targeted_constraints)
    latency_table = make_latency_table(teacher_view, input_features.sample_rate) if needs_latency_table else None
    cost_targets = cost_targets_of(config, structure, gated_axes, latency_table, input_features.sample_rate)
    check_cost_targets(config, structure, cost_targets, gated_axes, has_learned_gates=has_learned_gates)
    context = RunContext(
        config=config,
        source=source,
        teacher_view=teacher_view,
        structure=structure,
        table=latency_table,
        cost_targets=cost_targets,
        train=train,
        held_out=held_out_corpus,
        input_features=input_features,
        equal_lengths=structure.sees_padding if task is None else not task.needs_full_utterance,
        task=task,
        has_new_head=task is not None and task.new_head,
        extra=checkpoint.extra,
        notes=(*checkpoint.notes, *notes),
    )
    _ = context.feed, context.held_out_batches()  # raises now if there is too little audio
    return context


def _check_installation(config: PruneConfig) -> None:
    """Raise an error if a phase needs a compiler or TensorBoard and the machine has none."""
    if any(phase.compile for phase in config.phases.values()):
        check_compiler()
    if any(phase.tensorboard for phase in config.phases.values()):
        check_tensorboard()


def _check_finite(teacher_view: ModelView, structure: Structure, name: str) -> None:
    """Raise a ModelError if a model with finite weights has NaN or infinite hidden states for noise."""
    generator = torch.Generator().manual_seed(0)
    teacher = teacher_view.model
    with inference_mode(teacher):
        # 8000 samples are half a second at 16 kHz.
        audio = random_audio(structure, max(8000, structure.min_samples), teacher.dtype, generator)
        states = run_model(teacher_view.encoder, audio).hidden_states
    if not all(bool(torch.isfinite(state).all()) for state in states):
        raise ModelError(
            f"The model {name!r} gives NaN or infinite values for noise, although its weights are finite: they are too "
            "large, or not those that its config describes."
        )


def _load_teacher(config: PruneConfig, source: str | Path) -> LoadedCheckpoint:
    """Return the checkpoint of the teacher, without a damaged head if the run does not use the head."""
    checkpoint = load_checkpoint(source)
    # BEST-RQ keeps its head outside the model.
    ignores_head = config.task is None or config.task.kind == "best_rq"
    return checkpoint.drop_damaged_head() if ignores_head else checkpoint


def filter_corpus(
    task: Task | None, corpus: Corpus, structure: Structure, *, max_seconds: float = math.inf
) -> tuple[Corpus, tuple[str, ...]]:
    """Return the usable utterances of a corpus, and log the rest.

    Args:
        task: The task; None for distillation alone, for which all utterances of at least a frame are usable.
        corpus: The corpus.
        structure: Structure of the encoder, for frame counts.
        max_seconds: Utterances above this length are left out if the task needs full utterances.

    Returns:
        The corpus of the usable utterances, and sentences about utterances that were left out or repaired.

    Raises:
        DataError: No utterance is usable.
    """

    def count_frames(samples: int) -> int:
        return structure.lengths(samples)[-1]

    filtered = filter_short_audio(corpus, count_frames) if task is None else task.filter(corpus, count_frames)
    can_crop = task is None or not task.needs_full_utterance
    # If utterances can be cropped, no utterance is too long.
    max_samples = math.inf if can_crop else max_seconds * corpus.sample_rate
    long_utterances = [utterance for utterance in filtered.corpus.utterances if utterance.samples > max_samples]
    if long_utterances and len(long_utterances) == len(filtered.corpus.utterances):
        raise DataError(
            f"Every utterance of {corpus.name!r} is longer than batching.longest, {max_seconds:g} s, and with a "
            "task none can be cropped: raise it."
        )
    corpus_notes = list(filtered.notes)
    if long_utterances:
        corpus_notes.append(f"{len(long_utterances)} utterances above {max_seconds:g} s left out")
    notes = tuple(f"{corpus.name}: {note}" for note in corpus_notes)
    for note in notes:
        logger.warning("%s", note)
    reason = f"is longer than batching.longest, {max_seconds:g} s"
    skipped = (
        *filtered.corpus.skipped,
        *filtered.skipped,
        *(Skip(utterance.path, reason) for utterance in long_utterances),
    )
    return replace(filtered.corpus.select(lambda utterance: utterance.samples <= max_samples), skipped=skipped), notes


def _short_mask_notes(config: PruneConfig, train: Corpus, structure: Structure) -> tuple[str, ...]:
    """Return sentences about utterances too short for the length of time masks in the recipe."""
    settings = [phase.regularise for phase in config.phases.values() if phase.regularise.time_masks]
    frames = [structure.lengths(utterance.samples)[-1] for utterance in train.utterances] if settings else []
    notes = []
    for length in sorted({regularization.time_mask_length for regularization in settings}):
        # A mask spans at most half of the frames; see `time_span`.
        short_count = sum(count < 2 * length for count in frames)
        if short_count:
            notes.append(
                f"{train.name}: {short_count} of {len(frames)} utterances have fewer than {2 * length} frames, and get "
                f"time masks of half their frames instead of {length}"
            )
    for note in notes:
        logger.warning("%s", note)
    return tuple(notes)


def _head_notes(task: Task, teacher_view: ModelView, model: str) -> tuple[str, ...]:
    """Return sentences about the head of a model that is left out, and about the task."""
    notes: tuple[str, ...] = ()
    if teacher_view.has_head and (task.new_head or not task.head_class):
        reason = "this task has a new one" if task.head_class else "this task leaves a bare encoder"
        notes = (f"the head of {model!r}, a {type(teacher_view.model).__name__}, is left out, since {reason}",)
    for note in (*task.notes, *notes):
        logger.warning("%s", note)
    return (*task.notes, *notes)


def _add_task_head(config: PruneConfig, teacher_view: ModelView, task: Task) -> ModelView:
    """Return the dense model with the head of a task, and with GroupNorm statistics that exclude padding.

    Raises:
        ConfigError: The recipe imitates or weights a head that the model does not have.
    """
    if not task.head_class and config.distill is not None and config.distill.logits is not None:
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
        if task.head_class:
            teacher_view = with_head(teacher_view, task.head_class, task.fields(), seed=config.seed)
        task.init_head(teacher_view.model)
    elif task.head_class == "ForCTC":
        teacher_view.config.update(task.fields())  # such as the index of the blank
    replace_group_norm(teacher_view.encoder)
    return teacher_view


def _open_audio(config: PruneConfig, sample_rate: int) -> tuple[Corpus, Corpus, tuple[str, ...]]:
    """Return training audio, held-out audio, and sentences about the rest, at a sampling rate in hertz."""
    corpus = open_corpus(config.data, sample_rate=sample_rate)
    if config.validation.data is not None:
        try:
            return corpus, open_corpus(config.validation.data, sample_rate=sample_rate), ()
        except DataError as error:
            raise DataError(f"validation.data: {error}") from None
    train, held_out_corpus = split_held_out(corpus, seconds=config.validation.seconds)
    unused_count = len(corpus) - len(train) - len(held_out_corpus)
    if not unused_count:
        return train, held_out_corpus, ()
    note = f"{corpus.name}: {unused_count} utterances of test splits neither learned from nor held out"
    logger.info("%s", note)
    return train, held_out_corpus, (note,)
