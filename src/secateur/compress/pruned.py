"""What a recipe prunes of a model, and under which constraints; what cannot be is told before anything is trained."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from secateur.arch import declare
from secateur.compress.config import Factorising, FromFile, FromGates, FromScore, PruneConfig
from secateur.compress.step import Bound
from secateur.cost import Cost, Terms
from secateur.cost.latency import latency
from secateur.cost.table import Table
from secateur.errors import ConfigError
from secateur.gates.set import check_kinds
from secateur.modules.transducer import is_of_head
from secateur.objective.constraint import Constraint
from secateur.objective.tasks import Rnnt
from secateur.structure import Selection, Structure, close
from secateur.structure.axis import HEAD_KINDS
from secateur.surgery.bundles import Bundles
from secateur.surgery.choose import Limit, check_reachable, counted_by
from secateur.surgery.factorise import factorise, factorised_config, ranks_of

logger = logging.getLogger(__name__)


def structure_of(config: PruneConfig, model: PreTrainedConfig) -> Structure:
    """What is pruned: the encoder, factorised where that is asked for; with a transducer's head where that is meant."""
    structure = declare(model)
    if config.factorise is not None:
        structure = declare(factorised_config(model, _ranks(config.factorise, structure)))
    meant = isinstance(config.choose, FromFile) or _names_head(config)
    return structure if meant else structure.without_head


def start_of(teacher: PreTrainedModel, factorising: Factorising | None) -> PreTrainedModel:
    """The model that a student begins as: a copy of its teacher, factorised where that is asked for."""
    if factorising is None:
        return copy.deepcopy(teacher)
    return factorise(teacher, _ranks(factorising, declare(teacher.config)))


def _ranks(factorising: Factorising, structure: Structure) -> dict[str, int]:
    return ranks_of(structure, factorising.linears, factorising.start)


def gated_in(config: PruneConfig, structure: Structure) -> frozenset[str]:
    """Names of the axes that the run prunes.

    Raises:
        ConfigError: It prunes none, or kinds of a head or of ranks that the model lacks.
    """
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


def awaits_head(config: PruneConfig, structure: Structure) -> bool:
    """Whether something is to be pruned of a transducer's head that is yet to be made."""
    return _names_head(config) and isinstance(config.task, Rnnt) and not structure.head


def _names_head(config: PruneConfig) -> bool:
    """Whether a recipe prunes kinds of a transducer's head, or has a constraint on it."""
    return any(kind in HEAD_KINDS for kind in config.pruned) or any(is_of_head(each.scope) for each in config.limits)


def check_new_head(config: PruneConfig, structure: Structure) -> None:
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


def bounds_of(
    config: PruneConfig, structure: Structure, gated: frozenset[str], table: Table | None, sample_rate: int
) -> tuple[Bound, ...]:
    """Return the constraints with their costs, for audio at a rate in hertz."""
    terms = Terms(structure)

    def bound(constraint: Constraint) -> Bound:
        if table is not None and constraint.cost == "latency":
            cost = latency(terms, table, scope=constraint.scope)
        else:
            samples = round(constraint.length * sample_rate)
            cost = Cost.of(terms, cost=constraint.cost, scope=constraint.scope, samples=samples, gated=gated)
        return Bound(
            constraint=constraint, cost=cost, share=constraint.share(dense=cost.dense, audio=config.latency.audio)
        )

    return tuple(bound(constraint) for constraint in config.limits)


def check_bounds(
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
