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
_HEAD, _SEARCHED = 1 << 16, 1 << 20
#: How far a Xing frame's number of bytes may be from what is there: encoders differ by a frame or two, and short tags
#: may follow. Less than half a second at the lowest bit rate.
_SLACK = 512
#: So many frames in a row are no coincidence.
_CONVINCING = 5
#: Frames that a decoder needs beyond those whose bits it borrows: for the overlap of blocks and its filter bank.
_WARM_UP = 2
#: What tags behind the frames begin with.
_TAGS = (b"TAG", b"APE", b"LYR")


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
    def side(self) -> int:
        """Bytes of side information behind the four; where a Xing frame has its name."""
        if self.mpeg1:
            return 17 if self.channels == 1 else 32
        return 9 if self.channels == 1 else 17

    @property
    def kind(self) -> tuple[bool, int, int, int]:
        """What all frames of a stream share."""
        return self.mpeg1, self.layer, self.rate, self.channels

    @property
    def lead(self) -> int:
        """Samples to decode in front of a segment of layer III, in the worst case.

        A frame's bits may start up to 511 bytes (MPEG 1) or 255 bytes before its header, in the frames in front of it,
        each of which holds, at the lowest bit rate, its size less header, checksum and side information. For 48 kHz
        mono these are 96 - 6 - 17 = 73 bytes, so 511 bytes reach back 7 frames.
        """
        if self.layer != 3:
            return _WARM_UP * self.samples
        smallest = self.samples // 8 * _KILOBITS[self.mpeg1, 3][0] * 1000 // self.rate - 6 - self.side
        reservoir = 511 if self.mpeg1 else 255
        return (-(-reservoir // max(1, smallest)) + _WARM_UP) * self.samples


@dataclass
class _Run:
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

    first: _Frame
    header: bytes
    claimed: int | None = None
    xing: tuple[int, int] | None = None
    spans: list[tuple[int, int]] = field(default_factory=list)
    count: int = 0
    gaps: int = 0

    def add(self, start: int, stop: int) -> None:
        if self.spans and self.spans[-1][1] == start:
            start = self.spans.pop()[0]
        self.spans.append((start, stop))
        self.count += 1

    @property
    def seconds(self) -> float:
        return self.count * self.first.samples / self.first.rate

    @property
    def lacking(self) -> float:
        """Seconds that the Xing frame claims and that are not there."""
        return max(0, (self.claimed or 0) - self.count) * self.first.samples / self.first.rate

    @property
    def is_counted(self) -> bool:
        """True where its own Xing frame tells the number of frames."""
        return self.xing is not None and self.claimed == self.count

    @property
    def stream(self) -> Stream:
        """Its stream, with a Xing frame in front that has the right number of frames."""
        if self.xing is not None and self.is_counted:
            # Its own also tells how much the encoder put in front and behind, which the decoder takes away again.
            return Stream((self.xing, *self.spans), lead=self.first.lead)
        front = (_xing_frame(self.first, self.header, self.count),) if self.first.layer == 3 else ()
        return Stream((*front, *self.spans), frames=self.count * self.first.samples, lead=self.first.lead)


def mp3_layout(file: BinaryIO, size: int, *, search: bool = False) -> Layout | None:
    """Return the layout of a file of MPEG audio, or None where it is something else.

    A Xing frame is believed, and nothing else read, where its number of bytes is what is there, and its number of
    frames fits that by the sizes of the first ones. Otherwise all frames are walked, and tags and other bytes between
    them left out.

    Args:
        file: The file, at any position.
        size: Number of bytes in it.
        search: Look for the first frame behind other bytes too, as in a stream that was not recorded from its start.
    """
    start = _behind_tags(file, size)
    file.seek(0)
    tagged = file.read(3) == b"ID3" and not search  # libsndfile passes these over itself
    file.seek(start)
    head = file.read(_SEARCHED if search else _HEAD)
    if search:
        start += next((place for place in _syncs(head, 0) if _chain(head, place) >= _CONVINCING), len(head))
        file.seek(start)
        head = file.read(_HEAD)
    first = _frame(head, 0)
    if first is None or not _confirmed(head, 0):
        return None
    claim = _xing(head, 0, first)
    plain = tagged or not start  # can be read as it is
    complete = claim is not None and abs(start + claim[1] - size) <= _SLACK
    if claim is not None and complete and _agrees(head, first, *claim):
        return Layout((Stream(() if plain else ((start, size),), lead=first.lead),))
    file.seek(0)
    runs, cut = _runs(file.read(), start)
    if not runs:
        return None
    if plain and len(runs) == 1 and runs[0].is_counted and len(runs[0].spans) == 1:
        return Layout((Stream(lead=first.lead),))
    if complete and runs[0].claimed != runs[0].count:
        runs[0].claimed = None  # nothing is lacking: the number is wrong
    lacking = sum(run.lacking for run in runs)
    seconds = sum(run.seconds for run in runs)
    return Layout(
        tuple(run.stream for run in runs),
        lacking=(seconds, seconds + lacking) if lacking else None,
        open_end=cut and runs[-1].claimed is None,
        gaps=any(run.gaps for run in runs),
    )


def _agrees(head: bytes, first: _Frame, frames: int, size: int) -> bool:
    """Return whether a Xing frame that claims so many frames and bytes is right, as far as `head` tells.

    `head` begins with this frame, `first`, which its number of frames leaves out and its number of bytes counts.
    """
    position, sizes = first.size, []
    while position < size and (frame := _frame(head, position)) is not None and frame.kind == first.kind:
        sizes.append(frame.size)
        position += frame.size
    if position + _SLACK >= size:
        return abs(frames - len(sizes)) <= 1
    if position + 4 <= len(head) or not sizes:
        return False
    expected = (size - first.size) * len(sizes) / sum(sizes)
    # The bit rate varies, or does not.
    spread = 2 if max(sizes) - min(sizes) > 4 else 1.01
    return expected / spread <= frames <= expected * spread


def _runs(data: bytes, position: int) -> tuple[list[_Run], bool]:
    """Return the runs of whole frames in `data` from `position` on, and whether it ends in the middle of a frame."""
    runs: list[_Run] = []
    synced, lost, cut = True, False, False
    while position + 4 <= len(data):
        frame = _frame(data, position)
        continues = frame is not None and bool(runs) and frame.kind == runs[-1].first.kind
        if frame is None or not ((synced and continues) or _confirmed(data, position)):
            synced = False
            # A tag may hold anything, a picture too.
            behind = behind_id3(data[position : position + 10])
            lost |= not behind and data[position : position + 3] not in _TAGS
            position = position + behind if behind else next(_syncs(data, position + 1), len(data))
            continue
        stop = position + frame.size
        if stop > len(data):
            cut = True  # so it cannot be decoded
            break
        claim, synced = _xing(data, position, frame), True
        if claim is not None or not continues:
            runs.append(_Run(frame, data[position : position + 4]))
        if claim is not None:
            runs[-1].claimed, runs[-1].xing = claim[0], (position, stop)
        else:
            runs[-1].gaps += lost and runs[-1].count > 0
            runs[-1].add(position, stop)
        position, lost = stop, False
    return [run for run in runs if run.count], cut


def _frame(data: bytes, position: int) -> _Frame | None:
    """Return the frame whose header is at `position`, or None where there is no header of known size."""
    if data[position : position + 1] != b"\xff" or position + 4 > len(data):
        return None
    return _parse(int.from_bytes(data[position : position + 4], "big"))


# A file has few headers that differ.
@lru_cache(maxsize=1024)
def _parse(bits: int) -> _Frame | None:
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


def _confirmed(data: bytes, position: int) -> bool:
    """Return whether the frame at `position` is followed by one of its kind, by a tag or by the end of `data`."""
    frame = _frame(data, position)
    if frame is None:
        return False
    position += frame.size
    following = _frame(data, position)
    if following is not None and following.kind == frame.kind:
        return True
    return position + 4 > len(data) or data[position : position + 3] in (*_TAGS, b"ID3")


def _chain(data: bytes, position: int) -> int:
    """Return how many frames of one kind follow each other from `position` on, as far as it matters."""
    kinds = set()
    count = 0
    while count < _CONVINCING and (frame := _frame(data, position)) is not None:
        kinds.add(frame.kind)
        if len(kinds) > 1:
            break
        count += 1
        position += frame.size
    return count


def _syncs(data: bytes, position: int) -> Iterator[int]:
    """Yield where headers seem to be, from `position` on."""
    position = data.find(b"\xff", position)
    while position >= 0:
        if _frame(data, position) is not None and _confirmed(data, position):
            yield position
        position = data.find(b"\xff", position + 1)


def _xing(data: bytes, position: int, frame: _Frame) -> tuple[int, int] | None:
    """Return the numbers of frames and bytes that a Xing frame claims, or None where it is a frame of sound.

    What it does not claim is -1.
    """
    name = position + 4 + frame.side
    if frame.layer != 3 or data[name : name + 4] not in (b"Xing", b"Info"):
        return None
    flags, *numbers = (int.from_bytes(data[name + 4 * i : name + 4 * i + 4], "big") for i in range(1, 4))
    frames = numbers.pop(0) if flags & 1 else -1
    return frames, numbers.pop(0) if flags & 2 else -1


def _xing_frame(first: _Frame, header: bytes, count: int) -> bytes:
    """Return a silent frame that says how many frames like `first` follow it."""
    # Of a middle bit rate, so that the numbers have place in it; without padding and checksum.
    bits = int.from_bytes(header, "big") & ~(0xF << 12 | 1 << 9) | 9 << 12 | 1 << 16
    start = bits.to_bytes(4, "big")
    frame = _frame(start, 0)
    assert frame is not None
    numbers = b"Xing" + (1).to_bytes(4, "big") + count.to_bytes(4, "big")
    return (start + bytes(first.side) + numbers).ljust(frame.size, b"\0")


def _behind_tags(file: BinaryIO, size: int) -> int:
    """Return where tags and padding end that stand in front of the first frame."""
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(_HEAD)
        padding = len(head) - len(head.lstrip(b"\0"))
        behind = behind_id3(head) or _behind_ape(head) or padding
        if not behind:
            break
        position += behind
    return position


def behind_id3(head: bytes) -> int:
    """Return the size of the ID3v2 tag that `head` begins with, in bytes; 0 where there is none."""
    if head[:3] != b"ID3" or len(head) < 10 or max(head[6:10]) > 127:
        return 0
    footer = 10 if head[5] & 16 else 0
    return 10 + sum(byte << 7 * place for place, byte in enumerate(reversed(head[6:10]))) + footer


def _behind_ape(head: bytes) -> int:
    """Return the size of the APEv2 tag that `head` begins with, in bytes; 0 where there is none."""
    if head[:8] != b"APETAGEX" or len(head) < 32:
        return 0
    return 32 + int.from_bytes(head[12:16], "little")
