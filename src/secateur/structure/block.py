"""Blocks of an encoder: modules with a separate cost and time, by part of the encoder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Module of the encoder that belongs to a part.

    Examples: ``Block(path="encoder.layers.3.attention", part="attention", layer=3)``, and the layer around it,
    ``Block(path="encoder.layers.3", part="rest", layer=3)``.

    Attributes:
        path: Module path, relative to the base model.
        part: Part of the encoder, one of `secateur.records.block_part.PARTS`. The part of a whole layer is ``rest``:
            its norms and sums.
        layer: Index of the encoder layer, or of the convolution in the front end; None for a part that is one module.
    """

    path: str
    part: str
    layer: int | None = None

    def contains(self, path: str) -> bool:
        """Return True if a parameter or module path is the block's own or lies inside the block."""
        return path == self.path or path.startswith(f"{self.path}.")
