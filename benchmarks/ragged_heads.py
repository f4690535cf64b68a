"""Attention of heads that are all of different widths beside heads of equal widths and as many MACs.

python benchmarks/ragged_heads.py
"""

from __future__ import annotations

import random
from typing import Any

import torch
from transformers import HubertConfig, HubertModel, WavLMConfig, WavLMModel

import secateur
import wav2vec2_axes as names
from secateur.benchmarking.timing import interleave_timings
from secateur.structure import Selection
from secateur.surgery import cut

LAYERS, HEADS, FRAMES = 6, 6, 499


def attention(model: Any, widths: list[list[tuple[int, int]]]) -> list[Any]:
    """The attention blocks, as they run in inference, of a model whose heads have these widths."""
    axes: dict[str, tuple[int, ...]] = {}
    for layer, heads in enumerate(widths):
        axes[names.heads(layer)] = tuple(range(HEADS))
        for head, (qk, vo) in enumerate(heads):
            axes[names.query_key(layer, head)] = tuple(range(qk))
            axes[names.value_output(layer, head)] = tuple(range(vo))
    small = cut(model, Selection(axes=axes))
    return [layer.attention for layer in secateur.for_inference(small).encoder.layers]


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    draw = random.Random(0)
    ragged = [[(draw.randint(8, 40), draw.randint(8, 64)) for _ in range(HEADS)] for _ in range(LAYERS)]
    everyone = [width for heads in ragged for width in heads]
    even = tuple(round(sum(width[side] for width in everyone) / len(everyone)) for side in (0, 1))
    hidden = torch.randn(1, FRAMES, 768)
    print(f"q/k and v/o of equal heads: {even}\n| model | equal, ms | ragged, ms | ragged / equal |\n|---|---|---|---|")
    for name, config, kind in (("WavLM", WavLMConfig, WavLMModel), ("HuBERT", HubertConfig, HubertModel)):
        model = kind(config(num_hidden_layers=LAYERS)).eval()
        blocks = {"equal": attention(model, [[even] * HEADS] * LAYERS), "ragged": attention(model, ragged)}
        runs = {key: lambda own=own: [block(hidden) for block in own] for key, own in blocks.items()}
        timings = interleave_timings(runs, repeats=25, warmup=3)
        equal, uneven = timings["equal"].median_ms, timings["ragged"].median_ms
        print(f"| {name} | {equal:.2f} | {uneven:.2f} | {uneven / equal:.2f} |")


if __name__ == "__main__":
    main()
