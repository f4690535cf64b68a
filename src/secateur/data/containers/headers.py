"""AU, NIST (SPHERE) and VOC: one header, which tells the size of the audio, or leaves it open in AU.

AU has a magic of 4 bytes, then where the audio starts and its size, 4 bytes each, in the byte order that the magic
tells; the largest number means that the size is not known, but some programs leave 0. NIST has lines of text, `name
-type value`, behind one with the size of the header. VOC has a row of blocks behind a header whose size is its bytes 20
and 21: a type of 1 byte, then a size of 3, little-endian; types 1 and 9 begin sound, 0 is the end of the file.
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
    """Return the layout of an AU file of `size` bytes, with the size of its audio where that is missing."""

    def read_claim(position: int) -> Claim | None:
        head = _read_at(file, position, 12)
        if head[:4] not in AU or len(head) < 12:
            return None
        order = AU[head[:4]]
        start, claimed_size = position + int.from_bytes(head[4:8], order), int.from_bytes(head[8:], order)
        claimed_size = claimed_size if claimed_size < UNKNOWN_SIZE else 0
        return Claim(start, claimed_size, (start + claimed_size,) if claimed_size else ())

    head = _read_at(file, 0, 12)
    if not any(head[8:]) and int.from_bytes(head[4:8], AU[head[:4]]) < size:
        return Layout((Stream(((0, 8), MAX_UINT32.to_bytes(4, "big"), (12, size))),))
    return claimed_layout(size, read_claim)


def _read_nist_claim(file: BinaryIO, position: int) -> Claim | None:
    head = _read_at(file, position, 16)
    if not head.startswith(_NIST) or not head[8:].strip().isdigit():
        return None
    start = position + int(head[8:])
    fields = dict(re.findall(rb"^(\w+) -\w+ (\S+)", _read_at(file, position, start - position), re.MULTILINE))
    byte_count = 1
    for name, default in ((b"sample_count", b"0"), (b"sample_n_bytes", b"1"), (b"channel_count", b"1")):
        value = fields.get(name, default)
        byte_count *= int(value) if value.isdigit() else 0
    return Claim(start, byte_count, (start + byte_count,))


def _read_voc_claim(file: BinaryIO, position: int) -> Claim | None:
    head = _read_at(file, position, 26)
    if not head.startswith(_VOC) or len(head) < 26:
        return None
    block = position + int.from_bytes(head[20:22], "little")
    block_type, *length_bytes = _read_at(file, block, 4) or (0,)
    while block_type not in (0, *_VOC_HEADER_BYTES):
        block += 4 + int.from_bytes(bytes(length_bytes), "little")
        block_type, *length_bytes = _read_at(file, block, 4) or (0,)
    if block_type == 0:
        return None
    start = block + 4 + _VOC_HEADER_BYTES[block_type]
    while block_type in _VOC_BLOCKS:  # libsndfile takes the headers of further blocks for sound, but nothing is lost
        block += 4 + int.from_bytes(bytes(length_bytes), "little")
        block_type, *length_bytes = _read_at(file, block, 4) or (0,)
    return Claim(start, max(0, block - start), (block + 1, block))


#: What returns the claim at a position, by the first 4 bytes of a file.
CLAIM_READERS: dict[bytes, Callable[[BinaryIO, int], Claim | None]] = {
    _NIST[:4]: _read_nist_claim,
    _VOC[:4]: _read_voc_claim,
}


def header_layout(file: BinaryIO, size: int, magic: bytes) -> Layout:
    """Return the layout of a NIST or VOC file of `size` bytes, whose first 4 bytes are `magic`."""
    return claimed_layout(size, lambda position: CLAIM_READERS[magic](file, position), is_bounded=False)


def _read_at(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)
