"""Tables: recordings in the rows of a CSV, and the columns that hold their fields."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from secateur.data.config import FIELDS, CsvData, TableData
from secateur.data.entries import Entry, existing, expanded, known, no_text
from secateur.data.fields import ALIASES, NUMBERS, Wanted, entry
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


def read_csv(config: CsvData) -> list[Entry]:
    """The rows of a CSV that `split` and `where` let through."""
    rows = _rows(config)
    header = [name.strip() for name in next(rows, (0, []))[1]]
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
    for number, values in rows:
        place = f"{config.path}, line {number}"
        if len(values) != len(header):
            raise DataError(
                f"{place} has {len(values)} values, the header names {len(header)}; is the delimiter "
                f"{config.delimiter!r}?"
            )
        row = dict(zip(header, values, strict=True))
        fields = columns.fields(row)
        if wanted({**row, "split": fields["split"]} if "split" in fields else row):
            entries.append(entry(_with_numbers(fields), place, root))
    return wanted.some(entries, config.path)


def _rows(config: CsvData) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV that are not blank, the header first, each with the number of its last line."""
    file = existing(config.path, folder=False)
    number = 0
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            # None: no character quotes.
            quote = '"' if config.quoted else None
            reader = csv.reader(text, delimiter=config.delimiter, quotechar=quote, strict=True)
            for row in reader:
                number = reader.line_num
                if any(value.strip() for value in row):
                    yield number, row
    except UnicodeDecodeError:
        raise no_text(config.path) from None
    except csv.Error as error:
        raise DataError(
            f"{config.path}, behind line {number}: {error}. Set `quoted: false` where quotes are part of the values."
        ) from None


def _with_numbers(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with the numbers among them read; what is no number stays, to be refused as that."""
    for name in NUMBERS:
        try:
            fields[name] = float(fields[name])
        except (KeyError, TypeError, ValueError):
            continue
    return fields
