"""How the audio of a file is laid out in its container, where the container itself does not say it rightly.

libsndfile takes a container's word for its length. Written to a pipe, cut off, joined to another file or tagged, a
container says nothing, or something wrong; then its pages, frames or chunks are walked here, without decoding, and
libsndfile is given a view of the file whose header is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from secateur.data.containers.splice import Piece


@dataclass(frozen=True)
class Stream:
    """One stream that libsndfile can read from its first sample to its last.

    Attributes:
        pieces: The bytes that it is read from (see `Splice`); none is the file as it is.
        frames: Number of samples in each channel, where libsndfile may claim more than there are; None trusts it.
        lead: Samples to read and drop in front of a segment, before the decoder gives what it gives for the whole.
        tail: So many samples at the end are never sought, but read up to from in front of them.
        fault: Why it is not all of what was written: it is cut off at its end, or damaged in front of that.
    """

    pieces: tuple[Piece, ...] = ()
    frames: int | None = None
    preroll: int = 0
    tail_samples: int = 0
    fault: Literal["cut", "damaged"] | None = None


@dataclass(frozen=True)
class Layout:
    """The streams of a file, one after the other.

    Attributes:
        streams: One, or several where files were joined end to end.
        lacking: How much audio is there and how much the header claims, in any unit, where it claims more.
        open_end: The file is cut off at its end, so that something is lost, nobody knows how much.
        gaps: Between its parts are bytes that are no audio, such as damaged frames, whose length nobody knows.
    """

    streams: tuple[Stream, ...] = (Stream(),)
    shortfall: tuple[float, float] | None = None
    is_truncated: bool = False
    has_gaps: bool = False

    @property
    def is_damaged(self) -> bool:
        """True where a stream is not all of what was written, for another reason than that the file is cut off."""
        return any(stream.fault == "damaged" for stream in self.streams) or any(
            stream.fault == "cut" for stream in self.streams[:-1]
        )
