"""Inference-only forms of dense and cut encoders, for speed."""

from secateur.inference.build import INFERENCE_MODEL_TYPES, for_inference, inference_view

__all__ = ["INFERENCE_MODEL_TYPES", "for_inference", "inference_view"]
