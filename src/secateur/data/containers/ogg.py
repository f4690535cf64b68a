"""Ogg: the links of a chained file, of which libsndfile reads the first.

A file is a row of pages: `OggS`, a version byte, flags (2: the first page of a stream, 4: the last), the position of
the stream behind the page (8 bytes, little-endian, -1 for none), its number (4), the number of the page (4), a checksum
(4), the number of segments (1), the size of each (1), then the segments. All streams that sound at once begin with
their first pages, in front of any other page. A first page later on begins a new link: files joined end to end, as
recorders and radio servers write them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import BinaryIO

from secateur.data.containers.flac import flac_stream
from secateur.data.containers.layout import Layout, Stream
from secateur.data.containers.splice import drop_front

MAGIC = b"OggS"
_HEADER_BYTES = 27
_FIRST_PAGE_FLAG, _LAST_PAGE_FLAG = 2, 4
#: What the first segment of a Vorbis stream begins with.
_VORBIS = b"\x01vorbis"
_FLAC = b"\x7fFLAC"
_OPUS = b"OpusHead"
#: Samples to decode in front of a segment of Opus. RFC 7845 asks for 80 ms; this is 100 at 48 kHz, the highest rate.
_OPUS_PREROLL = 4800
#: Bytes in front of the FLAC file.
_FLAC_MAPPING_BYTES = 9
#: What is read at a time where pages are looked for, in bytes.
_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class _Page:
    """A page: where it lies, and what its header says.

    Attributes:
        first: It is the first one of its stream.
        last: It is the last one of its stream.
        stream: The number of its stream.
        position: Samples in the stream up to its end; -1 where no packet ends in it.
        body: Where its segments start.
        begins: The first bytes of its segments.
    """

    start: int
    stop: int
    is_first: bool
    is_last: bool
    stream: int
    position: int
    body: int
    body_head: bytes


@dataclass
class _Link:
    """A link of a chain.

    Attributes:
        vorbis: The number of its stream of Vorbis, where it has one.
        flac: The number of its stream of FLAC, where it has one.
        opus: The number of its stream of Opus, where it has one.
        ended: Whether the last page of that stream was there, by number.
        positions: The positions of the last two pages of Vorbis.
        bodies: Where the segments of FLAC lie.
    """

    start: int
    vorbis: int | None = None
    flac: int | None = None
    opus: int | None = None
    has_last_page: dict[int, bool] = field(default_factory=dict)
    positions: tuple[int, int] = (0, 0)
    bodies: list[tuple[int, int]] = field(default_factory=list)

    def add(self, page: _Page, size: int) -> None:
        """Add a page; a file of `size` bytes may end in it."""
        if page.is_first and page.body_head.startswith(_VORBIS):
            self.vorbis = page.stream
        if page.is_first and page.body_head.startswith(_FLAC):
            self.flac = page.stream
        if page.is_first and page.body_head.startswith(_OPUS):
            self.opus = page.stream
        if page.stream in (self.vorbis, self.flac, self.opus):
            self.has_last_page[page.stream] = page.is_last and page.stop <= size
        if page.stream == self.vorbis and page.position >= 0:
            self.positions = (self.positions[1], page.position)
        if page.stream == self.flac:
            self.bodies.append((min(page.body, size), min(page.stop, size)))

    @property
    def tail_samples(self) -> int:
        """Samples in the last page of Vorbis.

        That page may end in the middle of a block, which its position tells. libvorbis, sent into it, counts back from
        this position as if the block were whole, and gives samples that lie some 100 behind those asked for.
        """
        return max(0, self.positions[1] - self.positions[0])


def ogg_layout(file: BinaryIO, size: int) -> Layout:
    """Return the links of an Ogg file of `size` bytes; only the headers of its pages are read."""
    links: list[_Link] = []
    position, body_start, is_behind_first_page, ends_inside_page = 0, 0, False, False
    while (page := _next_page(file, position, body_start)) is not None:
        if page.is_first and not is_behind_first_page:
            links.append(_Link(page.start))
        if links:
            links[-1].add(page, size)
        is_behind_first_page, position, body_start = page.is_first, page.stop, page.body
        ends_inside_page = page.stop > size
    if not links:
        return Layout(is_truncated=ends_inside_page)  # it will be refused where it is opened
    stops = [*(link.start for link in links[1:]), size]
    streams = []
    for link, stop in zip(links, stops, strict=True):
        if link.flac is not None:
            streams.append(flac_stream(file, drop_front(link.bodies, _FLAC_MAPPING_BYTES)))
        else:
            preroll = _OPUS_PREROLL if link.opus is not None else 0
            streams.append(
                Stream(((link.start, stop),) if len(links) > 1 else (), preroll=preroll, tail_samples=link.tail_samples)
            )
    is_truncated = (
        ends_inside_page
        or not all(has_ended for link in links for has_ended in link.has_last_page.values())
        or streams[-1].fault == "cut"
    )
    return Layout(tuple(streams), is_truncated=is_truncated)


def _next_page(file: BinaryIO, position: int, body_start: int) -> _Page | None:
    """Return the next page from `position` on, behind any bytes that are no page.

    Where there is none at `position`, the page in front, whose segments start at `inside`, may have been cut off.
    """
    head = _read_at(file, position, _HEADER_BYTES + 255)
    if head[:4] != MAGIC:
        position, head = body_start, _read_at(file, body_start, _HEADER_BYTES + 255)
    while head[:4] != MAGIC:
        if len(head) < _HEADER_BYTES:
            return None
        offset = _read_at(file, position, _BLOCK_BYTES).find(MAGIC, 1)
        position += offset if offset > 0 else _BLOCK_BYTES - len(MAGIC)
        head = _read_at(file, position, _HEADER_BYTES + 255)
    if len(head) < _HEADER_BYTES:
        return None
    body = _HEADER_BYTES + head[26]
    return _Page(
        start=position,
        stop=position + body + sum(head[_HEADER_BYTES:body]),
        is_first=bool(head[5] & _FIRST_PAGE_FLAG),
        is_last=bool(head[5] & _LAST_PAGE_FLAG),
        stream=int.from_bytes(head[14:18], "little"),
        position=int.from_bytes(head[6:14], "little", signed=True),
        body=position + body,
        body_head=head[body : body + 8],
    )


def _read_at(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)
