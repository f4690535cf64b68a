"""What a recipe prunes of a model, and under which constraints; what cannot be is told before anything is trained."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch

from secateur.architectures.transducer import is_of_head
from secateur.compress.config import FactorizationConfig, FromFile, FromGates, FromScore, PruneConfig
from secateur.compress.step import CostTarget
from secateur.cost import Cost, Terms
from secateur.cost.latency_table import LatencyTable
from secateur.cost.predicted_time import latency
from secateur.errors import ConfigError
from secateur.gates import check_kinds
from secateur.hf.model_view import ConfigView, ModelView
from secateur.losses.constraint import Constraint
from secateur.structure import Selection, Structure, normalize
from secateur.structure.axis import HEAD_KINDS
from secateur.surgery.factorize import factorize_view, factorized_config, resolve_ranks
from secateur.surgery.limits import CostLimit, check_limits_reachable, units_counted_by
from secateur.surgery.unit_groups import UnitGroups
from secateur.tasks import Rnnt

logger = logging.getLogger(__name__)


def pruned_structure(config: PruneConfig, view: ConfigView) -> Structure:
    """What is pruned: the encoder, factorised where that is asked for; with a transducer's head where that is meant."""
    structure = view.structure
    if config.factorise is not None:
        structure = factorized_config(view, _start_ranks(config.factorise, structure)).structure
    includes_head = isinstance(config.choose, FromFile) or _prunes_head(config)
    return structure if includes_head else structure.without_head


def make_student_model(view: ModelView, factorization: FactorizationConfig | None) -> ModelView:
    """The model that a student begins as: a copy of its teacher, factorised where that is asked for."""
    if factorization is None:
        return view.copy()
    return factorize_view(view, _start_ranks(factorization, view.structure))


def _start_ranks(factorization: FactorizationConfig, structure: Structure) -> dict[str, int]:
    return resolve_ranks(structure, factorization.linears, factorization.start)


def pruned_axes(config: PruneConfig, structure: Structure) -> frozenset[str]:
    """Names of the axes that the run prunes.

    Raises:
        ConfigError: It prunes none, or kinds of a head or of ranks that the model lacks.
    """
    kinds = config.pruned_kinds
    check_kinds(kinds)
    axes = [axis for axis in structure.axes_of_kinds(kinds) if axis.size]
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
    kinds = [kind for kind in config.pruned_kinds if kind in HEAD_KINDS]
    if kinds and not structure.head:
        raise ConfigError(
            f"The kind {kinds[0]!r} is to be pruned, which only transducers have (ForRNNT, ForTDT), and this model is "
            "none: leave it out, or name {kind: rnnt} under 'task'."
        )
    is_head_trained = isinstance(config.task, Rnnt) and config.task_weight
    if kinds and isinstance(config.choose, FromGates) and not is_head_trained:
        raise ConfigError(
            f"gates.{kinds[0]}: a transducer's head is run for its task alone, without which its gates would learn "
            "nothing; name {kind: rnnt} under 'task', or choose by score."
        )


def needs_new_head(config: PruneConfig, structure: Structure) -> bool:
    """Whether something is to be pruned of a transducer's head that is yet to be made."""
    return _prunes_head(config) and isinstance(config.task, Rnnt) and not structure.head


def _prunes_head(config: PruneConfig) -> bool:
    """Whether a recipe prunes kinds of a transducer's head, or has a constraint on it."""
    return any(kind in HEAD_KINDS for kind in config.pruned_kinds) or any(
        is_of_head(constraint.scope) for constraint in config.targeted_constraints
    )


def check_new_head(config: PruneConfig, structure: Structure) -> None:
    """Raise a ConfigError where something of a head is to be chosen before it has learned anything."""
    choice_config = config.choose
    axes = Selection.load(choice_config.path).axes if isinstance(choice_config, FromFile) else {}
    is_head_named = any(structure.is_in_head(name.rpartition("/")[0]) for name in axes)
    is_head_chosen = is_head_named or (
        isinstance(choice_config, FromScore) and any(kind in HEAD_KINDS for kind in choice_config.kinds)
    )
    if is_head_chosen and config.finetune is None:
        raise ConfigError(
            f"choose: {config.model!r} has no predictor and joiner yet, and new ones have nothing to choose by; "
            "fine-tune first, by 'finetune', or learn gates."
        )


def cost_targets_of(
    config: PruneConfig, structure: Structure, gated_axes: frozenset[str], table: LatencyTable | None, sample_rate: int
) -> tuple[CostTarget, ...]:
    """Return the constraints with their costs, for audio at a rate in hertz."""
    terms = Terms(structure)

    def make_cost_target(constraint: Constraint) -> CostTarget:
        if table is not None and constraint.cost == "latency":
            cost = latency(terms, table, scope=constraint.scope)
        else:
            samples = round(constraint.audio_seconds * sample_rate)
            cost = Cost.from_terms(
                terms, cost=constraint.cost, scope=constraint.scope, samples=samples, gated=gated_axes
            )
        return CostTarget(
            constraint=constraint,
            cost=cost,
            share=constraint.resolve_share(dense=cost.dense, audio=config.latency.audio),
        )

    return tuple(make_cost_target(constraint) for constraint in config.targeted_constraints)


def check_cost_targets(
    config: PruneConfig,
    structure: Structure,
    cost_targets: Sequence[CostTarget],
    gated_axes: frozenset[str],
    *,
    has_learned_gates: bool,
) -> None:
    """Raise an error for a constraint on nothing, or one that cannot be met; or for a selection that does not fit."""
    for target in cost_targets:
        if not target.cost.dense:
            raise ConfigError(
                f"The constraint {target.constraint.name} is on {target.cost.short_label}, which is 0 in this model: name "
                "another scope, or longer audio."
            )
    if isinstance(config.choose, FromFile):
        normalize(structure, Selection.load(config.choose.path))
        return
    for axis in structure.axes_of_kinds(HEAD_KINDS if not has_learned_gates else ()):
        units = slice(start := structure.offsets[axis.name], start + axis.size)
        if axis.name in gated_axes and not any(
            units_counted_by(b.cost, structure.size)[units].any() for b in cost_targets
        ):
            raise ConfigError(
                f"The kind {axis.kind!r} is to be pruned, but no constraint counts it, so that nothing would: add one, "
                "such as {cost: parameters, scope: transducer, target: 0.5}."
            )
    scores = torch.cat(
        [torch.full((axis.size,), 0.0 if axis.name in gated_axes else math.inf) for axis in structure.axes.values()]
    )
    limits = [CostLimit(name=b.constraint.name, cost=b.cost, share=b.share) for b in cost_targets]
    check_limits_reachable(UnitGroups.from_scores(structure, scores, config.round_to), limits)
