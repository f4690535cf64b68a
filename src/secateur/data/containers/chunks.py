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
UNKNOWN_SIZE = 0x7F000000
MAX_UINT32 = 0xFFFFFFFF
#: What may stand behind audio of unknown size, and how far in front of the end of the file it is looked for.
_TRAILING_CHUNKS = re.compile(rb"LIST|id3 |ID3 |bext|iXML|axml|_PMX|cue |smpl|inst|acid|afsp|PEAK|fact|JUNK|PAD |FLLR")
_SEARCH_BYTES = 1 << 20
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
    byte_order: Literal["big", "little"] = "big"
    size_width: int = 4

    def walk(self, position: int) -> Iterator[tuple[bytes, int, int]]:
        """Yield the name of each chunk from `position` on, where its content starts, and its size by its header.

        Names are printable; what is not named so is no chunk.
        """
        while position + 4 + self.size_width <= self.size:
            self.file.seek(position)
            head = self.file.read(4 + self.size_width)
            if not (head[:4].isascii() and head[:4].decode("ascii").isprintable()):
                return
            position += len(head)
            claimed_size = int.from_bytes(head[4:], self.byte_order)
            yield head[:4], position, claimed_size
            position += claimed_size + (claimed_size & 1 if self.size_width == 4 else 0)

    def numbers(self, position: int, widths: tuple[int, ...]) -> list[int]:
        """Return numbers of so many bytes each, from `position` on."""
        self.file.seek(position)
        return [int.from_bytes(self.file.read(width), self.byte_order) for width in widths]

    def fill_to_end(self, position: int) -> bool:
        """Return whether chunks, and nothing else, fill the file from `position` to its end."""
        end = position
        for _, start, claimed_size in self.walk(position):
            end = start + claimed_size
        return position < end <= self.size <= end + 8

    def find_audio_stop(self, start: int) -> int:
        """Return where audio of unknown size from `start` on ends: at the chunks that close the file, or its end."""
        search_start = max(start, self.size - _SEARCH_BYTES)
        self.file.seek(search_start)
        candidates = (search_start + match.start() for match in _TRAILING_CHUNKS.finditer(self.file.read()))
        return next((candidate for candidate in candidates if self.fill_to_end(candidate)), self.size)

    def next_file_starts(self, end: int, magics: tuple[bytes, ...]) -> tuple[int, ...]:
        """Return where another file may start behind audio that ends at `end`: behind it, its padding or chunks."""
        padded_end = end + (end & 1)
        later_starts = (start - 4 - self.size_width for name, start, _ in self.walk(padded_end) if name in magics)
        return tuple(dict.fromkeys((end, padded_end, end + 1, next(later_starts, self.size))))


def riff_layout(file: BinaryIO, size: int) -> Layout:
    """Return the layout of a WAV or RF64 file of `size` bytes, with the size of its audio where that is missing.

    Where the file ends before the size that its header claims, the layout says so; where other files were joined to its
    end, it has a stream for each.
    """
    file.seek(0)
    magic = file.read(4)
    chunks = _Chunks(file, size, "big" if magic == b"RIFX" else "little")
    start, claimed_size = _find_riff_audio(chunks, magic, 0)
    remaining_bytes = size - start
    if start and (
        (claimed_size == 0 and remaining_bytes > 0 and not chunks.fill_to_end(start))
        or claimed_size >= UNKNOWN_SIZE > remaining_bytes
    ):
        # A chunk `ds64` means nothing in a RIFF file.
        file_magic = b"RIFF" if magic == b"RF64" else magic
        stop = chunks.find_audio_stop(start)
        size_field = min(stop - start, MAX_UINT32).to_bytes(4, chunks.byte_order)
        return Layout((Stream((file_magic, (4, start - 4), size_field, (start, stop))),))

    def read_claim(position: int) -> Claim | None:
        file.seek(position)
        if file.read(4) != magic:
            return None
        start, claimed_size = _find_riff_audio(chunks, magic, position)
        return Claim(start, claimed_size, chunks.next_file_starts(start + claimed_size, (magic,))) if start else None

    return claimed_layout(size, read_claim)


