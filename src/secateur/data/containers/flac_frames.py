"""FLAC frames: the last one of a stream, which tells how many samples were written.

A frame starts with 14 bits of ones and zeros (sync), 0, and one bit for blocks of varying size; then codes of its
block's size and of the rate (4 bits each), of channels and bits of a sample (a byte); its number, or that of its first
sample where blocks vary, coded as in UTF-8; sizes that have no code, and a CRC of 8 bits of all that. Then come the
samples, and a CRC of 16 bits of the whole frame.
"""

from __future__ import annotations

import re

_SYNC = re.compile(rb"(?=\xff[\xf8\xf9])")
#: The longest header of a frame, in bytes.
_HEADER_BYTES = 16


def _crc_table(polynomial: int, bits: int) -> list[int]:
    top, mask = 1 << bits - 1, (1 << bits) - 1
    table = []
    for byte in range(256):
        value = byte << bits - 8
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & top else value << 1) & mask
        table.append(value)
    return table


_CRC8, _CRC16 = _crc_table(0x07, 8), _crc_table(0x8005, 16)


def frame_ends(tail: bytes, block_size: int) -> set[int]:
    """Return where frames in `tail` seem to end, in samples of the stream; for the arguments see `written`."""
    frame_headers = (tail[match.start() : match.start() + _HEADER_BYTES] for match in _SYNC.finditer(tail))
    return {end for head in frame_headers if (end := _frame_end(head, block_size)) is not None}


def count_written_samples(tail: bytes, block_size: int) -> int | None:
    """Return the number of samples up to the end of the last frame, or None where a stream does not end in a whole one.

    Args:
        tail: The last bytes of a stream, at least those of its largest frame.
        block_size: Number of samples in each block but the last, where all have the same.
    """
    tail = tail[:-128] if tail[-128:-125] == b"TAG" else tail  # ID3v1
    for match in reversed(list(_SYNC.finditer(tail))):
        end = _frame_end(tail[match.start() : match.start() + _HEADER_BYTES], block_size)
        if end is not None and _crc16(tail[match.start() :]) == 0:
            return end
    return None


def _frame_end(head: bytes, block_size: int) -> int | None:
    """Return the number of samples up to the end of the frame of this header, or None where it is no header."""
    if len(head) < 6:
        return None
    size_code, rate_code = head[2] >> 4, head[2] & 15
    leading_ones = 8 - (head[4] ^ 0xFF).bit_length()  # of the number's first byte: how many bytes it has
    position = 4 + max(1, leading_ones)
    if size_code == 0 or rate_code == 15 or leading_ones in (1, 8) or any(byte >> 6 != 2 for byte in head[5:position]):
        return None
    number = head[4] & (0x7F >> leading_ones)
    for byte in head[5:position]:
        number = number << 6 | byte & 63
    extra_bytes = {6: 1, 7: 2}.get(size_code, 0)
    size = int.from_bytes(head[position : position + extra_bytes], "big") + 1
    if not extra_bytes:
        size = 192 if size_code == 1 else 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8
    position += extra_bytes + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    crc = 0
    for byte in head[: position + 1]:
        crc = _CRC8[crc ^ byte]
    return None if crc else (number if head[1] & 1 else number * block_size) + size


def _crc16(data: bytes) -> int:
    value = 0
    for byte in data:
        value = (value << 8 & 0xFF00) ^ _CRC16[value >> 8 ^ byte]
    return value
