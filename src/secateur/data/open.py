"""Opening a corpus: read the manifest, look at every file once, leave out what is of no use, say so."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from secateur.data.commands import read_fluent_speech_commands, read_speech_commands
from secateur.data.config import (
    CsvData,
    DataConfig,
    DatasetsData,
    FluentSpeechCommandsData,
    FolderData,
    JsonlData,
    LibriSpeechData,
    RecordedData,
    SlurpData,
    SpeechCommandsData,
    SyntheticData,
    TsvData,
)
from secateur.data.corpus import SAMPLE_RATE, Corpus, Skip, Utterance, printable
from secateur.data.decode import UnusableAudio, decode, fault, locate
from secateur.data.entries import Entry, some, with_ids, without_mac_files
from secateur.data.readers import read_folder, read_jsonl, read_librispeech, read_tsv
from secateur.data.slurp import read_slurp
from secateur.data.tables import read_csv
from secateur.errors import DataError

logger = logging.getLogger(__name__)

# Libsndfile and soxr release the interpreter's lock; beyond this many threads the disk decides.
THREADS = min(8, os.cpu_count() or 1)

# The audio file that a name stands for, as bytes; None where names are files.
Content = Callable[[str], bytes] | None

Item = TypeVar("Item")
Result = TypeVar("Result")


def open_corpus(config: DataConfig, *, sample_rate: int = SAMPLE_RATE) -> Corpus:
    """Return the corpus that a config names, read at `sample_rate`, in hertz: that of the model that will hear it.

    Raises:
        DataError: It is missing, malformed or empty, or more of it than `max_skipped` is of no use.
    """
    if isinstance(config, SyntheticData):
        from secateur.data.synthetic import open_synthetic

        return open_synthetic(config, sample_rate=sample_rate)
    if isinstance(config, DatasetsData):
        from secateur.data.hub import read_datasets

        rows = read_datasets(config)
        return survey(rows.entries, config, content=rows.content, sample_rate=sample_rate)
    return survey(_entries(config), config, sample_rate=sample_rate)


def survey(
    entries: list[Entry], config: RecordedData, *, content: Content = None, sample_rate: int = SAMPLE_RATE
) -> Corpus:
    """The corpus of those entries whose audio can be used.

    Headers are read first, so that the length is known before anything is decoded; then, with `scan`,
    each segment is decoded once, and kept when the whole corpus is short enough.

    Args:
        entries: What the manifest names.
        config: Where it came from, and what may be skipped.
        content: The audio file behind an entry's `path`, where that is no file.
        sample_rate: Hertz, what every recording is resampled to.
    """
    entries = with_ids(some(without_mac_files(entries, config.path), config.path), config.path)
    claims = _Claims()
    headed = _each(lambda entry: _head(entry, config, content, claims, sample_rate), entries)
    located = [result for result in headed if isinstance(result, Utterance)]
    seconds = sum(utterance.samples for utterance in located) / sample_rate
    reader = _Reader(keep=seconds <= config.memory_hours * 3600, content=content, sample_rate=sample_rate)
    results = headed
    if config.scan:
        shown = [entry.shown for entry in entries]
        results = _each(lambda pair: _heard(pair[0], pair[1], reader, config), zip(headed, shown, strict=True))
    utterances = tuple(result for result in results if isinstance(result, Utterance))
    skipped = tuple(result for result in results if isinstance(result, Skip))
    _report_claims(claims, config.path)
    _report_unsaid(utterances, config.path)
    _refuse_too_many(skipped, len(entries), config)
    name = Path(config.path).stem
    corpus = Corpus(name=name, utterances=utterances, skipped=skipped, read=reader, sample_rate=sample_rate)
    logger.info("%s: %d utterances, %.2f hours", corpus.name, len(corpus), corpus.seconds / 3600)
    return corpus


class _Reader:
    """Reads an utterance from its file, once if it is to be kept."""

    def __init__(self, *, keep: bool, content: Content, sample_rate: int) -> None:
        self._content, self.sample_rate = content, sample_rate
        # By place in the file, not by id: an utterance may be copied with another segment.
        self._kept: dict[tuple[str, float, float | None], NDArray[np.float32]] | None = {} if keep else None

    def __call__(self, utterance: Utterance) -> NDArray[np.float32]:
        audio = self._kept.get(_place(utterance)) if self._kept is not None else None
        if audio is None:
            audio = self.decode(utterance)
            reason = fault(audio)
            if reason is not None:
                raise DataError(
                    f"{printable(utterance.path)} {reason}. Remove it, or open the corpus with `scan: true`, which "
                    "skips such files."
                )
            self.keep(utterance, audio)
        if len(audio) < utterance.samples:
            raise DataError(
                f"{printable(utterance.path)} holds {len(audio)} samples now, {utterance.samples} when it was opened; "
                "open the corpus again."
            )
        return audio[: utterance.samples]

    def decode(self, utterance: Utterance) -> NDArray[np.float32]:
        content = self._content(utterance.path) if self._content is not None else None
        audio = decode(
            utterance.path,
            offset=utterance.offset,
            duration=utterance.duration,
            sample_rate=self.sample_rate,
            content=content,
        )
        audio.flags.writeable = False
        return audio

    def keep(self, utterance: Utterance, audio: NDArray[np.float32]) -> None:
        if self._kept is not None:
            self._kept[_place(utterance)] = audio


def _place(utterance: Utterance) -> tuple[str, float, float | None]:
    return utterance.path, utterance.offset, utterance.duration


def _entries(config: RecordedData) -> list[Entry]:
    match config:
        case FolderData():
            return read_folder(config)
        case TsvData():
            return read_tsv(config)
        case JsonlData():
            return read_jsonl(config)
        case LibriSpeechData():
            return read_librispeech(config)
        case CsvData():
            return read_csv(config)
        case SlurpData():
            return read_slurp(config)
        case SpeechCommandsData():
            return read_speech_commands(config)
        case FluentSpeechCommandsData():
            return read_fluent_speech_commands(config)
    raise AssertionError(f"no reader for {type(config).__name__}")


@dataclass
class _Claims:
    """Names of files that hold something else than was claimed.

    Attributes:
        other: Their length is not what the manifest claims.
        cut: They break off without having claimed a length.
        gaps: Damaged places in them are left out.
    """

    other: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)


def _head(entry: Entry, config: RecordedData, content: Content, claims: _Claims, sample_rate: int) -> Utterance | Skip:
    """An utterance with its length from the file's header, or why there is none."""
    try:
        held = content(entry.path) if content is not None else None
        segment = locate(entry.path, offset=entry.offset, duration=entry.seconds, sample_rate=sample_rate, content=held)
    except UnusableAudio as error:
        return Skip(entry.shown, error.reason)
    if entry.frames not in (None, segment.frames):
        claims.other.append(entry.shown)
    if segment.open_end:
        claims.cut.append(entry.shown)
    if segment.gaps:
        claims.gaps.append(entry.shown)
    utterance = Utterance(
        id=entry.id,
        path=entry.path,
        samples=segment.samples,
        text=entry.text,
        speaker=entry.speaker,
        label=entry.label,
        tagged=entry.tagged,
        split=entry.split,
        offset=0.0 if segment.whole else entry.offset,
        duration=None if segment.whole else entry.seconds,
    )
    return _short(utterance, entry.shown, config, sample_rate) or utterance


