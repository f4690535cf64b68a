"""Synthetic speech: random sentences in many voices, with text, speaker and word timings.

espeak-ng is reproducible only for the same sequence of calls in a fresh process, so a corpus is made by
`python -m secateur.data.synthetic` in a separate process and stored in a cache folder, whose name is a hash of the
config, the version of espeak-ng and the format.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from secateur.cache import cache_folder
from secateur.data import channel, espeak
from secateur.data.corpus import SAMPLE_RATE, Corpus, Utterance
from secateur.data.sentences import sentence
from secateur.data.sources import SyntheticData
from secateur.errors import DataError

logger = logging.getLogger(__name__)

_ACCENT_NAMES = "en-US en en-GB-scotland en-US-nyc en-029 en-GB-x-rp en-GB-x-gbclan en-GB-x-gbcwmd"
ACCENTS: tuple[str, ...] = tuple(f"gmw/{name}" for name in _ACCENT_NAMES.split())
# Timbres. espeak-ng's robots, whispers and joke voices are left out, since no person sounds like them.
_VARIANT_NAMES = """
    f1 m1 Andrea Denis klatt f2 m2 Alicia Diogo klatt2 f3 m3 Annie Gene klatt3 f4 m4 anika Henrique klatt4
    f5 m5 aunty Hugo adam belinda m6 antonio Jacky benjamin linda m7 boris Lee caleb steph m8 david Marco ed
    steph2 Alex edward Mario gustave steph3 Andy ian Michael iven grandma Gene2 john Mike kaukovalta grandpa
    marcelo Reed max michel miguel norbert pablo paul pedro quincy rob robert sandro shelby travis victor zac
    klatt5 klatt6
