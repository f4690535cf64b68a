"""Columns of `datasets` that were never cast to audio: rows of {array, sampling_rate}, and what their integers mean.

The library widens integers to 64 bits when it gives them, so their width is that of the column's type. Where that is 64
bits too, as in a dataset made of Python's numbers, all rows tell it together: one alone may be quiet.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from secateur.data.containers.recording import UnusableAudio, format_sndfile_error
from secateur.errors import DataError

logger = logging.getLogger(__name__)

_SIGNED = {"int8": 8, "int16": 16, "int32": 32}
_UNSIGNED = {"uint8": 8, "uint16": 16, "uint32": 32}


@dataclass(frozen=True)
class IntegerScale:
    """What integers stand for: `center` for 0, and `full` above that for 1."""

    center: float
    full_scale: float


@dataclass(frozen=True)
class ArrayColumn:
    """The audio column of one split.

    Attributes:
        dataset: The split, with NumPy's format.
        column: The name of the column.
    """

    dataset: Any
    column: str

    @property
    def dtype_name(self) -> str | None:
        """The name of the type of its numbers, such as `int16`; None where it is not told."""
        feature = self.dataset.features[self.column]["array"]
        while isinstance(feature, list) or hasattr(feature, "feature"):
            feature = feature[0] if isinstance(feature, list) else feature.feature
        return getattr(feature, "dtype", None)

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield the smallest and the largest number of each row of integers."""
        for row in self.dataset:
            array = (row[self.column] or {}).get("array")
            array = None if array is None else np.asarray(array)
            if array is not None and array.dtype.kind in "iu" and array.size:
                yield int(array.min()), int(array.max())

    def content(self, row_index: int, name: str, scale: IntegerScale | None) -> bytes:
        """Return the samples of row `number`, which is named `name`, as a WAV file; `scale` is that of integers.

        Raises:
            UnusableAudio: The row has none, or no sampling rate.
        """
        row = self.dataset[row_index][self.column] or {}
        if row.get("array") is None:
            raise UnusableAudio(name, "holds no audio")
        rate: Any = row.get("sampling_rate")
        if isinstance(rate, np.generic | np.ndarray) and rate.ndim == 0:
            rate = rate.item()
        is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
        if not is_number or not 1 <= rate < 1 << 31 or rate != int(rate):
            rate_text = repr(rate) if isinstance(rate, str) else rate
            raise UnusableAudio(name, f"needs its `sampling_rate` in Hz, a whole number; got {rate_text}")
        samples = _samples(np.asarray(row["array"]), name, scale)
        file = io.BytesIO()
        try:
            soundfile.write(file, samples, int(rate), format="WAV", subtype="FLOAT")
        except soundfile.LibsndfileError as error:
            raise UnusableAudio(
                name, f"cannot be read as audio, shape {samples.shape} ({format_sndfile_error(error)})"
            ) from None
        return file.getvalue()


def integer_scale(columns: Iterable[ArrayColumn], path: str) -> IntegerScale | None:
    """Return what integers in the columns of all splits of the dataset at `path` stand for; None where there are none.

    Raises:
        DataError: Neither their type nor their range tells it, or the types of splits differ.
    """
    columns = list(columns)
    if not columns:
        return None
    dtype_names = sorted({str(column.dtype_name) for column in columns})
    if len(dtype_names) > 1:
        raise DataError(
            f"{path}: the column {columns[0].column!r} holds {' and '.join(dtype_names)} in different splits; cast them to "
            "one type, or name one `split`."
        )
    dtype_name = columns[0].dtype_name
    if dtype_name is not None and dtype_name.startswith("float"):
        return None
    if dtype_name in _SIGNED or dtype_name in _UNSIGNED:
        bits = {**_SIGNED, **_UNSIGNED}[dtype_name]
    else:
        ranges = [low_high for column in columns for low_high in column.ranges()]
        if not ranges:
            return None
        bits = _bits(min(low for low, _ in ranges), max(high for _, high in ranges), columns[0].column, path)
    full_scale = float(1 << bits - 1)
    logger.info("%s: integers in %r are taken for samples of %d bits", path, columns[0].column, bits)
    return IntegerScale(full_scale if dtype_name in _UNSIGNED else 0.0, full_scale)


def _bits(low: int, high: int, column: str, path: str) -> int:
    """Return how many bits the samples of a column have that holds integers from `low` to `high`."""
    peak = max(-low, high + 1)
    if low == high == 0:
        return 16
    if low >= 0 or peak <= 1 << 7 or peak > 1 << 31:
        raise DataError(
            f"{path}: the column {column!r} holds integers of 64 bits from {low} to {high}, which do not tell how many "
            "bits a sample has; cast its `array` to the type of the samples, such as int16, or to float32."
        )
    return next(bits for bits in (16, 24, 32) if peak <= 1 << bits - 1)


def _samples(array: NDArray[Any], name: str, scale: IntegerScale | None) -> NDArray[np.float32]:
    """Return the samples of an array, (samples,) or (samples, channels), between -1 and 1 where they are integers.

    Of two axes the longer one is that of samples: the library writes (channels, samples), soundfile reads (samples,
    channels).
    """
    if array.dtype.kind not in "iuf" or array.ndim not in (1, 2):
        raise UnusableAudio(name, f"holds no samples but {array.dtype.name} of {array.ndim} axes")
    if not array.size:
        raise UnusableAudio(name, "is empty")
    if array.dtype.kind != "f":
        if scale is None:
            raise UnusableAudio(name, f"holds {array.dtype.name}, where the column is of another type")
        array = (array - scale.center) / scale.full_scale
    return (array.T if array.ndim == 2 and array.shape[0] < array.shape[1] else array).astype(np.float32)
