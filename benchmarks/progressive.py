"""What freezing gates and shrinking the student while it learns save, and what they do to the result.

Runs `secateur prune` on the recipe `quickstart` with a quarter of the parameters kept: as it is, with gates frozen, and
with the student shrunk as well; each in a process of its own with one thread, two at a time, one line of JSON a run.
The teacher is the packaged one, where the result counts, or one with random weights in which most of the time goes to
the Transformer, as in WavLM Large: in the packaged one it goes to the front end, which has few parameters to lose.

    python benchmarks/progressive.py --teacher tiny --recover 80 --out benchmarks/results/progressive.jsonl
    python benchmarks/progressive.py --teacher proportions --out benchmarks/results/progressive.jsonl
    python benchmarks/progressive.py --out benchmarks/results/progressive.jsonl --table
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from runs import prune_alone, results_in, run_missing

CASES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "shrinking": {"learn.freeze.shrink": True},
    "freezing": {"learn.freeze": {}},
}
TEACHERS = ("tiny", "proportions")


def teacher(options: argparse.Namespace) -> str:
    """The model that a run begins with: the packaged one, or a folder with random weights, made once."""
    if options.teacher == "tiny":
        return "tiny"
    folder = Path(options.work) / f"teacher-{options.channels}"
    if not (folder / "model.safetensors").is_file():
        import torch
        from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

        torch.manual_seed(0)
        config = WavLMConfig(
            hidden_size=512,
            num_hidden_layers=6,
            num_attention_heads=8,
            intermediate_size=2048,
            conv_dim=(options.channels,) * 7,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
        )
        WavLMModel(config).save_pretrained(folder)
        Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return str(folder)


def run_case(case: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """One run in a process of its own."""
    fields = {
        "model": teacher(options),
        "seed": case["seed"],
        "target": None,
        "constraints": [{"target": 0.25, "ramp": [[0, 0], [options.ramp, 1]]}],
        "batching": {"seconds": options.seconds, "longest": options.seconds / 2},
        "learn.steps": options.learn,
        "learn.gate_learning_rate": options.gate_rate,
        "learn.save_every": 0,
        "recover.steps": options.recover,
        "recover.save_every": 0,
    }
    out = Path(options.work) / "-".join(str(value) for value in case.values()).replace(" ", "_")
    record = prune_alone("quickstart", fields | CASES[case["case"]], out)
    stages = {stage["name"]: stage for stage in record["stages"]}
    return case | {
        "steps": {phase["name"]: phase["steps"] for phase in record["phases"]},
        "seconds": {phase["name"]: phase["seconds"] for phase in record["phases"]},
        "kept": record["constraints"][0]["counted"] / record["constraints"][0]["dense"],
        "loss_shrunk": stages["shrunk"]["loss"],
        "loss": stages["recovered"]["loss"],
        "undecided": record["gates"]["undecided_share"],
        "freeze": record["recipe"]["learn"]["freeze"],
        "freezing": record["gates"].get("freezing"),
    }


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown: times beside those of the same seeds as they are, losses as mean and deviation."""
    columns = ("teacher", "run", "learn", "learn + recover", "ratio", "kept by count", "held-out loss", "per seed")
    lines = ["| " + " | ".join((*columns, "student's size by step")) + " |", "|" + "---|" * (len(columns) + 1)]
    for kind in TEACHERS:
        for name in CASES:
            matching_rows = [r for r in results if (r["teacher"], r["case"]) == (kind, name)]
            if not matching_rows:
                continue
            full_result = {r["seed"]: r for r in results if (r["teacher"], r["case"]) == (kind, "as it is")}
            ratios = [
                sum(r["seconds"].values()) / sum(full_result[r["seed"]]["seconds"].values()) for r in matching_rows
            ]
            losses = [r["loss"] for r in matching_rows]
            spread_text = f" ± {statistics.stdev(losses):.4f}" if len(losses) > 1 else ""
            cells = [
                kind,
                name,
                f"{statistics.mean(r['seconds']['learn'] for r in matching_rows):.0f} s",
                f"{statistics.mean(sum(r['seconds'].values()) for r in matching_rows):.0f} s",
                f"{statistics.mean(ratios):.2f}",
                " ".join(f"{100 * r['kept']:.2f}" for r in matching_rows) + " %",
                f"{statistics.mean(losses):.4f}{spread_text}",
                " ".join(f"{loss:.4f}" for loss in losses),
                _sizes(matching_rows[0]["freezing"]),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _sizes(freezing: dict[str, Any] | None) -> str:
    shrunk = freezing["shrunk"] if freezing else []
    return ", ".join(f"{entry['step']}: {entry['parameters'] / freezing['dense']:.0%}" for entry in shrunk) or "–"


def main() -> None:
    """Run what is not in the results yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", choices=TEACHERS, default="tiny")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one a run; those in it are not run again")
    parser.add_argument("--work", type=Path, default=Path("runs/progressive"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--learn", type=int, default=160, help="steps")
    parser.add_argument("--recover", type=int, default=40, help="steps")
    parser.add_argument("--seconds", type=float, default=8.0, help="audio in a step")
    parser.add_argument("--ramp", type=float, default=0.25, help="share of learn after which the target is asked for")
    parser.add_argument("--gate-rate", type=float, default=0.15)
    parser.add_argument("--channels", type=int, default=128, help="of the front end of a teacher with random weights")
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=tuple(CASES))
    parser.add_argument("--table", action="store_true", help="print what is in the results, and run nothing")
    options = parser.parse_args()
    if not options.table:
        options.work.mkdir(parents=True, exist_ok=True)
        teacher(options)
        requested_cases = [(options.teacher, case, seed) for seed in range(options.seeds) for case in options.cases]
        cases = [dict(zip(("teacher", "case", "seed"), case, strict=True)) for case in requested_cases]
        run_missing(cases, lambda case: run_case(case, options), options.out)
    print(table(results_in(options.out)))


if __name__ == "__main__":
    main()
