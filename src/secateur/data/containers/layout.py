"""The layout of the audio in a file, as found without trust in the sizes in the header.

libsndfile believes the length in the header of a container. In a file that was written to a pipe, cut off, joined to
another file or tagged, this length is missing or wrong. Then the pages, frames or chunks of the file are walked,
without decoding, and libsndfile gets a view of the file with a correct header.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from secateur.data.containers.splice import Piece


@dataclass(frozen=True)
class Stream:
    """A stream that libsndfile can read from the first sample to the last.

    Attributes:
        pieces: The bytes of the stream (see `SplicedFile`); empty for the unchanged file.
        frames: Number of samples in each channel, if libsndfile may report too many; None uses libsndfile's number.
        preroll: Number of samples to read and drop before a segment, until the decoder's output is that of a read from
            the start.
        tail_samples: Number of samples at the end that a seek must not lead into; a read starts before them.
        fault: The reason why a part of the written stream is missing: cut off at the end, or damaged before the end.
    """

    pieces: tuple[Piece, ...] = ()
    frames: int | None = None
    preroll: int = 0
    tail_samples: int = 0
    fault: Literal["cut", "damaged"] | None = None


@dataclass(frozen=True)
class Layout:
    """The streams of a file, in order.

    Attributes:
        streams: A single stream, or several if files were joined end to end.
        shortfall: Available and claimed amount of audio, in any unit, if the header claims more than is available.
        is_truncated: Whether the file is cut off at the end, with an unknown amount lost.
        has_gaps: Whether bytes between parts of the audio are no audio, such as damaged frames; the length of the lost
            audio is unknown.
    """

    streams: tuple[Stream, ...] = (Stream(),)
    shortfall: tuple[float, float] | None = None
    is_truncated: bool = False
    has_gaps: bool = False

    @property
    def is_damaged(self) -> bool:
        """True if audio is missing before the end of the file: a stream is damaged, or cut off before the next."""
        is_any_damaged = any(stream.fault == "damaged" for stream in self.streams)
        return is_any_damaged or any(stream.fault == "cut" for stream in self.streams[:-1])
