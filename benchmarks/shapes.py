"""Config folders of the shapes that are measured; `secateur bench` needs no weights.

python benchmarks/shapes.py runs/shapes
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from transformers import HubertConfig, Wav2Vec2Config, WavLMConfig

import wav2vec2_axes as names
from secateur.hf.declare import declare
from secateur.hf.model_view import ConfigView
from secateur.structure import Selection, normalize
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


def wang() -> Selection:
    """A shape as Wang et al. 2023 leave WavLM Base: a fifth of the gated matrices, the front end whole.

    They publish no selection, so it is drawn: seven layers keep attention, with six heads each, every head of its own
    widths; ten keep a feed-forward block, all of different widths.
    """
    draw = random.Random(0)
    axes: dict[str, tuple[int, ...]] = {}
    budget = 12 * (4 * 768 * 768 + 2 * 768 * 3072) // 5
    attends, feeds = sorted(draw.sample(range(12), 7)), sorted(draw.sample(range(12), 10))
    for layer in range(12):
        if layer not in attends:
            axes[names.attention_block(layer)] = ()
            continue
        heads = sorted(draw.sample(range(12), 6))
        axes[names.heads(layer)] = tuple(heads)
        for head in heads:
            query_key, value_output = draw.randint(8, 40), draw.randint(8, 64)
            axes[names.query_key(layer, head)] = tuple(range(query_key))
            axes[names.value_output(layer, head)] = tuple(range(value_output))
            budget -= 2 * 768 * (query_key + value_output)
    units = budget // (2 * 768)
    weights = [draw.uniform(0.5, 1.5) for _ in feeds]
    for layer in range(12):
        if layer not in feeds:
            axes[names.feed_forward_block(layer)] = ()
    for layer, weight in zip(feeds, weights, strict=True):
        axes[names.feed_forward_units(layer)] = tuple(range(int(units * weight / sum(weights))))
    return Selection(axes=axes)


def main(folder: Path) -> None:
    """Write one folder for each shape."""
    dense = WavLMConfig()
    structure = declare(dense)
    for name, config in (("wavlm", dense), ("hubert", HubertConfig()), ("wav2vec2", Wav2Vec2Config())):
        config.save_pretrained(folder / name)
    for name, selection in (("s80", diarizen()), ("wang", wang())):
        cut_config(ConfigView(dense), structure, normalize(structure, selection).selection).config.save_pretrained(
            folder / name
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
