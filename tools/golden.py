"""Run five short, seeded recipes and print the SHA-256 of everything that must not change with a refactoring.

    python tools/golden.py runs/golden_before > before.txt   # in a checkout of the old commit
    python tools/golden.py runs/golden_after > after.txt     # in a checkout of the new one, on the same machine
    diff before.txt after.txt

The recipes: the quickstart, `wang2023/reduced`, `peng2023/reduced` (a task: CTC), `kumar2025/joint/l0_kd` (a
FastConformer with an RNN-T) and `tiny_teacher` (pretraining). Audio is seeded noise, or the synthetic corpus; models
are the packaged teacher or small random ones that this script writes. For each run the log `metrics.jsonl`, the choice
`selection.json` and the weights of the written model are hashed. Results repeat byte for byte on one machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch

SAMPLE_RATE = 16_000
TEXTS = ("ab", "ba", "a b", "b", "aa", "b")
COMMON = ("--learn.save_every", "0", "--recover.save_every", "0")


def write_speech(folder: Path) -> Path:
    """Write twelve recordings of seeded noise, 0.5 to 1.1 s long, and return their manifest, which holds texts."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for index in range(12):
        waveform = 0.1 * rng.standard_normal(int(SAMPLE_RATE * (0.5 + 0.05 * index)))
        soundfile.write(folder / f"{index:02}.wav", waveform, SAMPLE_RATE)
        split = "test" if index % 4 == 3 else "train"
        lines.append({"audio": f"{index:02}.wav", "text": TEXTS[index % 6], "split": split})
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return manifest


def write_conformer(folder: Path) -> Path:
    """Write a random FastConformer of two layers with its feature extractor, and return its folder."""
    from transformers import ParakeetEncoder, ParakeetEncoderConfig, ParakeetFeatureExtractor

    torch.manual_seed(0)
    config = ParakeetEncoderConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        subsampling_conv_channels=8,
        num_mel_bins=16,
        conv_kernel_size=5,
    )
    ParakeetEncoder(config).save_pretrained(folder)
    ParakeetFeatureExtractor(feature_size=16).save_pretrained(folder)
    return folder


def commands(folder: Path) -> dict[str, list[str]]:
    """Return the arguments of `secateur` for each run, by the run's name."""
    manifest = str(write_speech(folder / "speech"))
    conformer = str(write_conformer(folder / "conformer"))
    steps = ["--learn.steps", "24", "--recover.steps", "8", *COMMON]
    train = ["--data.kind", "jsonl", "--data.path", manifest, "--data.split", "train"]
    test = f"{{data: {{kind: jsonl, path: {json.dumps(manifest)}, split: test}}, seconds: 2.0}}"
    speech = [*train, "--data.scan", "false", "--validation", test]
    short = ["--batching", "{seconds: 2.0, longest: 1.2, shortest: 0.1, accumulate: 1}"]
    return {
        "quickstart": ["prune", *steps, "--data.utterances", "60", "--validation.seconds", "10"],
        "wang2023": ["prune", "wang2023/reduced", *steps, "--data.utterances", "60", "--validation.seconds", "10"],
        "peng2023": ["prune", "peng2023/reduced", "--model", "tiny", *steps, *speech, *short],
        "kumar2025": [
            *["prune", "kumar2025/joint/l0_kd", "--model", conformer, *steps, *speech, *short],
            *["--task.width", "12", "--target", "0.7", "--learn.precision", "fp32", "--recover.precision", "fp32"],
        ],
        "tiny_teacher": [
            *["pretrain", "tiny_teacher", "--data.utterances", "60", "--loop.steps", "6", "--loop.precision", "fp32"],
            *["--front_steps", "3", "--loop.save_every", "0", "--loop.validate_every", "3", "--loop.log_every", "1"],
        ],
    }


def digests(run: Path) -> list[str]:
    """Return a line for each file of a run that has to repeat: its SHA-256, and its path inside the run."""
    names = ("metrics.jsonl", "selection.json", "model.safetensors")
    files = sorted(file for file in run.rglob("*") if file.name in names)
    return [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {run.name}/{file.relative_to(run)}" for file in files]


def main() -> int:
    parser = argparse.ArgumentParser(description="Print the SHA-256 of what five short, seeded runs write.")
    parser.add_argument("folder", type=Path, help="a new folder for the runs")
    folder = parser.parse_args().folder
    if folder.exists():
        parser.error(f"{str(folder)!r} exists; expected a new folder.")
    folder.mkdir(parents=True)
    for name, arguments in commands(folder).items():
        out = folder / name
        subprocess.run([sys.executable, "-m", "secateur", *arguments, "--out", str(out)], check=True, stdout=sys.stderr)
        print("\n".join(digests(out)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
