"""Datasets of the library `datasets`: their rows as entries, and the audio files that are kept inside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from secateur.data.arrays import ArrayColumn, integer_scale
from secateur.data.config import DatasetsData
from secateur.data.containers.recording import UnusableAudio, no_file
from secateur.data.entries import Entry, expanded, known
from secateur.data.fields import Wanted, entry
from secateur.data.tables import Columns
from secateur.errors import DataError


@dataclass(frozen=True)
class Rows:
    """The rows of a dataset.

    Attributes:
        entries: One per row; its `path` is a name, not a file.
        content: The audio file that a name stands for, as bytes.
    """

    entries: list[Entry]
    content: Callable[[str], bytes]


def read_datasets(config: DatasetsData) -> Rows:
    """The rows that `where` lets through, split by split.

    Raises:
        DataError: The library is not installed, it cannot load the dataset, or a column is missing.
    """
    library = _library()
    stores: dict[str, _Files | ArrayColumn] = {}
    wanted = Wanted(config.where)
    entries = []
    for split, dataset in _splits(library, config).items():
        columns = Columns(dataset.column_names, config)
        if len(columns.of["audio"]) != 1:
            raise DataError(f"columns.audio: got {columns.of['audio']}; the audio of a dataset is one column.")
        audio = columns.of["audio"][0]
        stores[split] = _store(library, dataset, audio, config)
        for number, row in enumerate(_said(library, dataset, columns, config)):
            place = f"{split}/{number}"
            if wanted(row):
                fields = columns.fields({**row, audio: place})
                made = entry(fields, f"{config.path}, row {place}", Path())
                entries.append(replace(made, path=place, split=made.split or split))

    scale = integer_scale([store for store in stores.values() if isinstance(store, ArrayColumn)], config.path)

    def content(name: str) -> bytes:
        split, _, number = name.rpartition("/")
        store = stores[split]
        if isinstance(store, ArrayColumn):
            return store.content(int(number), name, scale)
        return store.content(int(number), name)

    return Rows(wanted.some(entries, config.path), content)


def _store(library: Any, dataset: Any, column: str, config: DatasetsData) -> _Files | ArrayColumn:
    """Return the audio column of a split, whatever it is made of, such that the library decodes nothing."""
    feature = dataset.features[column]
    alone = dataset.select_columns([column])
    if isinstance(feature, Mapping) and "array" in feature:
        if "sampling_rate" not in feature:
            raise DataError(
                f"{config.path}: the column {column!r} holds arrays without a `sampling_rate`, only "
                f"{', '.join(sorted(feature))}; add it to each, or cast the column to `datasets.Audio`."
            )
        return ArrayColumn(alone.with_format("numpy"), column)
    try:
        coded = alone.cast_column(column, library.Audio(decode=False))
    except (TypeError, ValueError, NotImplementedError):
        raise DataError(
            f"{config.path}: the column {column!r} holds neither audio nor paths of files, nor rows of "
            "{array, sampling_rate}."
        ) from None
    return _Files(coded, column, expanded(config.path))


@dataclass(frozen=True)
class _Files:
    """The audio column of one split, as files that were never decoded."""

    dataset: Any
    column: str
    folder: Path

    def content(self, number: int, name: str) -> bytes:
        """Return the file of row `number`, which is named `name`: its bytes, or what lies at its path.

        Raises:
            UnusableAudio: The row has none.
        """
        file = self.dataset[number][self.column] or {}
        if file.get("bytes") is not None:
            return bytes(file["bytes"])
        if not file.get("path"):
            raise UnusableAudio(name, "holds no audio")
        path = Path(self.folder, file["path"])
        if (reason := no_file(str(path))) is not None:
            raise UnusableAudio(name, f"names {file['path']}, which {reason}")
        try:
            return path.read_bytes()
        except OSError as error:
            raise UnusableAudio(name, f"names {file['path']}, which cannot be opened ({error.strerror})") from None


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise DataError(
            "Data of kind `datasets` needs the package `datasets`, which is not installed. Install it "
            "(`pip install 'secateur[datasets]'`), or name your data by another kind."
        ) from None
    return datasets


def _splits(library: Any, config: DatasetsData) -> Mapping[str, Any]:
    """The splits of a dataset by name; one alone when the config names it."""
    folder = expanded(config.path)
    saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
    try:
        if saved:
            loaded = library.load_from_disk(str(folder))
        else:
            path = str(folder) if folder.is_dir() else config.path
            loaded = library.load_dataset(path, config.name, split=config.split)
    # It downloads, unpacks and parses whatever the dataset is made of: what that may raise is open.
    except Exception as error:
        cause = _cause(error)
        first = next(iter(str(cause).splitlines()), type(cause).__name__).rstrip(".")[:300]
        if isinstance(cause, ImportError):
            raise DataError(
                f"The dataset {config.path!r} is not stored as Parquet or Arrow, so the library would have to build "
                f"it first ({first}); name its recordings by kind `csv`, `jsonl` or `folder`."
            ) from None
        raise DataError(f"The dataset {config.path!r} could not be loaded: {first}.") from None
    if not isinstance(loaded, Mapping):
        own = str(getattr(loaded, "split", None) or "all") if saved or config.split is None else config.split
        loaded = {own: loaded}
    if config.split is None:
        return dict(loaded)
    return {config.split: loaded[known(config.split, loaded, path=config.path, what="split")]}


def _cause(error: BaseException) -> BaseException:
    """What an error was first raised for."""
    return _cause(error.__cause__) if error.__cause__ is not None else error


def _said(library: Any, dataset: Any, columns: Columns, config: DatasetsData) -> Iterator[dict[str, Any]]:
    """What each row says, without its audio; classes by their names.

    Other columns are left alone: the library would decode what they hold.
    """
    audio = columns.of["audio"]
    of_fields = {column for of_field in columns.of.values() for column in of_field}
    needed = sorted((of_fields | set(config.where)) - set(audio))
    names = {
        column: dataset.features[column].names
        for column in needed
        if isinstance(dataset.features[column], library.ClassLabel)
    }
    # A dataset without columns is one without rows.
    rows = dataset.select_columns(needed) if needed else ({} for _ in range(len(dataset)))
    for row in rows:
        yield {**row, **{column: _class(names[column], row[column]) for column in names}}


def _class(names: list[str], number: int | None) -> str | None:
    """The name of a class; test sets whose classes are withheld have -1."""
    return names[number] if number is not None and 0 <= number < len(names) else None
