"""FLAC frames: the number of samples in a stream, from the header of the last frame.

A frame starts with a sync code (14 bits), 0 (1 bit) and a flag for blocks of varying size (1 bit); then codes of block
size and rate (4 bits each), codes of channels and bits of a sample (1 byte); the number of the frame, or of the first
sample if blocks vary, in the coding of UTF-8; block size and rate if they have no code; a CRC of 8 bits of the header.
Samples follow, and a CRC of 16 bits of the whole frame. For example, frame 5 of blocks of 4,096 samples at 16 kHz, mono
with 16 bits: ff f8 (sync) c5 (sizes) 08 (mono, 16 bits) 05 (frame 5) and the CRC; it ends at sample 6 * 4,096.
"""

from __future__ import annotations

import re

_SYNC = re.compile(rb"(?=\xff[\xf8\xf9])")
#: The longest header of a frame, in bytes.
_HEADER_BYTES = 16


def _crc_table(polynomial: int, bits: int) -> list[int]:
    """Return the table of a CRC, by the next byte, with the most significant bit first."""
    top = 1 << bits - 1
    mask = (1 << bits) - 1
    table = []
    for byte in range(256):
        value = byte << bits - 8
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & top else value << 1) & mask
        table.append(value)
    return table


_CRC8 = _crc_table(0x07, 8)
_CRC16 = _crc_table(0x8005, 16)


def frame_ends(tail: bytes, block_size: int) -> set[int]:
    """Return the ends of possible frames in `tail`, in samples of the stream.

    The arguments are those of `count_written_samples`. Audio may look like a header by chance, so not every end is one.
    """
    frame_headers = (tail[match.start() : match.start() + _HEADER_BYTES] for match in _SYNC.finditer(tail))
    return {end for head in frame_headers if (end := _frame_end(head, block_size)) is not None}


def count_written_samples(tail: bytes, block_size: int) -> int | None:
    """Return the number of samples up to the end of the last frame; `None` if the stream ends within a frame.

    Args:
        tail: The last bytes of a stream, at least those of its largest frame.
        block_size: Number of samples of each block but the last, if blocks do not vary.
    """
    tail = tail[:-128] if tail[-128:-125] == b"TAG" else tail  # ID3v1
    for match in reversed(list(_SYNC.finditer(tail))):
        end = _frame_end(tail[match.start() : match.start() + _HEADER_BYTES], block_size)
        if end is not None and _crc16(tail[match.start() :]) == 0:  # the CRC of data with its CRC appended is 0
            return end
    return None


def _frame_end(head: bytes, block_size: int) -> int | None:
    """Return the number of samples up to the end of the frame with the header `head`; `None` for an invalid header."""
    if len(head) < 6:
        return None
    size_code = head[2] >> 4
    rate_code = head[2] & 15
    # UTF-8: 0xxxxxxx is a number of one byte, 110xxxxx 10xxxxxx of two, 1110xxxx 10xxxxxx 10xxxxxx of three.
    leading_ones = 8 - (head[4] ^ 0xFF).bit_length()
    position = 4 + max(1, leading_ones)
    if size_code == 0 or rate_code == 15 or leading_ones in (1, 8) or any(byte >> 6 != 2 for byte in head[5:position]):
        return None
    number = head[4] & (0x7F >> leading_ones)
    for byte in head[5:position]:
        number = number << 6 | byte & 63
    # Block sizes: code 1 is 192; 2 to 5 are 576 to 4,608; 6 and 7 are in extra bytes, less 1; 8 to 15 are 256 to
    # 32,768.
    extra_bytes = {6: 1, 7: 2}.get(size_code, 0)
    if extra_bytes:
        size = int.from_bytes(head[position : position + extra_bytes], "big") + 1
    elif size_code == 1:
        size = 192
    else:
        size = 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8
    position += extra_bytes + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    crc = 0
    for byte in head[: position + 1]:
        crc = _CRC8[crc ^ byte]
    if crc:
        return None
    first_sample = number if head[1] & 1 else number * block_size
    return first_sample + size


def _crc16(data: bytes) -> int:
    value = 0
    for byte in data:
        value = (value << 8 & 0xFF00) ^ _CRC16[value >> 8 ^ byte]
    return value
