"""Time of our attention at equal shape beside the stock classes: medians of interleaved runs on two CPU threads."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import HubertConfig, WavLMConfig
from transformers.models.hubert.modeling_hubert import HubertAttention
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

import wav2vec2_axes as names
from secateur.architectures.registry import shape_of
from secateur.nn.attention import CutAttention, CutWavLMAttention

FRAMES = 499
ROUNDS = 60


def medians(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median milliseconds of each run, taken in turn so that a busy machine disturbs all alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(ROUNDS + 5):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn >= 5:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def wavlm() -> dict[str, Callable[[], Any]]:
    """A layer that is given the position bias, as eleven of twelve are."""
    config: Any = WavLMConfig(attn_implementation="eager")
    stock = WavLMAttention(config.hidden_size, config.num_attention_heads).eval()
    module = CutWavLMAttention(config, shape_of(config).attention(names.attention(1)), has_position_table=True).eval()
    module.load_state_dict(stock.state_dict())
    hidden = torch.randn(1, FRAMES, config.hidden_size)
    theirs_bias, ours_bias = stock(hidden)[2], module(hidden)[2]
    module.rel_attn_embed = None
    difference = (stock(hidden, position_bias=theirs_bias)[0] - module(hidden, position_bias=ours_bias)[0]).abs().max()
    assert float(difference) < 1e-4
    return {
        "wavlm stock": lambda: stock(hidden, position_bias=theirs_bias),
        "wavlm ours": lambda: module(hidden, position_bias=ours_bias),
    }


def hubert(implementation: str) -> dict[str, Callable[[], Any]]:
    """A layer without padding."""
    config: Any = HubertConfig(attn_implementation=implementation)
    stock = HubertAttention(config.hidden_size, config.num_attention_heads, config=config).eval()
    module = CutAttention(config, shape_of(config).attention(names.attention(0))).eval()
    module.load_state_dict(stock.state_dict())
    hidden = torch.randn(1, FRAMES, config.hidden_size)
    assert float((stock(hidden)[0] - module(hidden)[0]).abs().max()) < 1e-4
    return {
        f"hubert {implementation} stock": lambda: stock(hidden),
        f"hubert {implementation} ours": lambda: module(hidden),
    }


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    for runs in (wavlm(), hubert("sdpa"), hubert("eager")):
        timings = medians(runs)
        (_, stock), (_, actual) = timings.items()
        for name, value in timings.items():
            print(f"{name:<22} {value:7.2f} ms")
        print(f"{'ours / stock':<22} {actual / stock:7.2f}")


if __name__ == "__main__":
    main()
