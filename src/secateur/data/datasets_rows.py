"""Reader of datasets of the library `datasets`: rows as entries, and the audio files stored in the rows."""

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
        entries: One entry for each row; `path` is the name of the row, such as `train/17`, not a file.
        read_content: Returns the bytes of the audio file of a row, by the row's name.
    """

    entries: list[Entry]
    read_content: Callable[[str], bytes]


def read_datasets(config: DatasetsData) -> DatasetRows:
    """Return the rows that match `where`, split by split.

    Raises:
        DataError: The library is not installed, the library cannot load the dataset, or a column is missing.
    """
    library = _import_datasets()
    audio_columns: dict[str, _FileColumn | ArrayColumn] = {}
    row_filter = RowFilter(config.where)
    entries = []
    for split, dataset in _load_splits(library, config).items():
        columns = TableColumns(dataset.column_names, config)
        if len(columns.by_field["audio"]) != 1:
            raise DataError(f"columns.audio: expected one column of a dataset, got {columns.by_field['audio']}.")
        audio_name = columns.by_field["audio"][0]
        audio_columns[split] = _undecoded_column(library, dataset, audio_name, config)
        for row_index, row in enumerate(_row_values(library, dataset, columns, config)):
            row_name = f"{split}/{row_index}"
            if row_filter(row):
                # The audio stays in the dataset: the row's name stands for the file until `read_content` is called.
                fields = columns.fields({**row, audio_name: row_name})
                row_entry = make_entry(fields, f"{config.path}, row {row_name}", Path())
                entries.append(replace(row_entry, path=row_name, split=row_entry.split or split))

    # All splits share a scale: a quiet split alone may look like audio of fewer bits.
    array_columns = [column for column in audio_columns.values() if isinstance(column, ArrayColumn)]
    scale = integer_scale(array_columns, config.path)

    def read_content(name: str) -> bytes:
        split, _, row_index = name.rpartition("/")
        audio_column = audio_columns[split]
        if isinstance(audio_column, ArrayColumn):
            return audio_column.content(int(row_index), name, scale)
        return audio_column.content(int(row_index), name)

    return DatasetRows(row_filter.require_entries(entries, config.path), read_content)


def _undecoded_column(library: Any, dataset: Any, column: str, config: DatasetsData) -> _FileColumn | ArrayColumn:
    """Return the audio column of a split, set up so that the library does not decode the audio."""
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
            f"{config.path}: expected audio, paths of files or rows of {{array, sampling_rate}} in the column "
            f"{column!r}."
        ) from None
    return _FileColumn(undecoded_audio, column, expand_user(config.path))


@dataclass(frozen=True)
class _FileColumn:
    """The audio column of a split, as encoded audio files."""

    dataset: Any
    column: str
    folder: Path

    def content(self, row_index: int, name: str) -> bytes:
        """Return the bytes of the audio file of a row, stored in the row or at the path in the row.

        Args:
            row_index: The row.
            name: Name of the row, for messages.

        Raises:
            UnusableAudio: The row has no audio, or the file cannot be read.
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
            "(`pip install 'secateur[datasets]'`), or use another kind of data."
        ) from None
    return datasets


def _load_splits(library: Any, config: DatasetsData) -> Mapping[str, Any]:
    """Return the splits of a dataset by name; only the split of the config if `config.split` is set."""
    folder = expand_user(config.path)
    is_saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
    try:
        if is_saved:
            loaded_data = library.load_from_disk(str(folder))
        else:
            path = str(folder) if folder.is_dir() else config.path
            loaded_data = library.load_dataset(path, config.name, split=config.split)
    # The library downloads, unpacks and parses files of many formats and lets errors of all of these pass.
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
        # A single split. load_dataset has selected config.split already, in notation such as "train[:10%]".
        split_name = config.split
        if is_saved or split_name is None:
            split_name = str(getattr(loaded_data, "split", None) or "all")
        loaded_data = {split_name: loaded_data}
    if config.split is None:
        return dict(loaded_data)
    return {config.split: loaded_data[require_choice(config.split, loaded_data, path=config.path, kind="split")]}


def _root_cause(error: BaseException) -> BaseException:
    """Return the first error of a chain of `raise … from …`."""
    return _root_cause(error.__cause__) if error.__cause__ is not None else error


def _row_values(library: Any, dataset: Any, columns: TableColumns, config: DatasetsData) -> Iterator[dict[str, Any]]:
    """Yield the values of each row by column, without the audio; class indices become class names.

    Only columns that the config uses are read, since the library would decode images or audio in the rest.
    """
    used_columns = set(config.where).union(*columns.by_field.values())
    needed_columns = sorted(used_columns - set(columns.by_field["audio"]))
    class_names = {
        column: dataset.features[column].names
        for column in needed_columns
        if isinstance(dataset.features[column], library.ClassLabel)
    }
    # A dataset with no column selected has no rows either.
    rows = dataset.select_columns(needed_columns) if needed_columns else ({} for _ in range(len(dataset)))
    for row in rows:
        yield {**row, **{column: _class_name(class_names[column], row[column]) for column in class_names}}


def _class_name(class_names: list[str], class_index: int | None) -> str | None:
    """Return the name of a class, or `None` for -1, the index in test sets without public classes."""
    if class_index is None or not 0 <= class_index < len(class_names):
        return None
    return class_names[class_index]
