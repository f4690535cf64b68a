"""Datasets of the library `datasets`: their rows as entries, and the audio files that are kept inside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from secateur.data.arrays import ArrayColumn, integer_scale
from secateur.data.containers.recording import UnusableAudio, find_file_fault
from secateur.data.entries import Entry, expand_user, require_choice
from secateur.data.fields import RowFilter, make_entry
from secateur.data.sources import DatasetsData
from secateur.data.tables import TableColumns
from secateur.errors import DataError


@dataclass(frozen=True)
class DatasetRows:
    """The rows of a dataset.

    Attributes:
        entries: One per row; its `path` is a name, not a file.
        content: The audio file that a name stands for, as bytes.
    """

    entries: list[Entry]
    read_content: Callable[[str], bytes]


def read_datasets(config: DatasetsData) -> DatasetRows:
    """The rows that `where` lets through, split by split.

    Raises:
        DataError: The library is not installed, it cannot load the dataset, or a column is missing.
    """
    library = _import_datasets()
    audio_columns: dict[str, _FileColumn | ArrayColumn] = {}
    row_filter = RowFilter(config.where)
    entries = []
    for split, dataset in _load_splits(library, config).items():
        columns = TableColumns(dataset.column_names, config)
        if len(columns.by_field["audio"]) != 1:
            raise DataError(f"columns.audio: got {columns.by_field['audio']}; the audio of a dataset is one column.")
        audio_name = columns.by_field["audio"][0]
        audio_columns[split] = _undecoded_column(library, dataset, audio_name, config)
        for row_index, row in enumerate(_row_values(library, dataset, columns, config)):
            row_name = f"{split}/{row_index}"
            if row_filter(row):
                fields = columns.fields({**row, audio_name: row_name})
                row_entry = make_entry(fields, f"{config.path}, row {row_name}", Path())
                entries.append(replace(row_entry, path=row_name, split=row_entry.split or split))

    scale = integer_scale(
        [audio_column for audio_column in audio_columns.values() if isinstance(audio_column, ArrayColumn)], config.path
    )

    def read_content(name: str) -> bytes:
        split, _, row_index = name.rpartition("/")
        audio_column = audio_columns[split]
        if isinstance(audio_column, ArrayColumn):
            return audio_column.content(int(row_index), name, scale)
        return audio_column.content(int(row_index), name)

    return DatasetRows(row_filter.require_entries(entries, config.path), read_content)


def _undecoded_column(library: Any, dataset: Any, column: str, config: DatasetsData) -> _FileColumn | ArrayColumn:
    """Return the audio column of a split, whatever it is made of, such that the library decodes nothing."""
    feature = dataset.features[column]
    audio_only = dataset.select_columns([column])
    if isinstance(feature, Mapping) and "array" in feature:
        if "sampling_rate" not in feature:
            raise DataError(
                f"{config.path}: the column {column!r} holds arrays without a `sampling_rate`, only "
                f"{', '.join(sorted(feature))}; add it to each, or cast the column to `datasets.Audio`."
            )
        return ArrayColumn(audio_only.with_format("numpy"), column)
    try:
        undecoded_audio = audio_only.cast_column(column, library.Audio(decode=False))
    except (TypeError, ValueError, NotImplementedError):
        raise DataError(
            f"{config.path}: the column {column!r} holds neither audio nor paths of files, nor rows of "
            "{array, sampling_rate}."
        ) from None
    return _FileColumn(undecoded_audio, column, expand_user(config.path))


@dataclass(frozen=True)
class _FileColumn:
    """The audio column of one split, as files that were never decoded."""

    dataset: Any
    column: str
    folder: Path

    def content(self, row_index: int, name: str) -> bytes:
        """Return the file of row `number`, which is named `name`: its bytes, or what lies at its path.

        Raises:
            UnusableAudio: The row has none.
        """
        file = self.dataset[row_index][self.column] or {}
        if file.get("bytes") is not None:
            return bytes(file["bytes"])
        if not file.get("path"):
            raise UnusableAudio(name, "holds no audio")
        path = Path(self.folder, file["path"])
        if (reason := find_file_fault(str(path))) is not None:
            raise UnusableAudio(name, f"names {file['path']}, which {reason}")
        try:
            return path.read_bytes()
        except OSError as error:
            raise UnusableAudio(name, f"names {file['path']}, which cannot be opened ({error.strerror})") from None


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise DataError(
            "Data of kind `datasets` needs the package `datasets`, which is not installed. Install it "
            "(`pip install 'secateur[datasets]'`), or name your data by another kind."
        ) from None
    return datasets


def _load_splits(library: Any, config: DatasetsData) -> Mapping[str, Any]:
    """The splits of a dataset by name; one alone when the config names it."""
    folder = expand_user(config.path)
    is_saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
    try:
        if is_saved:
            loaded_data = library.load_from_disk(str(folder))
        else:
            path = str(folder) if folder.is_dir() else config.path
            loaded_data = library.load_dataset(path, config.name, split=config.split)
    # It downloads, unpacks and parses whatever the dataset is made of: what that may raise is open.
    except Exception as error:
        cause = _root_cause(error)
        first_line = next(iter(str(cause).splitlines()), type(cause).__name__).rstrip(".")[:300]
        if isinstance(cause, ImportError):
            raise DataError(
                f"The dataset {config.path!r} is not stored as Parquet or Arrow, so the library would have to build "
                f"it first ({first_line}); name its recordings by kind `csv`, `jsonl` or `folder`."
            ) from None
        raise DataError(f"The dataset {config.path!r} could not be loaded: {first_line}.") from None
    if not isinstance(loaded_data, Mapping):
        split_name = (
            str(getattr(loaded_data, "split", None) or "all") if is_saved or config.split is None else config.split
        )
        loaded_data = {split_name: loaded_data}
    if config.split is None:
        return dict(loaded_data)
    return {config.split: loaded_data[require_choice(config.split, loaded_data, path=config.path, kind="split")]}


def _root_cause(error: BaseException) -> BaseException:
    """What an error was first raised for."""
    return _root_cause(error.__cause__) if error.__cause__ is not None else error


def _row_values(library: Any, dataset: Any, columns: TableColumns, config: DatasetsData) -> Iterator[dict[str, Any]]:
    """What each row says, without its audio; classes by their names.

    Other columns are left alone: the library would decode what they hold.
    """
    audio = columns.by_field["audio"]
    named_columns = {column for field_columns in columns.by_field.values() for column in field_columns}
    needed_columns = sorted((named_columns | set(config.where)) - set(audio))
    class_names = {
        column: dataset.features[column].names
        for column in needed_columns
        if isinstance(dataset.features[column], library.ClassLabel)
    }
    # A dataset without columns is one without rows.
    rows = dataset.select_columns(needed_columns) if needed_columns else ({} for _ in range(len(dataset)))
    for row in rows:
        yield {**row, **{column: _class_name(class_names[column], row[column]) for column in class_names}}


def _class_name(class_names: list[str], class_index: int | None) -> str | None:
    """The name of a class; test sets whose classes are withheld have -1."""
    return class_names[class_index] if class_index is not None and 0 <= class_index < len(class_names) else None
