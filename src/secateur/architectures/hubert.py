"""HuBERT (and ContentVec)."""

from __future__ import annotations

from secateur.architectures.blocks import AxisTable, encoder


def declare(table: AxisTable) -> None:
    """The shared rows are all there is."""
    encoder(table)
