"""FLAC: files without a length in the header, as written to a pipe, and files that were joined.

`fLaC` is followed by the block STREAMINFO: a block header (4 bytes), sizes of blocks and frames (10 bytes), rate,
channels and bits of a sample (28 bits), and the number of samples of each channel (36 bits), 0 if unknown:

    0 fLaC | 4 block header | 8 sizes | 18 rate, channels, bits (lower half of byte 21: samples) | 22 samples | 26

No other field holds the length, so a file with 0 is decoded to count the samples. With the number filled in, libsndfile
reads and seeks. libsndfile ignores a file that was joined to the end, so the starts of joined files are searched.
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
#: Position of the byte with the last 4 of the 28 bits and the first 4 of the 36 bits of the number of samples.
_SAMPLE_COUNT_OFFSET = 21
_BLOCK_SAMPLES = 1 << 16
#: First bytes of a file: STREAMINFO of 34 bytes, as the first of several blocks or as the last. Audio does not hold
#: these 8 bytes by chance.
_FILE_STARTS = (MAGIC + b"\0\0\0\x22", MAGIC + b"\x80\0\0\x22")
#: Number of bytes searched at a time.
_SEARCH_BYTES = 1 << 20
#: Number of bytes that libFLAC reads at a time.
_BUFFER_BYTES = 1 << 13
#: Maximum number of bytes of a frame in addition to uncompressed samples.
_FRAME_OVERHEAD = 1 << 10


def flac_stream(file: BinaryIO, pieces: tuple[Piece, ...]) -> Stream:
    """Return a FLAC stream with the number of samples in the header.

    The stream is decoded to count the samples if the header has no number, or not that of the last frame.

    Args:
        file: The file that holds the stream.
        pieces: The bytes of the stream in the file, from `fLaC` on.
    """
    head = SplicedFile(file, pieces).read(_SAMPLE_COUNT_OFFSET + 5) or b""
    if len(head) < _SAMPLE_COUNT_OFFSET + 5:
        return Stream(pieces)
    block_size = int.from_bytes(head[10:12], "big")  # the maximum; equal to the minimum unless blocks vary
    # The channels less 1 are bits 1 to 3 of byte 20; a sample has at most 4 bytes.
    max_frame_bytes = block_size * ((head[20] >> 1 & 7) + 1) * 4 + _FRAME_OVERHEAD
    tail = _read_tail(SplicedFile(file, pieces), max_frame_bytes)
    claimed_samples = (head[_SAMPLE_COUNT_OFFSET] & 15) << 32 | int.from_bytes(head[_SAMPLE_COUNT_OFFSET + 1 :], "big")
    if claimed_samples and (
        claimed_samples in frame_ends(tail, block_size) or count_written_samples(tail, block_size) is None
    ):
        return Stream(pieces)  # the number is correct, or the file is cut off, which decoding will find
    # With 0 samples in the header, libFLAC decodes to the end of the stream.
    header_bytes = bytes([*head[:_SAMPLE_COUNT_OFFSET], head[_SAMPLE_COUNT_OFFSET] & 0xF0]) + bytes(4)
    remaining_pieces = drop_front(pieces, len(head))
    spliced_file = SplicedFile(file, (header_bytes, *remaining_pieces))
    try:
        with soundfile.SoundFile(spliced_file) as audio:
            frames = count_samples(audio)
    except soundfile.LibsndfileError:
        return Stream(pieces)  # opening will raise the error
    read_position = spliced_file.tell()
    size = spliced_file.seek(0, io.SEEK_END)
    written_samples = count_written_samples(tail, block_size)
    fault: Literal["cut", "damaged"] | None = None
    # libFLAC may report an error at the end of complete streams too, so the number of the last frame decides. After a
    # damaged frame, libFLAC has read the frame, its buffer, and maybe the next frame: with more left, it is not the
    # end.
    if written_samples != frames:
        is_before_end = written_samples is not None or size - read_position > max_frame_bytes + _BUFFER_BYTES
        fault = "damaged" if is_before_end else "cut"
    upper_bits = header_bytes[_SAMPLE_COUNT_OFFSET] | frames >> 32
    filled_head = head[:_SAMPLE_COUNT_OFFSET] + bytes([upper_bits]) + (frames & 0xFFFFFFFF).to_bytes(4, "big")
    return Stream((filled_head, *remaining_pieces), frames=frames, fault=fault)


def _read_tail(spliced_file: SplicedFile, size: int) -> bytes:
    """Return the last `size` bytes of a file, or all bytes of a shorter file."""
    spliced_file.seek(max(0, spliced_file.seek(0, io.SEEK_END) - size))
    return spliced_file.read(size) or b""


def flac_layout(file: BinaryIO, size: int, start: int) -> Layout:
    """Return the layout of a FLAC file of `size` bytes with `fLaC` at `start`, with a stream for each joined file.

    If the number of samples in the header is that of the last frame, the rest of the file is not read, so that the
    headers of a large corpus are read quickly. This misses only a joined file with exactly as many samples as the
    first.
    """
    full_stream = flac_stream(file, ((start, size),))
    if full_stream.frames is None:
        return Layout()
    starts = [start, *_find_joined_files(file, start + len(MAGIC))]
    streams = [full_stream]
    if len(starts) > 1:
        spans = zip(starts, [*starts[1:], size], strict=True)
        streams = [flac_stream(file, (span,)) for span in spans]
    return Layout(tuple(streams), is_truncated=streams[-1].fault == "cut")


def _find_joined_files(file: BinaryIO, position: int) -> Iterator[int]:
    """Yield the starts of FLAC files from `position` on."""
    overlap = b""  # the last 7 bytes of the block before, for a start of 8 bytes across two blocks
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
        # On an error, the number of samples read before is unknown: NaN marks those that were not written.
        block = np.full((_BLOCK_SAMPLES, audio.channels), np.nan, dtype=np.float32)
        try:
            samples_read = len(audio.read(out=block))
        except soundfile.LibsndfileError:
            return sample_count + int(np.isfinite(block[:, 0]).sum())
        sample_count += samples_read
        if samples_read < _BLOCK_SAMPLES:
            return sample_count
