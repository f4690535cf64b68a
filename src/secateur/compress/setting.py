"""What every phase of a run needs: teacher, structure, costs, audio."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from transformers import PreTrainedModel

from secateur.arch import declare
from secateur.compress.batches import Feed, MicroBatch, held_out, split_off
from secateur.compress.config import FromFile, FromScore, PruneConfig
from secateur.compress.step import Bound
from secateur.cost import Cost, Terms
from secateur.data.corpus import SAMPLE_RATE, Corpus
from secateur.data.open import open_corpus
from secateur.engine import check_compiler, process
from secateur.errors import ConfigError, ModelError
from secateur.gates.set import check_kinds
from secateur.objective.pairing import teacher_layers
from secateur.records import read_json
from secateur.structure import Selection, Structure, close
from secateur.surgery.choose import Limit, check_reachable
from secateur.surgery.folder import companion
from secateur.surgery.load import load_model

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
        teacher: The dense model, frozen, with its head.
        structure: Of its encoder.
        terms: Its cost terms.
        bounds: The constraints with their costs.
        train: Training audio.
        held: Held-out audio.
        normalize: Whether the teacher's feature extractor normalises each utterance.
        equal: Whether the crops of a step have one length.
    """

    config: PruneConfig
    source: str | Path
    teacher: PreTrainedModel
    structure: Structure
    terms: Terms
    bounds: tuple[Bound, ...]
    train: Corpus
    held: Corpus
    normalize: bool
    equal: bool

    @property
    def gated_kinds(self) -> tuple[str, ...]:
        """Kinds of axes that the run prunes."""
        choose = self.config.choose
        return choose.kinds if isinstance(choose, FromScore) else tuple(self.config.gated)

    def feed(self, *, skip: int = 0) -> Feed:
        """Training audio as micro-batches, from behind the first `skip` steps on."""
        return Feed(
            self.train,
            self.structure,
            self.config.batching,
            seed=self.config.seed,
            normalize=self.normalize,
            equal=self.equal,
            world=process().num_processes,
            skip=skip,
        )

    def held_out(self) -> list[MicroBatch]:
        """Held-out audio as micro-batches."""
        return held_out(
            self.held,
            self.structure,
            seconds=self.config.validation.seconds,
            longest=self.config.batching.longest,
            normalize=self.normalize,
        )

    def limits(self) -> list[Limit]:
        """The constraints by count."""
        return [Limit(name=b.constraint.name, cost=b.cost, share=b.constraint.kept) for b in self.bounds]


def prepare(config: PruneConfig) -> Setting:
    """Load the teacher, open the audio, and check that every constraint can be met.

    Raises:
        SecateurError: A part is missing, unfit, or a target cannot be reached; told before anything is trained.
    """
    if config.learn.compile or config.recover.compile:
        check_compiler()
    source = model_path(config.model)
    teacher = load_model(source)
    teacher.requires_grad_(False)
    structure = declare(teacher.config)
    terms = Terms(structure)
    gated = _gated(config, structure)
    bounds = tuple(
        Bound(
            constraint=constraint,
            cost=Cost.of(
                terms,
                cost=constraint.cost,
                scope=constraint.scope,
                samples=round(constraint.seconds * SAMPLE_RATE),
                gated=gated,
            ),
        )
        for constraint in config.limits
    )
    _check_bounds(config, structure, bounds, gated)
    teacher_layers(config.distill.pairing, len(list(structure.of_kinds(("layer",)))))
    train, held = _audio(config)
    setting = Setting(
        config=config,
        source=source,
        teacher=teacher,
        structure=structure,
        terms=terms,
        bounds=bounds,
        train=train,
        held=held,
        normalize=_normalizes(source),
        equal=structure.sees_padding,
    )
    setting.feed(), setting.held_out()  # too little audio, or too short, is told now
    return setting


def _gated(config: PruneConfig, structure: Structure) -> frozenset[str]:
    """Names of the axes that the run prunes."""
    kinds = config.choose.kinds if isinstance(config.choose, FromScore) else tuple(config.gated)
    check_kinds(kinds)
    gated = frozenset(axis.name for axis in structure.of_kinds(kinds) if axis.size)
    if not gated and not isinstance(config.choose, FromFile):
        raise ConfigError(
            f"No axis of this model is of the kinds {', '.join(kinds) or '(none)'} that are to be pruned: name some "
            "under 'gates' (or under 'choose.kinds' when choosing by score)."
        )
    return gated


def _check_bounds(config: PruneConfig, structure: Structure, bounds: Sequence[Bound], gated: frozenset[str]) -> None:
    """Raise an error for a constraint on nothing, or one that cannot be met; or for a selection that does not fit."""
    for bound in bounds:
        if not bound.cost.dense:
            raise ConfigError(
                f"The constraint {bound.constraint.name} is on {bound.cost.label}, which is 0 in this model: name "
                "another scope, or longer audio."
            )
    if isinstance(config.choose, FromFile):
        close(structure, Selection.load(config.choose.path))
        return
    flags = torch.cat([torch.full((axis.size,), axis.name in gated) for axis in structure.axes.values()])
    limits = [Limit(name=b.constraint.name, cost=b.cost, share=b.constraint.kept) for b in bounds]
    check_reachable(structure, flags, limits)


def _audio(config: PruneConfig) -> tuple[Corpus, Corpus]:
    train = open_corpus(config.data)
    if config.validation.data is not None:
        return train, open_corpus(config.validation.data)
    return split_off(train, seconds=config.validation.seconds)


def _normalizes(source: str | Path) -> bool:
    path = companion(source, "preprocessor_config.json")
    if path is None:
        logger.warning("%s has no preprocessor_config.json: audio is used as it is, not normalised", source)
        return False
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise ModelError(f"{path}: got a {type(settings).__name__}, a feature extractor's settings are a JSON object.")
    return bool(settings.get("do_normalize", True))
