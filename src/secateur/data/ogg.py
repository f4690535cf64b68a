"""Ogg: the links of a chained file, of which libsndfile reads the first.

A file is a row of pages: `OggS`, a version byte, flags (2: the first page of a stream), the position of the stream
behind the page (8 bytes, little-endian, -1 for none), its number (4), the number of the page (4), a checksum (4), the
number of segments (1), the size of each (1), then the segments. All streams that sound at once begin with their first
pages, in front of any other page. A first page later on begins a new link: files joined end to end, as recorders and
radio servers write them, each with a rate and channels of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import BinaryIO

from secateur.data.layout import Layout, Stream

MAGIC = b"OggS"
_HEADER = 27
_FIRST = 2
#: What the first segment of a Vorbis stream begins with.
_VORBIS = b"\x01vorbis"
#: What is read at a time where pages are looked for, in bytes.
_BLOCK = 1 << 16


@dataclass(frozen=True)
class _Page:
    """A page: where it lies, and what its header says.

    Attributes:
        first: It is the first one of its stream.
        stream: The number of its stream.
        position: Samples in the stream up to its end; -1 where no packet ends in it.
        vorbis: It begins a stream of Vorbis.
    """

    start: int
    stop: int
    first: bool
    stream: int
    position: int
    vorbis: bool


@dataclass
class _Link:
    """A link of a chain.

    Attributes:
        vorbis: The numbers of its Vorbis streams.
        positions: The positions of the last two pages of them.
    """

    start: int
    vorbis: set[int] = field(default_factory=set)
    positions: tuple[int, int] = (0, 0)

    @property
    def tail(self) -> int:
        """Samples in the last page of Vorbis.

        That page may end in the middle of a block, which its position tells. libvorbis, sent into it, counts back from
        this position as if the block were whole, and gives samples that lie some 100 behind those asked for.
        """
        return max(0, self.positions[1] - self.positions[0])


def ogg_layout(file: BinaryIO, size: int) -> Layout:
    """Return the links of an Ogg file of `size` bytes; only the headers of its pages are read."""
    links: list[_Link] = []
    position, beginning, open_end = 0, False, False
    while (page := _next_page(file, position)) is not None:
        if page.first and not beginning:
            links.append(_Link(page.start))
        if links and page.vorbis:
            links[-1].vorbis.add(page.stream)
        if links and page.stream in links[-1].vorbis and page.position >= 0:
            links[-1].positions = (links[-1].positions[1], page.position)
        beginning, position = page.first, page.stop
        open_end = page.stop > size
    if len(links) < 2:
        return Layout((Stream(tail=links[0].tail if links else 0),), open_end=open_end)
    stops = [*(link.start for link in links[1:]), size]
    streams = (Stream(((link.start, stop),), tail=link.tail) for link, stop in zip(links, stops, strict=True))
    return Layout(tuple(streams), open_end=open_end)


def _next_page(file: BinaryIO, position: int) -> _Page | None:
    """Return the next page from `position` on, behind any bytes that are no page."""
    head = _read(file, position, _HEADER + 255)
    while head[:4] != MAGIC:
        if len(head) < _HEADER:
            return None
        found = _read(file, position, _BLOCK).find(MAGIC, 1)
        position += found if found > 0 else _BLOCK - len(MAGIC)
        head = _read(file, position, _HEADER + 255)
    if len(head) < _HEADER:
        return None
    body = _HEADER + head[26]
    return _Page(
        start=position,
        stop=position + body + sum(head[_HEADER:body]),
        first=bool(head[5] & _FIRST),
        stream=int.from_bytes(head[14:18], "little"),
        position=int.from_bytes(head[6:14], "little", signed=True),
        vorbis=head[body : body + len(_VORBIS)] == _VORBIS,
    )


def _read(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)
