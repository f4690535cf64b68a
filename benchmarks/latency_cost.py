"""How far predicted and measured time agree: ten random ragged shapes of WavLM Base against the cost `latency`.

    python benchmarks/latency_cost.py --out benchmarks/results/latency_cost.json
    python benchmarks/latency_cost.py --out benchmarks/results/latency_cost.json --table

The shapes are measured by `secateur bench`, interleaved with the dense model, once before and once after the table of
latencies is measured anew, so that a machine that grows slower or faster in between is met halfway.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

from secateur.benchmarking.bench import BenchConfig, bench
from secateur.benchmarking.latency import load_or_measure_table
from secateur.benchmarking.latency.find import dense_architecture
from secateur.benchmarking.latency.shapes import ModelShape, random_model_shape
from secateur.cost import Terms
from secateur.cost.latency_table import Conditions
from secateur.cost.predicted_time import latency
from secateur.hf.declare import declare
from secateur.hf.model_view import ConfigView
from secateur.records.files import write_json
from secateur.structure import Selection, normalize
from secateur.surgery.cut import cut_config

#: Smallest and largest share of every width in each shape.
RANGES = (
    (0.7, 1.0),
    (0.5, 1.0),
    (0.4, 0.9),
    (0.3, 0.8),
    (0.2, 0.9),
    (0.2, 0.6),
    (0.1, 0.9),
    (0.1, 0.6),
    (0.1, 0.4),
    (0.05, 0.3),
)
SEED = 1  # the table's own shapes are drawn from another one
CONDITIONS = Conditions(seconds=10.0, batch=1, threads=2, dtype="fp32")


def shapes(config: Any) -> list[ModelShape]:
    """Ten cut models, every width of each drawn on its own: channels, heads, dimensions of each head, units."""
    draw = random.Random(SEED)
    return [random_model_shape(dense_architecture(config), minimum, maximum, draw) for minimum, maximum in RANGES]


def measured(folders: list[str], repeats: int) -> list[dict[str, Any]]:
    """What `secateur bench` says of the inference-only form of each, the first being the dense model."""
    record = bench(
        BenchConfig(
            models=tuple(folders),
            forms=("for_inference",),
            seconds=(CONDITIONS.seconds,),
            batches=(CONDITIONS.batch,),
            dtypes=(CONDITIONS.dtype,),
            threads=(CONDITIONS.threads,) if CONDITIONS.threads else (),
            repeats=repeats,
            memory=False,
        )
    ).to_dict()
    return [*record["rows"], {"environment": record["environment"]}]


def compare(repeats: int) -> dict[str, Any]:
    """Predicted and measured milliseconds of the dense model and of every shape."""
    from transformers import WavLMConfig

    dense = WavLMConfig()
    structure = declare(dense)
    selections = [Selection(axes={}), *(shape.selection(structure) for shape in shapes(dense))]
    closed = [normalize(structure, selection).selection for selection in selections]
    with tempfile.TemporaryDirectory() as folder:
        names = []
        for index, selection in enumerate(closed):
            config = dense if not index else cut_config(ConfigView(dense), structure, selection).config
            names.append(f"{folder}/{index}")
            config.save_pretrained(names[-1])
        os.environ["SECATEUR_CACHE"] = f"{folder}/cache"  # measured here and now, not found
        first_timings = measured(names, repeats)
        table = load_or_measure_table(ConfigView(dense), CONDITIONS)
        last_timings = measured(names, repeats)
    cost = latency(Terms(structure), table)
    rows = []
    for index, selection in enumerate(closed):
        runs = [item[index] for item in (first_timings, last_timings)]
        rows.append(
            {
                "range": RANGES[index - 1] if index else (1.0, 1.0),
                "predicted_ms": cost.count(selection),
                "measured_ms": statistics.mean(run["median_ms"] for run in runs),
                "before_ms": runs[0]["median_ms"],
                "after_ms": runs[1]["median_ms"],
                "low_ms": min(run["low_ms"] for run in runs),
                "high_ms": max(run["high_ms"] for run in runs),
            }
        )
    return {
        "format": 1,
        "kind": "latency cost",
        "rows": rows,
        "conditions": CONDITIONS,
        "repeats": repeats,
        "agreement": table.agreement,
        "environment": first_timings[-1]["environment"],
    }


def table_of(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    dense = record["rows"][0]
    lines = [
        "| widths | predicted | measured (before, after) | predicted / measured | the same of shares |",
        "|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        ratio = row["predicted_ms"] / row["measured_ms"]
        shares = ratio / (dense["predicted_ms"] / dense["measured_ms"])
        minimum, maximum = row["range"]
        name = "dense" if minimum == 1 else f"{minimum:.0%} to {maximum:.0%}"
        lines.append(
            f"| {name} | {row['predicted_ms']:.0f} ms | {row['measured_ms']:.0f} ms ({row['before_ms']:.0f}, "
            f"{row['after_ms']:.0f}) | {ratio:.2f} | {shares:.2f} |"
        )
    cut = record["rows"][1:]
    near = sum(abs(row["predicted_ms"] / row["measured_ms"] - 1) <= 0.1 for row in cut)
    return "\n".join([*lines, "", f"{near} of {len(cut)} within 10 %."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the record")
    parser.add_argument("--repeats", type=int, default=7, help="measurements of each shape, before and after")
    parser.add_argument("--table", action="store_true", help="print what is in the record, and measure nothing")
    options = parser.parse_args()
    if not options.table:
        write_json(options.out, compare(options.repeats))
    print(table_of(json.loads(options.out.read_text())))


if __name__ == "__main__":
    main()
