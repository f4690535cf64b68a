"""Which multiples of a width this machine likes: what the rule behind `round_to: auto` rests on.

One block at a time, of a WavLM Base with one layer cut to a width, in a model as it is and in its inference-only form,
10 s of audio, batch 1. Widths are drawn evenly, as gates leave them, and rounded to each multiple. All of a kind are
measured in turn, round after round; the shortest time of each, the least disturbed, is divided by a parabola through
all of them, which leaves what a width takes for its size. A multiple's figure is the mean over the rounded widths, over
that of the drawn ones: at 0.90 a rounded width takes 10 % less time for its size. Heads of unequal width are six of
drawn dimensions each, rounded; their time is divided by their dimensions.

A kind is rounded to the smallest multiple that comes within 0.02 of the largest gain, where that is at least a tenth in
float32 in either form: less is not worth the units that rounding moves.

    python benchmarks/widths.py --out benchmarks/results/widths.json --dtype fp32
    python benchmarks/widths.py --out benchmarks/results/widths.json --dtype bf16
    python benchmarks/widths.py --out benchmarks/results/widths.json
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import WavLMConfig

import wav2vec2_axes as names
from secateur.benchmarking.process_settings import tune_products, tuned_malloc_environment
from secateur.benchmarking.timing import interleave_timings
from secateur.hf.declare import declare
from secateur.hf.model_view import ConfigView
from secateur.hf.models import class_for
from secateur.inference import for_inference
from secateur.records.environment import Environment
from secateur.records.files import read_json, write_json
from secateur.structure import Selection, normalize
from secateur.surgery.cut import cut_config

FORMS = ("as it is", "for_inference")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: Lowest and highest width of each kind, and the multiples that are looked at.
RANGES = {
    "channels": (64, 448, (4, 8, 16, 32, 64)),
    "units": (128, 1152, (4, 8, 16, 32, 64)),
    "qk": (8, 64, (2, 4, 8, 16)),
    "vo": (8, 64, (2, 4, 8, 16)),
}
UNEQUAL = "heads of unequal width"
MULTIPLES = (2, 4, 8, 16)  # of those heads
SHAPES, HEADS = 8, 6
DRAWN = 24  # widths of each kind
WORTH, NEAR = 0.1, 0.02  # of the rule
FRAMES, CONVOLUTION, SAMPLES = 499, 3, 7999  # of 10 s: behind the front end; in front of this layer of it

Run = Callable[[], Any]


def cut_model(axes: Mapping[str, Iterable[int]], form: str, dtype: torch.dtype) -> Any:
    """A WavLM Base of one layer, cut by a selection, with random weights; what is not measured is made small."""
    dense: Any = WavLMConfig(num_hidden_layers=1, conv_dim=[8, 8, 512, 512, 8, 8, 8], num_conv_pos_embeddings=16)
    structure = declare(dense)
    selection = Selection(axes={name: tuple(units) for name, units in axes.items()})
    config = cut_config(ConfigView(dense), structure, normalize(structure, selection).selection).config
    model: Any = class_for(config)(config).eval().requires_grad_(False).to(dtype)
    return for_inference(model) if form == "for_inference" else model


def of_channels(width: int, form: str, dtype: torch.dtype) -> Run:
    """A convolution with this many channels on both sides."""
    front = cut_model({names.channels(CONVOLUTION - i): range(width) for i in (0, 1)}, form, dtype).feature_extractor
    if form == "for_inference":
        layer, values = front.rest[CONVOLUTION - 1], torch.randn(1, SAMPLES, width, dtype=dtype)
    else:
        layer, values = front.conv_layers[CONVOLUTION], torch.randn(1, width, SAMPLES, dtype=dtype)
    return lambda: layer(values)


def of_units(width: int, form: str, dtype: torch.dtype) -> Run:
    """A feed-forward block with this many units."""
    block = cut_model({names.feed_forward_units(0): range(width)}, form, dtype).encoder.layers[0].feed_forward
    values = torch.randn(1, FRAMES, 768, dtype=dtype)
    return lambda: block(values)


def of_heads(dims: Sequence[tuple[int, int]], form: str, dtype: torch.dtype) -> Run:
    """An attention block whose heads have these query/key and value/output dimensions."""
    axes: dict[str, Iterable[int]] = {names.heads(0): range(len(dims))}
    for head, (qk, vo) in enumerate(dims):
        axes |= {names.query_key(0, head): range(qk), names.value_output(0, head): range(vo)}
    block = cut_model(axes, form, dtype).encoder.layers[0].attention
    values = torch.randn(1, FRAMES, 768, dtype=dtype)
    return lambda: block(values)


def of_width(kind: str, width: int, form: str, dtype: torch.dtype) -> Run:
    """The block that a width is measured in; heads have 40 dimensions on their other side."""
    if kind == "channels":
        return of_channels(width, form, dtype)
    if kind == "units":
        return of_units(width, form, dtype)
    return of_heads([(width, 40) if kind == "qk" else (40, width)] * HEADS, form, dtype)


def rounded(width: int, multiple: int) -> int:
    """The multiple that is nearest to a width, and not zero."""
    return max(multiple, round(width / multiple) * multiple)


def of_kind(kind: str, form: str, dtype: torch.dtype, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds by width; and by multiple, time for the size relative to widths drawn evenly."""
    low, high, multiples = RANGES[kind]
    draw, step = random.Random(0), (high - low) / DRAWN
    usual = [round(low + (index + draw.random()) * step) for index in range(DRAWN)]  # one from each stretch
    sets = {m: [rounded(width, m) for width in usual] for m in (1, *multiples)}
    all_widths = sorted({width for widths in sets.values() for width in widths})
    timings = interleave_timings(
        {str(width): of_width(kind, width, form, dtype) for width in all_widths}, repeats=repeats, warmup=2
    )
    times = np.array([timings[str(width)].low_ms for width in all_widths])
    fitted = np.polyval(np.polyfit(all_widths, times, 2, w=1 / times), all_widths)  # the smallest relative errors
    selected_items = dict(zip(all_widths, (times / fitted).tolist(), strict=True))
    mean = {m: statistics.mean(selected_items[width] for width in widths) for m, widths in sets.items()}
    return {
        "milliseconds": {str(width): round(float(time), 3) for width, time in zip(all_widths, times, strict=True)},
        "relative": {str(m): mean[m] / mean[1] for m in multiples},
    }


