"""Spoken language understanding end to end at a scale that one core can learn: SLURP's sentences in synthetic voices.

A small wav2vec 2.0 is fine-tuned and then pruned to half of its MACs, on a subset that a rule chooses:
sentences of a few words from the most frequent intents that mostly have entities, without rare types of entities. No
voice is in two splits, and no sentence either, unless `--known N` asks for N sentences of each intent that all splits
say: a few hundred sentences do not suffice for learning to spell unknown ones. Needs SLURP's annotations
(github.com/pswietojanski/slurp, `dataset/slurp`) and `espeakng-loader`; what `prepare` writes is laid out as SLURP is,
and read as SLURP is.

    python benchmarks/slurp_synthetic.py prepare devel.jsonl --out runs/slurp --known 12
    python benchmarks/slurp_synthetic.py run --data runs/slurp --task slu
    python benchmarks/slurp_synthetic.py run --data runs/slurp --task classification
    python benchmarks/slurp_synthetic.py table
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

import small_wav2vec2
from runs import prune_alone
from secateur.data import channel
from secateur.data.corpus import SAMPLE_RATE
from secateur.data.espeak import Synthesizer, Voice
from secateur.data.sources import SyntheticData
from secateur.data.synthetic import voices_of
from secateur.tasks import slurp_tags

RECIPE = "peng2023/slurp/mac"
RESULTS = Path(__file__).parent / "results" / "slurp_synthetic.json"
WORDS = (3, 8)  # in a sentence
RARE = 10  # sentences with a type of entity, below which it is left out
SHARES = {"test": 0.2, "devel": 0.1}  # of the sentences of each intent; the rest is `train`
TAKES = {"train": 16, "devel": 2, "test": 4}  # voices that speak each sentence
VOICES = SyntheticData(voices=40)  # 28 for train, 4 for devel, 8 for test
PARTS = {"train": "train", "devel": "dev", "test": "test"}  # split here: split of the voices

Line = dict[str, Any]


def subset(lines: Iterable[Line], *, intents: int) -> dict[str, list[Line]]:
    """Lines of SLURP that can be learned from little, by intent: each sentence once, in the order of the file.

    A sentence has as many words as `WORDS` says, plain letters alone, and the words of its annotation. Of its intents
    those are taken that have most such sentences, among those with entities in at least half of them; then what has a
    rare type of entity is left out.
    """
    results: dict[str, list[Line]] = defaultdict(list)
    visited = set()
    for line in lines:
        sentence = line["sentence"]
        parts = slurp_tags.parse_brackets(line["sentence_annotation"].lower())
        plain = sentence.replace(" ", "").replace("'", "")
        fits = WORDS[0] <= len(sentence.split()) <= WORDS[1] and plain.isascii() and plain.isalpha()
        if fits and parts and " ".join(part.words for part in parts) == sentence and sentence not in visited:
            visited.add(sentence)
            results[f"{line['scenario']}_{line['action']}"].append(line)
    reported = {
        name: own_values
        for name, own_values in results.items()
        if sum(bool(types_of(line)) for line in own_values) * 2 >= len(own_values)
    }
    frequent_names = sorted(reported, key=lambda name: (-len(reported[name]), name))[:intents]
    counts = Counter(type for name in frequent_names for line in reported[name] for type in types_of(line))
    rare = {type for type, count in counts.items() if count < RARE}
    return {name: [line for line in reported[name] if not types_of(line) & rare] for name in frequent_names}


def types_of(line: Line) -> set[str]:
    """Types of the entities of a sentence."""
    return set(slurp_tags.entity_types([slurp_tags.parse_brackets(line["sentence_annotation"].lower()) or ()]))


def splits(lines_by_intent: dict[str, list[Line]]) -> dict[str, list[Line]]:
    """The sentences by split, in shares of each intent; no sentence is in two."""
    out: dict[str, list[Line]] = {split: [] for split in TAKES}
    draw = random.Random(0)
    for lines in lines_by_intent.values():
        rest = draw.sample(lines, len(lines))
        for split, share in SHARES.items():
            count = round(share * len(lines))
            out[split] += rest[:count]
            rest = rest[count:]
        out["train"] += rest
    return out


def known_sentences(lines_by_intent: dict[str, list[Line]], *, sentences: int) -> dict[str, list[Line]]:
    """So many sentences of each intent, the same in every split; those with entities first."""
    part_of = [
        line
        for lines in lines_by_intent.values()
        for line in sorted(lines, key=lambda line: not types_of(line))[:sentences]
    ]
    return {split: part_of for split in TAKES}


def write_corpus(parts: dict[str, list[Line]], folder: Path) -> None:
    """The sentences, spoken: annotations with the recordings' files, `slurp_real`, and `metadata.json` for the voices.

    Call it once in a process: espeak-ng repeats its bytes only for the same calls in a fresh one.
    """
    synthesiser, voices = Synthesizer(), voices_of(VOICES)
    (folder / "slurp_real").mkdir(parents=True)
    metadata: dict[str, Any] = {}
    num_made = 0
    for split, lines in parts.items():
        speakers, written_lines = voices[PARTS[split]], []
        for index, line in enumerate(lines):
            files = {}
            for take in range(TAKES[split]):
                name = f"audio-synthetic-{split}-{line['slurp_id']}-{take}.flac"
                voice = speakers[(index * TAKES[split] + take) % len(speakers)]
                samples = speak(synthesiser, line["sentence"], voice, seed=num_made)
                num_made += 1
                soundfile.write(folder / "slurp_real" / name, samples, SAMPLE_RATE, subtype="PCM_16")
                files[name] = {"usrid": voice.name}
            recordings = [{"file": name, "wer": None, "ent_wer": None, "status": "synthetic"} for name in files]
            written_lines.append(json.dumps(line | {"recordings": recordings}) + "\n")
            metadata.setdefault(str(line["slurp_id"]), {"recordings": {}})["recordings"] |= files
        (folder / f"{split}.jsonl").write_text("".join(written_lines))
    (folder / "metadata.json").write_text(json.dumps(metadata))


def speak(synthesiser: Synthesizer, sentence: str, voice: Voice, *, seed: int) -> np.ndarray[Any, Any]:
    """A sentence at 16 kHz, at a rate and a level of its own."""
    rng = np.random.default_rng(seed)
    varied_voice = replace(voice, rate=round(voice.rate * rng.uniform(0.92, 1.08)))
    spoken = synthesiser.synthesize(sentence, voice=varied_voice, seed=seed)
    wave = soxr.resample(spoken.samples.astype(np.float32) / 32768.0, spoken.sample_rate, SAMPLE_RATE)
    return channel.random_level(np.asarray(wave, dtype=np.float32), rng=rng)


def recipe_of(options: argparse.Namespace) -> dict[str, Any]:
    """The fields in which a run differs from the recipe: a small model, few steps, fine-tuned before it is pruned."""
    audio = {"kind": "slurp", "path": str(options.data)}
    finetune, learn, recover = options.steps
    common = {"warmup": 0.1, "precision": "bf16", "log_every": 20, "validate_every": 300, "save_every": 0}
    later_batches = common | {"learning_rate": options.rate / 3, "regularise": {"dropout": 0.0, "time_masks": 0.0}}
    # Gates and multipliers as in wang2023/reduced: what they need is a number of steps times a rate.
    gates = {"gate_learning_rate": 0.05, "gate_schedule": "constant", "multiplier_learning_rates": [5e-3, 2e-1]}
    phases = {
        "learn": later_batches | {"steps": learn, "decay": "none"} | gates,
        "recover": later_batches | {"steps": recover, "warmup": 0.0},
    }
    return {
        "model": str(options.model or small_wav2vec2.write(Path(options.work) / "start")),
        "data": audio | {"split": "train"},
        "validation": {"data": audio | {"split": options.split}, "seconds": 3600.0},
        "batching": {"seconds": options.seconds, "longest": 8.0, "shortest": 0.5, "accumulate": 1},
        "task": {"kind": options.task},
        "constraints": [{"cost": "macs", "ramp": [[0, 0], [0.5, 1]]}],
        "seed": options.seed,
        "finetune": common | {"steps": finetune, "learning_rate": options.rate},
    } | {f"{phase}.{name}": value for phase, fields in phases.items() for name, value in fields.items()}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Figures of the dense, fine-tuned model, of the cut one, and of the recovered one."""
    out = Path(options.work) / f"{options.task}-{options.split}-{options.seed}"
    record = prune_alone(RECIPE, recipe_of(options), out, resume=options.resume)
    return {
        "task": options.task,
        "split": options.split,
        "seed": options.seed,
        "rate": options.rate,
        "seconds_per_step": options.seconds,
        "data": {name: record["data"][name] for name in ("train", "validation")},
        "phases": record["phases"],
        "stages": [
            {name: stage[name] for name in ("name", "parameters", "macs", "scores")}
            | {"ms": stage["time"]["median_ms"]}
            for stage in record["stages"]
        ],
        "kept": [entry["counted"] / entry["dense"] for entry in record["constraints"]],
        "undecided": record["gates"]["undecided_share"],
        "holds": record["verification"]["holds"],
    }


