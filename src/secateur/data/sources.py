"""Configs of speech data: a frozen dataclass for each kind of source, with `kind` as discriminator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from secateur.bounds import NonNegative, PositiveInt, Seed, Share
from secateur.errors import ConfigError, did_you_mean

# Fields of an utterance in a manifest or table, documented in `fields.make_entry`.
FIELDS = ("audio", "id", "offset", "duration", "samples", "text", "tagged", "speaker", "label", "split")


@dataclass(frozen=True, kw_only=True)
class SyntheticData:
    """Synthetic speech: words from a closed list in many voices, with known text and word timings."""

    kind: Literal["synthetic"] = "synthetic"
    utterances: PositiveInt = 400
    """Number of utterances."""
    seed: Seed = 0
    """Seed of words and voices; the same seed gives the same corpus."""
    words_per_utterance: tuple[PositiveInt, PositiveInt] = (4, 12)
    """Minimum and maximum number of words in an utterance."""
    voices: PositiveInt = 24
    """Number of different speakers over all splits."""
    rooms: bool = True
    """Whether to degrade some utterances with room reverberation, a telephone band or noise."""

    def __post_init__(self) -> None:
        min_words, max_words = self.words_per_utterance
        if min_words > max_words:
            raise ConfigError(
                f"words_per_utterance: expected a maximum >= the minimum, got {min_words} and {max_words}."
            )


@dataclass(frozen=True, kw_only=True)
class RecordedData:
    """Base class of all sources of recordings."""

    path: str
    """The folder or manifest."""
    min_seconds: NonNegative = 0.1
    """Shorter utterances are skipped."""
    max_skipped: Share = 0.1
    """Largest share of files that may be skipped before opening fails."""
    scan: bool = True
    """Whether to decode every file once on opening, to find silent and corrupt files. Otherwise only headers are read,
    and a bad file ends the run when it is drawn."""
    # Opus decodes at some 700 times real time on a core, so a large corpus may well stay on disk, while each process of
    # a distributed run would hold a copy in memory. The cache is float32: int16 would halve the memory, but then the
    # samples would depend on whether they come from the cache.
    memory_hours: NonNegative = 2.0
    """Maximum length of a corpus, in hours, that stays decoded in memory (0.23 GB an hour)."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("path: expected the folder or manifest of the speech, got an empty text.")


@dataclass(frozen=True, kw_only=True)
class FolderData(RecordedData):
    """All audio files below a folder, without text; files are recognized by suffix (`readers.AUDIO_SUFFIXES`)."""

    kind: Literal["folder"] = "folder"


@dataclass(frozen=True, kw_only=True)
class TsvData(RecordedData):
    """A fairseq TSV: the root folder on line 1, then `relative path <TAB> number of samples`."""

    kind: Literal["tsv"] = "tsv"
    root: str | None = None
    """Replaces line 1, for a manifest from another machine."""


@dataclass(frozen=True, kw_only=True)
class JsonlData(RecordedData):
    """A manifest with a JSON object on each line; `fields.make_entry` documents the fields."""

    kind: Literal["jsonl"] = "jsonl"
    split: str | None = None
    """Keep only the lines with this `split`."""
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Keep only the lines in which each field listed here, by name, has one of the given values, or is a list with at
    least one of them."""


@dataclass(frozen=True, kw_only=True)
class LibriSpeechData(RecordedData):
    """LibriSpeech as downloaded: `subset/speaker/chapter/*.flac` with a `*.trans.txt` in each chapter."""

    kind: Literal["librispeech"] = "librispeech"
    split: str | None = None
    """Keep only this subset, for example `train-clean-100`."""


@dataclass(frozen=True, kw_only=True)
class TableData(RecordedData):
    """Base class of tables of recordings."""

    columns: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    """The column of each field, by field name (see `fields.make_entry`), or several columns whose values are joined. A
    field that is not listed is read from the column with the same name, if there is such a column."""
    joint: str = "_"
    """Separator of joined values."""
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Keep only the rows in which each column listed here has one of the given values."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, columns in self.columns.items():
            if name not in FIELDS:
                raise ConfigError(
                    f"columns: expected fields among {', '.join(FIELDS)}, got {name!r}.{did_you_mean(name, FIELDS)}"
                )
            if not columns or not all(columns):
                raise ConfigError(f"columns.{name}: expected at least one column, got {columns!r}.")


@dataclass(frozen=True, kw_only=True)
class CsvData(TableData):
    """A CSV with a header and a recording in each row; with a tab as `delimiter`, a TSV."""

    kind: Literal["csv"] = "csv"
    root: str | None = None
    """The folder that audio paths are relative to; None is the folder of the CSV."""
    split: str | None = None
    """Keep only the rows with this `split`."""
    delimiter: str = ","
    """Separator of values, a single character."""
    quoted: bool = True
    """Whether values may be in double quotes. Set to false for tables written without quoting, such as those of Common
    Voice, where a quote is a character like any other."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.delimiter) != 1 or self.delimiter in '"\r\n':
            raise ConfigError(f"delimiter: expected one character, such as ',' or a tab, got {self.delimiter!r}.")


@dataclass(frozen=True, kw_only=True)
class SlurpData(RecordedData):
    """SLURP as distributed: `train.jsonl`, `devel.jsonl` and `test.jsonl`, with recordings in `slurp_real`.

    `path` is the folder with these files, or SLURP's repository.
    """

    kind: Literal["slurp"] = "slurp"
    split: str | tuple[str, ...] | None = None
    """Name of an annotation file without suffix, or several, as in `[train, train_synthetic]`; None reads all files of
    SLURP."""
    audio: tuple[str, ...] = ()
    """Folders with recordings, or with the folders `slurp_real` and `slurp_synth`. By default these two are searched in
    `path`, in `path`/audio, and where the script of the repository puts them."""


@dataclass(frozen=True, kw_only=True)
class SpeechCommandsData(RecordedData):
    """Speech Commands as downloaded: a folder for each word, `validation_list.txt` and `testing_list.txt`."""

    kind: Literal["speech_commands"] = "speech_commands"
    split: Literal["train", "dev", "test"] | None = None
    """Keep only this split: `dev` and `test` are given by the lists, `train` is the rest."""


@dataclass(frozen=True, kw_only=True)
class FluentSpeechCommandsData(RecordedData):
    """Fluent Speech Commands as downloaded: `data/train_data.csv`, `valid` and `test`, with paths from the root."""

    kind: Literal["fluent_speech_commands"] = "fluent_speech_commands"
    split: Literal["train", "valid", "test"] | None = None
    """Read only this split."""


@dataclass(frozen=True, kw_only=True)
class DatasetsData(TableData):
    """A dataset of the library `datasets`: from the hub, a local folder, or saved by `save_to_disk`.

    `path` is the name on the hub or the folder. Audio files in the dataset are decoded like all other files, not by the
    library. Rows of {array, sampling_rate}, which were not cast to audio, are read too.
    """

    kind: Literal["datasets"] = "datasets"
    name: str | None = None
    """The configuration of the dataset, if there are several."""
    split: str | None = None
    """Read only this split; also in the library's notation, as in `train[:10%]`."""


DataConfig = (
    SyntheticData
    | FolderData
    | TsvData
    | JsonlData
    | LibriSpeechData
    | CsvData
    | SlurpData
    | SpeechCommandsData
    | FluentSpeechCommandsData
    | DatasetsData
)