def of_unequal_heads(form: str, dtype: torch.dtype, repeats: int) -> dict[str, dict[str, float]]:
    """By multiple, time of heads of random dimensions, rounded, for their dimensions, relative to not rounded."""
    draw = random.Random(0)
    shapes = [[(draw.randint(8, 40), draw.randint(8, 64)) for _ in range(HEADS)] for _ in range(SHAPES)]
    dims = {
        f"{m} {index}": [(rounded(qk, m), rounded(vo, m)) for qk, vo in shape]
        for m, (index, shape) in itertools.product((1, *MULTIPLES), enumerate(shapes))
    }
    timings = interleave_timings(
        {key: of_heads(own_values, form, dtype) for key, own_values in dims.items()}, repeats=repeats, warmup=2
    )
    timing_of = {key: timings[key].low_ms / sum(map(sum, own)) for key, own in dims.items()}
    mean = {
        str(m): statistics.mean(timing_of[f"{m} {index}"] / timing_of[f"1 {index}"] for index in range(SHAPES))
        for m in MULTIPLES
    }
    return {"relative": mean}


def measure(dtype: str, repeats: int) -> list[dict[str, Any]]:
    """Every kind in every form."""
    rows = []
    for form, kind in itertools.product(FORMS, (*RANGES, UNEQUAL)):
        with torch.inference_mode():
            torch_dtype = DTYPES[dtype]
            timings = (
                of_unequal_heads(form, torch_dtype, repeats)
                if kind == UNEQUAL
                else of_kind(kind, form, torch_dtype, repeats)
            )
        rows.append({"dtype": dtype, "form": form, "kind": kind, **timings})
    return rows


def rule(record: dict[str, Any]) -> dict[str, int]:
    """The multiple of each kind that is worth it; kinds that gain too little are left out."""
    results = {}
    for kind in RANGES:
        kinds = (kind, UNEQUAL) if kind in ("qk", "vo") else (kind,)
        rows = [row["relative"] for row in record["rows"] if row["kind"] in kinds and row["dtype"] == "fp32"]
        best = min(rows, key=lambda figures: min(figures.values()))
        lowest = min(best.values())
        if lowest <= 1 - WORTH:
            results[kind] = min(int(multiple) for multiple, figure in best.items() if figure <= lowest + NEAR)
    return results


def table(record: dict[str, Any]) -> str:
    """The figures as Markdown."""
    columns = sorted({int(m) for row in record["rows"] for m in row["relative"]})
    lines = [f"| kind | form | dtype | {' | '.join(map(str, columns))} |", "|---" * (3 + len(columns)) + "|"]
    for row in sorted(record["rows"], key=lambda row: list((*RANGES, UNEQUAL)).index(row["kind"])):
        figures = (f"{row['relative'][str(m)]:.2f}" if str(m) in row["relative"] else "" for m in columns)
        lines.append(f"| {row['kind']} | {row['form']} | {row['dtype']} | {' | '.join(figures)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the record goes, or lies")
    parser.add_argument("--dtype", choices=DTYPES, help="measure this; what was measured of the other one is kept")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.dtype:
        malloc = tuned_malloc_environment()  # read when a process starts
        if malloc is not None:
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], malloc)
        torch.set_num_threads(options.threads)
        torch.manual_seed(0)
        tune_products()
        rows = measure(options.dtype, options.repeats)
        kept_units = read_json(options.out)["rows"] if options.out.is_file() else []
        rows += [row for row in kept_units if row["dtype"] != options.dtype]
        write_json(options.out, {"rows": rows, "repeats": options.repeats, "environment": Environment.current()})
    record = read_json(options.out)
    print(table(record))
    print(rule(record))


if __name__ == "__main__":
    main()
