"""Where the speech comes from: one frozen config per kind of source, told apart by `kind`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from secateur.errors import ConfigError, did_you_mean

# What a manifest or table may say of an utterance; `fields.entry` documents each.
FIELDS = ("audio", "id", "offset", "duration", "samples", "text", "tagged", "speaker", "label", "split")


@dataclass(frozen=True, kw_only=True)
class SyntheticData:
    """Speech made on the spot: words from a closed list in many voices, with known text and timings.

    Attributes:
        utterances: How many utterances to make.
        seed: Decides words and voices; the same seed gives the same corpus.
        words_per_utterance: Fewest and most words in one utterance.
        voices: How many different speakers, over all splits.
        rooms: Some utterances sound as from a small room, over a telephone or with a little noise.
    """

    kind: Literal["synthetic"] = "synthetic"
    utterances: int = 400
    seed: int = 0
    words_per_utterance: tuple[int, int] = (4, 12)
    voices: int = 24
    rooms: bool = True

    def __post_init__(self) -> None:
        min_words, max_words = self.words_per_utterance
        if self.utterances < 1 or self.voices < 1:
            raise ConfigError(f"Got utterances {self.utterances} and voices {self.voices}; both must be at least 1.")
        if self.seed < 0:
            raise ConfigError(f"Got seed {self.seed}; it must be 0 or more.")
        if not 1 <= min_words <= max_words:
            raise ConfigError(
                f"Got words_per_utterance ({min_words}, {max_words}); give the fewest, at least 1, then the most."
            )


@dataclass(frozen=True, kw_only=True)
class RecordedData:
    """What every source of recordings has in common.

    Attributes:
        path: The folder or manifest.
        min_seconds: Anything shorter is skipped.
        max_skipped: The largest share of files that may be skipped before opening fails, 0 to 1.
        scan: Decode every file once while opening, so that silent and corrupt ones are found then.
            Without it opening reads headers only, and a bad file ends the run when its turn comes.
        memory_hours: A corpus no longer than this stays decoded in memory (0.23 GB an hour).
    """

    path: str
    min_seconds: float = 0.1
    max_skipped: float = 0.1
    scan: bool = True
    # Opus decodes at some 700 times real time on one core, so a large corpus loses little by staying
    # on disk, while each process of a distributed run would hold its own copy of it. Kept as float32:
    # int16 would halve the memory, but then what is read would depend on where it is read from.
    memory_hours: float = 2.0

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("Got an empty path; name the folder or manifest that holds the speech.")
        if not 0 <= self.max_skipped <= 1:
            raise ConfigError(f"Got max_skipped {self.max_skipped}; it is a share between 0 and 1.")
        if not (self.min_seconds >= 0 and self.memory_hours >= 0):  # nor are they NaN
            raise ConfigError(
                f"Got min_seconds {self.min_seconds} and memory_hours {self.memory_hours}; neither may be negative."
            )


@dataclass(frozen=True, kw_only=True)
class FolderData(RecordedData):
    """Every audio file below a folder, told by its ending (`readers.SUFFIXES`), without text."""

    kind: Literal["folder"] = "folder"


@dataclass(frozen=True, kw_only=True)
class TsvData(RecordedData):
    """A fairseq TSV: the root folder on line 1, then `relative path <TAB> number of samples`.

    Attributes:
        root: Takes the place of line 1, for a manifest that came from another machine.
    """

    kind: Literal["tsv"] = "tsv"
    root: str | None = None


@dataclass(frozen=True, kw_only=True)
class JsonlData(RecordedData):
    """A manifest with one JSON object per line; `fields.entry` documents its fields.

    Attributes:
        split: Keep only the lines with this `split`.
        where: Keep only the lines whose field, by name, is one of the values given, or a list with one.
    """

    kind: Literal["jsonl"] = "jsonl"
    split: str | None = None
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LibriSpeechData(RecordedData):
    """LibriSpeech as downloaded: `subset/speaker/chapter/*.flac` with one `*.trans.txt` per chapter.

    Attributes:
        split: Keep only this subset, for example `train-clean-100`.
    """

    kind: Literal["librispeech"] = "librispeech"
    split: str | None = None


@dataclass(frozen=True, kw_only=True)
class TableData(RecordedData):
    """What every table of recordings has in common.

    Attributes:
        columns: The column that holds a field, by the field's name (`fields.entry` documents them), or several,
            whose values are joined; a field that is not named is the column of its own name, where there is one.
        joint: What stands between joined values.
        where: Keep only the rows whose column, by name, has one of the values given.
    """

    columns: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    joint: str = "_"
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, columns in self.columns.items():
            if name not in FIELDS:
                raise ConfigError(
                    f"columns: got {name!r}, allowed are {', '.join(FIELDS)}.{did_you_mean(name, FIELDS)}"
                )
            if not columns or not all(columns):
                raise ConfigError(f"columns.{name}: got {columns!r}; name at least one column.")


@dataclass(frozen=True, kw_only=True)
class CsvData(TableData):
    """A CSV with one recording per row below a header; a TSV by its `delimiter`.

    Attributes:
        root: The folder that audio paths are relative to; None is that of the CSV.
        split: Keep only the rows with this `split`.
        delimiter: What stands between values, one character.
        quoted: Values may stand in double quotes. Without it a quote is a character like any other, which
            tables need that were written without quoting, such as those of Common Voice.
    """

    kind: Literal["csv"] = "csv"
    root: str | None = None
    split: str | None = None
    delimiter: str = ","
    quoted: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.delimiter) != 1 or self.delimiter in '"\r\n':
            raise ConfigError(f"Got the delimiter {self.delimiter!r}; it is one character, such as ',' or a tab.")


@dataclass(frozen=True, kw_only=True)
class SlurpData(RecordedData):
    """SLURP as distributed: `train.jsonl`, `devel.jsonl` and `test.jsonl`, with recordings in `slurp_real`.

    `path` is the folder with these files, or the repository around it.

    Attributes:
        split: The file, without its ending, or several, as `[train, train_synthetic]`; None is all of SLURP's.
        audio: Folders with recordings, or with `slurp_real` and `slurp_synth`; by default these two are looked
            for in `path`, in its `audio`, and where the repository's script puts them.
    """

    kind: Literal["slurp"] = "slurp"
    split: str | tuple[str, ...] | None = None
    audio: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SpeechCommandsData(RecordedData):
    """Speech Commands as downloaded: a folder per word, `validation_list.txt` and `testing_list.txt`.

    Attributes:
        split: Keep only this part: `dev` and `test` are what the lists name, `train` is the rest.
    """

    kind: Literal["speech_commands"] = "speech_commands"
    split: Literal["train", "dev", "test"] | None = None


@dataclass(frozen=True, kw_only=True)
class FluentSpeechCommandsData(RecordedData):
    """Fluent Speech Commands as downloaded: `data/train_data.csv`, `valid` and `test`, with paths from the root.

    Attributes:
        split: Read only this one.
    """

    kind: Literal["fluent_speech_commands"] = "fluent_speech_commands"
    split: Literal["train", "valid", "test"] | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetsData(TableData):
    """A dataset of the library `datasets`: from the hub, a local folder, or one that it saved to disk.

    `path` is the hub's name or the folder. Audio is decoded as from any other file, never by the library; rows of
    {array, sampling_rate}, which were never cast to audio, are read too.

    Attributes:
        name: The dataset's configuration, where it has several.
        split: Read only this split; also in the library's notation, as `train[:10%]`.
    """

    kind: Literal["datasets"] = "datasets"
    name: str | None = None
    split: str | None = None


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
