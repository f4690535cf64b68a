"""A tiny pruning run in parts: audio in memory or as files, a tiny teacher, and the trainee of the learn phase."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import transformers
from numpy.typing import NDArray
from support import build, tiny_config, tiny_structure

from secateur.compress.audio_batches import AudioFeed, held_out_micro_batches
from secateur.compress.config import Batching, Distillation, LearnConfig
from secateur.compress.distiller import DistillationModel
from secateur.compress.progressive import ProgressiveShrinking
from secateur.compress.step import PruneUnit
from secateur.compress.student import Student
from secateur.compress.targets import CostTarget
from secateur.cost import Cost, Terms
from secateur.data.corpus import Corpus, Utterance
from secateur.data.input_features import ExtractedFeatures, InputFeatures, Waveform
from secateur.gates import Gate, HardConcrete, make_gates
from secateur.hf.model_view import ModelView
from secateur.losses.constraint import Constraint
from secateur.losses.distances import L1Cosine
from secateur.losses.layer_mapping import FixedLayerMapping, LayerMapping
from secateur.structure import Structure
from secateur.surgery.limits import CostLimit

#: Lengths of the utterances in samples: 0.2 to 0.5 s, all different.
LENGTHS = tuple(3200 + (1237 * i) % 4800 for i in range(12))


def noise(index: int) -> NDArray[np.float32]:
    """Return the audio of an utterance: noise of varying level, so that frames differ."""
    samples = LENGTHS[index]
    swell = 1.0 + np.sin(np.arange(samples) / 700 + index)
    loud = np.random.default_rng(index).standard_normal(samples) * 0.1 * swell
    return loud.astype(np.float32).clip(-1, 1)


def corpus() -> Corpus:
    """Return a corpus of twelve utterances in memory."""
    utterances = tuple(Utterance(id=f"u{i}", path=f"u{i}.wav", samples=n) for i, n in enumerate(LENGTHS))
    return Corpus(name="toy", utterances=utterances, skipped=(), read=lambda u: noise(int(u.id[1:])))


def write_wavs(folder: Path) -> Path:
    """Write the utterances of `corpus` as files, and return the folder."""
    folder.mkdir(parents=True)
    for index in range(len(LENGTHS)):
        soundfile.write(folder / f"u{index:02}.wav", noise(index), 16_000, subtype="FLOAT")
    return folder


def write_teacher(folder: Path, family: str = "wavlm", size: str = "large", ending: str = "Model") -> Path:
    """Write a tiny random teacher with a feature extractor, and return the folder."""
    from transformers import Wav2Vec2FeatureExtractor

    seeded_model(family, size, ending).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder


def seeded_model(family: str, size: str, ending: str = "Model") -> Any:
    """Return a tiny random model with fixed weights."""
    torch.manual_seed(0)  # the gain of a weight norm depends on the initial value
    return build(tiny_config(family, size), ending)


def input_features_of(structure: Structure) -> InputFeatures:
    """Return the input features of a tiny model: normalized waveforms, or the features of the model's family."""
    features = structure.features
    if features is None:
        return Waveform(normalize=True)
    return ExtractedFeatures(getattr(transformers, features.extractor)(**features.settings))


def make_prune_unit(
    *,
    family: str = "wavlm",
    size: str = "large",
    accumulate: int = 1,
    straight_through: bool = False,
    pairing: LayerMapping | None = None,
    l1: float = 1.0,
    seconds: float = 2.4,
    kinds: tuple[str, ...] = ("channels", "groups", "heads", "qk", "vo", "units", "block"),
    constraints: tuple[Constraint, ...] = (Constraint(target=0.4),),
    gate: Gate | None = None,
    edit: Callable[[Any], None] = lambda model: None,
    **training: Any,
) -> PruneUnit:
    """Return the train unit of a learn phase on a tiny model, with equal teacher and student at the start."""
    teacher = seeded_model(family, size)
    student_view = ModelView(copy.deepcopy(teacher))
    edit(student_view.model)
    structure = tiny_structure(family, size)
    terms = Terms(structure)
    # Gates with medium open probability, so that draws are closed, open and in between.
    gate = gate or HardConcrete(drop_rate=0.4, spread=1.0, straight_through=straight_through)
    gates = make_gates(structure, dict.fromkeys(kinds, gate), seed=5)
    audio = corpus()
    learning = LearnConfig(**({"steps": 8, "log_every": 1} | training))
    student = Student(student_view, structure, static=learning.compile)
    distillation_model = DistillationModel(
        student_view,
        Distillation(distance=L1Cosine(l1=l1), pairing=pairing or FixedLayerMapping()),
        compile=learning.compile,
        gradient_checkpointing=learning.gradient_checkpointing,
    )
    cost_targets = [
        CostTarget(
            constraint=limit,
            cost=Cost.from_terms(terms, cost=limit.cost, scope=limit.scope, gated=gates.gated_axes),
            share=limit.target_share,
        )
        for limit in constraints
    ]
    cost_limits = [CostLimit(name=bound.constraint.name, cost=bound.cost, share=bound.share) for bound in cost_targets]
    progressive = None
    if learning.freeze is not None:
        progressive = ProgressiveShrinking(
            learning.freeze, gates, cost_limits, student, distillation_model, steps=learning.steps
        )
    return PruneUnit(
        distillation_model,
        ModelView(teacher),
        AudioFeed(
            audio,
            structure,
            Batching(seconds=seconds, longest=0.4, shortest=0.1, accumulate=accumulate),
            seed=3,
            input_features=input_features_of(structure),
            equal_lengths=size == "base",
        ),
        held_out_micro_batches(
            audio, structure, seconds=0.5, max_seconds=0.3, input_features=input_features_of(structure)
        ),
        learning,
        gates=gates,
        student=student,
        cost_targets=cost_targets,
        progressive=progressive,
    )


def step_gradients(train_unit: PruneUnit, step: int = 0) -> dict[str, torch.Tensor]:
    """Return the gradients of an optimizer step in this process, by name."""
    train_unit.optimizers()
    train_unit.module.zero_grad(set_to_none=True)
    train_unit.gates.zero_grad(set_to_none=True)
    train_unit.multipliers.zero_grad(set_to_none=True)
    train_unit.begin(step)
    for batch in train_unit.micro_batches(step, 0, 1):
        train_unit.loss(train_unit.module, batch).total.backward()
    train_unit.end(step, lambda tensor: tensor)
    return gradients(train_unit)


def gradients(train_unit: PruneUnit) -> dict[str, torch.Tensor]:
    """Return the current gradients of weights, projections, gates and multipliers, by name."""
    named = [*train_unit.module.named_parameters(), *train_unit.gates.named_parameters()]
    named += [(f"multipliers.{name}", value) for name, value in train_unit.multipliers.named_parameters()]
    return {name: value.grad.clone() for name, value in named if value.grad is not None}
