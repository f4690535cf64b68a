"""A recording: the samples of an audio file in any container, whatever its header says of their number."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from secateur.data.containers import chunks, flac, headers, mp3, ogg
from secateur.data.containers.layout import Layout, Stream
from secateur.data.containers.splice import SplicedFile
from secateur.data.corpus import SAMPLE_RATE, escape_surrogates
from secateur.errors import DataError

#: One step of 16-bit audio.
INT16_STEP = 1 / 32768
#: How far from a constant silence may be, in steps of 16 bits, by the coding. Dithering makes ±1 of zeros, lossy coding
#: makes up to ±4 of that, and the smallest values of A-law and µ-law are ±8.
_SILENT_STEPS = {
    **dict.fromkeys(("VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"), 4),
    **dict.fromkeys(("ALAW", "ULAW"), 8),
}
#: Of any other coding. Linear audio of 8 bits is no exception: one of its own steps is 256 of these, 42 dB below full
#: scale, and speech may be as quiet as that.
_DEFAULT_SILENT_STEPS = 1
#: libsndfile gives the largest integer for a stream whose length it cannot tell.
_MAX_FRAMES = 1 << 40
#: An average with less than this share of the power of its channels is what coding leaves of nothing.
_CANCELED_POWER_SHARE = 1e-3
#: SF_ERR_UNRECOGNISED_FORMAT.
_UNKNOWN_FORMAT = 1


class UnusableAudio(DataError):
    """Audio that cannot be used; `reason` says why without naming the file."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(escape_surrogates(f"{path}: {reason}."))
        self.reason = reason


def resampled_length(frames: int, *, rate: int, sample_rate: int = SAMPLE_RATE) -> int:
    """Number of samples that `frames` at `rate` become: rounded down, so that none is made up."""
    return frames * sample_rate // rate


def resample(audio: NDArray[np.float32], *, rate: int, sample_rate: int) -> NDArray[np.float32]:
    """Return audio, (samples,), at another rate; its length is `resampled_length`."""
    samples = resampled_length(len(audio), rate=rate, sample_rate=sample_rate)
    if rate == sample_rate:
        return audio
    if not len(audio) or audio.min() == audio.max():
        # A resampler takes zeros for what lies outside, which makes sound of a constant at both ends.
        return np.full(samples, audio[0] if len(audio) else 0, dtype=np.float32)
    resampled: NDArray[np.float32] = soxr.resample(audio, rate, sample_rate)[:samples]
    return resampled


@dataclass(frozen=True)
class _Track:
    """A stream that is open."""

    file: soundfile.SoundFile
    stream: Stream

    @property
    def frames(self) -> int:
        limit = self.stream.frames
        return int(self.file.frames if limit is None else min(limit, self.file.frames))

    def read(self, start: int, stop: int, inner_slice: slice) -> tuple[NDArray[np.float32], bool]:
        """Return the average of the channels, (samples,), from `start` to `stop`, or to where the audio breaks off.

        Where `inner`, a slice of that, is silent, all of it is a constant. The second value is whether there is sound
        in `inner`, but nothing of it in the average.
        """
        read_start = (
            max(0, min(start - self.stream.preroll, self.frames - self.stream.tail_samples - 1))
            if self.file.seekable()
            else 0
        )
        if read_start:
            self.file.seek(read_start)
        channels = self.file.read(stop - read_start, dtype="float32", always_2d=True)[start - read_start :]
        level = _constant_level(
            channels[inner_slice], steps=_SILENT_STEPS.get(self.file.subtype, _DEFAULT_SILENT_STEPS)
        )
        if level is not None:
            return np.full(len(channels), level, dtype=np.float32), False
        if channels.shape[1] == 1:
            return channels[:, 0], False
        mono: NDArray[np.float32] = channels.mean(axis=1)
        return mono, _mean_power(mono[inner_slice]) < _CANCELED_POWER_SHARE * _mean_power(channels[inner_slice])


