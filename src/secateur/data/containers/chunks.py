"""WAV, RF64, AIFF, W64 and CAF: sequences of chunks, with the audio in a chunk of possibly missing size.

RIFF files (WAV, RF64, and RIFX in the other byte order), AIFF and CAF are sequences of chunks: a name of 4 bytes, the
size of the content, and the content. The size has 4 bytes in RIFF and AIFF, where content of odd size is followed by a
byte of padding, and 8 bytes, big-endian, in CAF. A WAV file with 1,000 bytes of audio:

    0 RIFF 1036 WAVE | 12 fmt_ 16 (content) | 36 data 1000 | 44 audio | 1044 end

The chunk `data` (`SSND` in AIFF, `BODY` in the similar format 8SVX) holds the audio. A program that cannot seek back
leaves the size at 0, or at the largest number, in some programs less the size of the header. libsndfile reads to the
end of the file for the latter, but takes 0 for an empty file, and refuses a CAF of size -1, the format's value for
unknown, and a CAF that was cut off. RF64 has the size in the second 8 bytes of a chunk `ds64`. Chunks of W64 have a
name of 16 bytes and a size of 8 bytes that includes name and size, and are padded to multiples of 8 bytes.
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
#: Sizes from this value on mean "unknown": programs write 0x7F000000, 0x7FFFF000, 0x80000000 or 0xFFFFFFFF, some less
#: the size of the header.
UNKNOWN_SIZE = 0x7F000000
MAX_UINT32 = 0xFFFFFFFF
#: Names of chunks that may follow audio of unknown size, and the size of the end of the file that is searched for them.
_TRAILING_CHUNKS = re.compile(rb"LIST|id3 |ID3 |bext|iXML|axml|_PMX|cue |smpl|inst|acid|afsp|PEAK|fact|JUNK|PAD |FLLR")
_SEARCH_BYTES = 1 << 20
#: The 12 bytes that follow `riff` and `data` in the 16-byte names of W64 chunks.
_W64_RIFF, _W64_DATA = bytes.fromhex("2e91cf11a5d628db04c10000"), bytes.fromhex("f3acd3118cd100c04f8edb8a")


@dataclass(frozen=True)
class _Chunks:
    """The chunks of a file.

    Attributes:
        file: The file.
        size: Number of bytes in the file.
        byte_order: Byte order of numbers.
        size_width: Number of bytes of the size of a chunk.
    """

    file: BinaryIO
    size: int
    byte_order: Literal["big", "little"] = "big"
    size_width: int = 4

    def walk(self, position: int) -> Iterator[tuple[bytes, int, int]]:
        """Yield name, start of the content and claimed size of each chunk from `position` on.

        Stops at the first name that is not printable, since that is no chunk.
        """
        while position + 4 + self.size_width <= self.size:
            self.file.seek(position)
            head = self.file.read(4 + self.size_width)
            if not (head[:4].isascii() and head[:4].decode("ascii").isprintable()):
                return
            position += len(head)
            claimed_size = int.from_bytes(head[4:], self.byte_order)
            yield head[:4], position, claimed_size
            padding = claimed_size & 1 if self.size_width == 4 else 0
            position += claimed_size + padding

    def numbers(self, position: int, widths: tuple[int, ...]) -> list[int]:
        """Return unsigned integers from `position` on, with the widths in bytes."""
        self.file.seek(position)
        return [int.from_bytes(self.file.read(width), self.byte_order) for width in widths]

    def fill_to_end(self, position: int) -> bool:
        """Return whether only chunks fill the file from `position` to the end."""
        end = position
        for _, start, claimed_size in self.walk(position):
            end = start + claimed_size
        return position < end <= self.size <= end + 8  # padding may follow

    def find_audio_stop(self, start: int) -> int:
        """Return the end of audio of unknown size from `start` on: the start of trailing chunks, or the end of file."""
        search_start = max(start, self.size - _SEARCH_BYTES)
        self.file.seek(search_start)
        candidates = (search_start + match.start() for match in _TRAILING_CHUNKS.finditer(self.file.read()))
        return next((candidate for candidate in candidates if self.fill_to_end(candidate)), self.size)

    def next_file_starts(self, end: int, magics: tuple[bytes, ...]) -> tuple[int, ...]:
        """Return possible starts of a joined file after audio that ends at `end`.

        These are the end, the end with padding, and the first later chunk with the name of a file: a chunk's content
        that starts at 120 in a WAV file is a chunk at 112.
        """
        padded_end = end + (end & 1)
        later_starts = (start - 4 - self.size_width for name, start, _ in self.walk(padded_end) if name in magics)
        return tuple(dict.fromkeys((end, padded_end, end + 1, next(later_starts, self.size))))


def riff_layout(file: BinaryIO, size: int) -> Layout:
    """Return the layout of a WAV or RF64 file of `size` bytes; a missing size of the audio is filled in.

    If the file ends before the claimed size, the layout has a shortfall; if files were joined to the end, the layout
    has a stream for each.
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
        # RF64 becomes RIFF, where the chunk `ds64` with the missing size is ignored.
        file_magic = b"RIFF" if magic == b"RF64" else magic
        stop = chunks.find_audio_stop(start)
        size_field = min(stop - start, MAX_UINT32).to_bytes(4, chunks.byte_order)
        # With audio at 44: the magic, bytes 4:40, the size (40:44), then the audio.
        return Layout((Stream((file_magic, (4, start - 4), size_field, (start, stop))),))

    def read_claim(position: int) -> Claim | None:
        file.seek(position)
        if file.read(4) != magic:
            return None
        start, claimed_size = _find_riff_audio(chunks, magic, position)
        return Claim(start, claimed_size, chunks.next_file_starts(start + claimed_size, (magic,))) if start else None

    return claimed_layout(size, read_claim)