def _heard(found: Utterance | Skip, shown: str, reader: _Reader, config: RecordedData) -> Utterance | Skip:
    """The same utterance with its length as decoded, or why it is of no use."""
    if isinstance(found, Skip):
        return found
    try:
        audio = reader.decode(found)
    except UnusableAudio as error:
        return Skip(shown, error.reason)
    reason = fault(audio)
    if reason is not None:
        return Skip(shown, reason)
    utterance = found if len(audio) == found.samples else replace(found, samples=len(audio))
    short = _short(utterance, shown, config, reader.sample_rate)
    if short is None:
        reader.keep(utterance, audio)
    return short or utterance


def _short(utterance: Utterance, shown: str, config: RecordedData, sample_rate: int) -> Skip | None:
    seconds = utterance.samples / sample_rate
    if utterance.samples and seconds >= config.min_seconds:
        return None
    return Skip(shown, f"is {seconds:.3f} s long, shorter than min_seconds {config.min_seconds:g}")


def _each(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`function` of every item, in order, on a few threads."""
    pool = ThreadPoolExecutor(THREADS)
    try:
        return list(pool.map(function, items))
    finally:
        # An interrupted scan shall not go on through thousands of files first.
        pool.shutdown(cancel_futures=True)


def _report_claims(claims: _Claims, path: str) -> None:
    for names, message in (
        (claims.other, "%s: %d files have another length than claimed (first %s); their own is used"),
        (claims.cut, "%s: %d files break off before their end (first %s); what is there of them is used"),
        (claims.gaps, "%s: %d files have damaged places, which are left out (first %s); what follows is used"),
    ):
        if names:
            logger.warning(message, path, len(names), min(names))


def _report_unsaid(utterances: tuple[Utterance, ...], path: str) -> None:
    """Say where some utterances have a text or label and others have none, or an empty one."""
    for name in ("text", "tagged", "label"):
        without = [utterance.id for utterance in utterances if not (getattr(utterance, name) or "").strip()]
        if 0 < len(without) < len(utterances):
            logger.warning(
                "%s: %d of %d utterances have no %s (first %s)", path, len(without), len(utterances), name, without[0]
            )


def _refuse_too_many(skipped: tuple[Skip, ...], total: int, config: RecordedData) -> None:
    if not skipped:
        return
    share = len(skipped) / total
    first = ", ".join(f"{skip.path} ({skip.reason})" for skip in skipped[:3])
    more = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    if len(skipped) == total:
        raise DataError(f"None of the {total} files of {config.path} can be used: {first}{more}.")
    if share > config.max_skipped:
        raise DataError(
            f"{len(skipped)} of {total} files of {config.path} ({share:.1%}) cannot be used, more than "
            f"max_skipped allows ({config.max_skipped:.1%}): {first}{more}. Repair or remove them, or raise "
            "max_skipped."
        )
    logger.warning("%s: skipped %d of %d files: %s%s", config.path, len(skipped), total, first, more)
