"""Views of a file in which some bytes are replaced, left out or put in front, without a copy of the file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import accumulate
from typing import BinaryIO

#: Bytes that stand for themselves, or a span (start, stop) of the file.
Piece = bytes | tuple[int, int]


class Splice(io.RawIOBase):
    """A read-only file made of pieces of another one, in the order given."""

    def __init__(self, file: BinaryIO, pieces: Sequence[Piece]) -> None:
        self._file = file
        self._pieces = tuple(pieces)
        lengths = (len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] for piece in self._pieces)
        self._starts = tuple(accumulate(lengths, initial=0))
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill `buffer` as far as the pieces go; return the number of bytes."""
        view = memoryview(buffer).cast("B")
        filled = 0
        for index, piece in enumerate(self._pieces):
            start, stop = self._starts[index], self._starts[index + 1]
            if filled == len(view) or not start <= self._position < stop:
                continue
            inside = self._position - start
            wanted = min(len(view) - filled, stop - self._position)
            if isinstance(piece, bytes):
                part = piece[inside : inside + wanted]
            else:
                self._file.seek(piece[0] + inside)
                part = self._file.read(wanted)
            view[filled : filled + len(part)] = part
            filled += len(part)
            self._position += len(part)
            if len(part) < wanted:  # the file became shorter
                break
        return filled
