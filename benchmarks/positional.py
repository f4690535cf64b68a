"""The groups of the positional convolution: what removing some of them saves, and what gating them costs.

    python benchmarks/positional.py time
    python benchmarks/positional.py fidelity --out positional.jsonl

`time` measures the positional convolution of Base on its own, with fewer groups and, beside it, with fewer taps.
`fidelity` prunes the packaged teacher to the same budget with groups left whole and with groups gated, all else as in
the recipe quickstart; runs that are in the file already are not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import HubertConfig, HubertModel

import secateur
from attention import FRAMES, medians
from runs import prune_alone
from secateur.structure import Selection
from secateur.surgery import cut
from wav2vec2_axes import positional_groups

GATE = {"drop_rate": 0.05}  # what quickstart gives the other kinds


def convolution(*, groups: int = 16, taps: int = 128, fast: bool) -> Callable[[], Any]:
    """The positional convolution of Base with the first groups only, or with fewer taps, on ten seconds of audio."""
    model = HubertModel(HubertConfig(num_hidden_layers=1, num_conv_pos_embeddings=taps)).eval()
    small: Any = cut(model, Selection(axes={positional_groups(): tuple(range(groups))}))
    module = (secateur.for_inference(small) if fast else small).encoder.pos_conv_embed
    hidden = torch.randn(1, FRAMES, 768)
    return lambda: module(hidden)


@torch.no_grad()
def time() -> None:
    """Print milliseconds by shape and form."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    shapes = [{"groups": groups} for groups in (16, 12, 8, 4, 2, 1)]
    shapes += [{"taps": taps} for taps in (96, 64, 32)]
    print("| kept | as it is | for_inference |\n|---|---|---|")
    for shape in shapes:
        cells = []
        for fast in (False, True):
            timings = medians({"whole": convolution(fast=fast), "kept": convolution(**shape, fast=fast)})
            cells.append(f"{timings['kept']:.2f} ms, {timings['kept'] / timings['whole']:.2f} of whole")
        kept_label = f"{shape['groups']} of 16 groups" if "groups" in shape else f"{shape['taps']} of 128 taps"
        print(f"| {kept_label} | {' | '.join(cells)} |")


def fidelity(options: argparse.Namespace) -> None:
    """Run what is not in the results yet, then print all of them."""
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    done = [json.loads(line) for line in lines]
    for seed in options.seeds:
        for gated in (False, True):
            case = {"target": options.target, "seed": seed, "gated": gated}
            if any(case.items() <= result.items() for result in done):
                continue
            with tempfile.TemporaryDirectory() as work:
                fields = {"seed": seed, "target": options.target} | ({"gates.groups": GATE} if gated else {})
                record = prune_alone("quickstart", fields, Path(work) / "run")
            stage = record["stages"][-1]
            (axis,) = [axis for axis in record["axes"] if axis["kind"] == "groups"]
            metric_values = {name: stage[name] for name in ("loss", "cosine", "parameters", "macs")}
            done.append(case | metric_values | {"groups": axis["kept"]})
            with options.out.open("a") as handle:
                handle.write(json.dumps(done[-1]) + "\n")
    print(table(done))


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown: means over seeds, and every seed."""
    columns = ("kept", "groups", "held-out loss", "per seed", "cosine of the last layer", "parameters", "MACs, 1 s")
    columns += ("groups left",)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for target in sorted({result["target"] for result in results}, reverse=True):
        for gated in (False, True):
            rows = [r for r in results if (r["target"], r["gated"]) == (target, gated)]
            if not rows:
                continue
            losses = [row["loss"] for row in rows]
            spread_text = f" ± {statistics.stdev(losses):.4f}" if len(losses) > 1 else ""
            cells = (
                f"{target:.0%}",
                "gated" if gated else "whole",
                f"{statistics.mean(losses):.4f}{spread_text}",
                " ".join(f"{loss:.4f}" for loss in losses),
                f"{statistics.mean(row['cosine'][-1] for row in rows):.4f}",
                *(f"{min(r[c] for r in rows):,} to {max(r[c] for r in rows):,}" for c in ("parameters", "macs")),
                " ".join(str(row["groups"]) for row in rows),
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure time or fidelity."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("time", "fidelity"))
    parser.add_argument("--out", type=Path, help="of fidelity: JSON lines, one a run")
    parser.add_argument("--target", type=float, default=0.25, help="share of the parameters that is kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    if options.what == "time":
        time()
    elif options.out is None:
        parser.error("fidelity needs --out")
    else:
        fidelity(options)


if __name__ == "__main__":
    main()