class Recording:
    """The tracks of an open audio file, one after the other.

    Attributes:
        rate: The sampling rate of all of it, in Hz; the highest one where files of several rates were joined.
        frames: Number of samples at that rate.
        layout: How the file is laid out.
        canceled: There was sound in what was read last, but channels of opposite phase leave nothing in their average.
    """

    def __init__(self, tracks: list[_Track], layout: Layout) -> None:
        self._tracks = tracks
        self.layout = layout
        self.is_canceled = False
        self.rate: int = max(track.file.samplerate for track in tracks)
        self.frames = sum(self._length(track) for track in tracks)

    def read(self, start: int, frames: int, *, margin_before: int = 0, margin_after: int = 0) -> NDArray[np.float32]:
        """Return the average of the channels, (samples,), from sample `start` on, and of what is around that.

        It is shorter where the audio breaks off. Where the frames themselves are silent, all of it is a constant.

        Args:
            start: The first sample.
            frames: How many samples.
            before: How many more are read in front of them, at most `start`.
            after: How many more are read behind them, at most as many as there are.
        """
        parts = []
        self.is_canceled = False
        track_offset = 0  # samples of the tracks in front
        for track in self._tracks:
            length = self._length(track)
            track_start, track_stop = (
                min(max(position - track_offset, 0), length)
                for position in (start - margin_before, start + frames + margin_after)
            )
            if track_start < track_stop:
                inner_slice = slice(
                    max(start - track_offset - track_start, 0), max(start + frames - track_offset - track_start, 0)
                )
                parts.append(self._read(track, track_start, track_stop, inner_slice))
            track_offset += length
        return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, dtype=np.float32), *parts])

    def _length(self, track: _Track) -> int:
        return resampled_length(track.frames, rate=track.file.samplerate, sample_rate=self.rate)

    def _read(self, track: _Track, start: int, stop: int, inner_slice: slice) -> NDArray[np.float32]:
        is_same_rate = track.file.samplerate == self.rate
        read_range = (start, stop, inner_slice) if is_same_rate else (0, track.frames, slice(None))
        mono, is_canceled = track.read(*read_range)
        self.is_canceled |= is_canceled
        if is_same_rate:
            return mono
        return resample(mono, rate=track.file.samplerate, sample_rate=self.rate)[start:stop]


@contextmanager
def open_recording(path: str, content: bytes | None = None) -> Iterator[Recording]:
    """Open an audio file.

    Args:
        path: The file, or the name of one that is given as `content`.
        content: What the file holds, where it is not on the disk.

    Raises:
        UnusableAudio: The file is missing, empty or no audio.
    """
    if content is None and (reason := find_file_fault(path)) is not None:
        raise UnusableAudio(path, reason)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(_open_bytes(path, content))
            size = file.seek(0, os.SEEK_END)
            if not size:
                raise UnusableAudio(path, "is empty")
            layout = (
                _detect_layout(file, size)
                if content is not None
                else _cached_layout(path, size, os.stat(path).st_mtime_ns)
            )
            tracks, layout = _open_tracks(file, size, layout)
        except soundfile.LibsndfileError as error:
            raise UnusableAudio(path, f"cannot be decoded ({format_sndfile_error(error)})") from None
        except OSError as error:
            raise UnusableAudio(path, f"cannot be opened ({error})") from None
        for track in tracks:
            stack.enter_context(track.file)
        if not all(0 <= track.frames < _MAX_FRAMES for track in tracks):
            raise UnusableAudio(path, "does not say how long it is")
        yield Recording(tracks, layout)


def find_file_fault(path: str) -> str | None:
    """Return the reason why `path` is no file that can be read from its start to its end, or None where it is one."""
    if os.path.isfile(path):
        return None
    if os.path.isdir(path):
        return "is a folder, not a file"
    return "is no file, but a pipe or a device" if os.path.exists(path) else "does not exist"


def _open_bytes(path: str, content: bytes | None) -> BinaryIO:
    # Unbuffered, since libsndfile is given the file's descriptor.
    return open(path, "rb", buffering=0) if content is None else io.BytesIO(content)


