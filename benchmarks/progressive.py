"""What freezing gates and shrinking the student while it learns save, and what they do to the result.

Runs `secateur prune` on the recipe `quickstart` with a quarter of the parameters kept: as it is, with gates frozen, and
with the student shrunk as well; each in a process of its own with one thread, two at a time, one line of JSON a run.
The teacher is the packaged one, where the result counts, or one with random weights in which most of the time goes to
the Transformer, as in WavLM Large: in the packaged one it goes to the front end, which has few parameters to lose.

    python benchmarks/progressive.py --teacher tiny --seeds 3 --out benchmarks/results/progressive.jsonl
    python benchmarks/progressive.py --teacher proportions --out benchmarks/results/progressive.jsonl
    python benchmarks/progressive.py --out benchmarks/results/progressive.jsonl --table
"""

from __future__ import annotations

import argparse
import json
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from reduced_scale import prune_alone

CASES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "shrinking": {"learn.freeze.shrink": True},
    "freezing": {"learn.freeze": {}},
}
TEACHERS: dict[str, dict[str, Any]] = {
    "tiny": {
        "learn.steps": 160,
        "recover.steps": 80,
        "batching": {"seconds": 4.0, "longest": 2.0},
        "target": 0.25,
    },
    # The ramp is as short a part of the phase as in published runs, which have a hundred times as many steps.
    "proportions": {
        "learn.steps": 200,
        "recover.steps": 40,
        "batching": {"seconds": 4.0, "longest": 2.0},
        "target": None,
        "constraints": [{"target": 0.25, "ramp": [[0, 0], [0.15, 1]]}],
        "learn.gate_learning_rate": 0.3,
    },
}


def teacher(kind: str, work: Path) -> str:
    """The model that a run begins with: the packaged one, or a folder with random weights, made once."""
    if kind == "tiny":
        return kind
    folder = work / "teacher"
    if not (folder / "model.safetensors").is_file():
        import torch
        from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

        torch.manual_seed(0)
        config = WavLMConfig(
            hidden_size=512,
            num_hidden_layers=6,
            num_attention_heads=8,
            intermediate_size=2048,
            conv_dim=(64,) * 7,  # about an eighth of a step's time, as an estimate for Large gives
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
        )
        WavLMModel(config).save_pretrained(folder)
        Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return str(folder)


def run_case(case: dict[str, Any], work: Path) -> dict[str, Any]:
    """One run in a process of its own."""
    fields = TEACHERS[case["teacher"]] | {
        "model": teacher(case["teacher"], work),
        "seed": case["seed"],
        "learn.save_every": 0,
        "recover.save_every": 0,
    }
    out = work / "-".join(str(value) for value in case.values()).replace(" ", "_")
    record = prune_alone("quickstart", fields | CASES[case["case"]], out)
    stages = {stage["name"]: stage for stage in record["stages"]}
    seconds = {phase["name"]: phase["seconds"] for phase in record["phases"]}
    return case | {
        "steps": {phase["name"]: phase["steps"] for phase in record["phases"]},
        "seconds": seconds,
        "kept": record["constraints"][0]["counted"] / record["constraints"][0]["dense"],
        "loss_shrunk": stages["shrunk"]["loss"],
        "loss": stages["recovered"]["loss"],
        "undecided": record["gates"]["undecided_share"],
        "freezing": record["gates"].get("freezing"),
    }


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown: times beside those of the same seeds as they are, losses as mean and deviation."""
    columns = ("teacher", "run", "learn", "learn + recover", "ratio", "kept by count", "held-out loss", "per seed")
    lines = ["| " + " | ".join((*columns, "student's size by step")) + " |", "|" + "---|" * (len(columns) + 1)]
    for kind in TEACHERS:
        for name in CASES:
            mine = [r for r in results if (r["teacher"], r["case"]) == (kind, name)]
            if not mine:
                continue
            whole = {r["seed"]: r for r in results if (r["teacher"], r["case"]) == (kind, "as it is")}
            ratios = [sum(r["seconds"].values()) / sum(whole[r["seed"]]["seconds"].values()) for r in mine]
            losses = [r["loss"] for r in mine]
            spread = f" ± {statistics.stdev(losses):.4f}" if len(losses) > 1 else ""
            cells = [
                kind,
                name,
                f"{statistics.mean(r['seconds']['learn'] for r in mine):.0f} s",
                f"{statistics.mean(sum(r['seconds'].values()) for r in mine):.0f} s",
                f"{statistics.mean(ratios):.2f}",
                " ".join(f"{100 * r['kept']:.2f}" for r in mine) + " %",
                f"{statistics.mean(losses):.4f}{spread}",
                " ".join(f"{loss:.4f}" for loss in losses),
                _sizes(mine[0]["freezing"]),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _sizes(freezing: dict[str, Any] | None) -> str:
    shrunk = freezing["shrunk"] if freezing else []
    return ", ".join(f"{entry['step']}: {entry['parameters'] / freezing['dense']:.0%}" for entry in shrunk) or "–"


def main() -> None:
    """Run what is not in the results yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", choices=tuple(TEACHERS), default="tiny")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one a run; those in it are not run again")
    parser.add_argument("--work", type=Path, default=Path("runs/progressive"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=tuple(CASES))
    parser.add_argument("--table", action="store_true", help="print what is in the results, and run nothing")
    options = parser.parse_args()
    results = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    keys = ("teacher", "case", "seed")
    done = {tuple(result[key] for key in keys) for result in results}
    wanted = [(options.teacher, case, seed) for seed in range(options.seeds) for case in options.cases]
    pending = [] if options.table else [dict(zip(keys, case, strict=True)) for case in wanted if case not in done]
    if pending:
        options.work.mkdir(parents=True, exist_ok=True)
        teacher(options.teacher, options.work)
    with ThreadPoolExecutor(2) as pool:
        for result in pool.map(lambda case: run_case(case, options.work), pending):
            results.append(result)
            with options.out.open("a") as handle:
                handle.write(json.dumps(result) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
