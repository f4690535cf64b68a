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

from secateur.data.containers.flac_frames import count_written_samples, frame_ends
from secateur.data.containers.layout import Layout, Stream
from secateur.data.containers.splice import Piece, SplicedFile, drop_front

MAGIC = b"fLaC"
#: Where the last byte of the 28 bits is, whose lower half is the upper end of the number of samples.
_SAMPLE_COUNT_OFFSET = 21
_BLOCK_SAMPLES = 1 << 16
#: What a file begins with: the second is of one without any other block. No audio holds these 8 bytes by chance.
_FILE_STARTS = (MAGIC + b"\0\0\0\x22", MAGIC + b"\x80\0\0\x22")
#: Bytes of a file that are searched at a time, and that libFLAC reads at a time.
_SEARCH_BYTES, _BUFFER_BYTES = 1 << 20, 1 << 13
#: What a frame has beside its samples, in bytes, at most.
_FRAME_OVERHEAD = 1 << 10


def flac_stream(file: BinaryIO, pieces: tuple[Piece, ...]) -> Stream:
    """Return a stream of FLAC that tells its length; it is decoded where its own header does not, or tells another one.

    Args:
        file: The file that it is in.
        pieces: Where it lies there, from `fLaC` on.
    """
    head = SplicedFile(file, pieces).read(_SAMPLE_COUNT_OFFSET + 5) or b""
    if len(head) < _SAMPLE_COUNT_OFFSET + 5:
        return Stream(pieces)
    block_size = int.from_bytes(head[10:12], "big")
    max_frame_bytes = block_size * ((head[20] >> 1 & 7) + 1) * 4 + _FRAME_OVERHEAD
    tail = _read_tail(SplicedFile(file, pieces), max_frame_bytes)
    claimed_samples = (head[_SAMPLE_COUNT_OFFSET] & 15) << 32 | int.from_bytes(head[_SAMPLE_COUNT_OFFSET + 1 :], "big")
    if claimed_samples and (
        claimed_samples in frame_ends(tail, block_size) or count_written_samples(tail, block_size) is None
    ):
        return Stream(pieces)  # it is right, or the file breaks off, which will be found where it is decoded
    header_bytes = bytes([*head[:_SAMPLE_COUNT_OFFSET], head[_SAMPLE_COUNT_OFFSET] & 0xF0]) + bytes(4)
    remaining_pieces = drop_front(pieces, len(head))
    spliced_file = SplicedFile(file, (header_bytes, *remaining_pieces))
    try:
        with soundfile.SoundFile(spliced_file) as audio:
            frames = count_samples(audio)
    except soundfile.LibsndfileError:
        return Stream(pieces)  # it will be refused where it is opened
    fault: Literal["cut", "damaged"] | None = None
    read_position, size = spliced_file.tell(), spliced_file.seek(0, io.SEEK_END)
    written_samples = count_written_samples(tail, block_size)
    # An error ends whole streams too. Beyond a damaged frame libFLAC has read what it holds, and maybe the next frame.
    if written_samples is None or written_samples != frames:
        fault = (
            "damaged"
            if written_samples is not None or size - read_position > max_frame_bytes + _BUFFER_BYTES
            else "cut"
        )
    sample_count_bytes = bytes([header_bytes[_SAMPLE_COUNT_OFFSET] | frames >> 32]) + (frames & 0xFFFFFFFF).to_bytes(
        4, "big"
    )
    return Stream((head[:_SAMPLE_COUNT_OFFSET] + sample_count_bytes, *remaining_pieces), frames=frames, fault=fault)


def _read_tail(spliced_file: SplicedFile, size: int) -> bytes:
    """Return the last `size` bytes of a file, or all of it."""
    spliced_file.seek(max(0, spliced_file.seek(0, io.SEEK_END) - size))
    return spliced_file.read(size) or b""


def flac_layout(file: BinaryIO, size: int, start: int) -> Layout:
    """Return the layout of a FLAC file of `size` bytes whose `fLaC` is at `start`, and of those joined to its end.

    Where the header says as many samples as the last frame, nothing else is read, so that the headers of a large corpus
    are soon looked at. Only a file that was joined to one of exactly its own length goes unseen by that.
    """
    full_stream = flac_stream(file, ((start, size),))
    if full_stream.frames is None:
        return Layout()
    starts = [start, *_find_joined_files(file, start + len(MAGIC))]
    parts = zip(starts, [*starts[1:], size], strict=True)
    streams = (
        (full_stream,)
        if len(starts) == 1
        else tuple(flac_stream(file, ((part_start, part_stop),)) for part_start, part_stop in parts)
    )
    return Layout(streams, is_truncated=streams[-1].fault == "cut")


def _find_joined_files(file: BinaryIO, position: int) -> Iterator[int]:
    """Yield where other FLAC files begin, from `position` on."""
    overlap = b""
    file.seek(position)
    while block := file.read(_SEARCH_BYTES):
        block, block_start = overlap + block, position - len(overlap)
        match_start = block.find(MAGIC)
        while match_start >= 0:
            if block[match_start : match_start + 8] in _FILE_STARTS:
                yield block_start + match_start
            match_start = block.find(MAGIC, match_start + 1)
        position = block_start + len(block)
        overlap = block[-7:]
        file.seek(position)


def count_samples(audio: soundfile.SoundFile) -> int:
    """Return the number of samples of each channel that can be decoded, from the file's position on."""
    sample_count = 0
    while True:
        # An error at the end hides how much came before it, so that is seen in what was written over.
        block = np.full((_BLOCK_SAMPLES, audio.channels), np.nan, dtype=np.float32)
        try:
            samples_read = len(audio.read(out=block))
        except soundfile.LibsndfileError:
            return sample_count + int(np.isfinite(block[:, 0]).sum())
        sample_count += samples_read
        if samples_read < _BLOCK_SAMPLES:
            return sample_count
