"""An inference-only form of an encoder, cut or dense, made for speed."""

from secateur.inference.build import FAMILIES, for_inference

__all__ = ["FAMILIES", "for_inference"]
