"""Reader of CSV tables of recordings, and the mapping of columns to fields."""

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
    """The columns of each field of a table, determined from the header.

    Attributes:
        by_field: The columns of each field that the table has.
    """

    def __init__(self, header: Sequence[str], config: TableData) -> None:
        """Look up the columns of all fields.

        Args:
            header: Names of all columns of the table.
            config: The table, with the columns of fields and the joint of values.

        Raises:
            DataError: A column in the config does not exist, or there is no column for the audio.
        """
        self._joint = config.joint
        self.by_field: dict[str, tuple[str, ...]] = {}
        for field in FIELDS:
            columns = config.columns.get(field, ())
            if field not in config.columns:
                names = [field, FIELD_ALIASES.get(field, field)]
                columns = next(((name,) for name in names if name in header), ())
            elif isinstance(columns, str):
                columns = (columns,)
            for column in columns:
                require_choice(column, filter(None, header), path=config.path, kind="column")
            if columns:
                self.by_field[field] = columns
        for column in config.where:
            require_choice(column, filter(None, header), path=config.path, kind="column")
        if "audio" not in self.by_field:
            raise DataError(
                f"{config.path} has no column `audio`; name the column of the paths, as in `columns: {{audio: path}}`; "
                f"its columns are {', '.join(filter(None, header))}.{did_you_mean('audio', header)}"
            )

    def fields(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a row by field; an empty text becomes `None`."""
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
        number: Number of the last line of the row, from 1.
        values: The values.
        lines: The lines of the row as in the file; several if a quoted value has line breaks.
    """

    number: int
    values: list[str]
    lines: list[str]


def read_csv(config: CsvData) -> list[Entry]:
    """Return the rows of a CSV that match `split` and `where`.

    Raises:
        DataError: The table is malformed, or its quotes merge several rows.
    """
    rows = _read_rows(config)
    header_row = next(rows, None)
    header = [name.strip() for name in header_row.values] if header_row is not None else []
    if not header:
        raise DataError(f"{config.path} is empty; expected the names of the columns on the first line.")
    repeated_names = sorted({name for name in header if name and header.count(name) > 1})
    if repeated_names:
        raise DataError(f"{config.path} has two columns {repeated_names[0]!r} in the header.")
    columns = TableColumns(header, config)
    if config.split is not None and "split" not in columns.by_field:
        raise DataError(
            f"{config.path} has no column `split`, so {config.split!r} cannot be selected; name the column of the "
            f"splits, as in `columns: {{split: …}}`; its columns are {', '.join(filter(None, header))}."
        )
    row_filter = RowFilter(config.where, config.split)
    root = expand_user(config.root) if config.root else expand_user(config.path).parent
    if not root.is_dir():
        raise DataError(f"The root folder {root} of {config.path} does not exist; set `root` to the folder.")
    entries = []
    for row in rows:
        location = f"{config.path}, line {row.number}"
        _refuse_merged_row(row, header, columns, root, config)
        if len(row.values) != len(header):
            has_quotes = config.quoted and '"' in row.lines[0]
            quotes_hint = " Or set `quoted: false`, since the line has quotes." if has_quotes else ""
            raise DataError(
                f"{location} has {len(row.values)} values, but the header has {len(header)}; is the delimiter "
                f"{config.delimiter!r}?{quotes_hint}"
            )
        by_column = dict(zip(header, row.values, strict=True))
        fields = columns.fields(by_column)
        # `where` refers to columns, `split` to the field, whose column may have another name.
        filter_values = {**by_column, "split": fields["split"]} if "split" in fields else by_column
        if row_filter(filter_values):
            entries.append(make_entry(_parse_numbers(fields), location, root))
    return row_filter.require_entries(entries, config.path)


def _read_rows(config: CsvData) -> Iterator[_Row]:
    """Yield the rows of a CSV that are not blank, the header first."""
    file = require_path(config.path, folder=False)
    lines: list[str] = []  # of the current row

    def record_lines(text: Iterable[str]) -> Iterator[str]:
        for line in text:
            lines.append(line)
            yield line

    number = 0
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            quote = '"' if config.quoted else None  # None: no quoting
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
                f"{config.path}, after line {number}: expected values of at most {csv.field_size_limit()} characters, "
                f"got a longer one; is the delimiter {config.delimiter!r}?"
            ) from None
        raise DataError(
            f"{config.path}, after line {number}: {error}. Set `quoted: false` if quotes are part of the values."
        ) from None


def _refuse_merged_row(row: _Row, header: list[str], columns: TableColumns, root: Path, config: CsvData) -> None:
    """Raise a DataError if a row is several rows merged by quotes, opened in the first line and closed in the last.

    A value may have line breaks, so a line counts as a separate row only if, without quoting, the line has as many
    values as the header and names an audio file; or if every line of the row has as many tabs as the header. With the
    header audio,text, these two lines are merged rows:

        a.wav,"Yes
        b.wav,No"
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
            f"{config.path}, lines {row.number - len(row.lines) + 1} to {row.number}: quotes merge {len(row.lines)} "
            "lines into one row. Set `quoted: false` if quotes are part of the values; otherwise close each quote in "
            "its row."
        )


def _is_audio_name(name: str | None, root: Path) -> bool:
    """Return whether a value names an audio file, by the suffix or because the file exists."""
    if not name:
        return False
    has_audio_suffix = Path(name).suffix.lower() in (*AUDIO_SUFFIXES, *UNREADABLE_SUFFIXES)
    return has_audio_suffix or (root / expand_user(name)).is_file()


def _parse_numbers(fields: dict[str, Any]) -> dict[str, Any]:
    """Parse the number fields; a value that is no number stays text, to be refused by `make_entry`."""
    for name in NUMBER_FIELDS:
        try:
            fields[name] = float(fields[name])
        except (KeyError, TypeError, ValueError):
            continue
    return fields
