"""wav2vec 2.0 (and XLS-R, MMS)."""

from __future__ import annotations

from secateur.architectures.blocks import AxisTable, encoder


def declare(table: AxisTable) -> None:
    """The shared rows are all there is."""
    encoder(table)
