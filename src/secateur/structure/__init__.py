"""What can be pruned and where it is bound: plain data, without torch."""

from secateur.structure.axis import Axis, Unit
from secateur.structure.selection import Selection, close
from secateur.structure.structure import Bind, Norm, Output, Rate, Structure, Tap, Use, Weight

__all__ = ["Axis", "Bind", "Norm", "Output", "Rate", "Selection", "Structure", "Tap", "Unit", "Use", "Weight", "close"]
