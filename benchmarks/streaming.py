"""A pruned streaming encoder step by step, with caches, beside the dense one: time of a chunk, and peak memory.

    python benchmarks/streaming.py --out benchmarks/results/streaming.json

The dense model is the library's class; the same model of our classes, with nothing removed, tells what is pruning's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import NemotronAsrStreamingEncoder, NemotronAsrStreamingEncoderConfig

from secateur.benchmarking.process_settings import MALLOC_SETTINGS, tune_products
from secateur.cost import Cost, Terms
from secateur.hf.declare import declare
from secateur.structure import Selection, Structure
from secateur.surgery import cut, load_model

#: FastConformer Large as published, 17 layers of 512; and the library's default, of Nemotron Speech Streaming 0.6B.
SIZES: dict[str, dict[str, Any]] = {
    "large": {"hidden_size": 512, "num_hidden_layers": 17, "num_attention_heads": 8, "intermediate_size": 2048},
    "default": {},
}
LOOKAHEADS = (0, 1, 6, 13)  # of the published checkpoint, in frames of 80 ms
KEPT, HEADS = 0.35, 3  # parameters of the encoder that are left; whole heads of each layer
KINDS = ("units", "channels")
MODELS = ("dense", "ours", "pruned")
FRAMES = 84  # that a stream begins with, in one pass: more than the window of the cache, of 71


def uniform(structure: Structure, share: float) -> Selection:
    """The first heads of every layer, and the same share of every feed-forward and convolution width."""
    axes = {axis.name: axis.units[:HEADS] for axis in structure.axes_of_kinds(("heads",))}
    axes |= {axis.name: axis.units[: max(1, round(share * axis.size))] for axis in structure.axes_of_kinds(KINDS)}
    return Selection(axes=axes)


def selection(structure: Structure) -> Selection:
    """The widest such selection that keeps no more than `KEPT` of the parameters."""
    cost = Cost.from_terms(Terms(structure), cost="parameters")
    shares = (count / 512 for count in range(512, 0, -1))
    return next(found for found in (uniform(structure, s) for s in shares) if cost.count(found) <= KEPT * cost.dense)


def build(size: str) -> dict[str, Any]:
    """The models, with random weights."""
    torch.manual_seed(0)
    dense = NemotronAsrStreamingEncoder(NemotronAsrStreamingEncoderConfig(**SIZES[size])).eval()
    full_scope = Selection(axes={})
    return {"dense": dense, "ours": cut(dense, full_scope), "pruned": cut(dense, selection(declare(dense.config)))}


def stream(model: Any, lookahead: int) -> Callable[[], Any]:
    """The next chunk, of a lookahead and one frame, as `generate` gives it in; the cache is full from the start."""
    features = torch.randn(1, 8 * (lookahead + 1), model.config.num_mel_bins)
    first_chunk = torch.randn(
        1, 8 * FRAMES - 7, model.config.num_mel_bins
    )  # the first frame sees one vector, others eight
    state = model(first_chunk, use_cache=True, num_lookahead_tokens=lookahead)

    def step() -> Any:
        return model(
            features,
            past_key_values=state.past_key_values,
            padding_cache=state.padding_cache,
            use_cache=True,
            num_lookahead_tokens=lookahead,
        )

    for _ in range(3):
        step()
    return step


@torch.inference_mode()
def measure(models: dict[str, Any], lookahead: int, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a chunk, models in turn: by the clock, and of the processor over all threads."""
    steps = {name: stream(model, lookahead) for name, model in models.items()}
    clock: dict[str, list[float]] = {name: [] for name in models}
    busy: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(repeats):
        for name, step in steps.items():
            start, used = time.perf_counter(), time.process_time()
            step()
            clock[name].append((time.perf_counter() - start) * 1e3)
            busy[name].append((time.process_time() - used) * 1e3)
    found = {}
    for name in models:
        low, median, high = statistics.quantiles(clock[name], n=4)
        found[name] = {"low": low, "ms": median, "high": high, "processor": statistics.median(busy[name])}
    return found


def peak(folder: str, lookahead: int) -> float:
    """MiB that a model of a folder and its stream need, in this process, which must be a new one."""
    torch.set_num_threads(1)
    baseline_memory = resident("VmRSS")
    with torch.inference_mode():
        stream(load_model(folder).eval(), lookahead)()
    return (resident("VmHWM") - baseline_memory) / 1024


def resident(field: str) -> int:
    """Kilobytes of this process now, or at its peak; `getrusage` would tell the peak of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def memory(models: dict[str, Any], lookahead: int) -> dict[str, float]:
    """Peak memory of each, in a process of its own."""
    found = {}
    for name, model in models.items():
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            words = [sys.executable, "-W", "ignore", __file__, "--peak", folder, "--lookaheads", str(lookahead)]
            done = subprocess.run(words, env=os.environ | MALLOC_SETTINGS, capture_output=True, text=True, check=True)
            found[name] = float(done.stdout.splitlines()[-1])
    return found


def rows(size: str, lookaheads: list[int], threads: list[int], repeats: int) -> list[dict[str, Any]]:
    """All measurements of one size, printed as they come."""
    models = build(size)
    counts = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    print(f"{size}: {counts['pruned'] / counts['dense']:.1%} of {counts['dense'] / 1e6:.1f} M parameters", flush=True)
    used = memory(models, lookaheads[-1])
    print(", ".join(f"{name} {mib:.0f} MiB" for name, mib in used.items()), flush=True)
    titles = ("threads", "lookahead", "chunk, ms", *MODELS, "pruned faster, clock", "processor", "ours faster, clock")
    print(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
    found = []
    for count in threads:
        torch.set_num_threads(count)
        for lookahead in lookaheads:
            timing_of = measure(models, lookahead, repeats)
            row = {
                "size": size,
                "parameters": counts,
                "mib": used,
                "threads": count,
                "lookahead": lookahead,
            } | timing_of
            found.append(row)
            times = [
                f"{timing_of[name]['ms']:.1f} ({timing_of[name]['low']:.1f} to {timing_of[name]['high']:.1f})"
                for name in MODELS
            ]
            dense, actual, pruned = (timing_of[name] for name in MODELS)
            ratios = (
                dense["ms"] / pruned["ms"],
                dense["processor"] / pruned["processor"],
                dense["ms"] / actual["ms"],
            )
            cells = (count, lookahead, 80 * (lookahead + 1), *times, *(f"{ratio:.2f}" for ratio in ratios))
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return found


def main() -> None:
    """Print the tables, and write what they hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--lookaheads", nargs="+", type=int, default=list(LOOKAHEADS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    tune_products()
    if options.peak:
        print(peak(options.peak, *options.lookaheads))
        return
    if any(name not in os.environ for name in MALLOC_SETTINGS):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC_SETTINGS)
    found: list[dict[str, Any]] = []
    for size in options.sizes:
        found += rows(size, options.lookaheads, options.threads, options.repeats)
        if options.out:
            options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
