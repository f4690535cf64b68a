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

from secateur.data.config import DataConfig, JsonlData, SyntheticData
from secateur.data.corpus import Corpus
from secateur.data.open import open_corpus
from secateur.data.words import COMMANDS, DIGITS
from secateur.errors import DataError
from secateur.evaluate.linear import Labels, Probed, probe
from secateur.evaluate.pooled import Features, Pooling, Segment, pooled
from secateur.records import write_json
from secateur.surgery.hearing import sample_rate_of

log = logging.getLogger(__name__)

PARTS = ("train", "dev", "test")
_DEAL = ("train", "train", "train", "dev", "test", "test")  # where a speaker's utterances go, in turn


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
    ask: Literal["label", "speaker", "word"]
    split_by: str = "split"


# Other seed, other sentences and other voices than any corpus that a recipe trains on; the timbres of dev and test
# are in no training split at all (secateur.data.synthetic.SPLITS).
_UNHEARD = SyntheticData(utterances=2000, voices=80, seed=20_011)
_VOICES = SyntheticData(utterances=4500, voices=100, seed=20_012)
SYNTHETIC: tuple[ProbeSet, ...] = (
    ProbeSet(name="words, synthetic, unheard voices", data=_UNHEARD, ask="word"),
    ProbeSet(name="speakers, synthetic, unheard voices", data=_VOICES, ask="speaker", split_by="speaker"),
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
    sets: tuple[ProbeSet, ...] = SYNTHETIC
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
    log_mel: Probed
    layer: Probed  # the best single hidden state, chosen on dev
    encoder: Probed  # all hidden states side by side


@dataclass(frozen=True, kw_only=True)
class ProbeRecord:
    """Every row, and the config that asked for it."""

    config: ProbeConfig
    rows: tuple[ProbeRow, ...] = field(default=())


def run(config: ProbeConfig) -> ProbeRecord:
    """Probes a frozen encoder.

    Raises:
        DataError: a set lacks a part, or has fewer than two classes.
    """
    from transformers import AutoModel

    model = AutoModel.from_pretrained(config.model).eval().float()
    sample_rate = sample_rate_of(config.model)
    rows: list[ProbeRow] = []
    for asked in config.sets:
        parts = _parts(asked, sample_rate)
        for pooling in config.poolings:
            rows.append(_row(model, asked, parts, pooling=pooling, config=config))
            log.info("%s", _line(rows[-1]))
    return ProbeRecord(config=config, rows=tuple(rows))


def table(record: ProbeRecord) -> str:
    """The rows as a Markdown table; test accuracies in per cent, ± over the seeds' training subsets."""
    head = (
        "| task | classes | test items | pooling | log-mel | best layer | all layers |\n|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *(_line(row) for row in record.rows)])


def _line(row: ProbeRow) -> str:
    def cell(probed: Probed) -> str:
        return f"{100 * probed.test:.1f} ± {100 * float(np.std(probed.spread)):.1f}"

    layer = f"{cell(row.layer)} ({row.layer.features})"
    return (
        f"| {row.name} | {row.classes} | {row.items['test']} | {row.pooling} "
        f"| {cell(row.log_mel)} | {layer} | {cell(row.encoder)} |"
    )


def _row(
    model: nn.Module,
    asked: ProbeSet,
    parts: Mapping[str, tuple[Corpus, list[Segment]]],
    *,
    pooling: Pooling,
    config: ProbeConfig,
) -> ProbeRow:
    candidates: dict[str, dict[str, tuple[Features, Labels]]] = {}
    for part, (corpus, segments) in parts.items():
        labels: NDArray[np.str_] = np.array([segment.label for segment in segments])
        features = pooled(model, corpus, segments, pooling=pooling, seconds=config.seconds)
        for name, values in features.items():
            candidates.setdefault(name, {})[part] = (values, labels)
    single = {name: part for name, part in candidates.items() if name.startswith("layer")}
    return ProbeRow(
        name=asked.name,
        pooling=pooling,
        classes=len(set(candidates["log-mel"]["train"][1])),
        items={part: len(segments) for part, (_, segments) in parts.items()},
        log_mel=probe({"log-mel": candidates["log-mel"]}, seeds=config.seeds),
        layer=probe(single, seeds=config.seeds),
        encoder=probe({"all layers": candidates["all layers"]}, seeds=config.seeds),
    )


def _parts(asked: ProbeSet, sample_rate: int) -> dict[str, tuple[Corpus, list[Segment]]]:
    """Corpus and segments of train, dev and test; classes that train lacks are left out of dev and test."""
    corpora = _corpora(asked, sample_rate)
    segments = {part: _segments(corpus, asked.ask) for part, corpus in corpora.items()}
    known = Counter(segment.label for segment in segments["train"])
    for part in PARTS:
        segments[part] = [segment for segment in segments[part] if segment.label in known]
        if not segments[part]:
            raise DataError(f"The probe set {asked.name!r} has nothing to classify in its part {part!r}.")
    if len(known) < 2:
        raise DataError(f"The probe set {asked.name!r} has one class only; a probe needs two or more.")
    return {part: (corpora[part], segments[part]) for part in PARTS}


def _corpora(asked: ProbeSet, sample_rate: int) -> dict[str, Corpus]:
    data = asked.data
    if asked.split_by == "split":
        corpus = open_corpus(data, sample_rate=sample_rate)
        return {part: corpus.split(part) for part in PARTS}
    if asked.split_by == "speaker":
        return _dealt(open_corpus(data, sample_rate=sample_rate), held_out=isinstance(data, SyntheticData))
    if not isinstance(data, JsonlData):
        raise DataError(
            f"The probe set {asked.name!r} is split by {asked.split_by!r}; a corpus that is no manifest can be split "
            "by 'split' or 'speaker'."
        )
    wheres = {part: {**data.where, asked.split_by: (part,)} for part in PARTS}
    return {part: open_corpus(replace(data, where=where), sample_rate=sample_rate) for part, where in wheres.items()}


def _dealt(corpus: Corpus, *, held_out: bool) -> dict[str, Corpus]:
    """Every speaker's utterances dealt out to the parts in turn."""
    if held_out:
        corpus = corpus.select(lambda utterance: utterance.split != "train")
    turns: Counter[str | None] = Counter()
    part_of: dict[str, str] = {}
    for utterance in corpus.utterances:
        part_of[utterance.id] = _DEAL[turns[utterance.speaker] % len(_DEAL)]
        turns[utterance.speaker] += 1
    return {part: corpus.select(lambda u, part=part: part_of[u.id] == part) for part in PARTS}  # type: ignore[misc]


def _segments(corpus: Corpus, ask: Literal["label", "speaker", "word"]) -> list[Segment]:
    if ask == "word":
        wanted = {*DIGITS, *COMMANDS}
        return [
            Segment(index, word, start, end)
            for index, utterance in enumerate(corpus.utterances)
            for start, end, word in utterance.words
            if word in wanted
        ]
    labels = [getattr(utterance, ask) for utterance in corpus.utterances]
    return [Segment(index, label) for index, label in enumerate(labels) if label is not None]


def manifest_sets(path: str, *, keywords: tuple[str, ...], speakers: tuple[str, ...]) -> tuple[ProbeSet, ...]:
    """Probe sets out of a JSONL manifest with the fields `corpus`, `label`, `speaker` and `split`.

    Args:
        path: The manifest.
        keywords: Corpora whose labels are asked for; `split` should keep speakers apart.
        speakers: Corpora whose speakers are asked for.
    """
    data = {name: JsonlData(path=path, where={"corpus": (name,)}, scan=False) for name in (*keywords, *speakers)}
    words = tuple(ProbeSet(name=f"words, {name}", data=data[name], ask="label") for name in keywords)
    who = tuple(
        ProbeSet(name=f"speakers, {name}", data=data[name], ask="speaker", split_by="speaker") for name in speakers
    )
    return words + who


def main(arguments: list[str] | None = None) -> None:
    """`python -m secateur.evaluate.probes --model DIR [--manifest FILE --keywords A B --speakers C]`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--manifest", help="JSONL manifest of real speech")
    parser.add_argument("--keywords", nargs="*", default=[], help="its corpora whose labels are probed")
    parser.add_argument("--speakers", nargs="*", default=[], help="its corpora whose speakers are probed")
    parser.add_argument("--out", help="write the record here, as JSON")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sets = SYNTHETIC
    if given.manifest:
        sets += manifest_sets(given.manifest, keywords=tuple(given.keywords), speakers=tuple(given.speakers))
    record = run(ProbeConfig(model=given.model, sets=sets))
    if given.out:
        rows: list[dict[str, Any]] = [asdict(row) for row in record.rows]
        write_json(Path(given.out), {"format": 1, "rows": rows})
    sys.stdout.write(table(record) + "\n")


if __name__ == "__main__":
    main()
