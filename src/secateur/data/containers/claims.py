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
    stops: tuple[int, ...]


def claimed_layout(size: int, claim: Callable[[int], Claim | None], *, bounded: bool = True) -> Layout:
    """Return the layout of a file of `size` bytes: a stream for each of the files that were joined.

    Args:
        size: Number of bytes.
        claim: Returns the claim of the header at a position, or None where there is no header.
        bounded: libsndfile stops where the file ends; otherwise it takes all that is behind it for sound too.
    """
    starts: list[int] = []
    end = size
    there = claimed = 0
    following: int | None = 0
    while following is not None and (made := claim(following)) is not None:
        starts.append(following)
        claimed += made.size
        there += max(0, min(made.size, size - made.start))
        end = min(size, made.stops[0]) if made.size and not bounded else size
        inside = (stop for stop in made.stops if following < stop < size)
        following = next((stop for stop in inside if claim(stop) is not None), None)
    lacking = (float(there), float(claimed)) if there < claimed else None
    if len(starts) < 2 and end == size:
        return Layout(lacking=lacking)
    stops = [*starts[1:], end]
    return Layout(tuple(Stream(((start, stop),)) for start, stop in zip(starts, stops, strict=True)), lacking=lacking)
