"""Audio columns of `datasets` with rows of {array, sampling_rate}, and the scale of integer samples.

Such columns were never cast to `datasets.Audio`. The library returns all integers as 64-bit ones, so the sample width
is taken from the declared type of the column. If the declared type is 64 bits too, as in a dataset built from Python
lists, the width follows from the range over all rows, since a single row may be quiet.
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
    """Affine map from integers to samples: `center` becomes 0 and `center + full_scale` becomes 1."""

    center: float
    full_scale: float


@dataclass(frozen=True)
class ArrayColumn:
    """The audio column of a split.

    Attributes:
        dataset: The split, in NumPy format.
        column: The name of the column.
    """

    dataset: Any
    column: str

    @property
    def dtype_name(self) -> str | None:
        """Name of the number type, such as `int16`; `None` where the dataset does not declare a type."""
        feature = self.dataset.features[self.column]["array"]
        # List(List(Value("int16"))) or [[Value("int16")]] -> Value("int16")
        while isinstance(feature, list) or hasattr(feature, "feature"):
            feature = feature[0] if isinstance(feature, list) else feature.feature
        return getattr(feature, "dtype", None)

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield the smallest and the largest number of each row of integers."""
        for row in self.dataset:
            values = (row[self.column] or {}).get("array")
            if values is None:
                continue
            array = np.asarray(values)
            if array.dtype.kind in "iu" and array.size:
                yield int(array.min()), int(array.max())

    def content(self, row_index: int, name: str, scale: IntegerScale | None) -> bytes:
        """Return the samples of a row as the bytes of a WAV file.

        Args:
            row_index: The row.
            name: Name of the row, for messages.
            scale: Scale of integer samples.

        Raises:
            UnusableAudio: The row has no samples or no valid sampling rate.
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
            raise UnusableAudio(name, f"needs a `sampling_rate` in Hz, expected an integer >= 1, got {rate_text}")
        samples = _samples(np.asarray(row["array"]), name, scale)
        file = io.BytesIO()
        try:
            soundfile.write(file, samples, int(rate), format="WAV", subtype="FLOAT")
        except soundfile.LibsndfileError as error:
            reason = f"cannot be read as audio, shape {samples.shape} ({format_sndfile_error(error)})"
            raise UnusableAudio(name, reason) from None
        return file.getvalue()


def integer_scale(columns: Iterable[ArrayColumn], path: str) -> IntegerScale | None:
    """Return the scale of integers in the audio columns of all splits; `None` for floats and without samples.

    Args:
        columns: The audio column of every split.
        path: The dataset, for messages.

    Raises:
        DataError: Neither type nor range determines the sample width, or splits have different types.
    """
    columns = list(columns)
    if not columns:
        return None
    dtype_names = sorted({str(column.dtype_name) for column in columns})
    if len(dtype_names) > 1:
        raise DataError(
            f"{path}: the column {columns[0].column!r} holds {' and '.join(dtype_names)} in different splits; "
            "cast them to one type, or name one `split`."
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
    full_scale = float(1 << bits - 1)  # 16 bits: 32768.0
    logger.info("%s: integers in %r are read as samples of %d bits", path, columns[0].column, bits)
    # Unsigned samples are centered on half their range: 128 is silence in uint8.
    return IntegerScale(full_scale if dtype_name in _UNSIGNED else 0.0, full_scale)


def _bits(low: int, high: int, column: str, path: str) -> int:
    """Return the sample width in bits of a column with integers from `low` to `high`."""
    peak = max(-low, high + 1)  # two's complement: -32768 and 32767 both need 16 bits
    if low == high == 0:
        return 16  # silence at any width
    if low >= 0 or peak <= 1 << 7 or peak > 1 << 31:
        raise DataError(
            f"{path}: the column {column!r} holds 64-bit integers from {low} to {high}, from which the sample width "
            "cannot be determined; cast its `array` to the type of the samples, such as int16, or to float32."
        )
    return next(bits for bits in (16, 24, 32) if peak <= 1 << bits - 1)


def _samples(array: NDArray[Any], name: str, scale: IntegerScale | None) -> NDArray[np.float32]:
    """Return the samples of an array, (samples,) or (samples, channels); integers are scaled to between -1 and 1.

    The longer of two axes is taken as the samples: the library writes (channels, samples), while soundfile expects
    (samples, channels).
    """
    if array.dtype.kind not in "iuf" or array.ndim not in (1, 2):
        raise UnusableAudio(name, f"expected numbers of 1 or 2 axes, got {array.dtype.name} of {array.ndim} axes")
    if not array.size:
        raise UnusableAudio(name, "is empty")
    if array.dtype.kind != "f":
        if scale is None:
            raise UnusableAudio(name, f"holds {array.dtype.name}, but the column has another type")
        array = (array - scale.center) / scale.full_scale
    if array.ndim == 2 and array.shape[0] < array.shape[1]:
        array = array.T  # (channels, samples) -> (samples, channels)
    return array.astype(np.float32)
