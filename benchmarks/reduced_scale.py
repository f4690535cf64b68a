"""Learned pruning against one-shot pruning at a scale that two cores can train, on real speech.

Runs `secateur prune` on one recipe for every method, sparsity, seed and learning rate, each in a process of its own
with one thread, and keeps one line of JSON a run. All methods see the same data in the same order for as many
steps in all: a learned run has learn + recover steps, the one-shot ones as many recover steps.

    python benchmarks/reduced_scale.py --manifest speech.jsonl --out results.jsonl --work runs/reduced_scale
    python benchmarks/reduced_scale.py --out results.jsonl --table
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from runs import prune_alone, results_in, run_missing

RECIPE = "wang2023/reduced"
#: Recipes of methods that differ from `RECIPE` in more than the fields below.
RECIPES = {"self_pinching": "wang2023/self_pinching"}
RATES = (1e-3, 2e-3, 4e-3)
METHODS: dict[str, dict[str, Any]] = {
    "learned": {},
    "magnitude": {"choose": {"kind": "score", "score": "magnitude"}},
    "first": {"choose": {"kind": "score", "score": "first"}},
    "without_fahp": {"gates": {"qk": None, "vo": None, "heads": {"drop_rate": 0.05, "straight_through": True}}},
    "without_ste": {
        "gates": {kind: {"straight_through": False} for kind in ("qk", "vo", "units", "block")},
    },
    "without_block": {"gates": {"block": None}},
    "self_pinching": {},
}


def cases(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every run of the grid, the most telling first."""
    for seed in range(options.seeds):
        for sparsity in options.sparsities:
            yield {"method": "learned", "sparsity": sparsity, "seed": seed, "rate": None}
            for method in ("magnitude", "first"):
                for rate in RATES:
                    yield {"method": method, "sparsity": sparsity, "seed": seed, "rate": rate}
            if seed < options.ablation_seeds:
                for method in ("without_fahp", "without_ste"):
                    yield {"method": method, "sparsity": sparsity, "seed": seed, "rate": None}
            for method in ("self_pinching", "without_block"):
                yield {"method": method, "sparsity": sparsity, "seed": seed, "rate": None}


def recipe_of(case: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The fields in which a run differs from the recipe."""
    audio = {"kind": "jsonl", "path": str(options.manifest), "scan": False}
    fields: dict[str, Any] = {
        "seed": case["seed"],
        "data": audio | {"where": {"corpus": [options.corpus], "split": ["train"]}},
        "validation.data": audio | {"where": {"corpus": [options.corpus], "split": ["dev"]}},
        "constraints": [{"scope": "gated", "sparsity": case["sparsity"], "ramp": [[0, 0], [0.5, 1]]}],
    }
    if case["rate"] is not None:
        fields |= {"recover.learning_rate": case["rate"], "recover.steps": options.learn + options.recover}
    else:
        fields |= {"recover.steps": options.recover}
    return fields | {"learn.steps": options.learn} | METHODS[case["method"]]


def run_case(case: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """One run in a process of its own."""
    out = Path(options.work) / "-".join(str(value) for value in case.values())
    record = prune_alone(RECIPES.get(case["method"], RECIPE), recipe_of(case, options), out)
    gates, stages = record["gates"], {stage["name"]: stage for stage in record["stages"]}
    return case | {
        "loss": stages["recovered"]["loss"],
        "loss_shrunk": stages["shrunk"]["loss"],
        "cosine": stages["recovered"]["cosine"],
        "parameters": stages["recovered"]["parameters"],
        "kept": [entry["counted"] / entry["dense"] for entry in record["constraints"]],
        "milliseconds": {stage: value["time"]["median_ms"] for stage, value in stages.items()},
        "undecided": gates.get("undecided_share"),
        "moved": gates.get("moved_share"),
        "open": {kind: f"{value['open']}/{value['gates']}" for kind, value in gates.get("kinds", {}).items()},
        "seconds": sum(phase["seconds"] for phase in record["phases"]),
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown: means and standard deviations over seeds, one-shot methods at their best rate."""
    columns = ("sparsity", "method", "rate", "held-out loss", "per seed", "kept by count", "undecided", "moved")
    columns += ("blocks open, per seed", "other gates open, first seed")
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for sparsity in sorted({result["sparsity"] for result in results}):
        for method in METHODS:
            matching_rows = [r for r in results if (r["sparsity"], r["method"]) == (sparsity, method)]
            rates = {r["rate"] for r in matching_rows}
            if not matching_rows:
                continue
            best = min(rates, key=lambda rate: statistics.mean(r["loss"] for r in matching_rows if r["rate"] == rate))
            rows = sorted((r for r in matching_rows if r["rate"] == best), key=lambda r: r["seed"])
            losses = [r["loss"] for r in rows]
            spread_text = f" ± {statistics.stdev(losses):.4f}" if len(losses) > 1 else ""
            kept_units = [100 * r["kept"][0] for r in rows]
            cells = [
                f"{sparsity:.0%}",
                method,
                "the recipe's" if best is None else f"{best:g}",
                f"{statistics.mean(losses):.4f}{spread_text}",
                " ".join(f"{loss:.4f}" for loss in losses),
                f"{min(kept_units):.2f}–{max(kept_units):.2f} %",
                _range(rows, "undecided"),
                _range(rows, "moved"),
                " ".join(r["open"].get("block", "–") for r in rows),
                ", ".join(f"{kind} {n}" for kind, n in rows[0]["open"].items() if kind != "block") or "–",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _range(rows: Sequence[dict[str, Any]], name: str) -> str:
    values = [100 * row[name] for row in rows if row[name] is not None]
    return f"{min(values):.1f}–{max(values):.1f} %" if values else "–"


def main() -> None:
    """Run what is not in the results yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, help="a JSONL manifest with the fields corpus and split")
    parser.add_argument("--corpus", default="librispeech_clean", help="value of the field corpus")
    parser.add_argument("--out", type=Path, help="JSON lines, one a run; runs that are in it are not run again")
    parser.add_argument("--work", type=Path, default=Path("runs/reduced_scale"))
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.8, 0.5])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ablation-seeds", type=int, default=3)
    parser.add_argument("--learn", type=int, default=400)
    parser.add_argument("--recover", type=int, default=240)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="print what is in the results, and run nothing")
    options = parser.parse_args()
    if options.table:
        print(table([result for result in results_in(options.out) if result["method"] in options.methods]))
        return
    wanted_cases = [case for case in cases(options) if case["method"] in options.methods]
    run_missing(wanted_cases, lambda case: run_case(case, options), options.out, jobs=options.jobs)


if __name__ == "__main__":
    main()
