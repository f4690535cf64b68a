"""What every phase of a run needs: teacher, structure, costs, audio."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from secateur.arch import declare
from secateur.compress.batches import Feed, MicroBatch, held_out, split_off
from secateur.compress.config import FromScore, PruneConfig
from secateur.compress.step import Bound
from secateur.cost import Cost, Terms
from secateur.data.corpus import SAMPLE_RATE, Corpus
from secateur.data.open import open_corpus
from secateur.gates.set import check_kinds
from secateur.masking.attach import base_of
from secateur.records import read_json
from secateur.structure import Structure
from secateur.structure.axis import KINDS
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

    def feed(self) -> Feed:
        """Training audio as micro-batches."""
        return Feed(
            self.train,
            self.structure,
            self.config.batching,
            seed=self.config.seed,
            normalize=self.normalize,
            equal=self.equal,
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
    source = model_path(config.model)
    teacher = load_model(source)
    teacher.requires_grad_(False)
    structure = declare(teacher.config)
    terms = Terms(structure)
    kinds = config.choose.kinds if isinstance(config.choose, FromScore) else tuple(config.gated)
    if not isinstance(config.choose, FromScore):
        check_kinds(config.gated)
    gated = frozenset(axis.name for axis in structure.of_kinds(kinds) if axis.kind in KINDS and axis.size)
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
    flags = torch.cat([torch.full((axis.size,), axis.name in gated) for axis in structure.axes.values()])
    limits = [Limit(name=b.constraint.name, cost=b.cost, share=b.constraint.kept) for b in bounds]
    check_reachable(structure, flags, limits)
    train, held = _audio(config)
    return Setting(
        config=config,
        source=source,
        teacher=teacher,
        structure=structure,
        terms=terms,
        bounds=bounds,
        train=train,
        held=held,
        normalize=_normalizes(source),
        equal=_sees_padding(teacher),
    )


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
    return bool(read_json(path).get("do_normalize", True))


def _sees_padding(model: PreTrainedModel) -> bool:
    """Whether padding changes valid frames: GroupNorm front ends, and data2vec's positional norms and convolutions."""
    config: Any = base_of(model).config
    return config.model_type.endswith("data2vec-audio") or getattr(config, "feat_extract_norm", "layer") == "group"
