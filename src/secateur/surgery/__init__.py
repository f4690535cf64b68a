"""Surgery: choice of a selection from scores, cut to a smaller model, and verification."""

from secateur.hf.load import load_checkpoint, load_config, load_model
from secateur.surgery.cut import cut, cut_config

__all__ = ["cut", "cut_config", "load_checkpoint", "load_config", "load_model"]
