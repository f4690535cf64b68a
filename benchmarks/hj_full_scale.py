"""The three recipes of HJ-Pruning at full size: wav2vec 2.0 Base with random weights, real speech, a few steps each.

    python benchmarks/hj_full_scale.py SPEECH/manifest.jsonl --out benchmarks/results/hj_full_scale.json

`manifest.jsonl` has `audio`, `text`, `corpus` and `split` in each line. It shows that a recipe runs, falls towards its
constraint, is cut, and is read back by `AutoModelForCTC` in another process; nothing useful is learned in so few steps.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

RECIPES = ("peng2023/size", "peng2023/mac", "peng2023/sepmac")
WORK = Path("runs/hj_full_scale")
RELOAD = """
import sys, torch, secateur
from transformers import AutoModelForCTC
model = AutoModelForCTC.from_pretrained(sys.argv[1])
with torch.no_grad():
    print(type(model).__name__, tuple(model(torch.randn(1, 16000)).logits.shape))
"""


def fields_of(options: argparse.Namespace, recipe: str, out: Path) -> dict[str, Any]:
    """What differs from the recipe: audio, and a phase of few steps with the whole ramp in its first half."""
    from secateur import config as configs
    from secateur.compress.config import PruneConfig
    from secateur.pipeline import RECIPES as SEARCH
    from secateur.records.files import plain

    data = {"kind": "jsonl", "path": str(options.manifest), "scan": False}
    data |= {"where": {"corpus": [options.corpus]}}
    limits = [
        {name: value for name, value in plain(limit).items() if name in ("cost", "scope")}
        | {"ramp": [[0, 0], [0.5, 1]]}
        for limit in configs.load(recipe, PruneConfig, search=SEARCH).targeted_constraints
    ]
    few = {"log_every": 1, "validate_every": 0, "save_every": 0, "precision": "fp32"}
    return {
        "model": str(WORK / "base"),
        "out": str(out),
        "data": data | {"split": "train"},
        "validation": {"data": data | {"split": "dev"}, "seconds": 10.0},
        "batching": {"seconds": options.seconds, "longest": 12.0, "accumulate": 1},
        "constraints": limits,
        **{f"learn.{name}": value for name, value in few.items()},
        **{f"recover.{name}": value for name, value in few.items()},
        "learn.steps": options.steps,
        "learn.gate_learning_rate": 0.2,  # for as many steps as a thousandth of the recipe's
        "recover.steps": 2,
    }


def run_recipe(options: argparse.Namespace, recipe: str) -> dict[str, Any]:
    """Run a recipe in this process."""
    import secateur

    out = WORK / recipe.replace("/", "-")
    record = secateur.prune(recipe, overrides=fields_of(options, recipe, out)).to_dict()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    learned = [line for line in lines if line["phase"] == "learn" and "loss" in line]
    times = [json.loads(line) for line in (out / "timings.jsonl").read_text().splitlines()]
    reloaded = subprocess.run(
        [sys.executable, "-c", RELOAD, str(out / "model")], capture_output=True, text=True, check=True
    ).stdout.strip()
    return {
        "recipe": recipe,
        "kept": {
            name.removeprefix("kept/"): [round(line[name], 4) for line in learned]
            for name in learned[0]
            if name.startswith("kept/")
        },
        "counted": {entry["name"]: entry["counted"] / entry["dense"] for entry in record["constraints"]},
        "seconds_a_step": statistics.median(line["seconds"] for line in times if line["phase"] == "learn"),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "parameters": [stage["parameters"] for stage in record["stages"]],
        "macs": [stage["macs"] for stage in record["stages"]],
        "milliseconds": [stage["time"]["median_ms"] for stage in record["stages"]],
        "holds": record["verification"]["holds"],
        "reloaded": reloaded,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    columns = ("recipe", "kept, first to last step", "kept by count", "parameters", "MACs", "faster, 10 s")
    columns += ("s a step", "peak MiB", "reloaded")
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        fell = ", ".join(
            f"{name} {kept_units[0]:.3f} to {kept_units[-1]:.3f}" for name, kept_units in row["kept"].items()
        )
        counted = ", ".join(f"{share:.4f}" for share in row["counted"].values())
        faster = row["milliseconds"][0] / row["milliseconds"][-1]
        cells = [row["recipe"], fell, counted, f"{row['parameters'][-1]:,}", f"{row['macs'][-1]:,}", f"{faster:.2f}"]
        cells += [f"{row['seconds_a_step']:.1f}", f"{row['peak_mib']:.0f}", row["reloaded"]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--corpus", default="librispeech_clean")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=16.0, help="of audio in a step")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", choices=RECIPES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_recipe(options, options.one)))
        return
    if not (WORK / "base").is_dir():
        import torch
        from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

        torch.manual_seed(0)
        Wav2Vec2Model(Wav2Vec2Config()).save_pretrained(WORK / "base")
        Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(WORK / "base")
    rows = []
    for recipe in RECIPES:  # each in a process of its own, for the peak of its memory
        done = subprocess.run(
            [sys.executable, *sys.argv, "--one", recipe], stdout=subprocess.PIPE, text=True, check=True
        )
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    if options.out:
        options.out.write_text(json.dumps(rows, indent=2) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
