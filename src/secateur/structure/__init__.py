"""What can be pruned and where it is bound: plain data, without torch."""

from secateur.structure.axis import Axis, Unit
from secateur.structure.selection import Selection, close
from secateur.structure.structure import Bind, Features, Norm, Output, Rate, Stage, Structure, Tap, Use, Weight

__all__ = [
    "Axis",
    "Bind",
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
]
