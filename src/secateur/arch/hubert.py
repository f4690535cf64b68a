"""HuBERT (and ContentVec)."""

from __future__ import annotations

from secateur.arch.blocks import Table, encoder
from secateur.modules.shape import EncoderShape


def declare(table: Table, shape: EncoderShape) -> None:
    """The shared rows are all there is."""
    encoder(table, shape)
