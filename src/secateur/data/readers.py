"""Readers: from a manifest or folder to the list of what it names, before any audio is looked at."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from secateur.data.config import FolderData, JsonlData, LibriSpeechData, TsvData
from secateur.data.corpus import printable
from secateur.data.entries import MAC, Entry, existing, expanded, known, lines, some
from secateur.data.fields import Wanted, entry, json_object
from secateur.errors import DataError

logger = logging.getLogger(__name__)

# What libsndfile reads and has a header; of a name without one (`.raw`, `.pcm`, `.vox`, `.gsm`) nothing is known.
SUFFIXES = (
    ".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".mpga",
    ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".sph", ".nist", ".voc",
)  # fmt: skip
# Audio, or films with it, that libsndfile does not read.
UNREADABLE = (
    ".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".aac", ".3gp", ".amr", ".wma", ".wmv", ".webm", ".weba", ".mkv", ".mka",
    ".avi", ".spx", ".ape", ".wv", ".ac3", ".raw", ".pcm", ".vox", ".gsm",
)  # fmt: skip
# What Windows leaves in folders.
_CLUTTER = ("thumbs.db", "desktop.ini")
_HIDDEN = "hidden "


def read_folder(config: FolderData) -> list[Entry]:
    """Return every audio file below a folder, sorted by path; hidden files and folders are left out.

    What else is there is counted by ending and logged.
    """
    root = existing(config.path, folder=True)
    names: list[str] = []
    others: Counter[str] = Counter()
    for path in _walk(root, others):
        is_audio = path.suffix.lower() in SUFFIXES
        if path.name.startswith(".") and not path.name.startswith(MAC):
            # Of others, such as `.gitignore`, nobody expects that they are read.
            others[f"{_HIDDEN}{path.suffix.lower()}"] += is_audio
        elif is_audio:
            names.append(path.relative_to(root).as_posix())
        elif path.name.lower() not in _CLUTTER and not path.name.startswith(MAC):
            others[path.suffix.lower() or path.name] += 1
    others = +others
    if not names:
        there = f"only {', '.join(map(printable, sorted(others)[:5]))}" if others else "no files at all"
        raise DataError(f"Folder {config.path} holds no audio that can be read ({', '.join(SUFFIXES)}), {there}.")
    _report_others(others, config.path)
    return [Entry(id=name, shown=name, path=str(root / name)) for name in sorted(names)]


def _report_others(others: Counter[str], path: str) -> None:
    """Log what is left out of a folder: as a warning where there is audio among it."""
    if not others:
        return
    audio = [ending for ending in others if ending in UNREADABLE or ending.startswith(f"{_HIDDEN}.")]
    # Audio first, then what is most frequent.
    order = sorted(others, key=lambda ending: (ending not in audio, -others[ending], ending))
    counts = ", ".join(f"{others[ending]} {printable(ending)}" for ending in order[:10])
    more = f" and files of {len(order) - 10} other endings" if len(order) > 10 else ""
    advice = "; convert audio that cannot be read here, to FLAC for example" if set(audio) & set(UNREADABLE) else ""
    logger.log(logging.WARNING if audio else logging.INFO, "%s: left out %s%s%s", path, counts, more, advice)


def read_tsv(config: TsvData) -> list[Entry]:
    """The files of a fairseq TSV, each with the length that it claims."""
    numbered = lines(config.path)
    number, first = next(numbered, (0, ""))
    if not number or "\t" in first:
        raise DataError(f"{config.path} must have the root folder of its paths on line 1; got {first!r}.")
    root = expanded(config.root) if config.root else expanded(config.path).parent / first.strip()
    if not root.is_dir():
        raise DataError(f"The root folder {root} of {config.path} is not there; set `root` to where it is.")
    entries = []
    for number, line in numbered:
        name, _, samples = line.rstrip().partition("\t")
        if not name or not samples.isdecimal():
            raise DataError(
                f"{config.path}, line {number}: got {line!r}, expected a path, a tab and a number of samples."
            )
        entries.append(Entry(id="", shown=name, path=str(root / name), frames=int(samples)))
    return some(entries, config.path)


def read_jsonl(config: JsonlData) -> list[Entry]:
    """The lines of a JSONL manifest that `split` and `where` let through; `fields.entry` documents their fields."""
    folder = expanded(config.path).parent
    wanted = Wanted(config.where, config.split)
    entries = []
    for number, line in lines(config.path):
        place = f"{config.path}, line {number}"
        fields = json_object(line, place)
        if wanted(fields):
            entries.append(entry(fields, place, folder))
    return wanted.some(entries, config.path)


def read_librispeech(config: LibriSpeechData) -> list[Entry]:
    """The utterances of LibriSpeech below `path`, with text, speaker and subset, sorted by id.

    Recordings may have been converted to another format; a recording without a line in the transcripts has no text.
    """
    root = existing(config.path, folder=True)
    files = sorted(file for file in root.rglob("*.trans.txt") if not file.name.startswith(MAC))
    if not files:
        raise DataError(
            f"{config.path} holds no *.trans.txt; expected LibriSpeech as downloaded: "
            "subset/speaker/chapter/*.flac and *.trans.txt."
        )
    entries, subsets = [], set()
    for file in files:
        chapter = file.absolute().parent
        speaker, subset = chapter.parent.name, chapter.parent.parent.name
        subsets.add(subset)
        if config.split not in (None, subset):
            continue
        recordings = _recordings(file.parent)
        for id, text in sorted((dict.fromkeys(recordings) | _transcripts(file)).items()):
            path = recordings.get(id, file.parent / f"{id}.flac")
            entries.append(
                Entry(
                    id=id,
                    shown=path.relative_to(root).as_posix(),
                    path=str(path),
                    text=text,
                    speaker=speaker,
                    split=subset,
                )
            )
    if config.split is not None:
        known(config.split, subsets, path=config.path, what="subset")
    return some(entries, config.path)


def _recordings(folder: Path) -> dict[str, Path]:
    """Return the audio files of a folder by their names without ending; of two, FLAC, as distributed."""
    files = [file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES]
    return {file.stem: file for file in sorted(files, key=lambda file: (file.suffix.lower() == ".flac", file.name))}


def _transcripts(file: Path) -> dict[str, str | None]:
    """Texts by id; None where a line has an id alone, as of what nobody could understand."""
    split = (line.strip().partition(" ") for _, line in lines(str(file)))
    return {id: text.strip() or None for id, _, text in split}


def _walk(root: Path, others: Counter[str]) -> Iterator[Path]:
    """Yield all files below `root`; linked folders are followed, each real folder once, and hidden ones counted."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        visible = sorted(name for name in folders if not name.startswith("."))
        others[f"{_HIDDEN}folders"] += len(folders) - len(visible)
        folders[:] = visible
        yield from (Path(folder) / name for name in sorted(files))
