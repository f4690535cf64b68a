"""Tables: recordings in the rows of a CSV, and the columns that hold their fields."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.data.entries import Entry, expand_user, not_text_error, require_choice, require_path
from secateur.data.fields import FIELD_ALIASES, NUMBER_FIELDS, RowFilter, make_entry
from secateur.data.readers import AUDIO_SUFFIXES, UNREADABLE_SUFFIXES
from secateur.data.sources import FIELDS, CsvData, TableData
from secateur.errors import DataError, did_you_mean


class TableColumns:
    """Which columns of a table hold which field, found once from its header.

    Attributes:
        of: The columns of each field that the table has.
    """

    def __init__(self, header: Sequence[str], config: TableData) -> None:
        """Look the columns up.

        Raises:
            DataError: A column that the config names is not there, or none holds the audio.
        """
        self._joint = config.joint
        self.by_field: dict[str, tuple[str, ...]] = {}
        for field in FIELDS:
            field_columns = config.columns.get(field)
            if field_columns is None:
                default_columns = [name for name in (field, FIELD_ALIASES.get(field)) if name in header][:1]
                field_columns = tuple(name for name in default_columns if name is not None)
            columns = (field_columns,) if isinstance(field_columns, str) else field_columns
            for column in columns:
                require_choice(column, filter(None, header), path=config.path, kind="column")
            if columns:
                self.by_field[field] = columns
        for column in config.where:
            require_choice(column, filter(None, header), path=config.path, kind="column")
        if "audio" not in self.by_field:
            raise DataError(
                f"{config.path} has no column `audio`; name the one that holds it, as in `columns: {{audio: path}}`; "
                f"its columns are {', '.join(name for name in header if name)}.{did_you_mean('audio', header)}"
            )

    def fields(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a row, by name; an empty text is none."""
        return {field: self._value(row, columns) for field, columns in self.by_field.items()}

    def _value(self, row: Mapping[str, Any], columns: tuple[str, ...]) -> Any:
        values = [row[column] for column in columns if row[column] not in (None, "")]
        if len(columns) == 1:
            return values[0] if values else None
        return self._joint.join(map(str, values)) or None


@dataclass(frozen=True)
class _Row:
    """A row of a CSV.

    Attributes:
        number: The number of its last line, from 1.
        values: Its values.
        lines: The lines that it is on, as they are in the file; several where a quoted value has line breaks.
    """

    number: int
    values: list[str]
    lines: list[str]


def read_csv(config: CsvData) -> list[Entry]:
    """The rows of a CSV that `split` and `where` let through.

    Raises:
        DataError: The table is malformed, or its quotes make one row of what seem to be several.
    """
    rows = _read_rows(config)
    header_row = next(rows, None)
    header = [name.strip() for name in header_row.values] if header_row is not None else []
    if not header:
        raise DataError(f"{config.path} is empty; its first line must name the columns.")
    repeated_names = sorted({name for name in header if name and header.count(name) > 1})
    if repeated_names:
        raise DataError(f"{config.path} names the column {repeated_names[0]!r} twice in its header.")
    columns = TableColumns(header, config)
    if config.split is not None and "split" not in columns.by_field:
        raise DataError(
            f"{config.path} has no column `split`, so {config.split!r} cannot be picked; name the one that holds it, "
            f"as in `columns: {{split: …}}`; its columns are {', '.join(name for name in header if name)}."
        )
    row_filter = RowFilter(config.where, config.split)
    root = expand_user(config.root) if config.root else expand_user(config.path).parent
    if not root.is_dir():
        raise DataError(f"The root folder {root} of {config.path} is not there; set `root` to where it is.")
    entries = []
    for row in rows:
        location = f"{config.path}, line {row.number}"
        _refuse_merged_row(row, header, columns, root, config)
        if len(row.values) != len(header):
            quotes = " Or set `quoted: false`: it has quotes." if config.quoted and '"' in row.lines[0] else ""
            raise DataError(
                f"{location} has {len(row.values)} values, the header names {len(header)}; is the delimiter "
                f"{config.delimiter!r}?{quotes}"
            )
        by_column = dict(zip(header, row.values, strict=True))
        fields = columns.fields(by_column)
        if row_filter({**by_column, "split": fields["split"]} if "split" in fields else by_column):
            entries.append(make_entry(_parse_numbers(fields), location, root))
    return row_filter.require_entries(entries, config.path)


def _read_rows(config: CsvData) -> Iterator[_Row]:
    """The rows of a CSV that are not blank, the header first."""
    file = require_path(config.path, folder=False)
    lines: list[str] = []  # of the row that is being read

    def record_lines(text: Iterable[str]) -> Iterator[str]:
        for line in text:
            lines.append(line)
            yield line

    number = 0
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            # None: no character quotes.
            quote = '"' if config.quoted else None
            reader = csv.reader(record_lines(text), delimiter=config.delimiter, quotechar=quote, strict=True)
            for values in reader:
                number = reader.line_num
                if any(value.strip() for value in values):
                    yield _Row(number, values, lines.copy())
                lines.clear()
    except UnicodeDecodeError:
        raise not_text_error(config.path) from None
    except csv.Error as error:
        if "field limit" in str(error) and len(lines) == 1:
            raise DataError(
                f"{config.path}, behind line {number}: a value is longer than the {csv.field_size_limit()} characters "
                f"that a table may have in one; is the delimiter {config.delimiter!r}?"
            ) from None
        raise DataError(
            f"{config.path}, behind line {number}: {error}. Set `quoted: false` where quotes are part of the values."
        ) from None


def _refuse_merged_row(row: _Row, header: list[str], columns: TableColumns, root: Path, config: CsvData) -> None:
    """Refuse a row that quotes made of several: one opens a value in its first line, one closes it in its last.

    A value may have line breaks. So a line counts as a row of its own only where, without quoting, it has as many
    values as the header and names an audio file; or where every line of the row has as many tabs as the header.
    """
    if len(row.lines) == 1:
        return
    split_lines = [line.rstrip("\r\n").split(config.delimiter) for line in row.lines]
    complete_lines = [len(values) == len(header) for values in split_lines]
    is_several_rows = (all(complete_lines) and config.delimiter == "\t") or any(
        is_complete and _is_audio_name(columns.fields(dict(zip(header, values, strict=True)))["audio"], root)
        for is_complete, values in zip(complete_lines[1:], split_lines[1:], strict=True)
    )
    if is_several_rows or len(row.values) != len(header):
        raise DataError(
            f"{config.path}, lines {row.number - len(row.lines) + 1} to {row.number}: their quotes make one row of "
            f"{len(row.lines)} lines. Set `quoted: false` where quotes are part of the values; where they are not, "
            "close each quote in its own row."
        )


def _is_audio_name(name: str | None, root: Path) -> bool:
    """Return whether a value seems to be the name of an audio file: by its ending, or because there is such a file."""
    if not name:
        return False
    return Path(name).suffix.lower() in (*AUDIO_SUFFIXES, *UNREADABLE_SUFFIXES) or (root / expand_user(name)).is_file()


def _parse_numbers(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with the numbers among them read; what is no number stays, to be refused as that."""
    for name in NUMBER_FIELDS:
        try:
            fields[name] = float(fields[name])
        except (KeyError, TypeError, ValueError):
            continue
    return fields
