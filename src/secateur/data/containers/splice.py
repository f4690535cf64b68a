"""Views of a file with some bytes replaced, left out or inserted, without a copy of the file."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import BinaryIO

#: Literal bytes, or a span (start, stop) of the file.
Piece = bytes | tuple[int, int]


def _piece_length(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]


class SplicedFile(io.RawIOBase):
    """A read-only file that concatenates pieces of an underlying file and literal bytes.

    The pieces (0, 4), b"size", (8, 100) are a view of the bytes 0 to 99 with the bytes 4 to 7 replaced.
    """

    def __init__(self, file: BinaryIO, pieces: Sequence[Piece]) -> None:
        self._file = file
        self._pieces = tuple(pieces)
        # Start of each piece in the view, and last the total size: in the example 0, 4, 8, 100.
        self._starts = tuple(accumulate(map(_piece_length, self._pieces), initial=0))
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
        """Fill `buffer` from the current position on; return the number of bytes, 0 at the end."""
        view = memoryview(buffer).cast("B")
        filled_bytes = 0
        index = bisect_right(self._starts, self._position) - 1  # the piece with the current position
        while filled_bytes < len(view) and index < len(self._pieces):
            piece_offset = self._position - self._starts[index]
            read_size = min(len(view) - filled_bytes, self._starts[index + 1] - self._position)
            part = self._read_part(self._pieces[index], piece_offset, read_size)
            view[filled_bytes : filled_bytes + len(part)] = part
            filled_bytes += len(part)
            self._position += len(part)
            if len(part) < read_size:  # the file became shorter
                break
            index += 1
        return filled_bytes

    def _read_part(self, piece: Piece, start: int, size: int) -> bytes:
        if isinstance(piece, bytes):
            return piece[start : start + size]
        self._file.seek(piece[0] + start)
        return self._file.read(size)


def drop_front(pieces: Sequence[Piece], size: int) -> tuple[Piece, ...]:
    """Return `pieces` without the first `size` bytes: 6 bytes off (0, 4), (10, 20) leaves (12, 20)."""
    remaining_pieces: list[Piece] = []
    for piece in pieces:
        length = _piece_length(piece)
        if length > size:
            remaining_pieces.append(piece[size:] if isinstance(piece, bytes) else (piece[0] + size, piece[1]))
        size = max(0, size - length)
    return tuple(remaining_pieces)
