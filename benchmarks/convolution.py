"""A front end's convolution two ways, channels last: oneDNN's convolution, and windows of frames times packed weights.

python benchmarks/convolution.py
"""

from __future__ import annotations

import torch

from secateur.benchmarking.timing import interleave_timings
from secateur.inference import front_end
from secateur.inference.front_end import _ConvLayer

#: Channels in and out, frames in, taps: layers of WavLM Base whole, and of narrower ones.
CASES = (
    (90, 161, 31999, 3),
    (161, 173, 15999, 3),
    (256, 256, 15999, 3),
    (320, 320, 15999, 3),
    (384, 384, 15999, 3),
    (512, 512, 31999, 3),
    (512, 512, 1999, 3),
    (512, 512, 999, 2),
)


class _Stock(torch.nn.Module):
    def __init__(self, width: int, out: int, taps: int) -> None:
        super().__init__()
        self.conv = torch.nn.Conv1d(width, out, taps, stride=2, bias=False)


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    columns = ("in", "out", "frames", "taps", "GMAC", "convolution, ms", "products, ms", "ratio")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for width, out, frames, taps in CASES:
        layer = _ConvLayer(_Stock(width, out, taps))
        values = torch.randn(1, frames, width)

        def run(wide: int, layer: _ConvLayer = layer, values: torch.Tensor = values) -> torch.Tensor:
            front_end._MIN_MATMUL_CHANNELS = wide
            return layer(values)

        timings = interleave_timings(
            {"convolution": lambda: run(10**9), "products": lambda: run(0)}, repeats=9, warmup=2
        )
        convolution, products = (timings[name].median_ms for name in ("convolution", "products"))
        giga = ((frames - taps) // 2 + 1) * taps * width * out / 1e9
        cells = (width, out, frames, taps, f"{giga:.2f}", f"{convolution:.1f}", f"{products:.1f}")
        print("|", " | ".join(str(cell) for cell in cells), f"| {convolution / products:.2f} |")


if __name__ == "__main__":
    main()
