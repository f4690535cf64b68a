"""What can be pruned and where it is bound: plain data, without torch."""

from secateur.structure.axis import Axis, Unit
from secateur.structure.break_even import dense_again
from secateur.structure.selection import Selection, close
from secateur.structure.structure import (
    Bind,
    Factorised,
    Features,
    Norm,
    Output,
    Rate,
    Stage,
    Structure,
    Tap,
    Use,
    Weight,
)

__all__ = [
    "Axis",
    "Bind",
    "Factorised",
    "Features",
    "Norm",
    "Output",
    "Rate",
    "Selection",
    "Stage",
    "Structure",
    "Tap",
    "Unit",
    "Use",
    "Weight",
    "close",
    "dense_again",
]
