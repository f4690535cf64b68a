"""Linear probes of a frozen encoder and of log-mel energies, on words and on speakers."""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secateur.data.corpus import Corpus
from secateur.data.open import open_corpus
from secateur.data.sentences import COMMANDS, DIGITS
from secateur.data.sources import DataConfig, JsonlData, SyntheticData
from secateur.errors import DataError
from secateur.evaluation.linear_probe import Labels, ProbeResult, probe
from secateur.evaluation.pooled_features import FeatureArray, LabeledSegment, Pooling, pooled_features
from secateur.hf.feature_extractor import read_sample_rate
from secateur.records.files import write_json

logger = logging.getLogger(__name__)

SPLITS = ("train", "dev", "test")
_SPLIT_CYCLE = ("train", "train", "train", "dev", "test", "test")  # splits of a speaker's utterances, in turn


@dataclass(frozen=True, kw_only=True)
class ProbeSet:
    """Classification problem for the features.

    Attributes:
        name: Name in the table.
        data: Corpus.
        label_source: Classes: `label` and `speaker` of whole utterances, or `word` for the digits and commands in the
            utterances, each over its own frames.
        split_by: Field of the manifest with the split of an utterance. `speaker` instead divides the utterances of
            every speaker: three to train, one to dev, two to test; for synthetic speech only those of held-out voices,
            which no model was trained on.
    """

    name: str
    data: DataConfig
    label_source: Literal["label", "speaker", "word"]
    split_by: str = "split"


