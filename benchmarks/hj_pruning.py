"""HJ-Pruning in miniature: a small recogniser of connected words, or of keywords, pruned while it learns on.

    python benchmarks/connected_words.py SPEECH/manifest.jsonl --corpus fsdd --out runs/hj_pruning/words
    python benchmarks/hj_pruning.py dense --task ctc
    python benchmarks/hj_pruning.py run --task ctc --out benchmarks/results/hj_pruning.jsonl
    python benchmarks/hj_pruning.py run --task ctc --times 2 --methods dense "mac 0.7" "mac 0.5" --out …
    python benchmarks/hj_pruning.py dense --task classification --manifest SPEECH/manifest.jsonl
    python benchmarks/hj_pruning.py run --task classification --manifest SPEECH/manifest.jsonl --out …
    python benchmarks/hj_pruning.py table --out benchmarks/results/hj_pruning.jsonl
    python benchmarks/hj_pruning.py plot --out benchmarks/results/hj_pruning.jsonl

`dense` makes what all begin with: wav2vec 2.0 in the shape and with the weights of the packaged teacher, fine-tuned for
the task. Every method then takes as many steps on the same data: the dense model learns on, a pruned one learns gates
and weights and then recovers, a one-shot one only recovers. Each run has a process and one thread of its own; two run
at a time. Scores are of the test split, which nothing is chosen by.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import small_wav2vec2
from runs import prune_alone, results_in, run_missing

RECIPE = "peng2023/reduced"
WORK = Path("runs/hj_pruning")
LEARN, RECOVER = 300, 200
KINDS = ["channels", "heads", "units"]
MACS = {"cost": "macs", "ramp": [[0, 0], [0.5, 1]]}
TARGETS = (0.9, 0.8, 0.7, 0.6, 0.5)
#: Beside the task's loss, the outputs of the model that all begin with are imitated.
LOGITS = {"distill": {"weight": 0.0, "logits": {}}}
#: What of a task is shown first, and which way it improves.
HEADLINE = {"ctc": ("wer", min), "classification": ("accuracy", max)}


def one_shot(target: float) -> dict[str, Any]:
    """No gates: the same share of every axis by magnitude, and all steps to recover."""
    choose = {"kind": "score", "score": "magnitude", "kinds": KINDS}
    return {"choose": choose, "target": target, "recover.steps": LEARN + RECOVER, "recover.warmup": 0.06}


#: Fields of each method; targets are shares of MACs unless they say otherwise.
METHODS: dict[str, dict[str, Any]] = {
    "dense": one_shot(1.0),
    **{f"mac {target}": {"target": target} for target in TARGETS},
    # The way of the others, and next to nothing removed.
    "mac 0.99": {"target": 0.99},
    # The share of parameters at which about half of the MACs are left, found by trying.
    "size": {"constraints": [MACS | {"cost": "parameters"}], "target": 0.33},
    "sepmac": {"constraints": [MACS | {"scope": "frontend"}, MACS | {"scope": "encoder"}], "target": 0.5},
    "transformer only 0.5": {"gates.channels": None, "target": 0.5},
    "magnitude 0.5": one_shot(0.5),
    "dense, logits": one_shot(1.0) | LOGITS,
    **{f"mac {target}, logits": {"target": target} | LOGITS for target in TARGETS},
    "magnitude 0.5, logits": one_shot(0.5) | LOGITS,
}
WANTED = {"ctc": list(METHODS), "classification": ["dense", "mac 0.7", "mac 0.5"]}


def data_of(options: argparse.Namespace) -> dict[str, Any]:
    """Where the audio of a task lies."""
    fields: dict[str, Any] = {"data.path": str(options.manifest), "validation.data.path": str(options.manifest)}
    if options.task == "classification":
        keywords = {"corpus": [options.corpus]}
        fields |= {"data.where": keywords, "validation.data.where": keywords, "task": {"kind": "classification"}}
    return fields


def dense(options: argparse.Namespace) -> None:
    """Fine-tune the model that all methods begin with; what is pruned of it is thrown away."""
    start = WORK / "start"
    if not start.is_dir():
        small_wav2vec2.write(start)
    training = {"steps": options.steps, "learning_rate": 3e-3, "warmup": 0.1, "save_every": 0}
    no_pruning = one_shot(1.0) | {"recover.steps": 0}
    fields = data_of(options) | no_pruning | {"model": str(start), "finetune": training}
    record = prune_alone(RECIPE, fields, WORK / f"dense-{options.task}")
    print(f"{WORK}/dense-{options.task}/finetuned: {record['stages'][0]['scores']}")


def run_case(case: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """One run in a process of its own."""
    model = options.model or WORK / f"dense-{options.task}" / "finetuned"
    fields = data_of(options) | {"model": str(model), "seed": case["seed"]}
    fields |= {"learn.steps": LEARN, "recover.steps": RECOVER} | METHODS[case["method"]]
    fields |= {name: case.get("times", 1) * fields[name] for name in ("learn.steps", "recover.steps")}
    record = prune_alone(RECIPE, fields, WORK / "-".join(str(value).replace(" ", "_") for value in case.values()))
    first_stage, last_stage = record["stages"][0], record["stages"][-1]
    front = [name for name in record["blocks"]["after"] if name.startswith("feature_extractor")]
    return case | {
        "scores": last_stage["scores"],
        "shrunk": record["stages"][1]["scores"],
        "start": first_stage["scores"],
        "parameters": last_stage["parameters"] / first_stage["parameters"],
        "macs": last_stage["macs"] / first_stage["macs"],
        "front_end": sum(record["blocks"]["after"][n]["macs"] for n in front)
        / sum(record["blocks"]["before"][n]["macs"] for n in front),
        "times_as_fast": first_stage["time"]["median_ms"] / last_stage["time"]["median_ms"],
        "undecided": record["gates"].get("undecided_share"),
        "moved": record["gates"].get("moved_share"),
        "seconds": sum(phase["seconds"] for phase in record["phases"]),
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown: means and standard deviations over seeds."""
    columns = (
        "task",
        "steps",
        "method",
        "score",
        "per seed",
        "against dense",
        "parameters",
        "MACs",
        "of the front end",
        "faster",
    )
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    settings = sorted({(list(HEADLINE).index(row["task"]), _times(row)) for row in results})
    for task, times in ((list(HEADLINE)[index], times) for index, times in settings):
        name, _ = HEADLINE[task]
        selected_rows = sorted((row for row in results if (row["task"], _times(row)) == (task, times)), key=_seed)
        own_values = {method: [row for row in selected_rows if row["method"] == method] for method in METHODS}
        for method, rows in own_values.items():
            if not rows:
                continue
            scores = [100 * row["scores"][name] for row in rows]
            spread_text = f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
            pairs = [
                100 * (row["scores"][name] - alternative["scores"][name])
                for row in rows
                for alternative in own_values["dense"]
                if alternative["seed"] == row["seed"]
            ]
            difference_text = f"{statistics.mean(pairs):+.2f}" if pairs and method != "dense" else ""
            cells = [
                task,
                str(times * (LEARN + RECOVER)),
                method,
                f"{name} {statistics.mean(scores):.2f} %{spread_text}",
                " ".join(f"{score:.2f}" for score in scores),
                difference_text,
                *(
                    f"{100 * statistics.mean(row[key] for row in rows):.1f} %"
                    for key in ("parameters", "macs", "front_end")
                ),
                f"{statistics.mean(row['times_as_fast'] for row in rows):.2f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(results: Sequence[dict[str, Any]], folder: Path) -> Path:
    """The page of a sweep over targets: the word error rate against what is kept of MACs and parameters."""
    from secateur.compress.sweep import SWEEP_FILE
    from secateur.cost import Cost, Terms
    from secateur.hf.declare import declare
    from secateur.records.environment import Environment
    from secateur.records.sweep_record import ModelMeasurements, SweepRecord, SweepRun
    from secateur.report import write_sweep

    terms = Terms(declare(small_wav2vec2.small_wav2vec2().config))
    full_cost = {cost: Cost.from_terms(terms, cost=cost).dense for cost in ("parameters", "macs")}
    selected_rows = sorted((row for row in results if row["task"] == "ctc" and _times(row) == 1), key=_seed)
    dense = {_seed(row): row["scores"]["wer"] for row in selected_rows if row["method"] == "dense"}
    targets = {f"mac {target}": target for target in TARGETS}
    rows = [
        SweepRun(
            values={"target": targets[row["method"]], "seed": _seed(row)},
            dense=ModelMeasurements(**full_cost, score=dense[_seed(row)]),
            kept=ModelMeasurements(
                **{cost: round(row[cost] * count) for cost, count in full_cost.items()}, score=row["scores"]["wer"]
            ),
        )
        for row in selected_rows
        if row["method"] in targets and _seed(row) in dense
    ]
    record = SweepRecord(
        name="HJ-Pruning-MAC in miniature",
        fields=("target", "seed"),
        headline="wer",
        better="lower",
        environment=Environment.current(),
        samples=16_000,
        rows=tuple(rows),
    )
    folder.mkdir(parents=True, exist_ok=True)
    record.write(folder / SWEEP_FILE)
    return write_sweep(folder)


def _seed(row: dict[str, Any]) -> int:
    return int(row["seed"])


def _times(row: dict[str, Any]) -> int:
    return int(row.get("times", 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("dense", "run", "table", "plot"))
    parser.add_argument("--task", choices=tuple(HEADLINE), default="ctc")
    parser.add_argument("--manifest", type=Path, default=WORK / "words" / "manifest.jsonl")
    parser.add_argument("--corpus", default="arabic_commands", help="of the keywords")
    parser.add_argument("--model", type=Path, help="what all begin with, if not what `dense` made")
    parser.add_argument("--steps", type=int, default=4500, help="of `dense`")
    parser.add_argument("--out", type=Path, help="JSON lines, one a run; runs that are in it are not run again")
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--times", type=int, default=1, help="as many steps as the others have, of every method")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    if options.verb == "dense":
        dense(options)
        return
    if options.out is None:
        parser.error("--out is missing")
    if options.verb == "table":
        print(table(results_in(options.out)))
        return
    if options.verb == "plot":
        print(plot(results_in(options.out), WORK / "plot"))
        return
    cases = [
        {"task": options.task, "method": method, "seed": seed} | ({"times": options.times} if options.times > 1 else {})
        for seed in range(options.seeds)
        for method in options.methods or WANTED[options.task]
    ]
    run_missing(cases, lambda case: run_case(case, options), options.out, jobs=options.jobs)


if __name__ == "__main__":
    main()
