"""Sizes claimed by headers, compared with the file: finds files that are cut off and files that were joined.

libsndfile reads the available part of a file that was cut off without an error. Of files joined end to end, libsndfile
reads the first, or, in W64, NIST and VOC, decodes the headers of the following files as audio.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from secateur.data.containers.layout import Layout, Stream


@dataclass(frozen=True)
class Claim:
    """The position and size of the audio according to a header.

    Attributes:
        start: Position of the audio in the file.
        size: Number of bytes of audio; 0 if unknown.
        next_starts: Position of the end, followed by other positions at which a joined file may start.
    """

    start: int
    size: int
    next_starts: tuple[int, ...]


def claimed_layout(size: int, read_claim: Callable[[int], Claim | None], *, is_bounded: bool = True) -> Layout:
    """Return the layout of a file, with a stream for each file that was joined.

    A file of 100 bytes with headers of 10 bytes at 0 and 60, which claim 50 and 40 bytes of audio, has the streams 0:60
    and 60:100, of which 80 of 90 claimed bytes are available.

    Args:
        size: Number of bytes in the file.
        read_claim: Returns the claim of the header at a position, or None if there is no header.
        is_bounded: Whether libsndfile stops at the end of the audio according to the header; otherwise the bytes behind
            are decoded as audio too.
    """
    starts: list[int] = []
    end = size
    available_bytes = 0
    claimed_bytes = 0
    next_start: int | None = 0
    while next_start is not None and (header_claim := read_claim(next_start)) is not None:
        starts.append(next_start)
        claimed_bytes += header_claim.size
        available_bytes += max(0, min(header_claim.size, size - header_claim.start))
        # Without a bound, the view ends with the audio, so that nothing behind is decoded.
        end = min(size, header_claim.next_starts[0]) if header_claim.size and not is_bounded else size
        candidates = (stop for stop in header_claim.next_starts if next_start < stop < size)
        next_start = next((stop for stop in candidates if read_claim(stop) is not None), None)
    shortfall = (float(available_bytes), float(claimed_bytes)) if available_bytes < claimed_bytes else None
    if len(starts) < 2 and end == size:
        return Layout(shortfall=shortfall)  # the file as it is
    stops = [*starts[1:], end]
    return Layout(
        tuple(Stream(((start, stop),)) for start, stop in zip(starts, stops, strict=True)), shortfall=shortfall
    )