COLUMNS = {
    "intent accuracy": ("intent_accuracy", "accuracy"),
    "SLU-F1": ("slu_f1",),
    "entity F1": ("entity_f1",),
    "WER": ("wer",),
}
NAMES = {"dense": "dense, fine-tuned", "shrunk": "pruned, as cut", "recovered": "pruned, recovered"}


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown."""
    head = ["task", "model", *COLUMNS, "parameters", "MACs, 1 s", "ms for 10 s"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for result in results:
        for stage in result["stages"]:
            scores = stage["scores"]
            metric_values = [
                next((f"{scores[n]:.1%}" for n in names if n in scores), "–") for names in COLUMNS.values()
            ]
            cells = [result["task"], NAMES[stage["name"]], *metric_values]
            cells += [f"{stage['parameters']:,}", f"{stage['macs']:,}", f"{stage['ms']:.0f}" if "ms" in stage else "–"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def prepare(options: argparse.Namespace) -> None:
    """Choose the subset, speak it, and say what it holds."""
    lines = [json.loads(line) for line in options.annotations.read_text().splitlines()]
    lines_by_intent = subset(lines, intents=options.intents)
    parts = known_sentences(lines_by_intent, sentences=options.known) if options.known else splits(lines_by_intent)
    write_corpus(parts, options.out)
    print(", ".join(f"{name} {len(own_values)}" for name, own_values in lines_by_intent.items()))
    types = Counter(type for own_values in lines_by_intent.values() for line in own_values for type in types_of(line))
    print(", ".join(f"{type} {count}" for type, count in types.most_common()))
    for split, mine in parts.items():
        print(f"{split}: {len(mine)} sentences, {len(mine) * TAKES[split]} recordings")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("prepare")
    making.add_argument("annotations", type=Path, help="a file of SLURP's annotations")
    making.add_argument("--out", type=Path, required=True)
    making.add_argument("--intents", type=int, default=6)
    making.add_argument("--known", type=int, metavar="N", help="N sentences of each intent, the same in all splits")
    running = verbs.add_parser("run")
    running.add_argument("--data", type=Path, required=True, help="what `prepare` wrote")
    running.add_argument("--work", type=Path, default=Path("runs/slurp_synthetic"))
    running.add_argument("--task", choices=("slu", "classification"), default="slu")
    running.add_argument("--model", type=Path, help="what is fine-tuned; by default a small wav2vec 2.0")
    running.add_argument("--split", choices=("devel", "test"), default="test", help="what is scored")
    running.add_argument("--steps", type=int, nargs=3, default=(1500, 600, 400), help="finetune, learn, recover")
    running.add_argument("--seconds", type=float, default=8.0, help="audio in a step")
    running.add_argument("--rate", type=float, default=3e-3, help="learning rate of fine-tuning; a third of it after")
    running.add_argument("--seed", type=int, default=0)
    running.add_argument("--resume", action="store_true", help="go on behind the last phase of an interrupted run")
    for verb in (running, verbs.add_parser("table")):
        verb.add_argument("--results", type=Path, default=RESULTS, help="JSON, one entry a task")
    options = parser.parse_args()
    if options.verb == "prepare":
        prepare(options)
        return
    results = json.loads(options.results.read_text()) if options.results.exists() else []
    if options.verb == "run":
        remaining_items = [result for result in results if result["task"] != options.task]
        results = [*remaining_items, run(options)]
        options.results.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
