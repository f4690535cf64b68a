"""Opening of a corpus: reads the manifest, checks every audio file once, and skips and reports unusable files."""

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
from secateur.data.corpus import SAMPLE_RATE, Corpus, Skip, Utterance, escape_surrogates
from secateur.data.decode import UnusableAudio, decode, find_audio_fault, locate
from secateur.data.entries import Entry, require_entries, with_ids, without_mac_files
from secateur.data.readers import read_folder, read_jsonl, read_librispeech, read_tsv
from secateur.data.slurp import read_slurp
from secateur.data.sources import (
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
from secateur.data.tables import read_csv
from secateur.errors import DataError

logger = logging.getLogger(__name__)

# libsndfile and soxr release the interpreter lock; with more threads the disk is the bottleneck.
MAX_THREADS = min(8, os.cpu_count() or 1)

# Returns the bytes of the audio file with a name; None if the names are paths of files.
ContentReader = Callable[[str], bytes] | None

Item = TypeVar("Item")
Result = TypeVar("Result")


def open_corpus(config: DataConfig, *, sample_rate: int = SAMPLE_RATE) -> Corpus:
    """Open the corpus of a config.

    Args:
        config: The source of the data.
        sample_rate: Sampling rate of the model in hertz, to which all audio is resampled.

    Raises:
        DataError: The data is missing, malformed or empty, or a larger share than `max_skipped` is unusable.
    """
    if isinstance(config, SyntheticData):
        from secateur.data.synthetic import open_synthetic

        return open_synthetic(config, sample_rate=sample_rate)
    if isinstance(config, DatasetsData):
        from secateur.data.datasets_rows import read_datasets

        rows = read_datasets(config)
        return scan_entries(rows.entries, config, read_content=rows.read_content, sample_rate=sample_rate)
    return scan_entries(_read_entries(config), config, sample_rate=sample_rate)


def scan_entries(
    entries: list[Entry], config: RecordedData, *, read_content: ContentReader = None, sample_rate: int = SAMPLE_RATE
) -> Corpus:
    """Return the corpus of the entries with usable audio.

    Headers are read first, which gives the total length before any decoding; then, with `scan`, each segment is decoded
    once, and stays in memory if the whole corpus is short enough.

    Args:
        entries: The entries of the manifest.
        config: The source, with the limits on skipped files and memory.
        read_content: Returns the bytes of the audio file of an entry by its `path`, if that is no path of a file.
        sample_rate: Sampling rate that all audio is resampled to, in hertz.
    """
    audio_entries = require_entries(without_mac_files(entries, config.path), config.path)
    entries = with_ids(audio_entries, config.path)
    file_warnings = _FileWarnings()
    header_results = _map_threaded(
        lambda entry: _read_header(entry, config, read_content, file_warnings, sample_rate), entries
    )
    located_utterances = [result for result in header_results if isinstance(result, Utterance)]
    seconds = sum(utterance.samples for utterance in located_utterances) / sample_rate
    reader = _UtteranceReader(
        use_cache=seconds <= config.memory_hours * 3600, read_content=read_content, sample_rate=sample_rate
    )
    results = header_results
    if config.scan:
        display_paths = [entry.display_path for entry in entries]
        results = _map_threaded(
            lambda pair: _check_by_decoding(pair[0], pair[1], reader, config),
            zip(header_results, display_paths, strict=True),
        )
    utterances = tuple(result for result in results if isinstance(result, Utterance))
    skipped = tuple(result for result in results if isinstance(result, Skip))
    _log_file_warnings(file_warnings, config.path)
    _log_missing_fields(utterances, config.path)
    _check_skipped_share(skipped, len(entries), config)
    name = Path(config.path).stem
    corpus = Corpus(name=name, utterances=utterances, skipped=skipped, read=reader, sample_rate=sample_rate)
    logger.info("%s: %d utterances, %.2f hours", corpus.name, len(corpus), corpus.seconds / 3600)
    return corpus


class _UtteranceReader:
    """A function that reads the audio of an utterance, with an optional cache in memory."""

    def __init__(self, *, use_cache: bool, read_content: ContentReader, sample_rate: int) -> None:
        self._read_content = read_content
        self.sample_rate = sample_rate
        self._use_cache = use_cache
        # By segment, not by id: `dataclasses.replace` may give an utterance another segment and leave the id.
        self._cached_audio: dict[tuple[str, float, float | None], NDArray[np.float32]] = {}

    def __call__(self, utterance: Utterance) -> NDArray[np.float32]:
        audio = self._cached_audio.get(_cache_key(utterance))
        if audio is None:
            audio = self.decode(utterance)
            reason = find_audio_fault(audio)
            if reason is not None:
                raise DataError(
                    f"{escape_surrogates(utterance.path)} {reason}. Remove the file, or open the corpus with "
                    "`scan: true`, which skips such files."
                )
            self.cache(utterance, audio)
        if len(audio) < utterance.samples:
            raise DataError(
                f"{escape_surrogates(utterance.path)} now has {len(audio)} samples, {utterance.samples} when the "
                "corpus was opened; open the corpus again."
            )
        return audio[: utterance.samples]

    def decode(self, utterance: Utterance) -> NDArray[np.float32]:
        """Decode the audio of an utterance, (samples,), read-only."""
        content = self._read_content(utterance.path) if self._read_content is not None else None
        audio = decode(
            utterance.path,
            offset=utterance.offset,
            duration=utterance.duration,
            sample_rate=self.sample_rate,
            content=content,
        )
        audio.flags.writeable = False
        return audio

    def cache(self, utterance: Utterance, audio: NDArray[np.float32]) -> None:
        """Keep decoded audio in memory, if the cache is in use."""
        if self._use_cache:
            self._cached_audio[_cache_key(utterance)] = audio


def _cache_key(utterance: Utterance) -> tuple[str, float, float | None]:
    return utterance.path, utterance.offset, utterance.duration


def _read_entries(config: RecordedData) -> list[Entry]:
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
class _FileWarnings:
    """Names of files that are used, but differ from the manifest or are not complete.

    Attributes:
        mismatched_paths: Files with another length than in the manifest.
        truncated_paths: Files that are cut off, by an unknown amount.
        damaged_paths: Files with damaged parts, which are left out.
    """

    mismatched_paths: list[str] = field(default_factory=list)
    truncated_paths: list[str] = field(default_factory=list)
    damaged_paths: list[str] = field(default_factory=list)


def _read_header(
    entry: Entry, config: RecordedData, read_content: ContentReader, file_warnings: _FileWarnings, sample_rate: int
) -> Utterance | Skip:
    """Return the utterance of an entry with the length from the file's header, or the skipped file with the reason."""
    try:
        file_content = read_content(entry.path) if read_content is not None else None
        segment = locate(
            entry.path, offset=entry.offset, duration=entry.seconds, sample_rate=sample_rate, content=file_content
        )
    except UnusableAudio as error:
        return Skip(entry.display_path, error.reason)
    if entry.frames not in (None, segment.frames):
        file_warnings.mismatched_paths.append(entry.display_path)
    if segment.is_truncated:
        file_warnings.truncated_paths.append(entry.display_path)
    if segment.has_gaps:
        file_warnings.damaged_paths.append(entry.display_path)
    utterance = Utterance(
        id=entry.id,
        path=entry.path,
        samples=segment.samples,
        text=entry.text,
        speaker=entry.speaker,
        label=entry.label,
        tagged=entry.tagged,
        split=entry.split,
        offset=0.0 if segment.is_full_file else entry.offset,
        duration=None if segment.is_full_file else entry.seconds,
    )
    return _skip_if_short(utterance, entry.display_path, config, sample_rate) or utterance


def _check_by_decoding(
    header_result: Utterance | Skip, display_path: str, reader: _UtteranceReader, config: RecordedData
) -> Utterance | Skip:
    """Return the utterance with the length as decoded, or the skipped file with the reason."""
    if isinstance(header_result, Skip):
        return header_result
    try:
        audio = reader.decode(header_result)
    except UnusableAudio as error:
        return Skip(display_path, error.reason)
    reason = find_audio_fault(audio)
    if reason is not None:
        return Skip(display_path, reason)
    utterance = header_result if len(audio) == header_result.samples else replace(header_result, samples=len(audio))
    length_skip = _skip_if_short(utterance, display_path, config, reader.sample_rate)
    if length_skip is None:
        reader.cache(utterance, audio)
    return length_skip or utterance


def _skip_if_short(utterance: Utterance, display_path: str, config: RecordedData, sample_rate: int) -> Skip | None:
    seconds = utterance.samples / sample_rate
    if utterance.samples and seconds >= config.min_seconds:
        return None
    return Skip(display_path, f"is {seconds:.3f} s long, shorter than min_seconds {config.min_seconds:g}")


def _map_threaded(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Apply `function` to all items on a few threads; the results are in the order of the items."""
    pool = ThreadPoolExecutor(MAX_THREADS)
    try:
        return list(pool.map(function, items))
    finally:
        # On an interrupt, do not scan the thousands of files that are queued.
        pool.shutdown(cancel_futures=True)


def _log_file_warnings(file_warnings: _FileWarnings, path: str) -> None:
    messages = (
        (
            file_warnings.mismatched_paths,
            "%s: %d files have another length than in the manifest (first %s); the length of the file is used",
        ),
        (
            file_warnings.truncated_paths,
            "%s: %d files are cut off before their end (first %s); the part that exists is used",
        ),
        (
            file_warnings.damaged_paths,
            "%s: %d files have damaged parts, which are left out (first %s); the rest is used",
        ),
    )
    for names, message in messages:
        if names:  # threads append in any order, so the first by name is shown
            logger.warning(message, path, len(names), min(names))


def _log_missing_fields(utterances: tuple[Utterance, ...], path: str) -> None:
    """Log a warning if only a part of the utterances has a text, a tagged text or a label."""
    message = "%s: %d of %d utterances have no %s (first %s)"
    for name in ("text", "tagged", "label"):
        missing_ids = [utterance.id for utterance in utterances if not (getattr(utterance, name) or "").strip()]
        if 0 < len(missing_ids) < len(utterances):
            logger.warning(message, path, len(missing_ids), len(utterances), name, missing_ids[0])


def _check_skipped_share(skipped: tuple[Skip, ...], total: int, config: RecordedData) -> None:
    if not skipped:
        return
    skipped_share = len(skipped) / total
    examples = ", ".join(f"{skip.path} ({skip.reason})" for skip in skipped[:3])
    remainder = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    if len(skipped) == total:
        raise DataError(f"None of the {total} files of {config.path} can be used: {examples}{remainder}.")
    if skipped_share > config.max_skipped:
        raise DataError(
            f"{len(skipped)} of {total} files of {config.path} ({skipped_share:.1%}) cannot be used, more than "
            f"max_skipped allows ({config.max_skipped:.1%}): {examples}{remainder}. Repair or remove them, or raise "
            "max_skipped."
        )
    logger.warning("%s: skipped %d of %d files: %s%s", config.path, len(skipped), total, examples, remainder)
