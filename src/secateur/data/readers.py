"""Readers of manifests and folders, which return the list of entries without a look at the audio."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from secateur.data.corpus import escape_surrogates
from secateur.data.entries import (
    MAC_PREFIX,
    Entry,
    expand_user,
    read_lines,
    require_choice,
    require_entries,
    require_path,
)
from secateur.data.fields import RowFilter, make_entry, parse_json_object
from secateur.data.sources import FolderData, JsonlData, LibriSpeechData, TsvData
from secateur.errors import DataError

logger = logging.getLogger(__name__)

# Formats that libsndfile reads and that have a header. Without a header (`.raw`, `.pcm`, `.vox`, `.gsm`) rate and
# encoding are unknown.
AUDIO_SUFFIXES = (
    ".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".mpga",
    ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".sph", ".nist", ".voc",
)  # fmt: skip
# Audio and video formats that libsndfile does not read.
UNREADABLE_SUFFIXES = (
    ".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".aac", ".3gp", ".amr", ".wma", ".wmv", ".webm", ".weba", ".mkv", ".mka",
    ".avi", ".spx", ".ape", ".wv", ".ac3", ".raw", ".pcm", ".vox", ".gsm",
)  # fmt: skip
# Files that Windows writes into folders.
_CLUTTER = ("thumbs.db", "desktop.ini")
# Counts of hidden files and folders have names such as "hidden .wav", which no suffix is.
_HIDDEN_PREFIX = "hidden "


def read_folder(config: FolderData) -> list[Entry]:
    """Return every audio file below a folder, sorted by path, except hidden files and folders.

    The number of all other files is logged by suffix.
    """
    root = require_path(config.path, folder=True)
    names: list[str] = []
    skipped_counts: Counter[str] = Counter()
    for path in _walk_files(root, skipped_counts):
        is_audio = path.suffix.lower() in AUDIO_SUFFIXES
        if path.name.startswith(".") and not path.name.startswith(MAC_PREFIX):
            # Only hidden audio is counted, since nobody expects `.gitignore` to be read.
            skipped_counts[f"{_HIDDEN_PREFIX}{path.suffix.lower()}"] += is_audio
        elif is_audio:
            names.append(path.relative_to(root).as_posix())
        elif path.name.lower() not in _CLUTTER and not path.name.startswith(MAC_PREFIX):
            skipped_counts[path.suffix.lower() or path.name] += 1
    skipped_counts = +skipped_counts  # drops counts of 0
    if not names:
        skipped_text = "no files at all"
        if skipped_counts:
            skipped_text = f"only {', '.join(map(escape_surrogates, sorted(skipped_counts)[:5]))}"
        raise DataError(
            f"Folder {config.path} holds no audio that can be read ({', '.join(AUDIO_SUFFIXES)}), {skipped_text}."
        )
    _log_skipped_files(skipped_counts, config.path)
    return [Entry(id=name, display_path=name, path=str(root / name)) for name in sorted(names)]


def _log_skipped_files(skipped_counts: Counter[str], path: str) -> None:
    """Log the files left out of a folder, as a warning if audio is among the files."""
    if not skipped_counts:
        return
    unreadable_endings = [ending for ending in skipped_counts if ending in UNREADABLE_SUFFIXES]
    hidden_audio_endings = [ending for ending in skipped_counts if ending.startswith(f"{_HIDDEN_PREFIX}.")]
    audio_endings = {*unreadable_endings, *hidden_audio_endings}
    # Audio first, then by frequency.
    ordered_endings = sorted(
        skipped_counts, key=lambda ending: (ending not in audio_endings, -skipped_counts[ending], ending)
    )
    counts = ", ".join(f"{skipped_counts[ending]} {escape_surrogates(ending)}" for ending in ordered_endings[:10])
    remainder = f" and files of {len(ordered_endings) - 10} other endings" if len(ordered_endings) > 10 else ""
    advice = "; convert audio that cannot be read here, to FLAC for example" if unreadable_endings else ""
    level = logging.WARNING if audio_endings else logging.INFO
    logger.log(level, "%s: left out %s%s%s", path, counts, remainder, advice)


def read_tsv(config: TsvData) -> list[Entry]:
    """Return the files of a fairseq TSV with the lengths in the TSV."""
    numbered_lines = read_lines(config.path)
    number, first_line = next(numbered_lines, (0, ""))
    if not number or "\t" in first_line:
        raise DataError(f"{config.path}, line 1: expected the root folder of the paths, got {first_line!r}.")
    root = expand_user(config.root) if config.root else expand_user(config.path).parent / first_line.strip()
    if not root.is_dir():
        raise DataError(f"The root folder {root} of {config.path} does not exist; set `root` to the folder.")
    entries = []
    for number, line in numbered_lines:
        name, _, samples = line.rstrip().partition("\t")
        if not name or not samples.isdecimal():
            raise DataError(
                f"{config.path}, line {number}: expected a path, a tab and a number of samples, got {line!r}."
            )
        entries.append(Entry(id="", display_path=name, path=str(root / name), frames=int(samples)))
    return require_entries(entries, config.path)


def read_jsonl(config: JsonlData) -> list[Entry]:
    """Return the lines of a JSONL manifest that match `split` and `where`; see `fields.make_entry` for the fields."""
    folder = expand_user(config.path).parent
    row_filter = RowFilter(config.where, config.split)
    entries = []
    for number, line in read_lines(config.path):
        location = f"{config.path}, line {number}"
        fields = parse_json_object(line, location)
        if row_filter(fields):
            entries.append(make_entry(fields, location, folder))
    return row_filter.require_entries(entries, config.path)


def read_librispeech(config: LibriSpeechData) -> list[Entry]:
    """Return the utterances of LibriSpeech below `path`, with text, speaker and subset, sorted by id.

    Recordings may have been converted to another format. A recording without a line in the transcripts has no text.
    """
    root = require_path(config.path, folder=True)
    files = sorted(file for file in root.rglob("*.trans.txt") if not file.name.startswith(MAC_PREFIX))
    if not files:
        raise DataError(
            f"{config.path} has no *.trans.txt; expected LibriSpeech as downloaded: "
            "subset/speaker/chapter/*.flac and *.trans.txt."
        )
    entries = []
    subsets = set()
    for file in files:
        chapter = file.absolute().parent  # SUBSET/SPEAKER/CHAPTER
        speaker = chapter.parent.name
        subset = chapter.parent.parent.name
        subsets.add(subset)
        if config.split not in (None, subset):
            continue
        recordings = _recordings_by_stem(file.parent)
        for id, text in sorted((dict.fromkeys(recordings) | _read_transcripts(file)).items()):
            # Without a recording, the entry names the file as distributed, to be reported as missing.
            path = recordings.get(id, file.parent / f"{id}.flac")
            entries.append(
                Entry(
                    id=id,
                    display_path=path.relative_to(root).as_posix(),
                    path=str(path),
                    text=text,
                    speaker=speaker,
                    split=subset,
                )
            )
    if config.split is not None:
        require_choice(config.split, subsets, path=config.path, kind="subset")
    return require_entries(entries, config.path)


def _recordings_by_stem(folder: Path) -> dict[str, Path]:
    """Return the audio files of a folder by name without suffix; with several suffixes, FLAC, as distributed."""
    files = [file for file in folder.iterdir() if file.suffix.lower() in AUDIO_SUFFIXES]
    # FLAC is sorted last, so that it overwrites the rest in the dict.
    return {file.stem: file for file in sorted(files, key=lambda file: (file.suffix.lower() == ".flac", file.name))}


def _read_transcripts(file: Path) -> dict[str, str | None]:
    """Return the texts by id; `None` for a line with only an id, such as of speech that is not intelligible."""
    partitions = (line.strip().partition(" ") for _, line in read_lines(str(file)))
    return {id: text.strip() or None for id, _, text in partitions}


def _walk_files(root: Path, skipped_counts: Counter[str]) -> Iterator[Path]:
    """Yield all files below `root`, through linked folders too, and count hidden folders, which are left out."""
    visited_folders = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real_path = os.path.realpath(folder)  # links may form a cycle, or lead to a folder twice
        if real_path in visited_folders:
            subfolders.clear()
            continue
        visited_folders.add(real_path)
        visible_folders = sorted(name for name in subfolders if not name.startswith("."))
        skipped_counts[f"{_HIDDEN_PREFIX}folders"] += len(subfolders) - len(visible_folders)
        subfolders[:] = visible_folders  # in place: `os.walk` continues with these
        yield from (Path(folder) / name for name in sorted(files))
