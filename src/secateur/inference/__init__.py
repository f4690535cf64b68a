"""An inference-only form of an encoder, cut or dense, made for speed."""

from secateur.inference.build import INFERENCE_MODEL_TYPES, for_inference, inference_view

__all__ = ["INFERENCE_MODEL_TYPES", "for_inference", "inference_view"]