def _find_riff_audio(chunks: _Chunks, magic: bytes, position: int) -> tuple[int, int]:
    """Return where the audio of the file at `position` starts, and its size by its header; 0 where there is none."""
    ds64_size = MAX_UINT32
    for name, start, claimed_size in chunks.walk(position + 12):
        if name == b"ds64":
            ds64_size = chunks.numbers(start, (8, 8))[-1]
        elif name == b"data":
            return start, ds64_size if magic == b"RF64" else claimed_size
    return 0, 0


def iff_layout(file: BinaryIO, size: int) -> Layout:
    """Return the layout of an AIFF (or 8SVX) file of `size` bytes, with the size of its audio where that is missing."""
    chunks = _Chunks(file, size)
    start, claimed_size = _find_iff_audio(chunks, 0)
    remaining_bytes = size - start
    if start and claimed_size <= 0 < remaining_bytes and not chunks.fill_to_end(start):
        # In front of the audio are 8 bytes that the size of `SSND` counts too.
        return Layout(
            (Stream(((0, start - 12), min(remaining_bytes + 8, MAX_UINT32).to_bytes(4, "big"), (start - 8, size))),)
        )

    def read_claim(position: int) -> Claim | None:
        file.seek(position)
        if file.read(4) != IFF:
            return None
        start, claimed_size = _find_iff_audio(chunks, position)
        size = claimed_size if claimed_size < UNKNOWN_SIZE else 0
        return Claim(start, size, chunks.next_file_starts(start + size, (IFF,))) if start else None

    return claimed_layout(size, read_claim)


def _find_iff_audio(chunks: _Chunks, position: int) -> tuple[int, int]:
    """Return where the audio of the file at `position` starts, and its size by its header; 0 where there is none."""
    for name, start, claimed_size in chunks.walk(position + 12):
        if name == b"SSND":
            return start + 8, claimed_size - 8
        if name == b"BODY":
            return start, claimed_size
    return 0, 0


def w64_layout(file: BinaryIO, size: int) -> Layout:
    """Return the layout of a W64 file of `size` bytes."""

    def read_claim(position: int) -> Claim | None:
        file.seek(position)
        if file.read(16) != W64 + _W64_RIFF:
            return None
        position += 40
        while position + 24 <= size:
            file.seek(position)
            head = file.read(24)
            claimed_size = int.from_bytes(head[16:], "little")
            if head[:16] == b"data" + _W64_DATA:
                claimed_size = claimed_size - 24 if 24 < claimed_size < 1 << 62 else 0
                end = position + 24 + claimed_size
                return Claim(position + 24, claimed_size, (end, end + -end % 8))
            position += max(24, claimed_size + -claimed_size % 8)
        return None

    return claimed_layout(size, read_claim, is_bounded=False)


def caf_layout(file: BinaryIO, size: int) -> Layout:
    """Return the layout of a CAF file of `size` bytes, with the size of its audio where its own is not right."""
    chunks = _Chunks(file, size, size_width=8)

    def read_claim(position: int) -> Claim | None:
        file.seek(position)
        if file.read(4) != CAF:
            return None
        for name, start, claimed_size in chunks.walk(position + 8):
            if name == b"data":
                return Claim(start, claimed_size, chunks.next_file_starts(start + claimed_size, (CAF,)))
        return None

    first_claim = read_claim(0)
    if first_claim is None or size - first_claim.start >= first_claim.size:
        return claimed_layout(size, read_claim)
    remaining_bytes = size - first_claim.start
    pieces: tuple[Piece, ...] = (
        (0, first_claim.start - 8),
        remaining_bytes.to_bytes(8, "big"),
        (first_claim.start, size),
    )
    shortfall = None if first_claim.size == (1 << 64) - 1 else (float(remaining_bytes), float(first_claim.size))
    return Layout((Stream(pieces),), shortfall=shortfall)
