"""Multiplication of given masks into a model, without any distribution over masks."""

from secateur.masking.attach import Masking, attach
from secateur.masking.mask_sites import MaskFactor, compile_mask_factors, mask_values

__all__ = ["MaskFactor", "Masking", "attach", "compile_mask_factors", "mask_values"]
