"""MPEG audio (MP3): its frames walked, since the file itself may not tell how many there are.

A file is a row of frames; nothing else says how long it is. Each frame starts with 4 bytes: 11 bits of ones (sync),
then version (2 bits), layer (2), "no checksum" (1), bit rate (4, an index), sampling rate (2, an index), padding (1),
private (1), channel mode (2, 3 is mono), and 6 bits that do not matter here. They give the frame's size, so where the
next one starts. An encoder that can go back to the start of its output puts a silent frame there that holds `Xing` or
`Info`, then flags (1: a number of frames follows, 2: a number of bytes) and these numbers, 4 bytes each, big-endian.
Without it a decoder guesses the length from the size of the first frame: too short where the bit rate varies, and too
long by whatever tags the file has. Tags are ID3v2 and APEv2 in front, ID3v1, APEv2 and Lyrics3 behind. Where two files
were joined end to end, the Xing frame of the second one stands in the middle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import BinaryIO

from secateur.data.containers.layout import Layout, Stream

#: Kilobits a second by index, from 1; by (MPEG 1, layer). MPEG 2 and 2.5 share theirs.
_KILOBITS = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
#: Hz by index, by the two bits of the version: 3 is MPEG 1, 2 is MPEG 2, 0 is MPEG 2.5.
_HERTZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
#: How many bytes are read to find the first frame, and where it is looked for behind others.
_HEAD_BYTES, _SEARCH_BYTES = 1 << 16, 1 << 20
#: How far a Xing frame's number of bytes may be from what is there: encoders differ by a frame or two, and short tags
#: may follow. Less than half a second at the lowest bit rate.
_SLACK_BYTES = 512
#: So many frames in a row are no coincidence.
_MIN_CHAIN_FRAMES = 5
#: Frames that a decoder needs beyond those whose bits it borrows: for the overlap of blocks and its filter bank.
_WARM_UP_FRAMES = 2
#: What tags behind the frames begin with.
_TAG_MAGICS = (b"TAG", b"APE", b"LYR")


@dataclass(frozen=True)
class _Frame:
    """What the four bytes at the start of a frame say."""

    mpeg1: bool
    layer: int
    rate: int
    channels: int
    size: int
    samples: int

    @property
    def side_info_bytes(self) -> int:
        """Bytes of side information behind the four; where a Xing frame has its name."""
        if self.mpeg1:
            return 17 if self.channels == 1 else 32
        return 9 if self.channels == 1 else 17

    @property
    def stream_format(self) -> tuple[bool, int, int, int]:
        """What all frames of a stream share."""
        return self.mpeg1, self.layer, self.rate, self.channels

    @property
    def preroll(self) -> int:
        """Samples to decode in front of a segment of layer III, in the worst case.

        A frame's bits may start up to 511 bytes (MPEG 1) or 255 bytes before its header, in the frames in front of it,
        each of which holds, at the lowest bit rate, its size less header, checksum and side information. For 48 kHz
        mono these are 96 - 6 - 17 = 73 bytes, so 511 bytes reach back 7 frames.
        """
        if self.layer != 3:
            return _WARM_UP_FRAMES * self.samples
        smallest = self.samples // 8 * _KILOBITS[self.mpeg1, 3][0] * 1000 // self.rate - 6 - self.side_info_bytes
        reservoir = 511 if self.mpeg1 else 255
        return (-(-reservoir // max(1, smallest)) + _WARM_UP_FRAMES) * self.samples


@dataclass
class _FrameRun:
    """Frames that one decoder reads through: of one kind, behind at most one Xing frame.

    Attributes:
        first: Its first frame.
        header: The four bytes of that frame.
        claimed: Number of frames by its Xing frame, where it has one.
        xing: Where its Xing frame lies, where it has one.
        spans: Where its frames of sound lie.
        count: Number of frames of sound.
        gaps: Number of places between them where other bytes than tags were passed over.
    """

    first_frame: _Frame
    header: bytes
    claimed_frames: int | None = None
    xing_span: tuple[int, int] | None = None
    spans: list[tuple[int, int]] = field(default_factory=list)
    frame_count: int = 0
    gap_count: int = 0

    def add(self, start: int, stop: int) -> None:
        if self.spans and self.spans[-1][1] == start:
            start = self.spans.pop()[0]
        self.spans.append((start, stop))
        self.frame_count += 1

    @property
    def seconds(self) -> float:
        return self.frame_count * self.first_frame.samples / self.first_frame.rate

    @property
    def missing_seconds(self) -> float:
        """Seconds that the Xing frame claims and that are not there."""
        return max(0, (self.claimed_frames or 0) - self.frame_count) * self.first_frame.samples / self.first_frame.rate

    @property
    def is_counted(self) -> bool:
        """True where its own Xing frame tells the number of frames."""
        return self.xing_span is not None and self.claimed_frames == self.frame_count

    @property
    def stream(self) -> Stream:
        """Its stream, with a Xing frame in front that has the right number of frames."""
        if self.xing_span is not None and self.is_counted:
            # Its own also tells how much the encoder put in front and behind, which the decoder takes away again.
            return Stream((self.xing_span, *self.spans), preroll=self.first_frame.preroll)
        front = (
            (_make_xing_frame(self.first_frame, self.header, self.frame_count),) if self.first_frame.layer == 3 else ()
        )
        return Stream(
            (*front, *self.spans), frames=self.frame_count * self.first_frame.samples, preroll=self.first_frame.preroll
        )


def mp3_layout(file: BinaryIO, size: int, *, needs_search: bool = False) -> Layout | None:
    """Return the layout of a file of MPEG audio, or None where it is something else.

    A Xing frame is believed, and nothing else read, where its number of bytes is what is there, and its number of
    frames fits that by the sizes of the first ones. Otherwise all frames are walked, and tags and other bytes between
    them left out.

    Args:
        file: The file, at any position.
        size: Number of bytes in it.
        search: Look for the first frame behind other bytes too, as in a stream that was not recorded from its start.
    """
    start = _skip_tags(file, size)
    file.seek(0)
    has_id3 = file.read(3) == b"ID3" and not needs_search  # libsndfile passes these over itself
    file.seek(start)
    head = file.read(_SEARCH_BYTES if needs_search else _HEAD_BYTES)
    if needs_search:
        start += next(
            (
                sync_position
                for sync_position in _find_syncs(head, 0)
                if _chain_length(head, sync_position) >= _MIN_CHAIN_FRAMES
            ),
            len(head),
        )
        file.seek(start)
        head = file.read(_HEAD_BYTES)
    first_frame = _read_frame(head, 0)
    if first_frame is None or not _is_confirmed(head, 0):
        return None
    claim = _read_xing(head, 0, first_frame)
    is_readable = has_id3 or not start  # can be read as it is
    is_complete = claim is not None and abs(start + claim[1] - size) <= _SLACK_BYTES
    if claim is not None and is_complete and _is_plausible_claim(head, first_frame, *claim):
        return Layout((Stream(() if is_readable else ((start, size),), preroll=first_frame.preroll),))
    file.seek(0)
    runs, is_truncated = _runs(file.read(), start)
    if not runs:
        return None
    if is_readable and len(runs) == 1 and runs[0].is_counted and len(runs[0].spans) == 1:
        return Layout((Stream(preroll=first_frame.preroll),))
    if is_complete and runs[0].claimed_frames != runs[0].frame_count:
        runs[0].claimed_frames = None  # nothing is lacking: the number is wrong
    missing_seconds = sum(run.missing_seconds for run in runs)
    seconds = sum(run.seconds for run in runs)
    return Layout(
        tuple(run.stream for run in runs),
        shortfall=(seconds, seconds + missing_seconds) if missing_seconds else None,
        is_truncated=is_truncated and runs[-1].claimed_frames is None,
        has_gaps=any(run.gap_count for run in runs),
    )


def _is_plausible_claim(head: bytes, first_frame: _Frame, frames: int, size: int) -> bool:
    """Return whether a Xing frame that claims so many frames and bytes is right, as far as `head` tells.

    `head` begins with this frame, `first`, which its number of frames leaves out and its number of bytes counts.
    """
    position, sizes = first_frame.size, []
    while (
        position < size
        and (frame := _read_frame(head, position)) is not None
        and frame.stream_format == first_frame.stream_format
    ):
        sizes.append(frame.size)
        position += frame.size
    if position + _SLACK_BYTES >= size:
        return abs(frames - len(sizes)) <= 1
    if position + 4 <= len(head) or not sizes:
        return False
    expected = (size - first_frame.size) * len(sizes) / sum(sizes)
    # The bit rate varies, or does not.
    rate_spread = 2 if max(sizes) - min(sizes) > 4 else 1.01
    return expected / rate_spread <= frames <= expected * rate_spread


def _runs(data: bytes, position: int) -> tuple[list[_FrameRun], bool]:
    """Return the runs of whole frames in `data` from `position` on, and whether it ends in the middle of a frame."""
    runs: list[_FrameRun] = []
    is_synced, has_lost_bytes, is_truncated = True, False, False
    while position + 4 <= len(data):
        frame = _read_frame(data, position)
        is_continuation = frame is not None and bool(runs) and frame.stream_format == runs[-1].first_frame.stream_format
        if frame is None or not ((is_synced and is_continuation) or _is_confirmed(data, position)):
            is_synced = False
            # A tag may hold anything, a picture too.
            tag_size = id3_size(data[position : position + 10])
            has_lost_bytes |= not tag_size and data[position : position + 3] not in _TAG_MAGICS
            position = position + tag_size if tag_size else next(_find_syncs(data, position + 1), len(data))
            continue
        stop = position + frame.size
        if stop > len(data):
            is_truncated = True  # so it cannot be decoded
            break
        claim, is_synced = _read_xing(data, position, frame), True
        if claim is not None or not is_continuation:
            runs.append(_FrameRun(frame, data[position : position + 4]))
        if claim is not None:
            runs[-1].claimed_frames, runs[-1].xing_span = claim[0], (position, stop)
        else:
            runs[-1].gap_count += has_lost_bytes and runs[-1].frame_count > 0
            runs[-1].add(position, stop)
        position, has_lost_bytes = stop, False
    return [run for run in runs if run.frame_count], is_truncated


def _read_frame(data: bytes, position: int) -> _Frame | None:
    """Return the frame whose header is at `position`, or None where there is no header of known size."""
    if data[position : position + 1] != b"\xff" or position + 4 > len(data):
        return None
    return _parse_header(int.from_bytes(data[position : position + 4], "big"))


# A file has few headers that differ.
@lru_cache(maxsize=1024)
def _parse_header(bits: int) -> _Frame | None:
    """Return the frame whose header is these 32 bits, or None where they are none of known size."""
    version, layer = bits >> 19 & 3, 4 - (bits >> 17 & 3)
    bit_rate, rate, padding = bits >> 12 & 15, bits >> 10 & 3, bits >> 9 & 1
    if bits >> 21 != 0x7FF or version == 1 or layer == 4 or bit_rate in (0, 15) or rate == 3:
        return None
    mpeg1 = version == 3
    hertz = _HERTZ[version][rate]
    samples = 384 if layer == 1 else 576 if layer == 3 and not mpeg1 else 1152
    slot = 4 if layer == 1 else 1  # what padding adds, in bytes
    slots = samples // 8 // slot * _KILOBITS[mpeg1, layer][bit_rate - 1] * 1000 // hertz
    channels = 1 if bits >> 6 & 3 == 3 else 2
    return _Frame(mpeg1, layer, hertz, channels, (slots + padding) * slot, samples)


def _is_confirmed(data: bytes, position: int) -> bool:
    """Return whether the frame at `position` is followed by one of its kind, by a tag or by the end of `data`."""
    frame = _read_frame(data, position)
    if frame is None:
        return False
    position += frame.size
    next_frame = _read_frame(data, position)
    if next_frame is not None and next_frame.stream_format == frame.stream_format:
        return True
    return position + 4 > len(data) or data[position : position + 3] in (*_TAG_MAGICS, b"ID3")


def _chain_length(data: bytes, position: int) -> int:
    """Return how many frames of one kind follow each other from `position` on, as far as it matters."""
    kinds = set()
    count = 0
    while count < _MIN_CHAIN_FRAMES and (frame := _read_frame(data, position)) is not None:
        kinds.add(frame.stream_format)
        if len(kinds) > 1:
            break
        count += 1
        position += frame.size
    return count


def _find_syncs(data: bytes, position: int) -> Iterator[int]:
    """Yield where headers seem to be, from `position` on."""
    position = data.find(b"\xff", position)
    while position >= 0:
        if _read_frame(data, position) is not None and _is_confirmed(data, position):
            yield position
        position = data.find(b"\xff", position + 1)


def _read_xing(data: bytes, position: int, frame: _Frame) -> tuple[int, int] | None:
    """Return the numbers of frames and bytes that a Xing frame claims, or None where it is a frame of sound.

    What it does not claim is -1.
    """
    name = position + 4 + frame.side_info_bytes
    if frame.layer != 3 or data[name : name + 4] not in (b"Xing", b"Info"):
        return None
    flags, *numbers = (int.from_bytes(data[name + 4 * i : name + 4 * i + 4], "big") for i in range(1, 4))
    frames = numbers.pop(0) if flags & 1 else -1
    return frames, numbers.pop(0) if flags & 2 else -1


def _make_xing_frame(first_frame: _Frame, header: bytes, count: int) -> bytes:
    """Return a silent frame that says how many frames like `first` follow it."""
    # Of a middle bit rate, so that the numbers have place in it; without padding and checksum.
    bits = int.from_bytes(header, "big") & ~(0xF << 12 | 1 << 9) | 9 << 12 | 1 << 16
    start = bits.to_bytes(4, "big")
    frame = _read_frame(start, 0)
    assert frame is not None
    numbers = b"Xing" + (1).to_bytes(4, "big") + count.to_bytes(4, "big")
    return (start + bytes(first_frame.side_info_bytes) + numbers).ljust(frame.size, b"\0")


def _skip_tags(file: BinaryIO, size: int) -> int:
    """Return where tags and padding end that stand in front of the first frame."""
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(_HEAD_BYTES)
        padding = len(head) - len(head.lstrip(b"\0"))
        tag_size = id3_size(head) or _ape_size(head) or padding
        if not tag_size:
            break
        position += tag_size
    return position


def id3_size(head: bytes) -> int:
    """Return the size of the ID3v2 tag that `head` begins with, in bytes; 0 where there is none."""
    if head[:3] != b"ID3" or len(head) < 10 or max(head[6:10]) > 127:
        return 0
    footer = 10 if head[5] & 16 else 0
    return 10 + sum(byte << 7 * byte_index for byte_index, byte in enumerate(reversed(head[6:10]))) + footer


def _ape_size(head: bytes) -> int:
    """Return the size of the APEv2 tag that `head` begins with, in bytes; 0 where there is none."""
    if head[:8] != b"APETAGEX" or len(head) < 32:
        return 0
    return 32 + int.from_bytes(head[12:16], "little")
