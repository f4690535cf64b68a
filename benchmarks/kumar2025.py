"""The grid of Kumar et al. 2025 in miniature: a small FastConformer pruned first, or together with an RNN-T.

    python benchmarks/kumar2025.py prepare --speech SPEECH/manifest.jsonl
    python benchmarks/kumar2025.py run --cells dense joint/l0_kd first/l0_kd --seeds 3 --out results.jsonl
    python benchmarks/kumar2025.py run --cells streaming/dense streaming/joint/l0_kd --out results.jsonl
    python benchmarks/kumar2025.py table --out results.jsonl
    python benchmarks/kumar2025.py stream --cells streaming/joint/l0_kd

`prepare` makes connected digits of single ones, a tokenizer of ten words, and pre-trains an encoder by BEST-RQ on these
and other speech, without what is said; `--streaming` makes the encoder of the cells that stream. A cell is a recipe
below `kumar2025` at the scale that is told here. Of the order `first`, it prunes the encoder without labels, and
`first/rnnt` trains an RNN-T on what is left, for as many steps as the dense RNN-T has; of the order `joint`, learning
and recovering together take as many. Every run has a process and one thread of its own. Scores are of the test split,
which nothing is chosen by. `stream` decodes what cells left chunk by chunk, and the same utterances heard at once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runs import prune_alone, results_in, run_missing

WORK = Path("runs/kumar2025")
ROOT = "kumar2025"
METHODS = ("kd", "lrf", "l0", "lrf_kd", "l0_kd")
STREAMING = "streaming/"
ORDERS = ("dense", *(f"{order}/{method}" for order in ("joint", "first") for method in METHODS))
CELLS = tuple(prefix + name for prefix in ("", STREAMING) for name in ORDERS)
#: The cells whose figures benchmarks/README.md is to have, of three seeds; and the best of them streaming.
NAMED = ("dense", "joint/l0", "joint/l0_kd", "joint/lrf_kd", "first/l0_kd")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

#: The encoder: 0.7 million parameters, 12.5 frames a second.
ENCODER = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "subsampling_conv_channels": 32,
    "subsampling_factor": 8,
    "num_mel_bins": 64,
}
KINDS: dict[str, dict[str, Any]] = {
    "offline": {"model_type": "parakeet_encoder"},
    "streaming": {
        "model_type": "nemotron_asr_streaming_encoder",
        "sliding_window": 13,
        "default_num_lookahead_tokens": 1,
    },
}
#: Speech that the encoder is pre-trained on beside the training strings, without what is said in it.
UNLABELED = ("librispeech_clean", "librispeech_100", "speechocean762")

LEARN, RECOVER = 700, 500
#: Steps without labels of the order `first`, before as many with them as the others have.
UNLABELED_STEPS = (300, 200)
#: Of `stream`: utterances of the test, and frames heard ahead.
UTTERANCES, LOOKAHEADS = 50, (0, 1, 3)

#: Of every phase, and of those that learn to write.
PHASE = {
    "learning_rate": 5e-4,
    "clip": 1.0,
    "precision": "fp32",
    "save_every": 0,
    "validate_every": 0,
    "regularise.dropout": 0.0,
}
HEAD_RATE = 2e-3
#: Of imitation beside the transducer's loss; of 0.1, 0.3 and 1 the best on takes that are in neither split.
IMITATION = 0.3
TASK = {
    "task": {"kind": "rnnt", "tokenizer": str(WORK / "tokenizer"), "width": 96, "symbols": 3},
    "learn.head_learning_rate": HEAD_RATE,
    "recover.head_learning_rate": HEAD_RATE,
}


def scale(cell: str, options: argparse.Namespace) -> dict[str, Any]:
    """What makes a recipe of the grid as small as two cores want it."""
    words: dict[str, Any] = {"kind": "jsonl", "path": str(options.manifest), "scan": False}
    fields: dict[str, Any] = {
        "data": words | {"split": "train"},
        "validation": {"data": words | {"split": "test"}, "seconds": 1000.0},
        "batching": {"seconds": 16.0, "longest": 6.0, "shortest": 0.5, "accumulate": 1},
        "constraints": [{"cost": "parameters", "ramp": [[0, 0], [0.5, 1]]}],
        "learn.decay": "none",
        "learn.gate_learning_rate": 0.1,
        "learn.multiplier_learning_rates": [0.005, 0.2],
        "learn.gate_schedule": "constant",
        "recover.warmup": 0.0,
    }
    for phase in ("learn", "recover"):
        fields |= {f"{phase}.{name}": value for name, value in PHASE.items()}
    for kind in ("rank",) if "lrf" in cell else ("channels", "heads", "units"):
        fields[f"gates.{kind}.drop_rate"] = 0.05
    if cell.startswith("joint/") and cell.endswith("kd"):
        fields["distill.weight"] = options.imitation
    return fields


def prepare(options: argparse.Namespace) -> None:
    """Make what every cell begins with, as far as it is not there."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    import secateur

    torch.set_num_threads(1)
    if not options.manifest.is_file():
        script_path = Path(__file__).with_name("connected_words.py")
        command = [sys.executable, str(script_path), str(options.speech), "--corpus", "fsdd"]
        subprocess.run([*command, "--out", str(options.manifest.parent)], check=True)
    if not (WORK / "tokenizer").is_dir():
        tokens = {word: number for number, word in enumerate(("<pad>", "<unk>", *WORDS))}
        word_tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="<unk>"))
        word_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        fast_tokenizer = PreTrainedTokenizerFast(tokenizer_object=word_tokenizer, pad_token="<pad>", unk_token="<unk>")
        fast_tokenizer.save_pretrained(WORK / "tokenizer")
    unlabeled = write_unlabeled(options)
    for kind in ("offline", *(["streaming"] if options.streaming else [])):
        if (WORK / kind / "model").is_dir():
            continue
        fields = {
            "out": str(WORK / kind),
            "data": {"kind": "jsonl", "path": str(unlabeled), "scan": False},
            "encoder.fields": ENCODER | KINDS[kind],
            "seconds": 32.0,
            "crop": 4.0,
            "task.entries": 256,
            "task.mask_share": 0.4,
            "task.mask_span": 4,
            "rate": 3e-3,
            "warmup": 50,
            "loop": {"steps": options.steps, "precision": "fp32", "log_every": 20, "validate_every": 0},
        }
        record = secateur.pretrain("chiu2022", overrides=fields)
        print(f"{WORK / kind}/model: {record.parameters} parameters, {dict(record.dev)}")


