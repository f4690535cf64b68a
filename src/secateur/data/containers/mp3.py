"""MPEG audio (MP3): the number of frames, counted by a walk over the frames if the file does not hold the number.

A file is a sequence of frames, without any other indication of the length. Each frame starts with 32 bits: sync (11
bits of ones), version (2 bits), layer (2), "no checksum" (1), index of the bit rate (4), index of the sampling rate
(2), padding (1), private (1), channel mode (2, 3 is mono), and 6 bits that do not matter here. These determine the size
of the frame, and so the start of the next: ff fb 90 00 is MPEG 1, layer III, 128 kbit/s, 44.1 kHz, without padding, so
the frame has 1152 / 8 * 128000 / 44100 = 417 bytes.

An encoder that can seek back to the start of the output puts a silent frame there with `Xing` or `Info`, then flags (1:
a number of frames follows, 2: a number of bytes follows) and these numbers, 4 bytes each, big-endian. Without such a
frame, a decoder estimates the length from the size of the first frame, which is wrong if the bit rate varies, and too
long by the size of all tags. Tags are ID3v2 and APEv2 at the start, and ID3v1, APEv2 and Lyrics3 at the end. If two
files were joined, the Xing frame of the second is in the middle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import BinaryIO

from secateur.data.containers.layout import Layout, Stream
from secateur.data.containers.splice import Piece

#: Kilobits a second by index, from 1, for each (is MPEG 1, layer). MPEG 2 and 2.5 have the same.
_KILOBITS = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
#: Hertz by index, for each value of the two bits of the version: 3 is MPEG 1, 2 is MPEG 2, 0 is MPEG 2.5.
_HERTZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
#: Number of bytes read to find the first frame at the start.
_HEAD_BYTES = 1 << 16
#: Number of bytes searched for the first frame if other bytes are at the start.
_SEARCH_BYTES = 1 << 20
#: Allowed difference between the number of bytes in a Xing frame and in the file: encoders differ by a frame or two,
#: and short tags may follow. This is less than half a second at the lowest bit rate.
_SLACK_BYTES = 512
#: Number of frames in a row that are not a coincidence.
_MIN_CHAIN_FRAMES = 5
#: Frames to decode before a frame, in addition to those with bits of that frame: for the overlap of blocks and the
#: filter bank.
_WARM_UP_FRAMES = 2
#: First bytes of tags that follow the frames.
_TAG_MAGICS = (b"TAG", b"APE", b"LYR")


@dataclass(frozen=True)
class _Frame:
    """The header of a frame, decoded."""

    mpeg1: bool
    layer: int
    rate: int  # hertz
    channels: int
    size: int  # bytes
    samples: int  # of each channel

    @property
    def side_info_bytes(self) -> int:
        """Number of bytes of side information after the header, followed by `Xing` in a Xing frame."""
        if self.mpeg1:
            return 17 if self.channels == 1 else 32
        return 9 if self.channels == 1 else 17

    @property
    def stream_format(self) -> tuple[bool, int, int, int]:
        """The properties that all frames of a stream have in common."""
        return self.mpeg1, self.layer, self.rate, self.channels

    @property
    def preroll(self) -> int:
        """Number of samples to decode before a segment, in the worst case.

        In layer III, the bits of a frame may start up to 511 bytes (MPEG 1) or 255 bytes before the header, in the
        frames before. At the lowest bit rate, such a frame holds its size less header, checksum and side information.
        For 48 kHz mono these are 96 - 6 - 17 = 73 bytes, so 511 bytes reach back 7 frames.
        """
        if self.layer != 3:
            return _WARM_UP_FRAMES * self.samples
        smallest_frame_bytes = self.samples // 8 * _KILOBITS[self.mpeg1, 3][0] * 1000 // self.rate
        main_data_bytes = max(1, smallest_frame_bytes - 6 - self.side_info_bytes)
        reservoir_bytes = 511 if self.mpeg1 else 255
        reservoir_frames = -(-reservoir_bytes // main_data_bytes)  # rounded up
        return (reservoir_frames + _WARM_UP_FRAMES) * self.samples


@dataclass
class _FrameRun:
    """A run of frames for a single decoder: frames of the same format, optionally after a Xing frame.

    Attributes:
        first_frame: The first frame.
        header: The four bytes of the header of the first frame.
        claimed_frames: Number of frames according to the Xing frame, if there is one.
        xing_span: Span of the Xing frame in the file, if there is one.
        spans: Spans of the frames of audio in the file; adjacent frames share a span.
        frame_count: Number of frames of audio.
        gap_count: Number of places between frames with bytes that are neither frames nor tags.
    """

    first_frame: _Frame
    header: bytes
    claimed_frames: int | None = None
    xing_span: tuple[int, int] | None = None
    spans: list[tuple[int, int]] = field(default_factory=list)
    frame_count: int = 0
    gap_count: int = 0

    def add(self, start: int, stop: int) -> None:
        """Add a frame of audio: (0, 417) and (417, 834) become the span (0, 834)."""
        if self.spans and self.spans[-1][1] == start:
            start = self.spans.pop()[0]
        self.spans.append((start, stop))
        self.frame_count += 1

    @property
    def seconds(self) -> float:
        return self.frame_count * self.first_frame.samples / self.first_frame.rate

    @property
    def missing_seconds(self) -> float:
        """Seconds of audio that the Xing frame claims and the file does not have."""
        missing_frames = max(0, (self.claimed_frames or 0) - self.frame_count)
        return missing_frames * self.first_frame.samples / self.first_frame.rate

    @property
    def is_counted(self) -> bool:
        """True if the Xing frame has the correct number of frames."""
        return self.xing_span is not None and self.claimed_frames == self.frame_count

    @property
    def stream(self) -> Stream:
        """The stream of the frames, after a Xing frame with the correct number of frames."""
        preroll = self.first_frame.preroll
        if self.xing_span is not None and self.is_counted:
            # The original Xing frame also holds the padding of the encoder, which the decoder removes.
            return Stream((self.xing_span, *self.spans), preroll=preroll)
        pieces: list[Piece] = [*self.spans]
        if self.first_frame.layer == 3:
            pieces.insert(0, _make_xing_frame(self.first_frame, self.header, self.frame_count))
        return Stream(tuple(pieces), frames=self.frame_count * self.first_frame.samples, preroll=preroll)


def mp3_layout(file: BinaryIO, size: int, *, needs_search: bool = False) -> Layout | None:
    """Return the layout of a file of MPEG audio, or `None` for a file of another format.

    A Xing frame is trusted, and the rest of the file not read, if its number of bytes is that of the file and its
    number of frames is plausible by the sizes of the first frames. Otherwise all frames are walked, and tags and other
    bytes between frames are left out.

    Args:
        file: The file, at any position.
        size: Number of bytes in the file.
        needs_search: Whether to search the first frame behind other bytes too, as in a stream that was not recorded
            from the start.
    """
    start = _skip_tags(file, size)
    file.seek(0)
    has_id3 = file.read(3) == b"ID3" and not needs_search  # libsndfile skips ID3 tags
    file.seek(start)
    head = file.read(_SEARCH_BYTES if needs_search else _HEAD_BYTES)
    if needs_search:
        syncs = _find_syncs(head, 0)
        chain_starts = (sync for sync in syncs if _chain_length(head, sync) >= _MIN_CHAIN_FRAMES)
        start += next(chain_starts, len(head))
        file.seek(start)
        head = file.read(_HEAD_BYTES)
    first_frame = _read_frame(head, 0)
    if first_frame is None or not _is_confirmed(head, 0):
        return None
    claim = _read_xing(head, 0, first_frame)
    is_readable = has_id3 or not start  # libsndfile can read the unchanged file
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
        runs[0].claimed_frames = None  # all bytes are there, so the number of frames is wrong
    missing_seconds = sum(run.missing_seconds for run in runs)
    seconds = sum(run.seconds for run in runs)
    return Layout(
        tuple(run.stream for run in runs),
        shortfall=(seconds, seconds + missing_seconds) if missing_seconds else None,
        is_truncated=is_truncated and runs[-1].claimed_frames is None,
        has_gaps=any(run.gap_count for run in runs),
    )


def _is_plausible_claim(head: bytes, first_frame: _Frame, frames: int, size: int) -> bool:
    """Return whether the claim of a Xing frame, `frames` and `size` in bytes, agrees with the frames in `head`.

    `head` starts with the Xing frame, `first_frame`, which is included in the number of bytes, but not in the number of
    frames.
    """
    position = first_frame.size
    sizes = []
    while (
        position < size
        and (frame := _read_frame(head, position)) is not None
        and frame.stream_format == first_frame.stream_format
    ):
        sizes.append(frame.size)
        position += frame.size
    if position + _SLACK_BYTES >= size:  # `head` holds the whole file
        return abs(frames - len(sizes)) <= 1
    if position + 4 <= len(head) or not sizes:  # the frames end before `head` does
        return False
    expected = (size - first_frame.size) * len(sizes) / sum(sizes)
    # With a constant bit rate, sizes differ by the padding of at most 4 bytes, and the estimate is good to 1 %.
    rate_spread = 2 if max(sizes) - min(sizes) > 4 else 1.01
    return expected / rate_spread <= frames <= expected * rate_spread


def _runs(data: bytes, position: int) -> tuple[list[_FrameRun], bool]:
    """Return the runs of complete frames in `data` from `position` on, and whether `data` ends within a frame."""
    runs: list[_FrameRun] = []
    is_synced = True
    has_lost_bytes = False
    is_truncated = False
    while position + 4 <= len(data):
        frame = _read_frame(data, position)
        is_continuation = frame is not None and bool(runs) and frame.stream_format == runs[-1].first_frame.stream_format
        if frame is None or not ((is_synced and is_continuation) or _is_confirmed(data, position)):
            is_synced = False
            # An ID3 tag is skipped as a whole, since a picture in the tag may look like frames.
            tag_size = id3_size(data[position : position + 10])
            has_lost_bytes |= not tag_size and data[position : position + 3] not in _TAG_MAGICS
            position = position + tag_size if tag_size else next(_find_syncs(data, position + 1), len(data))
            continue
        is_synced = True
        stop = position + frame.size
        if stop > len(data):
            is_truncated = True  # an incomplete frame cannot be decoded
            break
        claim = _read_xing(data, position, frame)
        # A Xing frame starts a new run, as does a frame of another format.
        if claim is not None or not is_continuation:
            runs.append(_FrameRun(frame, data[position : position + 4]))
        if claim is not None:
            runs[-1].claimed_frames = claim[0]
            runs[-1].xing_span = (position, stop)
        else:
            runs[-1].gap_count += has_lost_bytes and runs[-1].frame_count > 0
            runs[-1].add(position, stop)
        position = stop
        has_lost_bytes = False
    return [run for run in runs if run.frame_count], is_truncated


def _read_frame(data: bytes, position: int) -> _Frame | None:
    """Return the frame at `position`; `None` without a header of known frame size."""
    if data[position : position + 1] != b"\xff" or position + 4 > len(data):
        return None
    return _parse_header(int.from_bytes(data[position : position + 4], "big"))


# A file has few different headers.
@lru_cache(maxsize=1024)
def _parse_header(bits: int) -> _Frame | None:
    """Return the frame with a header of 32 bits; `None` for an invalid header or an unknown frame size."""
    version = bits >> 19 & 3
    layer = 4 - (bits >> 17 & 3)
    bit_rate = bits >> 12 & 15  # 0 is a free format, without a known frame size
    rate = bits >> 10 & 3
    padding = bits >> 9 & 1
    if bits >> 21 != 0x7FF or version == 1 or layer == 4 or bit_rate in (0, 15) or rate == 3:
        return None
    mpeg1 = version == 3
    hertz = _HERTZ[version][rate]
    samples = 384 if layer == 1 else 1152
    if layer == 3 and not mpeg1:
        samples = 576
    slot_bytes = 4 if layer == 1 else 1  # a frame is a number of slots, and one more with padding
    slots = samples // 8 // slot_bytes * _KILOBITS[mpeg1, layer][bit_rate - 1] * 1000 // hertz
    channels = 1 if bits >> 6 & 3 == 3 else 2
    return _Frame(mpeg1, layer, hertz, channels, (slots + padding) * slot_bytes, samples)


def _is_confirmed(data: bytes, position: int) -> bool:
    """Return whether the frame at `position` is followed by a frame of the same format, a tag or the end of `data`."""
    frame = _read_frame(data, position)
    if frame is None:
        return False
    position += frame.size
    next_frame = _read_frame(data, position)
    if next_frame is not None and next_frame.stream_format == frame.stream_format:
        return True
    return position + 4 > len(data) or data[position : position + 3] in (*_TAG_MAGICS, b"ID3")


def _chain_length(data: bytes, position: int) -> int:
    """Return the number of consecutive frames of the same format from `position` on, at most `_MIN_CHAIN_FRAMES`."""
    stream_formats = set()
    count = 0
    while count < _MIN_CHAIN_FRAMES and (frame := _read_frame(data, position)) is not None:
        stream_formats.add(frame.stream_format)
        if len(stream_formats) > 1:
            break
        count += 1
        position += frame.size
    return count


def _find_syncs(data: bytes, position: int) -> Iterator[int]:
    """Yield the positions of probable frames from `position` on."""
    position = data.find(b"\xff", position)
    while position >= 0:
        if _read_frame(data, position) is not None and _is_confirmed(data, position):
            yield position
        position = data.find(b"\xff", position + 1)


def _read_xing(data: bytes, position: int, frame: _Frame) -> tuple[int, int] | None:
    """Return the numbers of frames and bytes in a Xing frame, -1 if absent; `None` for a frame of audio."""
    name = position + 4 + frame.side_info_bytes
    if frame.layer != 3 or data[name : name + 4] not in (b"Xing", b"Info"):
        return None
    # Name, flags, then the numbers that are present: with flags 3, frames at name + 8 and bytes at name + 12; with
    # flags 2, bytes at name + 8.
    flags, *numbers = (int.from_bytes(data[name + 4 * i : name + 4 * i + 4], "big") for i in range(1, 4))
    frame_count = numbers.pop(0) if flags & 1 else -1
    byte_count = numbers.pop(0) if flags & 2 else -1
    return frame_count, byte_count


def _make_xing_frame(first_frame: _Frame, header: bytes, count: int) -> bytes:
    """Return a silent Xing frame for `count` frames with the format of `first_frame`."""
    # A medium bit rate (index 9), so that the frame has room for the numbers; without padding and checksum.
    bits = int.from_bytes(header, "big") & ~(0xF << 12 | 1 << 9) | 9 << 12 | 1 << 16
    start = bits.to_bytes(4, "big")
    frame = _read_frame(start, 0)
    assert frame is not None
    numbers = b"Xing" + (1).to_bytes(4, "big") + count.to_bytes(4, "big")
    return (start + bytes(first_frame.side_info_bytes) + numbers).ljust(frame.size, b"\0")


def _skip_tags(file: BinaryIO, size: int) -> int:
    """Return the end of the tags and padding before the first frame."""
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
    """Return the size in bytes of the ID3v2 tag at the start of `head`; 0 without a tag."""
    if head[:3] != b"ID3" or len(head) < 10 or max(head[6:10]) > 127:
        return 0
    content_size = 0
    for byte in head[6:10]:  # 7 bits a byte: 00 00 02 01 is 2 * 128 + 1 = 257
        content_size = content_size << 7 | byte
    footer_size = 10 if head[5] & 16 else 0
    return 10 + content_size + footer_size


def _ape_size(head: bytes) -> int:
    """Return the size in bytes of the APEv2 tag at the start of `head`; 0 without a tag."""
    if head[:8] != b"APETAGEX" or len(head) < 32:
        return 0
    return 32 + int.from_bytes(head[12:16], "little")