def _find_riff_audio(chunks: _Chunks, magic: bytes, position: int) -> tuple[int, int]:
    """Return start and claimed size of the audio of the file at `position`; 0, 0 without audio."""
    ds64_size = MAX_UINT32
    for name, start, claimed_size in chunks.walk(position + 12):  # behind RIFF, the size and WAVE
        if name == b"ds64":
            ds64_size = chunks.numbers(start, (8, 8))[-1]  # size of the file, size of the audio
        elif name == b"data":
            return start, ds64_size if magic == b"RF64" else claimed_size
    return 0, 0


def iff_layout(file: BinaryIO, size: int) -> Layout:
    """Return the layout of an AIFF (or 8SVX) file of `size` bytes; a missing size of the audio is filled in."""
    chunks = _Chunks(file, size)
    start, claimed_size = _find_iff_audio(chunks, 0)
    remaining_bytes = size - start
    if start and claimed_size <= 0 < remaining_bytes and not chunks.fill_to_end(start):
        # The size of SSND includes offset and block size, 4 bytes each: with audio at 54, the name is at 38, the size
        # at 42:46 and the audio behind 46:54.
        size_field = min(remaining_bytes + 8, MAX_UINT32).to_bytes(4, "big")
        return Layout((Stream(((0, start - 12), size_field, (start - 8, size))),))

    def read_claim(position: int) -> Claim | None:
        file.seek(position)
        if file.read(4) != IFF:
            return None
        start, claimed_size = _find_iff_audio(chunks, position)
        size = claimed_size if claimed_size < UNKNOWN_SIZE else 0
        return Claim(start, size, chunks.next_file_starts(start + size, (IFF,))) if start else None

    return claimed_layout(size, read_claim)


def _find_iff_audio(chunks: _Chunks, position: int) -> tuple[int, int]:
    """Return start and claimed size of the audio of the file at `position`; 0, 0 without audio."""
    for name, start, claimed_size in chunks.walk(position + 12):  # behind FORM, the size and AIFF
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
        position += 40  # riff (16 bytes), size (8), wave (16)
        while position + 24 <= size:
            file.seek(position)
            head = file.read(24)
            claimed_size = int.from_bytes(head[16:], "little")
            if head[:16] == b"data" + _W64_DATA:
                audio_size = claimed_size - 24 if 24 < claimed_size < 1 << 62 else 0
                end = position + 24 + audio_size
                return Claim(position + 24, audio_size, (end, end + -end % 8))
            position += max(24, claimed_size + -claimed_size % 8)  # -13 % 8 == 3: 13 bytes are padded to 16
        return None

    return claimed_layout(size, read_claim, is_bounded=False)


def caf_layout(file: BinaryIO, size: int) -> Layout:
    """Return the layout of a CAF file of `size` bytes; a missing or too large size of the audio is corrected."""
    chunks = _Chunks(file, size, size_width=8)

    def read_claim(position: int) -> Claim | None:
        file.seek(position)
        if file.read(4) != CAF:
            return None
        for name, start, claimed_size in chunks.walk(position + 8):  # behind caff, version and flags
            if name == b"data":
                return Claim(start, claimed_size, chunks.next_file_starts(start + claimed_size, (CAF,)))
        return None

    first_claim = read_claim(0)
    if first_claim is None or size - first_claim.start >= first_claim.size:
        return claimed_layout(size, read_claim)
    remaining_bytes = size - first_claim.start
    # The 8 bytes before the audio are its size.
    pieces: tuple[Piece, ...] = (
        (0, first_claim.start - 8),
        remaining_bytes.to_bytes(8, "big"),
        (first_claim.start, size),
    )
    shortfall = None if first_claim.size == (1 << 64) - 1 else (float(remaining_bytes), float(first_claim.size))
    return Layout((Stream(pieces),), shortfall=shortfall)
