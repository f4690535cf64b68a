"""AU, NIST (SPHERE) and VOC: formats with a single header that holds the size of the audio.

AU: a magic of 4 bytes, which determines the byte order, then the start and the size of the audio, 4 bytes each, as in
`.snd 0x00000018 0x00003e80` for 16,000 bytes from byte 24 on. The largest number means that the size is unknown; some
programs write 0 instead.
NIST: a line `NIST_1A`, a line with the size of the header, such as `   1024`, then lines `name -type value`, such as
`sample_count -i 16000`.
VOC: a header, whose size is in the bytes 20 and 21, then blocks of a type (1 byte), a size (3 bytes, little-endian) and
content. Blocks of type 1 and 9 start audio; type 0 ends the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import BinaryIO, Literal

from secateur.data.containers.chunks import MAX_UINT32, UNKNOWN_SIZE
from secateur.data.containers.claims import Claim, claimed_layout
from secateur.data.containers.layout import Layout, Stream

AU: dict[bytes, Literal["big", "little"]] = {b".snd": "big", b"dns.": "little"}
_NIST = b"NIST_1A\n"
_VOC = b"Creative Voice File\x1a"
#: Bytes in front of the samples in a block of VOC, by its type.
_VOC_HEADER_BYTES = {1: 2, 9: 12}
_VOC_BLOCKS = range(1, 10)


def au_layout(file: BinaryIO, size: int) -> Layout:
    """Return the layout of an AU file of `size` bytes; a missing size of the audio is filled in."""

    def read_claim(position: int) -> Claim | None:
        head = _read_at(file, position, 12)
        if head[:4] not in AU or len(head) < 12:
            return None
        byte_order = AU[head[:4]]
        start = position + int.from_bytes(head[4:8], byte_order)
        claimed_size = int.from_bytes(head[8:], byte_order)
        if not 0 < claimed_size < UNKNOWN_SIZE:
            return Claim(start, 0, ())
        return Claim(start, claimed_size, (start + claimed_size,))

    head = _read_at(file, 0, 12)
    if not any(head[8:]) and int.from_bytes(head[4:8], AU[head[:4]]) < size:
        # A size of 0, although audio follows: libsndfile reads to the end of the file if the size is unknown.
        return Layout((Stream(((0, 8), MAX_UINT32.to_bytes(4, "big"), (12, size))),))
    return claimed_layout(size, read_claim)


def _read_nist_claim(file: BinaryIO, position: int) -> Claim | None:
    head = _read_at(file, position, 16)  # b"NIST_1A\n   1024\n"
    if not head.startswith(_NIST) or not head[8:].strip().isdigit():
        return None
    start = position + int(head[8:])
    fields = dict(re.findall(rb"^(\w+) -\w+ (\S+)", _read_at(file, position, start - position), re.MULTILINE))
    byte_count = 1  # samples * bytes a sample * channels
    for name, default in ((b"sample_count", b"0"), (b"sample_n_bytes", b"1"), (b"channel_count", b"1")):
        value = fields.get(name, default)
        byte_count *= int(value) if value.isdigit() else 0
    return Claim(start, byte_count, (start + byte_count,))


def _read_voc_claim(file: BinaryIO, position: int) -> Claim | None:
    head = _read_at(file, position, 26)
    if not head.startswith(_VOC) or len(head) < 26:
        return None
    block = position + int.from_bytes(head[20:22], "little")
    # Bytes 01 e8 03 00: a block of type 1 with 1,000 bytes of content, so the next block is 1,004 bytes on.
    block_type, *length_bytes = _read_at(file, block, 4) or (0,)
    while block_type not in (0, *_VOC_HEADER_BYTES):
        block += 4 + int.from_bytes(bytes(length_bytes), "little")
        block_type, *length_bytes = _read_at(file, block, 4) or (0,)
    if block_type == 0:
        return None
    start = block + 4 + _VOC_HEADER_BYTES[block_type]
    while block_type in _VOC_BLOCKS:  # libsndfile decodes the headers of further blocks as audio, but loses nothing
        block += 4 + int.from_bytes(bytes(length_bytes), "little")
        block_type, *length_bytes = _read_at(file, block, 4) or (0,)
    # Behind the terminator, a byte of 0, or right here where it is missing.
    return Claim(start, max(0, block - start), (block + 1, block))


#: Functions that return the claim of the header at a position, by the first 4 bytes of a file.
CLAIM_READERS: dict[bytes, Callable[[BinaryIO, int], Claim | None]] = {
    _NIST[:4]: _read_nist_claim,
    _VOC[:4]: _read_voc_claim,
}


def header_layout(file: BinaryIO, size: int, magic: bytes) -> Layout:
    """Return the layout of a NIST or VOC file of `size` bytes that starts with the 4 bytes `magic`."""
    return claimed_layout(size, lambda position: CLAIM_READERS[magic](file, position), is_bounded=False)


def _read_at(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)
