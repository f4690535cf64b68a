"""What headers claim of the bytes of audio behind them: files that break off before that, and files that were joined.

libsndfile takes what is there of a file that was cut off, and does not tell. Of files joined end to end it reads the
first, or, in W64, NIST and VOC, takes the headers of the others for sound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from secateur.data.containers.layout import Layout, Stream


@dataclass(frozen=True)
class Claim:
    """What the header of a file claims.

    Attributes:
        start: Where the audio starts.
        size: Number of bytes of audio; 0 where it is not told.
        stops: Where the file ends, and where else the next one may start, that was joined to it.
    """

    start: int
    size: int
    next_starts: tuple[int, ...]


def claimed_layout(size: int, read_claim: Callable[[int], Claim | None], *, is_bounded: bool = True) -> Layout:
    """Return the layout of a file of `size` bytes: a stream for each of the files that were joined.

    Args:
        size: Number of bytes.
        claim: Returns the claim of the header at a position, or None where there is no header.
        bounded: libsndfile stops where the file ends; otherwise it takes all that is behind it for sound too.
    """
    starts: list[int] = []
    end = size
    available_bytes = claimed_bytes = 0
    next_start: int | None = 0
    while next_start is not None and (header_claim := read_claim(next_start)) is not None:
        starts.append(next_start)
        claimed_bytes += header_claim.size
        available_bytes += max(0, min(header_claim.size, size - header_claim.start))
        end = min(size, header_claim.next_starts[0]) if header_claim.size and not is_bounded else size
        candidates = (stop for stop in header_claim.next_starts if next_start < stop < size)
        next_start = next((stop for stop in candidates if read_claim(stop) is not None), None)
    shortfall = (float(available_bytes), float(claimed_bytes)) if available_bytes < claimed_bytes else None
    if len(starts) < 2 and end == size:
        return Layout(shortfall=shortfall)
    stops = [*starts[1:], end]
    return Layout(
        tuple(Stream(((start, stop),)) for start, stop in zip(starts, stops, strict=True)), shortfall=shortfall
    )
