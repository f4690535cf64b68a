"""FLAC: files whose header does not say how long they are, as writers to a pipe leave them.

Behind `fLaC` stands the block STREAMINFO: 4 bytes of its own header, then sizes of blocks and frames (10 bytes), rate,
channels and bits of a sample (28 bits), and the number of samples of each channel (36 bits), 0 where it is not known.
Nothing else says it, so such a file is decoded to learn it. With the number in its place libsndfile reads and seeks.
libsndfile passes over another file that was joined to its end, so `fLaC` and the header of STREAMINFO are looked for.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO, Literal

import numpy as np
import soundfile

from secateur.data.containers.flac_frames import ends, written
from secateur.data.containers.layout import Layout, Stream
from secateur.data.containers.splice import Piece, Splice, without_front

MAGIC = b"fLaC"
#: Where the last byte of the 28 bits is, whose lower half is the upper end of the number of samples.
_TOTAL = 21
_BLOCK = 1 << 16
#: What a file begins with: the second is of one without any other block. No audio holds these 8 bytes by chance.
_BEGINS = (MAGIC + b"\0\0\0\x22", MAGIC + b"\x80\0\0\x22")
#: Bytes of a file that are searched at a time, and that libFLAC reads at a time.
_SEARCHED, _BUFFER = 1 << 20, 1 << 13
#: What a frame has beside its samples, in bytes, at most.
_FRAME = 1 << 10


def flac_stream(file: BinaryIO, pieces: tuple[Piece, ...]) -> Stream:
    """Return a stream of FLAC that tells its length; it is decoded where its own header does not, or tells another one.

    Args:
        file: The file that it is in.
        pieces: Where it lies there, from `fLaC` on.
    """
    head = Splice(file, pieces).read(_TOTAL + 5) or b""
    if len(head) < _TOTAL + 5:
        return Stream(pieces)
    block_size = int.from_bytes(head[10:12], "big")
    largest = block_size * ((head[20] >> 1 & 7) + 1) * 4 + _FRAME
    tail = _tail(Splice(file, pieces), largest)
    claimed = (head[_TOTAL] & 15) << 32 | int.from_bytes(head[_TOTAL + 1 :], "big")
    if claimed and (claimed in ends(tail, block_size) or written(tail, block_size) is None):
        return Stream(pieces)  # it is right, or the file breaks off, which will be found where it is decoded
    front = bytes([*head[:_TOTAL], head[_TOTAL] & 0xF0]) + bytes(4)
    behind = without_front(pieces, len(head))
    raw = Splice(file, (front, *behind))
    try:
        with soundfile.SoundFile(raw) as audio:
            frames = count(audio)
    except soundfile.LibsndfileError:
        return Stream(pieces)  # it will be refused where it is opened
    fault: Literal["cut", "damaged"] | None = None
    place, size = raw.tell(), raw.seek(0, io.SEEK_END)
    last = written(tail, block_size)
    # An error ends whole streams too. Beyond a damaged frame libFLAC has read what it holds, and maybe the next frame.
    if last is None or last != frames:
        fault = "damaged" if last is not None or size - place > largest + _BUFFER else "cut"
    total = bytes([front[_TOTAL] | frames >> 32]) + (frames & 0xFFFFFFFF).to_bytes(4, "big")
    return Stream((head[:_TOTAL] + total, *behind), frames=frames, fault=fault)


def _tail(raw: Splice, size: int) -> bytes:
    """Return the last `size` bytes of a file, or all of it."""
    raw.seek(max(0, raw.seek(0, io.SEEK_END) - size))
    return raw.read(size) or b""


def flac_layout(file: BinaryIO, size: int, start: int) -> Layout:
    """Return the layout of a FLAC file of `size` bytes whose `fLaC` is at `start`, and of those joined to its end.

    Where the header says as many samples as the last frame, nothing else is read, so that the headers of a large corpus
    are soon looked at. Only a file that was joined to one of exactly its own length goes unseen by that.
    """
    whole = flac_stream(file, ((start, size),))
    if whole.frames is None:
        return Layout()
    starts = [start, *_joined(file, start + len(MAGIC))]
    parts = zip(starts, [*starts[1:], size], strict=True)
    streams = (whole,) if len(starts) == 1 else tuple(flac_stream(file, ((a, b),)) for a, b in parts)
    return Layout(streams, open_end=streams[-1].fault == "cut")


def _joined(file: BinaryIO, position: int) -> Iterator[int]:
    """Yield where other FLAC files begin, from `position` on."""
    kept = b""
    file.seek(position)
    while block := file.read(_SEARCHED):
        block, base = kept + block, position - len(kept)
        place = block.find(MAGIC)
        while place >= 0:
            if block[place : place + 8] in _BEGINS:
                yield base + place
            place = block.find(MAGIC, place + 1)
        position = base + len(block)
        kept = block[-7:]
        file.seek(position)


def count(audio: soundfile.SoundFile) -> int:
    """Return the number of samples of each channel that can be decoded, from the file's position on."""
    total = 0
    while True:
        # An error at the end hides how much came before it, so that is seen in what was written over.
        block = np.full((_BLOCK, audio.channels), np.nan, dtype=np.float32)
        try:
            read = len(audio.read(out=block))
        except soundfile.LibsndfileError:
            return total + int(np.isfinite(block[:, 0]).sum())
        total += read
        if read < _BLOCK:
            return total
