"""Strings of single spoken words joined into utterances, with their text: a recognition task that two cores can learn.

    python benchmarks/connected_words.py SPEECH/manifest.jsonl --corpus fsdd --out runs/words

`manifest.jsonl` has one recording of one word in each line (`audio`, `label`, `speaker`, `split`, and `take` where the
corpus numbers the takes of a word); what is written is a folder of WAV files with a manifest of its own. All words of
a string are of one speaker. Where takes are numbered, those below `--held-takes` make the split `test` and the rest
`train`, as the free spoken digits divide themselves, so that every speaker is in both; else the splits stay.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE = 16_000
PAUSE = (0.03, 0.15)  # seconds between two words
WORDS = (3, 6)  # in a string


def split_of(row: dict[str, Any], held_takes: int) -> str:
    """The split of a recording."""
    if "take" in row:
        return "test" if row["take"] < held_takes else "train"
    return str(row["split"])


def strings(rows: list[dict[str, Any]], draw: random.Random) -> list[list[dict[str, Any]]]:
    """Every recording once, shuffled, in strings; a remainder of one or two words joins the last string."""
    rows = rows[:]
    draw.shuffle(rows)
    out: list[list[dict[str, Any]]] = []
    while rows:
        count = draw.randint(*WORDS)
        count = count if len(rows) - count >= WORDS[0] else len(rows)
        out.append(rows[:count])
        rows = rows[count:]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--corpus", required=True, help="the `corpus` of the recordings that are taken")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--held-takes", type=int, default=5)
    parser.add_argument("--train-passes", type=int, default=8, help="in how many strings each training word is")
    parser.add_argument("--test-passes", type=int, default=3)
    options = parser.parse_args()

    draw = random.Random(0)
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in options.manifest.read_text().splitlines():
        row = json.loads(line)
        if row["corpus"] == options.corpus:
            groups[split_of(row, options.held_takes), row["speaker"]].append(row)
    options.out.mkdir(parents=True, exist_ok=True)
    lines = []
    for (split, speaker), rows in sorted(groups.items()):
        passes = options.train_passes if split == "train" else options.test_passes
        for string in (string for _ in range(passes) for string in strings(rows, draw)):
            name = f"{split}-{speaker}-{len(lines):05}.wav"
            parts = []
            for row in string:
                audio, rate = soundfile.read(options.manifest.parent / row["audio"], dtype="float32")
                assert rate == RATE, f"{row['audio']} has {rate} Hz"
                parts += [audio, np.zeros(round(draw.uniform(*PAUSE) * RATE), dtype=np.float32)]
            soundfile.write(options.out / name, np.concatenate(parts), RATE, subtype="PCM_16")
            text = " ".join(row["label"] for row in string)
            lines.append({"audio": name, "text": text, "speaker": speaker, "split": split})
    (options.out / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for split in sorted({line["split"] for line in lines}):
        subset = [line for line in lines if line["split"] == split]
        print(f"{split}: {len(subset)} strings, {sum(len(line['text'].split()) for line in subset)} words")


if __name__ == "__main__":
    main()
