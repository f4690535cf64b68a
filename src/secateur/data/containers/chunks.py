"""WAV, RF64, CAF and AU: headers in which the size of the audio is missing, as writers to a pipe leave them.

RIFF files (WAV, RF64, and RIFX in the other byte order) and CAF are rows of chunks, each with a name of 4 bytes and its
size: 4 bytes in RIFF, with a byte of padding behind an odd one, and 8 bytes, big-endian, in CAF. The chunk `data` holds
the audio. A writer that cannot go back leaves 0 there, or the largest number it knows, less a header in some programs.
libsndfile reads the latter to the end of the file, but takes 0 for an empty file, and refuses a CAF of size -1, which
the format has for this. RF64 keeps its size in the second 8 bytes of a chunk `ds64`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from secateur.data.containers.layout import Layout, Stream

RIFF = (b"RIFF", b"RF64", b"RIFX")
CAF = b"caff"
AU = b".snd"
#: A size from here on, in bytes, is none: programs write 0x7FFFF000, 0x80000000 or 0xFFFFFFFF, some less a header.
_UNKNOWN = 0x7FFF0000
_LARGEST = 0xFFFFFFFF


@dataclass(frozen=True)
class _Chunks:
    """The chunks of a file.

    Attributes:
        file: The file.
        size: Number of bytes in it.
        order: Of the bytes of numbers.
        width: Number of bytes in the size of a chunk.
    """

    file: BinaryIO
    size: int
    order: Literal["big", "little"] = "big"
    width: int = 4

    def walk(self, position: int) -> Iterator[tuple[bytes, int, int]]:
        """Yield the name of each chunk from `position` on, where its content starts, and its size by its header.

        Names are printable; what is not named so is no chunk.
        """
        while position + 4 + self.width <= self.size:
            self.file.seek(position)
            head = self.file.read(4 + self.width)
            if not (head[:4].isascii() and head[:4].decode("ascii").isprintable()):
                return
            position += len(head)
            claimed = int.from_bytes(head[4:], self.order)
            yield head[:4], position, claimed
            position += claimed + (claimed & 1 if self.width == 4 else 0)

    def numbers(self, position: int, widths: tuple[int, ...]) -> list[int]:
        """Return numbers of so many bytes each, from `position` on."""
        self.file.seek(position)
        return [int.from_bytes(self.file.read(width), self.order) for width in widths]

    def close(self, position: int) -> bool:
        """Return whether chunks, and nothing else, fill the file from `position` to its end."""
        end = position
        for _, start, claimed in self.walk(position):
            end = start + claimed
        return position < end <= self.size <= end + 8


def riff_layout(file: BinaryIO, size: int) -> Layout:
    """Return the layout of a WAV or RF64 file of `size` bytes, with the size of its audio where that is missing.

    Where the file ends before the size that its header claims, the layout says so; where other files were joined to its
    end, it has a stream for each.
    """
    file.seek(0)
    magic = file.read(4)
    chunks = _Chunks(file, size, "big" if magic == b"RIFX" else "little")
    byte_rate, ds64_size = 0, _LARGEST
    for name, start, claimed in chunks.walk(12):
        if name == b"fmt ":
            byte_rate = chunks.numbers(start, (2, 2, 4, 4))[-1]
        elif name == b"ds64":
            ds64_size = chunks.numbers(start, (8, 8))[-1]
        elif name == b"data":
            claimed, rest = ds64_size if magic == b"RF64" else claimed, size - start
            unclosed = claimed == 0 and rest > 0 and not chunks.close(start)
            if unclosed or (magic == b"RF64" and claimed >= _UNKNOWN > rest):
                # A chunk `ds64` means nothing in a RIFF file.
                front = b"RIFF" if magic == b"RF64" else magic
                size_field = min(rest, _LARGEST).to_bytes(4, chunks.order)
                return Layout((Stream((front, (4, start - 4), size_field, (start, size))),))
            lacks = rest < claimed < _UNKNOWN and byte_rate > 0
            lacking = (rest / byte_rate, claimed / byte_rate) if lacks else None
            return Layout(_joined(chunks, magic, start + claimed), lacking=lacking)
    return Layout()


def _joined(chunks: _Chunks, magic: bytes, end: int) -> tuple[Stream, ...]:
    """Return the streams of files that were joined end to end, the first of which has its audio up to `end`."""
    starts = [0]
    while end < chunks.size:
        end += end & 1
        chunks.file.seek(end)
        if chunks.file.read(4) != magic:
            break
        starts.append(end)
        ends = (start + claimed for name, start, claimed in chunks.walk(end + 12) if name == b"data")
        end = next(ends, chunks.size)
    if len(starts) == 1:
        return (Stream(),)
    stops = [*starts[1:], chunks.size]
    return tuple(Stream(((start, stop),)) for start, stop in zip(starts, stops, strict=True))


def caf_layout(file: BinaryIO, size: int) -> Layout:
    """Return the layout of a CAF file of `size` bytes, with the size of its audio where that is missing."""
    for name, start, claimed in _Chunks(file, size, width=8).walk(8):
        if name == b"data" and claimed == (1 << 64) - 1:
            return Layout((Stream(((0, start - 8), (size - start).to_bytes(8, "big"), (start, size))),))
    return Layout()


def au_layout(file: BinaryIO, size: int) -> Layout:
    """Return the layout of an AU file of `size` bytes, with the size of its audio where that is missing."""
    start, claimed = _Chunks(file, size).numbers(4, (4, 4))
    if claimed or start >= size:
        return Layout()
    return Layout((Stream(((0, 8), _LARGEST.to_bytes(4, "big"), (12, size))),))
