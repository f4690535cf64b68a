"""Given masks at their taps, exactly: no distributions here."""

from secateur.masking.attach import Masking, attach
from secateur.masking.taps import Factor, compile_taps, values_of

__all__ = ["Factor", "Masking", "attach", "compile_taps", "values_of"]
