"""wav2vec 2.0 with Conformer layers: relative, rotary or no positions."""

from __future__ import annotations

from secateur.architectures.blocks import AxisTable, front_end
from secateur.architectures.conformer_table import layers


def declare(table: AxisTable) -> None:
    """The front end of wav2vec 2.0 and Conformer layers.

    The stock class builds wav2vec 2.0's positional convolution and never calls it: it is no part of a cut model, and
    counted nowhere. Its convolution modules are not told what is padding, and look beyond the end of an utterance.
    """
    front_end(table)
    table.drop_unused("encoder.pos_conv_embed")
    layers(table, norm_name="batch_norm")
    table.sees_padding = True