def write_unlabeled(options: argparse.Namespace) -> Path:
    """The manifest of what the encoder is pre-trained on."""
    out, lines = WORK / "unlabeled.jsonl", []
    for manifest in (options.speech, options.manifest):
        for line in manifest.read_text().splitlines():
            row = json.loads(line)
            if row["split"] == "train" and row.get("corpus", UNLABELED[0]) in UNLABELED:
                lines.append(json.dumps({"audio": str(manifest.parent.resolve() / row["audio"])}))
    out.write_text("\n".join(lines) + "\n")
    return out


def run_case(case: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """One cell: a run, or two in the order `first`."""
    cell, seed = case["cell"], case["seed"]
    name = cell.removeprefix(STREAMING)
    folder = WORK / "cells" / f"{cell}-{seed}"
    learn, recover = options.learn, options.recover
    prefix = cell.removesuffix(name)
    fields = scale(name, options) | {"seed": seed, "model": str(WORK / (prefix.strip("/") or "offline") / "model")}
    records = []
    if name.startswith("first/"):
        for phase, steps in zip(("learn", "recover"), UNLABELED_STEPS, strict=True):
            fields[f"{phase}.steps"] = steps
        if name == "first/kd":
            fields["recover.steps"] = sum(UNLABELED_STEPS)
        records.append(prune_alone(f"{ROOT}/{cell}", fields, folder / "encoder"))
        fields["model"], name = str(folder / "encoder" / "model"), "first/rnnt"
    gated = name.startswith("joint/") and name != "joint/kd"
    steps = {"learn.steps": learn, "recover.steps": recover} if gated else {"recover.steps": learn + recover}
    if not gated:
        steps |= {"recover.warmup": 0.1}
    records.append(prune_alone(f"{ROOT}/{prefix}{name}", fields | TASK | steps, folder / "rnnt"))
    first_stage, last_stage = records[0]["stages"][0], records[-1]["stages"][-1]
    return case | {
        "scores": last_stage["scores"],
        "parameters": last_stage["parameters"] / first_stage["parameters"],
        "macs": last_stage["macs"] / first_stage["macs"],
        "times_as_fast": first_stage["time"]["median_ms"] / last_stage["time"]["median_ms"],
        "undecided": records[0]["gates"].get("undecided_share"),
        "steps": [{phase["name"]: phase["steps"] for phase in record["phases"]} for record in records],
        "seconds": sum(phase["seconds"] for record in records for phase in record["phases"]),
    }


def stream(options: argparse.Namespace) -> str:
    """Tokens of fifty utterances of the test, chunk by chunk and heard at once, by lookahead, as Markdown."""
    import torch

    from secateur.data.input_features import ExtractedFeatures
    from secateur.data.open import open_corpus
    from secateur.data.sources import JsonlData
    from secateur.hf.declare import declare
    from secateur.hf.feature_extractor import load_input_features
    from secateur.hf.load import load_model
    from secateur.tasks import decoding

    torch.set_num_threads(1)
    corpus = open_corpus(JsonlData(path=str(options.manifest), split="test", scan=False))
    lines = ["| cell | seed | lookahead | utterances | the same tokens | tokens |", "|" + "---|" * 6]
    for cell in options.cells:
        for seed in range(options.seeds):
            folder = WORK / "cells" / f"{cell}-{seed}" / "rnnt" / "model"
            model: Any = load_model(folder).eval()
            input_features_of, blank = load_input_features(folder, declare(model.config)), model.config.blank_token_id
            assert isinstance(input_features_of, ExtractedFeatures)
            input_values = [input_features_of([corpus.audio(index)])[0] for index in range(UTTERANCES)]
            for lookahead in LOOKAHEADS:
                same, tokens = 0, 0
                for features in input_values:
                    full_result = {"input_features": decoding.pad_to_chunks(model, features, lookahead=lookahead)}
                    ways = (
                        decode(model, full_result, lookahead=lookahead) for decode in (decoding.greedy, decoding.stream)
                    )
                    at_once, chunks = ([token for token in way[0].tolist() if token != blank] for way in ways)
                    same, tokens = same + (at_once == chunks), tokens + len(chunks)
                lines.append(f"| {cell} | {seed} | {lookahead} | {len(input_values)} | {same} | {tokens} |")
    return "\n".join(lines)


def table(results: Sequence[dict[str, Any]], baseline: str = "dense") -> str:
    """The results as Markdown: means and standard deviations over seeds, and errors against a cell.

    Args:
        results: Of runs.
        baseline: A cell that does not stream; those that do are compared with the one that does.
    """
    columns = ("cell", "WER", "per seed", f"relative to {baseline}", "parameters", "MACs", "faster", "seconds")
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for cell in CELLS:
        rows = sorted((row for row in results if row["cell"] == cell), key=lambda row: int(row["seed"]))
        if not rows:
            continue
        rates = [100 * row["scores"]["wer"] for row in rows]
        twin = STREAMING * cell.startswith(STREAMING) + baseline
        base = {row["seed"]: 100 * row["scores"]["wer"] for row in results if row["cell"] == twin}
        pairs = [(100 * row["scores"]["wer"], base[row["seed"]]) for row in rows if row["seed"] in base]
        against = ""
        if pairs and cell != twin:
            actual, reference = (statistics.mean(side) for side in zip(*pairs, strict=True))
            against = f"{actual / reference - 1:+.1%}"
        shares = [f"{statistics.mean(row[key] for row in rows):.1%}" for key in ("parameters", "macs")]
        cells = [
            cell,
            f"{statistics.mean(rates):.2f} %" + (f" ± {statistics.stdev(rates):.2f}" if len(rates) > 1 else ""),
            " ".join(f"{rate:.2f}" for rate in rates),
            against,
            *shares,
            f"{statistics.mean(row['times_as_fast'] for row in rows):.2f}",
            f"{statistics.mean(row['seconds'] for row in rows):.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Prepare, measure, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("prepare", "run", "table", "stream"))
    parser.add_argument("--speech", type=Path, help="manifest of single words and of other speech, for `prepare`")
    parser.add_argument("--streaming", action="store_true", help="pre-train the streaming encoder too")
    parser.add_argument("--steps", type=int, default=450, help="of pre-training")
    parser.add_argument("--manifest", type=Path, default=WORK / "words" / "manifest.jsonl")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=NAMED, metavar="CELL", help=", ".join(CELLS))
    parser.add_argument("--baseline", choices=ORDERS, default="dense", metavar="CELL", help="of the table's comparison")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learn", type=int, default=LEARN)
    parser.add_argument("--recover", type=int, default=RECOVER)
    parser.add_argument("--imitation", type=float, default=IMITATION, help="weight of KD beside the transducer's loss")
    parser.add_argument("--out", type=Path, help="JSON lines, one a run; runs that are in it are not run again")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    if options.verb == "prepare":
        if options.speech is None:
            parser.error("--speech is missing")
        prepare(options)
        return
    if options.verb == "stream":
        print(stream(options))
        return
    if options.out is None:
        parser.error("--out is missing")
    if options.verb == "run":
        cases = [{"cell": cell, "seed": seed} for seed in range(options.seeds) for cell in options.cells]
        run_missing(cases, lambda case: run_case(case, options), options.out, jobs=options.jobs)
    print(table(results_in(options.out), options.baseline))


if __name__ == "__main__":
    main()
