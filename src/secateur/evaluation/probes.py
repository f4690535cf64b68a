"""Linear probes of a frozen encoder against the same probes of log-mel energies, on words and on speakers."""

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
_SPLIT_CYCLE = ("train", "train", "train", "dev", "test", "test")  # where a speaker's utterances go, in turn


@dataclass(frozen=True, kw_only=True)
class ProbeSet:
    """One question asked of the features.

    Attributes:
        name: As it stands in the table.
        data: The corpus.
        ask: `label` and `speaker` classify whole utterances by that field; `word` classifies the digits and
            commands in them, each over its own frames.
        split_by: The manifest's field that says which part an utterance is in. `speaker` instead deals every
            speaker's own utterances out, three to train, one to dev, two to test; of synthetic speech only the
            held-out voices, which no model was trained on.
    """

    name: str
    data: DataConfig
    label_source: Literal["label", "speaker", "word"]
    split_by: str = "split"


# Other seed, other sentences and other voices than any corpus that a recipe trains on; the timbres of dev and test
# are in no training split at all (secateur.data.synthetic.SPLITS).
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
    """A frozen encoder and what to ask of it.

    Attributes:
        model: A HF folder or id.
        sets: The questions.
        poolings: Each is used for the encoder and for log-mel alike.
        seeds: Of the random four fifths of the training part that the spread comes from.
        seconds: Utterances are heard up to here.
    """

    model: str
    sets: tuple[ProbeSet, ...] = SYNTHETIC_SETS
    poolings: tuple[Pooling, ...] = ("mean", "mean+std")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    seconds: float = 6.0


@dataclass(frozen=True, kw_only=True)
class ProbeRow:
    """One question under one pooling: the same probe on three kinds of features."""

    name: str
    pooling: Pooling
    classes: int
    items: dict[str, int]  # by part
    log_mel: ProbeResult
    layer: ProbeResult  # the best single hidden state, chosen on dev
    encoder: ProbeResult  # all hidden states side by side


@dataclass(frozen=True, kw_only=True)
class ProbeRecord:
    """Every row, and the config that asked for it."""

    config: ProbeConfig
    rows: tuple[ProbeRow, ...] = field(default=())


def run_probes(config: ProbeConfig) -> ProbeRecord:
    """Probes a frozen encoder.

    Raises:
        DataError: a set lacks a part, or has fewer than two classes.
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
    """The rows as a Markdown table; test accuracies in per cent, ± over the seeds' training subsets."""
    head = (
        "| task | classes | test items | pooling | log-mel | best layer | all layers |\n|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *(_format_row(row) for row in record.rows)])


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
    """Corpus and segments of train, dev and test; classes that train lacks are left out of dev and test."""
    corpora = _corpora(probe_set, sample_rate)
    segments = {split: _corpus_segments(corpus, probe_set.label_source) for split, corpus in corpora.items()}
    train_labels = Counter(segment.label for segment in segments["train"])
    for split in SPLITS:
        segments[split] = [segment for segment in segments[split] if segment.label in train_labels]
        if not segments[split]:
            raise DataError(f"The probe set {probe_set.name!r} has nothing to classify in its part {split!r}.")
    if len(train_labels) < 2:
        raise DataError(f"The probe set {probe_set.name!r} has one class only; a probe needs two or more.")
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
            f"The probe set {probe_set.name!r} is split by {probe_set.split_by!r}; a corpus that is no manifest can be split "
            "by 'split' or 'speaker'."
        )
    filters = {split: {**data.where, probe_set.split_by: (split,)} for split in SPLITS}
    return {
        split: open_corpus(replace(data, where=row_filter), sample_rate=sample_rate)
        for split, row_filter in filters.items()
    }


def _deal_by_speaker(corpus: Corpus, *, held_out: bool) -> dict[str, Corpus]:
    """Every speaker's utterances dealt out to the parts in turn."""
    if held_out:
        corpus = corpus.select(lambda utterance: utterance.split != "train")
    utterance_counts: Counter[str | None] = Counter()
    split_of_utterance: dict[str, str] = {}
    for utterance in corpus.utterances:
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
    """Probe sets out of a JSONL manifest with the fields `corpus`, `label`, `speaker` and `split`.

    Args:
        path: The manifest.
        keywords: Corpora whose labels are asked for; `split` should keep speakers apart.
        speakers: Corpora whose speakers are asked for.
    """
    data = {name: JsonlData(path=path, where={"corpus": (name,)}, scan=False) for name in (*keywords, *speakers)}
    word_sets = tuple(ProbeSet(name=f"words, {name}", data=data[name], label_source="label") for name in keywords)
    speaker_sets = tuple(
        ProbeSet(name=f"speakers, {name}", data=data[name], label_source="speaker", split_by="speaker")
        for name in speakers
    )
    return word_sets + speaker_sets


def main(arguments: list[str] | None = None) -> None:
    """`python -m secateur.evaluation.probes --model DIR [--manifest FILE --keywords A B --speakers C]`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--manifest", help="JSONL manifest of real speech")
    parser.add_argument("--keywords", nargs="*", default=[], help="its corpora whose labels are probed")
    parser.add_argument("--speakers", nargs="*", default=[], help="its corpora whose speakers are probed")
    parser.add_argument("--out", help="write the record here, as JSON")
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
