"""FLAC: files whose header does not say how long they are, as writers to a pipe leave them.

Behind `fLaC` stands the block STREAMINFO: 4 bytes of its own header, then sizes of blocks and frames (10 bytes), rate,
channels and bits of a sample (28 bits), and the number of samples of each channel (36 bits), 0 where it is not known.
Nothing else says it, so such a file is decoded to learn it. With the number in its place libsndfile reads and seeks.
"""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
import soundfile

from secateur.data.containers.layout import Layout, Stream
from secateur.data.containers.splice import Piece, Splice, without_front

MAGIC = b"fLaC"
#: Where the last byte of the 28 bits is, whose lower half is the upper end of the number of samples.
_TOTAL = 21
_BLOCK = 1 << 16


def flac_stream(file: BinaryIO, pieces: tuple[Piece, ...]) -> Stream:
    """Return a stream of FLAC that tells its length; it is decoded where its own header does not.

    Args:
        file: The file that it is in.
        pieces: Where it lies there, from `fLaC` on.
    """
    head = Splice(file, pieces).read(_TOTAL + 5) or b""
    if len(head) < _TOTAL + 5 or head[_TOTAL] & 15 or any(head[_TOTAL + 1 :]):
        return Stream(pieces)
    try:
        with soundfile.SoundFile(Splice(file, pieces)) as audio:
            frames = count(audio)
    except soundfile.LibsndfileError:
        return Stream(pieces)  # it will be refused where it is opened
    total = bytes([head[_TOTAL] | frames >> 32]) + (frames & 0xFFFFFFFF).to_bytes(4, "big")
    return Stream((head[:_TOTAL] + total, *without_front(pieces, len(head))), frames=frames)


def flac_layout(file: BinaryIO, size: int, start: int) -> Layout:
    """Return the layout of a FLAC file of `size` bytes whose `fLaC` is at `start`."""
    stream = flac_stream(file, ((start, size),))
    return Layout((stream if stream.frames is not None else Stream(),))


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
