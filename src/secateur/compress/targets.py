"""The axes pruned by a recipe and the constraints on costs, with the checks before training."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from secateur.architectures.transducer import is_of_head
from secateur.compress.config import FactorizationConfig, FromFile, FromGates, FromScore, PruneConfig
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


@dataclass(frozen=True, kw_only=True)
class CostTarget:
    """A constraint with the constrained cost."""

    constraint: Constraint
    cost: Cost
    share: float
    """share of the dense cost that may stay"""

    @property
    def limit(self) -> CostLimit:
        """The limit on the cost while units are chosen by count."""
        return CostLimit(name=self.constraint.name, cost=self.cost, share=self.share)


def pruned_structure(config: PruneConfig, view: ConfigView) -> Structure:
    """Return the structure of the pruned part: the encoder, and the head of a transducer if the recipe prunes the head.

    Linear maps named by `factorise` are two maps in the structure.
    """
    structure = view.structure
    if config.factorise is not None:
        structure = factorized_config(view, _start_ranks(config.factorise, structure)).structure
    includes_head = isinstance(config.choose, FromFile) or _prunes_head(config)
    return structure if includes_head else structure.without_head


def make_student_model(view: ModelView, factorization: FactorizationConfig | None) -> ModelView:
    """Return the initial student: a copy of the teacher, with the linear maps named by `factorise` as two maps."""
    if factorization is None:
        return view.copy()
    return factorize_view(view, _start_ranks(factorization, view.structure))


def _start_ranks(factorization: FactorizationConfig, structure: Structure) -> dict[str, int]:
    return resolve_ranks(structure, factorization.linears, factorization.start)


def pruned_axes(config: PruneConfig, structure: Structure) -> frozenset[str]:
    """Return the names of the pruned axes.

    Raises:
        ConfigError: No axis is pruned, or the recipe names kinds of a head or of ranks that the model lacks.
    """
    kinds = config.pruned_kinds
    check_kinds((*config.gates, *kinds))  # also kinds that are set to null, which may be misspelled
    axes = [axis for axis in structure.axes_of_kinds(kinds) if axis.size]  # an axis of a cut model may be empty
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
    """Raise a ConfigError if kinds of the head of a transducer are pruned but the head is missing or does not learn."""
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
    """Return whether the recipe prunes the head of a transducer before the model has such a head."""
    return _prunes_head(config) and isinstance(config.task, Rnnt) and not structure.head


def _prunes_head(config: PruneConfig) -> bool:
    """Return whether a recipe prunes kinds of the head of a transducer, or has a constraint on the head."""
    prunes_kind_of_head = any(kind in HEAD_KINDS for kind in config.pruned_kinds)
    return prunes_kind_of_head or any(is_of_head(constraint.scope) for constraint in config.targeted_constraints)


def check_new_head(config: PruneConfig, structure: Structure) -> None:
    """Raise a ConfigError if units of a new head are chosen before the head has learned."""
    choice_config = config.choose
    axes = Selection.load(choice_config.path).axes if isinstance(choice_config, FromFile) else {}
    # An axis name is a module path, a slash and a last part, such as path/heads.
    is_head_named = any(structure.is_in_head(name.rpartition("/")[0]) for name in axes)
    scored_kinds = choice_config.kinds if isinstance(choice_config, FromScore) else ()
    is_head_scored = any(kind in HEAD_KINDS for kind in scored_kinds)
    if (is_head_named or is_head_scored) and config.finetune is None:
        raise ConfigError(
            f"choose: {config.model!r} has no predictor and joiner yet, and new ones have nothing to choose by; "
            "fine-tune first, by 'finetune', or learn gates."
        )


def cost_targets_of(
    config: PruneConfig, structure: Structure, gated_axes: frozenset[str], table: LatencyTable | None, sample_rate: int
) -> tuple[CostTarget, ...]:
    """Return the constraints with the costs, for audio at a sampling rate in hertz."""
    terms = Terms(structure)

    def make_cost_target(constraint: Constraint) -> CostTarget:
        if table is not None and constraint.cost == "latency":
            cost = latency(terms, table, scope=constraint.scope)
        else:
            # Audio length matters to MACs, and not to the number of parameters.
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
    """Check the constraints, and whether a selection from a file fits the model.

    Raises:
        ConfigError: A constraint is on a cost of zero, or no constraint counts a gated kind of a head.
        TargetError: A constraint cannot be met by closing all gated units.
        SecateurError: The selection does not fit.
    """
    for target in cost_targets:
        if not target.cost.dense:
            raise ConfigError(
                f"The constraint {target.constraint.name} is on {target.cost.short_label}, which is 0 in this model: "
                "name another scope, or longer audio."
            )
    if isinstance(config.choose, FromFile):
        normalize(structure, Selection.load(config.choose.path))
        return
    for axis in structure.axes_of_kinds(HEAD_KINDS if not has_learned_gates else ()):
        start = structure.offsets[axis.name]
        units = slice(start, start + axis.size)
        is_counted = any(units_counted_by(target.cost, structure.size)[units].any() for target in cost_targets)
        if axis.name in gated_axes and not is_counted:
            raise ConfigError(
                f"The kind {axis.kind!r} is to be pruned, but no constraint counts it, so that nothing would: add one, "
                "such as {cost: parameters, scope: transducer, target: 0.5}."
            )
    # An infinite score marks a unit without a gate.
    scores = torch.full((structure.size,), math.inf)
    for name in gated_axes:
        start = structure.offsets[name]
        scores[start : start + structure.axes[name].size] = 0.0  # may be closed
    limits = [target.limit for target in cost_targets]
    check_limits_reachable(UnitGroups.from_scores(structure, scores, config.round_to), limits)
