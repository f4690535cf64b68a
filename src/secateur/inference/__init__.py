"""An inference-only form of an encoder, cut or dense, made for speed."""

from secateur.inference.build import for_inference

__all__ = ["for_inference"]
