"""Structures, limits and scores to choose from, small enough to be searched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.cost import Cost, Terms
from secateur.structure import Axis, DimBinding, Selection, Structure, Weight
from secateur.surgery.choose import Choice, choose
from secateur.surgery.limits import CostLimit

INFINITE = float("inf")
KINDS = ("channels", "groups", "heads", "qk", "vo", "units", "block")


def flat(*sizes: int, width: int = 3) -> Structure:
    """Axes `0/units`, `1/units` … with one matrix of `width` rows on each, and nothing else."""
    axes = {f"{i}/units": Axis(name=f"{i}/units", units=tuple(range(n)), original=n) for i, n in enumerate(sizes)}
    weights = [
        Weight(
            name=f"{i}.weight", shape=(width, n), is_matrix=True, bindings=(DimBinding(dim=1, axes=(f"{i}/units",)),)
        )
        for i, n in enumerate(sizes)
    ]
    return plain(axes, weights)


def plain(axes: dict[str, Axis], weights: Sequence[Weight]) -> Structure:
    """A structure of nothing but axes and weights."""
    return Structure(
        model_type="plain",
        axes=axes,
        weights=tuple(weights),
        mac_terms=(),
        norms=(),
        stages=(),
        sees_padding=False,
        convention="",
    )


def limit(
    structure: Structure,
    share: float,
    cost: str = "parameters",
    scope: str = "whole",
    gated: frozenset[str] = frozenset(),
) -> CostLimit:
    name = f"{cost}-{scope}"
    return CostLimit(
        name=name, cost=Cost.from_terms(Terms(structure), cost=cost, scope=scope, gated=gated), share=share
    )


def scores_of(structure: Structure, kinds: Sequence[str], seed: int, shift: float = 0.0) -> Tensor:
    """Random log-odds where a kind is gated, infinite elsewhere."""
    random = torch.randn(structure.size, generator=torch.Generator().manual_seed(seed)) * 3 + shift
    gated = torch.cat([torch.full((axis.size,), axis.kind in kinds) for axis in structure.axes.values()])
    return torch.where(gated, random, INFINITE)


def kept_of(structure: Structure, selection: Selection) -> list[bool]:
    return [unit in selection.axes[name] for name, axis in structure.axes.items() for unit in axis.units]


def pick(structure: Structure, scores: Tensor, *limits: CostLimit, **kwargs: Any) -> Choice:
    return choose(structure, scores, torch.ones(structure.size), limits, **kwargs)
