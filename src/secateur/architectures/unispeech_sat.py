"""UniSpeech-SAT."""

from __future__ import annotations

from secateur.architectures.blocks import Table, encoder


def declare(table: Table) -> None:
    """The shared rows are all there is."""
    encoder(table)