# Seed, sentences and voices differ from those of all recipes, and the timbres of dev and test occur in no training
# split (secateur.data.synthetic.SPLITS).
_WORD_DATA = SyntheticData(utterances=2000, voices=80, seed=20_011)
_SPEAKER_DATA = SyntheticData(utterances=4500, voices=100, seed=20_012)
SYNTHETIC_SETS: tuple[ProbeSet, ...] = (
    ProbeSet(name="words, synthetic, unheard voices", data=_WORD_DATA, label_source="word"),
    ProbeSet(
        name="speakers, synthetic, unheard voices", data=_SPEAKER_DATA, label_source="speaker", split_by="speaker"
    ),
)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Encoder, probe sets and settings of a probing run.

    Attributes:
        model: Hugging Face model folder or id.
        sets: Probe sets.
        poolings: Poolings, each for the encoder and for log-mel.
        seeds: Seeds of the random four fifths of the training split, which give the spread.
        seconds: Length that utterances are cut to.
    """

    model: str
    sets: tuple[ProbeSet, ...] = SYNTHETIC_SETS
    poolings: tuple[Pooling, ...] = ("mean", "mean+std")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    seconds: float = 6.0


@dataclass(frozen=True, kw_only=True)
class ProbeRow:
    """Results of a probe set with a pooling.

    Attributes:
        name: Name of the probe set.
        pooling: Pooling of the frames.
        classes: Number of classes.
        items: Number of segments by split.
        log_mel: Result of log-mel energies.
        layer: Result of the single hidden state that was best on dev.
        encoder: Result of all hidden states concatenated.
    """

    name: str
    pooling: Pooling
    classes: int
    items: dict[str, int]
    log_mel: ProbeResult
    layer: ProbeResult
    encoder: ProbeResult


@dataclass(frozen=True, kw_only=True)
class ProbeRecord:
    """Config and rows of a probing run."""

    config: ProbeConfig
    rows: tuple[ProbeRow, ...] = field(default=())


def run_probes(config: ProbeConfig) -> ProbeRecord:
    """Probe a frozen encoder.

    Raises:
        DataError: A probe set lacks a split, or has fewer than two classes.
    """
    from transformers import AutoModel

    model = AutoModel.from_pretrained(config.model).eval().float()
    sample_rate = read_sample_rate(config.model)
    rows: list[ProbeRow] = []
    for probe_set in config.sets:
        splits = _split_segments(probe_set, sample_rate)
        for pooling in config.poolings:
            rows.append(_probe_row(model, probe_set, splits, pooling=pooling, config=config))
            logger.info("%s", _format_row(rows[-1]))
    return ProbeRecord(config=config, rows=tuple(rows))


def format_table(record: ProbeRecord) -> str:
    """Return the rows as a Markdown table: test accuracies in percent, ± the deviation over the training subsets."""
    header = "| task | classes | test items | pooling | log-mel | best layer | all layers |"
    return "\n".join([header, "|---|---|---|---|---|---|---|", *map(_format_row, record.rows)])


def _format_row(row: ProbeRow) -> str:
    def cell(result: ProbeResult) -> str:
        return f"{100 * result.test:.1f} ± {100 * float(np.std(result.spread)):.1f}"

    layer_cell = f"{cell(row.layer)} ({row.layer.features})"
    return (
        f"| {row.name} | {row.classes} | {row.items['test']} | {row.pooling} "
        f"| {cell(row.log_mel)} | {layer_cell} | {cell(row.encoder)} |"
    )


def _probe_row(
    model: nn.Module,
    probe_set: ProbeSet,
    splits: Mapping[str, tuple[Corpus, list[LabeledSegment]]],
    *,
    pooling: Pooling,
    config: ProbeConfig,
) -> ProbeRow:
    candidates: dict[str, dict[str, tuple[FeatureArray, Labels]]] = {}
    for split, (corpus, segments) in splits.items():
        labels: NDArray[np.str_] = np.array([segment.label for segment in segments])
        features = pooled_features(model, corpus, segments, pooling=pooling, seconds=config.seconds)
        for name, values in features.items():
            candidates.setdefault(name, {})[split] = (values, labels)
    # The probe chooses among all candidates on dev: every single layer here, one candidate below.
    layer_candidates = {name: split for name, split in candidates.items() if name.startswith("layer")}
    return ProbeRow(
        name=probe_set.name,
        pooling=pooling,
        classes=len(set(candidates["log-mel"]["train"][1])),
        items={split: len(segments) for split, (_, segments) in splits.items()},
        log_mel=probe({"log-mel": candidates["log-mel"]}, seeds=config.seeds),
        layer=probe(layer_candidates, seeds=config.seeds),
        encoder=probe({"all layers": candidates["all layers"]}, seeds=config.seeds),
    )


def _split_segments(probe_set: ProbeSet, sample_rate: int) -> dict[str, tuple[Corpus, list[LabeledSegment]]]:
    """Return corpus and segments of train, dev and test, without classes that do not occur in train."""
    corpora = _corpora(probe_set, sample_rate)
    segments = {split: _corpus_segments(corpus, probe_set.label_source) for split, corpus in corpora.items()}
    train_labels = Counter(segment.label for segment in segments["train"])
    for split in SPLITS:
        segments[split] = [segment for segment in segments[split] if segment.label in train_labels]
        if not segments[split]:
            raise DataError(f"The probe set {probe_set.name!r} has no segments in its split {split!r}.")
    if len(train_labels) < 2:
        raise DataError(f"The probe set {probe_set.name!r} has a single class, expected two or more.")
    return {split: (corpora[split], segments[split]) for split in SPLITS}


def _corpora(probe_set: ProbeSet, sample_rate: int) -> dict[str, Corpus]:
    data = probe_set.data
    if probe_set.split_by == "split":
        corpus = open_corpus(data, sample_rate=sample_rate)
        return {split: corpus.split(split) for split in SPLITS}
    if probe_set.split_by == "speaker":
        return _deal_by_speaker(open_corpus(data, sample_rate=sample_rate), held_out=isinstance(data, SyntheticData))
    if not isinstance(data, JsonlData):
        raise DataError(
            f"The probe set {probe_set.name!r} is split by {probe_set.split_by!r}, expected 'split' or 'speaker' for a "
            "corpus without a manifest."
        )
    # Split by the field `fold`, the rows of train are those with fold: train.
    filters = {split: {**data.where, probe_set.split_by: (split,)} for split in SPLITS}
    return {
        split: open_corpus(replace(data, where=row_filter), sample_rate=sample_rate)
        for split, row_filter in filters.items()
    }


def _deal_by_speaker(corpus: Corpus, *, held_out: bool) -> dict[str, Corpus]:
    """Return the splits of a corpus, with the utterances of every speaker divided among the splits in turn."""
    if held_out:
        # Held-out voices are the dev and test splits of synthetic speech.
        corpus = corpus.select(lambda utterance: utterance.split != "train")
    utterance_counts: Counter[str | None] = Counter()
    split_of_utterance: dict[str, str] = {}
    for utterance in corpus.utterances:
        # A speaker's seventh utterance goes to train again.
        split_of_utterance[utterance.id] = _SPLIT_CYCLE[utterance_counts[utterance.speaker] % len(_SPLIT_CYCLE)]
        utterance_counts[utterance.speaker] += 1
    return {split: corpus.select(lambda u, split=split: split_of_utterance[u.id] == split) for split in SPLITS}  # type: ignore[misc]


def _corpus_segments(corpus: Corpus, label_source: Literal["label", "speaker", "word"]) -> list[LabeledSegment]:
    if label_source == "word":
        command_words = {*DIGITS, *COMMANDS}
        return [
            LabeledSegment(index, word, start, end)
            for index, utterance in enumerate(corpus.utterances)
            for start, end, word in utterance.words
            if word in command_words
        ]
    labels = [getattr(utterance, label_source) for utterance in corpus.utterances]
    return [LabeledSegment(index, label) for index, label in enumerate(labels) if label is not None]


def manifest_sets(path: str, *, keywords: tuple[str, ...], speakers: tuple[str, ...]) -> tuple[ProbeSet, ...]:
    """Return the probe sets of a JSONL manifest with the fields `corpus`, `label`, `speaker` and `split`.

    Args:
        path: Manifest file.
        keywords: Corpora whose labels are probed; no speaker should occur in two splits.
        speakers: Corpora whose speakers are probed.
    """
    data = {name: JsonlData(path=path, where={"corpus": (name,)}, scan=False) for name in (*keywords, *speakers)}
    word_sets = tuple(ProbeSet(name=f"words, {name}", data=data[name], label_source="label") for name in keywords)
    speaker_sets = tuple(
        ProbeSet(name=f"speakers, {name}", data=data[name], label_source="speaker", split_by="speaker")
        for name in speakers
    )
    return word_sets + speaker_sets


def main(arguments: list[str] | None = None) -> None:
    """Run `python -m secateur.evaluation.probes --model DIR [--manifest FILE --keywords A B --speakers C]`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--manifest", help="JSONL manifest of real speech")
    parser.add_argument("--keywords", nargs="*", default=[], help="corpora of the manifest whose labels are probed")
    parser.add_argument("--speakers", nargs="*", default=[], help="corpora of the manifest whose speakers are probed")
    parser.add_argument("--out", help="JSON file for the record")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sets = SYNTHETIC_SETS
    if options.manifest:
        sets += manifest_sets(options.manifest, keywords=tuple(options.keywords), speakers=tuple(options.speakers))
    record = run_probes(ProbeConfig(model=options.model, sets=sets))
    if options.out:
        rows: list[dict[str, Any]] = [asdict(row) for row in record.rows]
        write_json(Path(options.out), {"format": 1, "rows": rows})
    sys.stdout.write(format_table(record) + "\n")


if __name__ == "__main__":
    main()
