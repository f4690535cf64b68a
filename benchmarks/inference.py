"""Stock models, and cut ones in their inference-only form, under every setting that `README.md` here has a table for.

python benchmarks/shapes.py runs/shapes
python benchmarks/inference.py runs/shapes --out benchmarks/results/inference.jsonl
python benchmarks/inference.py --out benchmarks/results/inference.jsonl --table
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from secateur.benchmarking.bench import BenchConfig, bench

ENCODERS = ("wavlm", "hubert", "wav2vec2", "s80", "wang")
#: What is measured with what: models, and options of `secateur bench`.
CASES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "defaults, fp32, 1 x 10 s": (ENCODERS, {"tuned": False}),
    "tuned, fp32, 1 x 10 s": (ENCODERS, {}),
    "tuned, fp32, 4 x 10 s": (("wavlm", "hubert", "s80"), {"batches": (4,), "repeats": 3}),
    "tuned, bf16, 1 x 10 s": (ENCODERS, {"dtypes": ("bf16",)}),
    "tuned, bf16, 4 x 10 s": (("wavlm", "hubert", "s80"), {"batches": (4,), "dtypes": ("bf16",), "repeats": 3}),
    "defaults, fp32, 1 x 30 s": (("wavlm",), {"seconds": (30.0,), "tuned": False, "repeats": 3}),
    "tuned, fp32, 1 x 30 s": (("wavlm",), {"seconds": (30.0,), "repeats": 3}),
    "tuned, bf16, 1 x 30 s": (("wavlm",), {"seconds": (30.0,), "dtypes": ("bf16",), "repeats": 3}),
}
#: Case by case, what is to be how many times as fast as what.
ASKED = (
    ("s80", "wavlm", "as it is"),
    ("s80", "hubert", "as it is"),
    ("s80", "wavlm", "for_inference"),
    ("wang", "wavlm", "as it is"),
    ("wang", "hubert", "as it is"),
    ("wavlm", "wavlm", "as it is"),
    ("hubert", "hubert", "as it is"),
    ("wav2vec2", "wav2vec2", "as it is"),
)


def measure(folder: Path, out: Path, cases: list[str]) -> None:
    """Append a record for each of these cases."""
    for name in cases:
        models, options = CASES[name]
        config = BenchConfig(
            **{"models": tuple(str(folder / model) for model in models), "threads": (2,), "repeats": 5} | options
        )
        record = bench(config).to_dict()
        rows = [row | {"model": Path(row["model"]).name} for row in record["rows"]]
        with out.open("a") as file:
            file.write(json.dumps({"case": name, "rows": rows, "environment": record["environment"]}) + "\n")


def table(out: Path) -> None:
    """Print ratios of the inference-only form of one model to another, and peak memory."""
    columns = (
        "setting",
        "in for_inference",
        "ms (lowest to highest)",
        "against",
        "ms",
        "times as fast",
        "peak memory, MiB",
    )
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for line in out.read_text().splitlines():
        record = json.loads(line)
        rows = {(row["model"], row["form"]): row for row in record["rows"]}
        for model, alternative, form in ASKED:
            if (model, "for_inference") in rows and (alternative, form) in rows:
                inference_row, reference_row = rows[model, "for_inference"], rows[alternative, form]
                median_ms, low_ms, high_ms = (inference_row[name] for name in ("median_ms", "low_ms", "high_ms"))
                spread_text = f"{median_ms:.0f} ({low_ms:.0f} to {high_ms:.0f})"
                memory = f"{inference_row['peak_mib']:.0f} against {reference_row['peak_mib']:.0f}"
                ratio = reference_row["median_ms"] / inference_row["median_ms"]
                cells = (
                    record["case"],
                    model,
                    spread_text,
                    f"{alternative}, {form}",
                    f"{reference_row['median_ms']:.0f}",
                )
                print(f"| {' | '.join(cells)} | {ratio:.2f} | {memory} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="what shapes.py wrote")
    parser.add_argument("--case", action="append", choices=list(CASES), help="this one alone; may be repeated")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="print the table of what was measured")
    arguments = parser.parse_args()
    if not arguments.table:
        if arguments.folder is None:
            parser.error("the folder that shapes.py wrote is missing")
        measure(arguments.folder, arguments.out, arguments.case or list(CASES))
    table(arguments.out)


if __name__ == "__main__":
    main()
