"""A faster inference-only form of an encoder, cut or dense."""

from secateur.inference.build import for_inference

__all__ = ["for_inference"]
