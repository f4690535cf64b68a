"""WAV, RF64, AIFF, W64 and CAF: rows of chunks, among which one holds the audio, of a size that may be missing.

RIFF files (WAV, RF64, and RIFX in the other byte order), AIFF and CAF are rows of chunks, each with a name of 4 bytes
and its size: 4 bytes in RIFF and AIFF, with a byte of padding behind an odd one, and 8 bytes, big-endian, in CAF. The
chunk `data` (`SSND` in AIFF, `BODY` in the like files of 8SVX) holds the audio. A writer that cannot go back leaves 0
there, or the largest number it knows, less a header in some programs. libsndfile reads the latter to the end of the
file, but takes 0 for an empty file, and refuses a CAF of size -1, which the format has for this, and one that was cut
off. RF64 keeps its size in the second 8 bytes of a chunk `ds64`. Chunks of W64 have a name of 16 bytes and a size of 8
that counts both, and are padded to 8 bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from secateur.data.containers.claims import Claim, claimed_layout
from secateur.data.containers.layout import Layout, Stream
from secateur.data.containers.splice import Piece

RIFF = (b"RIFF", b"RF64", b"RIFX")
CAF = b"caff"
IFF = b"FORM"
W64 = b"riff"
#: A size from here on, in bytes, is none: programs write 0x7F000000, 0x7FFFF000, 0x80000000 or 0xFFFFFFFF, some less a
#: header.
UNKNOWN = 0x7F000000
LARGEST = 0xFFFFFFFF
#: What may stand behind audio of unknown size, and how far in front of the end of the file it is looked for.
_BEHIND = re.compile(rb"LIST|id3 |ID3 |bext|iXML|axml|_PMX|cue |smpl|inst|acid|afsp|PEAK|fact|JUNK|PAD |FLLR")
_SEARCHED = 1 << 20
#: The 12 bytes behind `riff` and behind `data`.
_W64_RIFF, _W64_DATA = bytes.fromhex("2e91cf11a5d628db04c10000"), bytes.fromhex("f3acd3118cd100c04f8edb8a")


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

    def sound_stop(self, start: int) -> int:
        """Return where audio of unknown size from `start` on ends: at the chunks that close the file, or its end."""
        begin = max(start, self.size - _SEARCHED)
        self.file.seek(begin)
        places = (begin + match.start() for match in _BEHIND.finditer(self.file.read()))
        return next((place for place in places if self.close(place)), self.size)

    def stops(self, end: int, magics: tuple[bytes, ...]) -> tuple[int, ...]:
        """Return where another file may start behind audio that ends at `end`: behind it, its padding or chunks."""
        even = end + (end & 1)
        later = (start - 4 - self.width for name, start, _ in self.walk(even) if name in magics)
        return tuple(dict.fromkeys((end, even, end + 1, next(later, self.size))))


def riff_layout(file: BinaryIO, size: int) -> Layout:
    """Return the layout of a WAV or RF64 file of `size` bytes, with the size of its audio where that is missing.

    Where the file ends before the size that its header claims, the layout says so; where other files were joined to its
    end, it has a stream for each.
    """
    file.seek(0)
    magic = file.read(4)
    chunks = _Chunks(file, size, "big" if magic == b"RIFX" else "little")
    start, claimed = _riff_audio(chunks, magic, 0)
    rest = size - start
    if start and ((claimed == 0 and rest > 0 and not chunks.close(start)) or claimed >= UNKNOWN > rest):
        # A chunk `ds64` means nothing in a RIFF file.
        front = b"RIFF" if magic == b"RF64" else magic
        stop = chunks.sound_stop(start)
        size_field = min(stop - start, LARGEST).to_bytes(4, chunks.order)
        return Layout((Stream((front, (4, start - 4), size_field, (start, stop))),))

    def claim(position: int) -> Claim | None:
        file.seek(position)
        if file.read(4) != magic:
            return None
        start, claimed = _riff_audio(chunks, magic, position)
        return Claim(start, claimed, chunks.stops(start + claimed, (magic,))) if start else None

    return claimed_layout(size, claim)


def _riff_audio(chunks: _Chunks, magic: bytes, position: int) -> tuple[int, int]:
    """Return where the audio of the file at `position` starts, and its size by its header; 0 where there is none."""
    ds64_size = LARGEST
    for name, start, claimed in chunks.walk(position + 12):
        if name == b"ds64":
            ds64_size = chunks.numbers(start, (8, 8))[-1]
        elif name == b"data":
            return start, ds64_size if magic == b"RF64" else claimed
    return 0, 0


def iff_layout(file: BinaryIO, size: int) -> Layout:
    """Return the layout of an AIFF (or 8SVX) file of `size` bytes, with the size of its audio where that is missing."""
    chunks = _Chunks(file, size)
    start, claimed = _iff_audio(chunks, 0)
    rest = size - start
    if start and claimed <= 0 < rest and not chunks.close(start):
        # In front of the audio are 8 bytes that the size of `SSND` counts too.
        return Layout((Stream(((0, start - 12), min(rest + 8, LARGEST).to_bytes(4, "big"), (start - 8, size))),))

    def claim(position: int) -> Claim | None:
        file.seek(position)
        if file.read(4) != IFF:
            return None
        start, claimed = _iff_audio(chunks, position)
        size = claimed if claimed < UNKNOWN else 0
        return Claim(start, size, chunks.stops(start + size, (IFF,))) if start else None

    return claimed_layout(size, claim)


def _iff_audio(chunks: _Chunks, position: int) -> tuple[int, int]:
    """Return where the audio of the file at `position` starts, and its size by its header; 0 where there is none."""
    for name, start, claimed in chunks.walk(position + 12):
        if name == b"SSND":
            return start + 8, claimed - 8
        if name == b"BODY":
            return start, claimed
    return 0, 0


def w64_layout(file: BinaryIO, size: int) -> Layout:
    """Return the layout of a W64 file of `size` bytes."""

    def claim(position: int) -> Claim | None:
        file.seek(position)
        if file.read(16) != W64 + _W64_RIFF:
            return None
        position += 40
        while position + 24 <= size:
            file.seek(position)
            head = file.read(24)
            claimed = int.from_bytes(head[16:], "little")
            if head[:16] == b"data" + _W64_DATA:
                claimed = claimed - 24 if 24 < claimed < 1 << 62 else 0
                end = position + 24 + claimed
                return Claim(position + 24, claimed, (end, end + -end % 8))
            position += max(24, claimed + -claimed % 8)
        return None

    return claimed_layout(size, claim, bounded=False)


def caf_layout(file: BinaryIO, size: int) -> Layout:
    """Return the layout of a CAF file of `size` bytes, with the size of its audio where its own is not right."""
    chunks = _Chunks(file, size, width=8)

    def claim(position: int) -> Claim | None:
        file.seek(position)
        if file.read(4) != CAF:
            return None
        for name, start, claimed in chunks.walk(position + 8):
            if name == b"data":
                return Claim(start, claimed, chunks.stops(start + claimed, (CAF,)))
        return None

    first = claim(0)
    if first is None or size - first.start >= first.size:
        return claimed_layout(size, claim)
    rest = size - first.start
    pieces: tuple[Piece, ...] = ((0, first.start - 8), rest.to_bytes(8, "big"), (first.start, size))
    lacking = None if first.size == (1 << 64) - 1 else (float(rest), float(first.size))
    return Layout((Stream(pieces),), lacking=lacking)
