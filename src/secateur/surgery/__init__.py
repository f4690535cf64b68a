"""From a selection to the smaller model: cut, layouts, load, verify, and choosing from scores."""

from secateur.hf.load import load_checkpoint, load_config, load_model
from secateur.surgery.cut import cut, cut_config

__all__ = ["cut", "cut_config", "load_checkpoint", "load_config", "load_model"]
