"""Tables: recordings in the rows of a CSV, and the columns that hold their fields."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.data.config import FIELDS, CsvData, TableData
from secateur.data.entries import Entry, existing, expanded, known, no_text
from secateur.data.fields import ALIASES, NUMBERS, Wanted, entry
from secateur.data.readers import SUFFIXES, UNREADABLE
from secateur.errors import DataError, nearest


class Columns:
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
        self.of: dict[str, tuple[str, ...]] = {}
        for field in FIELDS:
            asked = config.columns.get(field)
            if asked is None:
                own = [name for name in (field, ALIASES.get(field)) if name in header][:1]
                asked = tuple(name for name in own if name is not None)
            columns = (asked,) if isinstance(asked, str) else asked
            for column in columns:
                known(column, filter(None, header), path=config.path, what="column")
            if columns:
                self.of[field] = columns
        for column in config.where:
            known(column, filter(None, header), path=config.path, what="column")
        if "audio" not in self.of:
            raise DataError(
                f"{config.path} has no column `audio`; name the one that holds it, as in `columns: {{audio: path}}`; "
                f"its columns are {', '.join(name for name in header if name)}.{nearest('audio', header)}"
            )

    def fields(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a row, by name; an empty text is none."""
        return {field: self._value(row, columns) for field, columns in self.of.items()}

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
    rows = _rows(config)
    first = next(rows, None)
    header = [name.strip() for name in first.values] if first is not None else []
    if not header:
        raise DataError(f"{config.path} is empty; its first line must name the columns.")
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise DataError(f"{config.path} names the column {twice[0]!r} twice in its header.")
    columns = Columns(header, config)
    if config.split is not None and "split" not in columns.of:
        raise DataError(
            f"{config.path} has no column `split`, so {config.split!r} cannot be picked; name the one that holds it, "
            f"as in `columns: {{split: …}}`; its columns are {', '.join(name for name in header if name)}."
        )
    wanted = Wanted(config.where, config.split)
    root = expanded(config.root) if config.root else expanded(config.path).parent
    if not root.is_dir():
        raise DataError(f"The root folder {root} of {config.path} is not there; set `root` to where it is.")
    entries = []
    for row in rows:
        place = f"{config.path}, line {row.number}"
        _refuse_merged(row, header, columns, root, config)
        if len(row.values) != len(header):
            quotes = " Or set `quoted: false`: it has quotes." if config.quoted and '"' in row.lines[0] else ""
            raise DataError(
                f"{place} has {len(row.values)} values, the header names {len(header)}; is the delimiter "
                f"{config.delimiter!r}?{quotes}"
            )
        by_column = dict(zip(header, row.values, strict=True))
        fields = columns.fields(by_column)
        if wanted({**by_column, "split": fields["split"]} if "split" in fields else by_column):
            entries.append(entry(_with_numbers(fields), place, root))
    return wanted.some(entries, config.path)


def _rows(config: CsvData) -> Iterator[_Row]:
    """The rows of a CSV that are not blank, the header first."""
    file = existing(config.path, folder=False)
    lines: list[str] = []  # of the row that is being read

    def read(text: Iterable[str]) -> Iterator[str]:
        for line in text:
            lines.append(line)
            yield line

    number = 0
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            # None: no character quotes.
            quote = '"' if config.quoted else None
            reader = csv.reader(read(text), delimiter=config.delimiter, quotechar=quote, strict=True)
            for values in reader:
                number = reader.line_num
                if any(value.strip() for value in values):
                    yield _Row(number, values, lines.copy())
                lines.clear()
    except UnicodeDecodeError:
        raise no_text(config.path) from None
    except csv.Error as error:
        if "field limit" in str(error) and len(lines) == 1:
            raise DataError(
                f"{config.path}, behind line {number}: a value is longer than the {csv.field_size_limit()} characters "
                f"that a table may have in one; is the delimiter {config.delimiter!r}?"
            ) from None
        raise DataError(
            f"{config.path}, behind line {number}: {error}. Set `quoted: false` where quotes are part of the values."
        ) from None


def _refuse_merged(row: _Row, header: list[str], columns: Columns, root: Path, config: CsvData) -> None:
    """Refuse a row that quotes made of several: one opens a value in its first line, one closes it in its last.

    A value may have line breaks. So a line counts as a row of its own only where, without quoting, it has as many
    values as the header and names an audio file; or where every line of the row has as many tabs as the header.
    """
    if len(row.lines) == 1:
        return
    split = [line.rstrip("\r\n").split(config.delimiter) for line in row.lines]
    whole = [len(values) == len(header) for values in split]
    several = (all(whole) and config.delimiter == "\t") or any(
        fits and _names_audio(columns.fields(dict(zip(header, values, strict=True)))["audio"], root)
        for fits, values in zip(whole[1:], split[1:], strict=True)
    )
    if several or len(row.values) != len(header):
        raise DataError(
            f"{config.path}, lines {row.number - len(row.lines) + 1} to {row.number}: their quotes make one row of "
            f"{len(row.lines)} lines. Set `quoted: false` where quotes are part of the values; where they are not, "
            "close each quote in its own row."
        )


def _names_audio(name: str | None, root: Path) -> bool:
    """Return whether a value seems to be the name of an audio file: by its ending, or because there is such a file."""
    if not name:
        return False
    return Path(name).suffix.lower() in (*SUFFIXES, *UNREADABLE) or (root / expanded(name)).is_file()


def _with_numbers(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with the numbers among them read; what is no number stays, to be refused as that."""
    for name in NUMBERS:
        try:
            fields[name] = float(fields[name])
        except (KeyError, TypeError, ValueError):
            continue
    return fields
