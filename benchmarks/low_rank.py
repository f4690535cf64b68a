"""Low rank against narrower layers at equal counted multiply-accumulates: measured speed, and fidelity.

Speed: WavLM Base with random weights, batch 1. Of each share of the dense model's MACs there is one model with fewer
ranks in every linear map of its layers, one with fewer feed-forward units and query/key and value/output dimensions,
the same share of every axis, and one with whole heads in place of dimensions. All are measured in turn, in one run.

Fidelity: the packaged teacher, `secateur prune quickstart` with a constraint on MACs, each run in a process of its own
with one thread; ranks against units and head dimensions, learned by gates or chosen by size, with as many steps in all.

    python benchmarks/low_rank.py speed --out benchmarks/results/low_rank_speed.jsonl
    python benchmarks/low_rank.py fidelity --manifest speech.jsonl --out benchmarks/results/low_rank.jsonl
    python benchmarks/low_rank.py table --out benchmarks/results/low_rank.jsonl
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runs import prune_alone, results_in, run_missing

LINEARS = ("q_proj", "k_proj", "v_proj", "out_proj", "intermediate_dense", "output_dense")
#: Kinds of axes that are pruned, by the name of the case.
SHAPES = {"ranks": ("rank",), "units and dimensions": ("units", "qk", "vo"), "units and heads": ("units", "heads")}
METHODS: dict[str, dict[str, Any]] = {
    f"{how}, {name}": {
        "factorise": {"linears": LINEARS} if "rank" in kinds else None,
        "gates": {"channels": None, "heads": None, "units": None} | {kind: {"drop_rate": 0.05} for kind in kinds},
        "choose": {"kind": "gates"} if how == "learned" else {"kind": "score", "score": "magnitude", "kinds": kinds},
    }
    for name, kinds in (("ranks", ("rank",)), ("units and dimensions", ("units", "qk", "vo")))
    for how in ("learned", "by size")
}


def write_shapes(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """A config folder for each shape, with the MACs that it was counted to have."""
    from transformers import WavLMConfig

    from secateur.cost import Cost, Terms
    from secateur.hf.declare import declare
    from secateur.hf.model_view import ConfigView
    from secateur.surgery.choose import choose_uniform_share
    from secateur.surgery.cut import cut_config
    from secateur.surgery.factorize import factorized_config, resolve_ranks
    from secateur.surgery.importance import order_scores
    from secateur.surgery.limits import CostLimit

    dense = WavLMConfig()
    samples = round(16_000 * options.seconds)
    dense.save_pretrained(options.work / "dense")
    macs = Cost.from_terms(Terms(declare(dense)), cost="macs", samples=samples).dense
    results: dict[str, dict[str, Any]] = {str(options.work / "dense"): {"shape": "dense", "share": 1.0, "macs": macs}}
    for name, kinds in SHAPES.items():
        config = (
            factorized_config(ConfigView(dense), resolve_ranks(declare(dense), LINEARS)).config
            if "rank" in kinds
            else dense
        )
        structure = declare(config)
        cost = Cost.from_terms(Terms(structure), cost="macs", samples=samples)
        for share in options.shares:
            choice = choose_uniform_share(
                structure, order_scores(structure), kinds, [CostLimit(name="macs", cost=cost, share=share)]
            )
            folder = options.work / f"{name.replace(' ', '_')}-{share:g}"
            cut_config(ConfigView(config), structure, choice.selection).config.save_pretrained(folder)
            results[str(folder)] = {"shape": name, "share": share, "macs": choice.counted_costs["macs"]}
    return results


def speed(options: argparse.Namespace) -> str:
    """Measure every shape in turn, and write one line of JSON for each."""
    from secateur.benchmarking.bench import BenchConfig, bench

    shapes = write_shapes(options)
    record = bench(
        BenchConfig(
            models=tuple(shapes),
            seconds=(options.seconds,),
            threads=(options.threads,),
            repeats=options.repeats,
            memory=False,
        )
    ).to_dict()
    dense = {row["form"]: row["median_ms"] for row in record["rows"] if shapes[row["model"]]["shape"] == "dense"}
    macs = next(shape["macs"] for shape in shapes.values() if shape["shape"] == "dense")
    lines = ["| shape | MACs kept | form | median (spread) | speed-up |", "|---|---|---|---|---|"]
    with options.out.open("a") as handle:
        for row in record["rows"]:
            shape = shapes[row["model"]]
            kept_units, faster = shape["macs"] / macs, dense[row["form"]] / row["median_ms"]
            fields = {name: row[name] for name in ("form", "median_ms", "low_ms", "high_ms", "threads", "seconds")}
            handle.write(json.dumps(shape | fields | {"kept": kept_units, "speed_up": faster}) + "\n")
            spread_text = f"{row['median_ms']:.0f} ms ({row['low_ms']:.0f}–{row['high_ms']:.0f})"
            lines.append(f"| {shape['shape']} | {kept_units:.1%} | {row['form']} | {spread_text} | {faster:.2f} |")
    return "\n".join(lines)


def run_case(case: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """One run in a process of its own; without a learn phase it recovers for the steps of both."""
    by_size = METHODS[case["method"]]["choose"]["kind"] == "score"
    fields: dict[str, Any] = {
        "seed": case["seed"],
        "target": None,
        "constraints": [{"cost": "macs", "target": case["share"], "ramp": [[0, 0], [0.5, 1]]}],
        "learn.steps": options.learn,
        "recover.steps": options.recover + options.learn * by_size,
    }
    if options.manifest is not None:
        audio = {"kind": "jsonl", "path": str(options.manifest), "scan": False}
        fields["data"] = audio | {"where": {"split": ["train"]}}
        fields["validation.data"] = audio | {"where": {"split": ["dev"]}}
    out = Path(options.work) / "-".join(str(value) for value in case.values()).replace(" ", "_").replace(",", "")
    record = prune_alone("quickstart", fields | METHODS[case["method"]], out)
    stages = {stage["name"]: stage for stage in record["stages"]}
    return case | {
        "speech": "synthetic" if options.manifest is None else options.manifest.name,
        "steps": {phase["name"]: phase["steps"] for phase in record["phases"]},
        "kept": record["constraints"][0]["counted"] / record["constraints"][0]["dense"],
        "loss_shrunk": stages["shrunk"]["loss"],
        "loss": stages["recovered"]["loss"],
        "cosine": stages["recovered"]["cosine"],
        "parameters": stages["recovered"]["parameters"],
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown: means and standard deviations over seeds."""
    lines = ["| share of MACs | method | kept by count | held-out loss | last cosine |", "|---|---|---|---|---|"]
    for share in sorted({result["share"] for result in results}, reverse=True):
        for method in METHODS:
            rows = [result for result in results if (result["share"], result["method"]) == (share, method)]
            if not rows:
                continue
            losses, cosines = [row["loss"] for row in rows], [row["cosine"][-1] for row in rows]
            spread_text = f" ± {statistics.stdev(losses):.4f}" if len(losses) > 1 else ""
            num_kept = statistics.mean(row["kept"] for row in rows)
            lines.append(
                f"| {share:.0%} | {method} | {num_kept:.2%} | {statistics.mean(losses):.4f}{spread_text} | "
                f"{statistics.mean(cosines):.4f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure what is asked for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "fidelity", "table"])
    parser.add_argument("--out", type=Path, required=True, help="JSON lines; runs that are in it are not run again")
    parser.add_argument("--work", type=Path, default=Path("runs/low_rank"))
    parser.add_argument("--shares", type=float, nargs="+", default=[0.8, 0.7, 0.6])
    parser.add_argument("--seconds", type=float, default=10.0, help="of audio, for MACs and speed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--manifest", type=Path, help="a JSONL manifest with the field split; none: synthetic speech")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learn", type=int, default=160)
    parser.add_argument("--recover", type=int, default=160)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    if options.what == "speed":
        print(speed(options))
        return
    if options.what == "fidelity":
        cases = [
            {"method": method, "share": share, "seed": seed}
            for seed in range(options.seeds)
            for share in options.shares
            for method in METHODS
        ]
        run_missing(cases, lambda case: run_case(case, options), options.out, jobs=options.jobs)
    print(table(results_in(options.out)))


if __name__ == "__main__":
    main()
