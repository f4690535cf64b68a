"""Gates: trainable distributions over the masks of units."""

from secateur.gates.hard_concrete import HardConcrete
from secateur.gates.set import GateSet

#: Every kind of gate that a recipe can name; a new one is a file and a member of this union.
Gate = HardConcrete

__all__ = ["Gate", "GateSet", "HardConcrete"]
