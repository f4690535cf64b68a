"""Config folders of the shapes that are measured; `secateur bench` needs no weights.

python benchmarks/shapes.py runs/shapes
"""

from __future__ import annotations

import sys
from pathlib import Path

from transformers import HubertConfig, WavLMConfig

from secateur.arch import declare
from secateur.structure import Selection, close
from secateur.structure import axis as names
from secateur.surgery.cut import cut_config

# Shape of the 80 % pruned WavLM Base+ of BUTSpeechFIT/DiariZen, diarizen/models/module/wavlm_config.py: widths of the
# convolutions, kept heads of each layer (none: the attention block is gone), feed-forward widths.
DIARIZEN_CONV = (90, 161, 173, 181, 351, 155, 137)
DIARIZEN_HEADS = (
    (1, 6),
    (5, 7, 8),
    (0, 3, 9),
    (0, 1, 4, 8, 11),
    (6, 8),
    (0,),
    (7, 8, 10, 11),
    (0, 1, 4, 8),
    (),
    (),
    (4, 7),
    (5,),
)
DIARIZEN_UNITS = (666, 660, 649, 1080, 237, 299, 437, 573, 53, 80, 211, 334)


def diarizen() -> Selection:
    """That shape as a selection on WavLM Base."""
    axes: dict[str, tuple[int, ...]] = {}
    for layer, width in enumerate(DIARIZEN_CONV):
        axes[names.channels(layer)] = tuple(range(width))  # which channels does not matter for counts
    for layer, heads in enumerate(DIARIZEN_HEADS):
        axes[names.heads(layer) if heads else names.attention_block(layer)] = heads
    for layer, width in enumerate(DIARIZEN_UNITS):
        axes[names.feed_forward_units(layer)] = tuple(range(width))
    return Selection(axes=axes)


def main(folder: Path) -> None:
    """Write one folder for each shape."""
    dense = WavLMConfig()
    structure = declare(dense)
    small = cut_config(dense, structure, close(structure, diarizen()).selection)
    for name, config in (("wavlm", dense), ("hubert", HubertConfig()), ("s80", small)):
        config.save_pretrained(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
