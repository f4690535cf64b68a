"""Gates: learned distributions over the masks of units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from secateur.gates.gate_set import UNDECIDED_BOUNDS, GateSet, check_kinds
from secateur.gates.hard_concrete import HardConcrete, HardConcreteGates
from secateur.gates.mixed import MixedGates
from secateur.gates.self_pinching import SelfPinching, SelfPinchingGates
from secateur.schema import DefaultKind
from secateur.structure import Structure

#: Every kind of gate that a recipe can name; a new kind is a file in this folder and a member of this union.
#: A member has a `kind` and a static method `make_gates(structure, configs, *, seed)` that returns the `GateSet`.
Gate = Annotated[HardConcrete | SelfPinching, DefaultKind("hard_concrete")]

__all__ = [
    "UNDECIDED_BOUNDS",
    "Gate",
    "GateSet",
    "HardConcrete",
    "HardConcreteGates",
    "MixedGates",
    "SelfPinching",
    "SelfPinchingGates",
    "check_kinds",
    "make_gates",
]


def make_gates(structure: Structure, configs: Mapping[str, Gate], *, seed: int) -> GateSet:
    """Return the gates of a structure.

    Args:
        structure: The structure of the model.
        configs: Settings by kind of axis; kinds that are absent are not gated.
        seed: The seed of the draws and of the initial values.

    Raises:
        ConfigError: A kind of axis is unknown or cannot be gated, or no axis of the model is of these kinds.
    """
    check_kinds(configs)
    kinds = [kind for kind in configs if any(axis.size for axis in structure.axes_of_kinds((kind,)))]
    by_type: dict[type[Any], dict[str, Any]] = {}
    for kind in kinds or configs:  # without an axis of these kinds the first set of gates raises
        by_type.setdefault(type(configs[kind]), {})[kind] = configs[kind]
    parts = [gate_type.make_gates(structure, part, seed=seed) for gate_type, part in by_type.items()]
    return parts[0] if len(parts) == 1 else MixedGates(structure, parts)