"""
VARIANTS: tuple[str, ...] = tuple(_VARIANT_NAMES.split())
# Share of the utterances of a split, and its timbres as positions among every ten: dev has VARIANTS[2], [12], [22], ….
# Splits share no timbre, whatever the seed, so the test voices of a corpus are new to a model trained on any other.
SPLITS: dict[str, tuple[float, tuple[int, ...]]] = {
    "train": (0.8, (0, 1, 3, 4, 5, 6, 8)),
    "dev": (0.1, (2,)),
    "test": (0.1, (7, 9)),
}
_FORMAT_VERSION = 1  # increase if the samples of a config change


@dataclass(frozen=True, slots=True)
class _RawAudioReader:
    """A function that reads utterances from a file with the int16 samples of the whole corpus."""

    path: str
    sample_rate: int

    def __call__(self, utterance: Utterance) -> NDArray[np.float32]:
        start = round(utterance.offset * self.sample_rate)
        # 2 bytes a sample: sample 1,000 starts at byte 2,000.
        stored_samples = np.memmap(self.path, dtype="<i2", mode="r", offset=2 * start, shape=(utterance.samples,))
        return np.asarray(stored_samples, dtype=np.float32) / 32768.0


def variants_of(split: str) -> tuple[str, ...]:
    """Return the timbres of `split`; splits share no timbre."""
    return tuple(name for index, name in enumerate(VARIANTS) if index % 10 in SPLITS[split][1])


def voices_of(config: SyntheticData) -> dict[str, tuple[espeak.Voice, ...]]:
    """Draw the speakers of each split by the seed, in a number proportional to the timbres of the split."""
    rng = np.random.default_rng([config.seed, 1])
    voices: dict[str, tuple[espeak.Voice, ...]] = {}
    for split, (_, timbre_positions) in SPLITS.items():
        timbres = rng.permutation(variants_of(split))
        count = max(1, round(config.voices * len(timbre_positions) / 10))
        # Draws are in the order of the fields: another order would change the voices of every seed.
        voices[split] = tuple(
            espeak.Voice(
                accent=ACCENTS[int(rng.integers(len(ACCENTS)))],
                variant=str(timbres[index % len(timbres)]),
                rate=int(rng.integers(120, 211)),
                pitch=int(rng.integers(20, 86)),
                range=int(rng.integers(25, 81)),
            )
            for index in range(count)
        )
    return voices


def splits_of(config: SyntheticData) -> tuple[str, ...]:
    """Return the split of every utterance: first train, then dev and test, with at least an utterance each."""
    held_out_counts = {split: max(1, round(config.utterances * SPLITS[split][0])) for split in ("dev", "test")}
    train = config.utterances - sum(held_out_counts.values())
    if train < 1:
        raise DataError(
            f"utterances: expected an integer >= 3, to be split into train, dev and test, got {config.utterances}."
        )
    return ("train",) * train + ("dev",) * held_out_counts["dev"] + ("test",) * held_out_counts["test"]


def open_synthetic(config: SyntheticData, *, sample_rate: int = SAMPLE_RATE) -> Corpus:
    """Return the corpus of `config` from the cache, where a missing corpus is made first.

    The name of the corpus ends in the first twelve digits of the SHA-256 of all samples and labels.

    Args:
        config: The size and seed of the corpus.
        sample_rate: Sampling rate in hertz.

    Raises:
        DataError: `espeakng-loader` is not installed, or the synthesis failed.
    """
    folder = cache_folder("synthetic") / _cache_key(config, sample_rate)
    if not (folder / "index.json").exists():
        _make_corpus(config, folder, sample_rate)
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    audio_path = str(folder / "audio.i16")
    utterances = tuple(
        Utterance(
            id=item["id"],
            path=audio_path,
            samples=item["samples"],
            text=item["text"],
            speaker=item["speaker"],
            label=None,
            split=item["split"],
            offset=item["start"] / sample_rate,
            duration=item["samples"] / sample_rate,
            words=tuple((start, end, text) for start, end, text in item["words"]),
        )
        for item in index["utterances"]
    )
    return Corpus(
        name=f"synthetic-{index['hash'][:12]}",
        utterances=utterances,
        skipped=(),
        read=_RawAudioReader(audio_path, sample_rate),
        sample_rate=sample_rate,
    )


def _cache_key(config: SyntheticData, sample_rate: int) -> str:
    key_fields = {"config": dataclasses.asdict(config), "espeakng-loader": espeak.version(), "format": _FORMAT_VERSION}
    if sample_rate != SAMPLE_RATE:  # absent at 16 kHz, so that caches from before other rates existed stay valid
        key_fields["sample_rate"] = sample_rate
    return hashlib.sha256(json.dumps(key_fields, sort_keys=True).encode()).hexdigest()[:16]


def _make_corpus(config: SyntheticData, folder: Path, sample_rate: int) -> None:
    """Make the corpus in a fresh process, in a temporary folder beside `folder`, which is then renamed to `folder`."""
    splits_of(config)  # raises errors of the config here rather than in the other process
    folder.parent.mkdir(parents=True, exist_ok=True)
    logger.info("making %d synthetic utterances in %d voices", config.utterances, config.voices)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        command = [sys.executable, "-m", "secateur.data.synthetic", str(scratch)]
        job = json.dumps({"config": dataclasses.asdict(config), "sample_rate": sample_rate})
        process = subprocess.run(command, input=job, capture_output=True, text=True, check=False)
        if process.returncode != 0:
            last_line = (process.stderr.strip().splitlines() or ["no error message"])[-1]
            raise DataError(f"Synthetic speech could not be made: {last_line}")
        try:
            os.replace(scratch, folder)
        except OSError:
            # Another process was first and has written the same bytes.
            if not (folder / "index.json").exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def generate(config: SyntheticData, folder: Path, sample_rate: int) -> None:
    """Synthesize every utterance of `config` in order, and write `audio.i16` and `index.json`.

    Must be called in a fresh process, since some samples depend on espeak-ng's state.

    Args:
        config: The size and seed of the corpus.
        folder: An existing folder; `audio.i16` holds the samples of all utterances (little-endian int16), `index.json`
            the labels and the first sample of each utterance.
        sample_rate: Sampling rate in hertz.
    """
    synthesizer = espeak.Synthesizer()
    voices = voices_of(config)
    digest = hashlib.sha256()
    items: list[dict[str, Any]] = []
    start = 0
    with open(folder / "audio.i16", "wb") as audio:
        for index, split in enumerate(splits_of(config)):
            # A generator for each utterance: its words and channel depend on seed and index alone.
            rng = np.random.default_rng([config.seed, 2, index])
            voice = voices[split][index % len(voices[split])]
            samples, item = _make_utterance(synthesizer, voice, config=config, sample_rate=sample_rate, rng=rng)
            data = samples.astype("<i2").tobytes()
            audio.write(data)
            item |= {"id": f"synthetic-{index:05d}", "split": split, "start": start, "samples": len(samples)}
            digest.update(data)
            digest.update(json.dumps(item, sort_keys=True).encode())
            items.append(item)
            start += len(samples)
    text = json.dumps({"hash": digest.hexdigest(), "utterances": items})
    (folder / "index.json").write_text(text, encoding="utf-8")


def _make_utterance(
    synthesizer: espeak.Synthesizer,
    voice: espeak.Voice,
    *,
    config: SyntheticData,
    sample_rate: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int16], dict[str, Any]]:
    """Return the samples and the labels of a random sentence; the speaking rate varies by 8 % between sentences."""
    min_words, max_words = config.words_per_utterance
    text = sentence(rng, words=int(rng.integers(min_words, max_words + 1)))
    sentence_voice = dataclasses.replace(voice, rate=round(voice.rate * rng.uniform(0.92, 1.08)))
    speech = synthesizer.synthesize(text, voice=sentence_voice, seed=int(rng.integers(2**31)))
    wave = soxr.resample(speech.samples.astype(np.float32) / 32768.0, speech.sample_rate, sample_rate)
    wave = np.asarray(wave, dtype=np.float32)
    if config.rooms:
        wave = channel.simulate_channel(wave, sample_rate=sample_rate, rng=rng)
    wave = channel.random_level(wave, rng=rng)
    scale = sample_rate / speech.sample_rate  # from samples at espeak-ng's rate to samples of `wave`
    words = [(round(word.start * scale), min(round(word.end * scale), len(wave)), word.text) for word in speech.words]
    samples = np.clip(np.round(wave * 32767.0), -32768, 32767).astype(np.int16)
    return samples, {"text": text, "speaker": voice.name, "words": words}


def main() -> None:
    """Read a config and a sampling rate as JSON from standard input, and make the corpus in the folder `argv[1]`."""
    job = json.load(sys.stdin)
    config_fields = job["config"]
    config_fields["words_per_utterance"] = tuple(config_fields["words_per_utterance"])
    generate(SyntheticData(**config_fields), Path(sys.argv[1]), job["sample_rate"])


if __name__ == "__main__":
    main()
