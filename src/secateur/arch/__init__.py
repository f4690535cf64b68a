"""One file per Hugging Face family: the table that declares its axes and where each is bound."""

from secateur.arch.declare import declare, fill, skeleton

__all__ = ["declare", "fill", "skeleton"]
