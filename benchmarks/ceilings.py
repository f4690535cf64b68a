"""What this machine can do at most, and how fast the measured shapes could be by it.

The ceiling is the rate of a Base model's feed-forward product (499 x 768 x 3072) in oneDNN with packed weights; the
floor of a shape is its MACs at that rate, without norms, softmax and every other memory traffic. The positional
convolution is left out of `floor`, as `for_inference` does it with a thirtieth of its MACs.

python benchmarks/ceilings.py
"""

from __future__ import annotations

import torch
from transformers import HubertConfig, WavLMConfig

from secateur.benchmarking.timing import interleave_timings
from secateur.cost import Cost, Terms
from secateur.hf.declare import declare
from secateur.inference.linear import fused_linear, pack
from secateur.structure import Selection, normalize
from shapes import diarizen, wang

SECONDS = 10


def product_rate(dtype: torch.dtype) -> float:
    """GMAC in a second."""
    values, weight = torch.randn(499, 768).to(dtype), pack(torch.randn(3072, 768).to(dtype))
    timings = interleave_timings({"product": lambda: fused_linear(values, weight, None, "none")}, repeats=51, warmup=5)
    return 499 * 768 * 3072 / 1e6 / timings["product"].median_ms


def copy_rate() -> float:
    """GB in a second, read and written."""
    values = torch.randn(2**26)
    other_tensor = torch.empty_like(values)
    timings = interleave_timings({"copy": lambda: other_tensor.copy_(values)}, repeats=15, warmup=3)
    return 2 * values.numel() * 4 / 1e6 / timings["copy"].median_ms


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    rates = {"fp32": product_rate(torch.float32), "bf16": product_rate(torch.bfloat16)}
    print(", ".join(f"{name} {rate:.0f} GMAC/s" for name, rate in rates.items()), f", copy {copy_rate():.0f} GB/s")
    print(f"| shape | GMAC at {SECONDS} s | floor fp32, ms | floor bf16, ms |\n|---|---|---|---|")
    cases = (
        ("wavlm", WavLMConfig(), Selection(axes={})),
        ("hubert", HubertConfig(), Selection(axes={})),
        ("s80", WavLMConfig(), diarizen()),
        ("wang", WavLMConfig(), wang()),
    )
    for name, config, selection in cases:
        structure = declare(config)
        kept_selection = normalize(structure, selection).selection
        macs, positional = (
            Cost.from_terms(Terms(structure), cost="macs", scope=scope, samples=16_000 * SECONDS).count(kept_selection)
            / 1e6
            for scope in ("whole", "encoder.pos_conv_embed")
        )
        floors = [f"{(macs - positional) / rate:.0f}" for rate in rates.values()]
        print(f"| {name} | {macs / 1e3:.1f} | {' | '.join(floors)} |")


if __name__ == "__main__":
    main()
