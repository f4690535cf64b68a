"""Ogg: the links of a chained file; libsndfile reads only the first link.

A file is a sequence of pages with this header, little-endian, followed by the sizes of the segments (1 byte each) and
the segments:

    0 OggS | 4 version | 5 flags (2: first page of a stream, 4: last) | 6 position in the stream after the page, -1 for
    none | 14 number of the stream | 18 number of the page | 22 checksum | 26 number of segments | 27 sizes

A page with 2 segments of 255 and 45 bytes has 27 + 2 + 300 bytes. The first pages of all streams that play at the same
time are at the start, before any further page. A first page after other pages starts a new link: a file that was
joined, as recorders and radio servers do.
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
#: First bytes of the first segment of a stream, by codec.
_VORBIS = b"\x01vorbis"
_FLAC = b"\x7fFLAC"
_OPUS = b"OpusHead"
#: Samples to decode before a segment of Opus. RFC 7845 asks for 80 ms; this is 100 ms at 48 kHz, the highest rate.
_OPUS_PREROLL = 4800
#: Number of bytes in the segments before the `fLaC` of a FLAC stream.
_FLAC_MAPPING_BYTES = 9
#: Number of bytes read at a time in a search for pages.
_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class _Page:
    """A page: the span in the file and the fields of the header.

    Attributes:
        start: Position of the page in the file.
        stop: Position of the end of the page.
        is_first: Whether this is the first page of the stream.
        is_last: Whether this is the last page of the stream.
        stream: Number of the stream.
        position: Number of samples in the stream up to the end of the page; -1 if no packet ends in the page.
        body: Position of the segments in the file.
        body_head: The first bytes of the segments.
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
    """A link of a chained file.

    Attributes:
        start: Position of the link in the file.
        vorbis: Number of the Vorbis stream, if there is one.
        flac: Number of the FLAC stream, if there is one.
        opus: Number of the Opus stream, if there is one.
        has_last_page: Whether the last page of a stream was found, by number of the stream.
        positions: Positions in the stream after the last two pages of Vorbis.
        bodies: Spans of the segments of FLAC in the file.
    """

    start: int
    vorbis: int | None = None
    flac: int | None = None
    opus: int | None = None
    has_last_page: dict[int, bool] = field(default_factory=dict)
    positions: tuple[int, int] = (0, 0)
    bodies: list[tuple[int, int]] = field(default_factory=list)

    def add(self, page: _Page, size: int) -> None:
        """Add a page, which may extend past the end of the file, at `size` bytes."""
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
        """Number of samples in the last page of Vorbis.

        That page may end in the middle of a block, according to its position. After a seek into the page, libvorbis
        counts back from this position as if the block were complete, and returns samples some 100 too late.
        """
        return max(0, self.positions[1] - self.positions[0])


def ogg_layout(file: BinaryIO, size: int) -> Layout:
    """Return the layout of an Ogg file of `size` bytes, with a stream for each link; only page headers are read."""
    links: list[_Link] = []
    position = 0
    body_start = 0
    is_behind_first_page = False
    ends_inside_page = False
    while (page := _next_page(file, position, body_start)) is not None:
        if page.is_first and not is_behind_first_page:
            links.append(_Link(page.start))
        if links:
            links[-1].add(page, size)
        is_behind_first_page = page.is_first
        position = page.stop
        body_start = page.body
        ends_inside_page = page.stop > size
    if not links:
        return Layout(is_truncated=ends_inside_page)  # opening will raise the error
    stops = [*(link.start for link in links[1:]), size]
    streams = []
    for link, stop in zip(links, stops, strict=True):
        if link.flac is not None:
            streams.append(flac_stream(file, drop_front(link.bodies, _FLAC_MAPPING_BYTES)))
        else:
            pieces = ((link.start, stop),) if len(links) > 1 else ()
            preroll = _OPUS_PREROLL if link.opus is not None else 0
            streams.append(Stream(pieces, preroll=preroll, tail_samples=link.tail_samples))
    are_all_ended = all(all(link.has_last_page.values()) for link in links)
    is_truncated = ends_inside_page or not are_all_ended or streams[-1].fault == "cut"
    return Layout(tuple(streams), is_truncated=is_truncated)


def _next_page(file: BinaryIO, position: int, body_start: int) -> _Page | None:
    """Return the next page from `position` on, after any bytes that are no page; `None` at the end of the file.

    If no page is at `position`, the page before may have been cut off, so the search starts at `body_start`, where the
    segments of that page start.
    """
    head = _read_at(file, position, _HEADER_BYTES + 255)  # a page has at most 255 segments
    if head[:4] != MAGIC:
        position = body_start
        head = _read_at(file, body_start, _HEADER_BYTES + 255)
    while head[:4] != MAGIC:
        if len(head) < _HEADER_BYTES:
            return None
        offset = _read_at(file, position, _BLOCK_BYTES).find(MAGIC, 1)
        # Blocks overlap by the 4 bytes of the magic, which may lie across two blocks.
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