def format_sndfile_error(error: soundfile.LibsndfileError) -> str:
    """Return the reason that libsndfile gives, which for damaged audio may be none."""
    reason = str(error.error_string).strip().rstrip(".")
    # What it says of an MP3 with too few frames, whatever the file is.
    return reason if reason and not reason.startswith("File does not exist") else "it is damaged or cut short"


def _open_tracks(file: BinaryIO, size: int, layout: Layout) -> tuple[list[_Track], Layout]:
    """Open the streams of a file; return them with the layout that they are from."""
    tracks: list[_Track] = []
    try:
        for stream in layout.streams:
            tracks.append(_open_track(file, stream))
    except soundfile.LibsndfileError as error:
        if layout.is_truncated and len(tracks) == len(layout.streams) - 1 > 0:
            return tracks, layout  # cut off where the last link has just begun
        if error.code != _UNKNOWN_FORMAT:
            raise
        searched_layout = mp3.mp3_layout(file, size, needs_search=True)
        if searched_layout is None:
            raise
    else:
        # libsndfile found frames that were not looked for so far behind the start; it guesses their number.
        is_guessed = layout == Layout() and tracks[0].file.format == "MP3"
        searched_layout = mp3.mp3_layout(file, size, needs_search=True) if is_guessed else None
    if searched_layout is None:
        return tracks, layout
    for track in tracks:
        track.file.close()
    return [_open_track(file, stream) for stream in searched_layout.streams], searched_layout


def _open_track(file: BinaryIO, stream: Stream) -> _Track:
    """Open a stream without its name: by it, libsndfile takes some files for others, such as an MP3 beside a `._` file
    for Sound Designer's, and any `.au`, `.vox` or `.gsm` without a header for audio."""
    if stream.pieces:
        return _Track(soundfile.SoundFile(io.BufferedReader(SplicedFile(file, stream.pieces), 1 << 16)), stream)
    file.seek(0)
    if isinstance(file, io.BytesIO):
        return _Track(soundfile.SoundFile(file), stream)
    return _Track(soundfile.SoundFile(file.fileno(), closefd=False), stream)


# Segments of a long file come one after the other; its layout shall not be looked for each time.
@lru_cache(maxsize=256)
def _cached_layout(path: str, size: int, modified_ns: int) -> Layout:
    """Return the layout of the file at `path`, as long as its size and the time of its last change are these."""
    with open(path, "rb", buffering=0) as file:
        return _detect_layout(file, size)


def _detect_layout(file: BinaryIO, size: int) -> Layout:
    """Return the layout of a file, told by its first bytes."""
    file.seek(0)
    head = file.read(10)
    magic = head[:4]
    if magic in chunks.RIFF:
        return chunks.riff_layout(file, size)
    if magic == chunks.CAF:
        return chunks.caf_layout(file, size)
    if magic == chunks.IFF:
        return chunks.iff_layout(file, size)
    if magic == chunks.W64:
        return chunks.w64_layout(file, size)
    if magic in headers.AU:
        return headers.au_layout(file, size)
    if magic in headers.CLAIM_READERS:
        return headers.header_layout(file, size, magic)
    if magic == ogg.MAGIC:
        return ogg.ogg_layout(file, size)
    start = mp3.id3_size(head)
    file.seek(start)
    if file.read(4) == flac.MAGIC:
        return flac.flac_layout(file, size, start)
    return mp3.mp3_layout(file, size) or Layout()


def _mean_power(audio: NDArray[np.float32]) -> float:
    return float(np.square(audio, dtype=np.float64).mean()) if len(audio) else 0.0


def _constant_level(channels: NDArray[np.float32], *, steps: int) -> float | None:
    """Return the constant level of channels, (samples, channels), none of which moves beyond silence; else None."""
    if not len(channels):
        return None
    low, high = channels.min(axis=0), channels.max(axis=0)
    if not (high - low <= 2 * steps * INT16_STEP).all():
        return None
    return 0.0 if max(-low.min(), high.max()) <= steps * INT16_STEP else float((low + high).mean() / 2)
