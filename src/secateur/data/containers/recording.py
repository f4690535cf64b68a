"""A recording: the samples of an audio file in any container, even with a wrong length in the header."""

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
#: Maximum deviation of silence from a constant, in steps of 16 bits, by coding. Dithering turns zeros into up to ±1,
#: lossy coding turns that into up to ±4, and the smallest values of A-law and µ-law are ±8.
_SILENT_STEPS = {
    **dict.fromkeys(("VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"), 4),
    **dict.fromkeys(("ALAW", "ULAW"), 8),
}
#: The deviation for all other codings. Linear audio of 8 bits needs no exception: a step of 8 bits is 256 of these
#: steps, 42 dB below full scale, and speech may be as quiet as that.
_DEFAULT_SILENT_STEPS = 1
#: libsndfile returns the largest integer for a stream of unknown length.
_MAX_FRAMES = 1 << 40
#: An average with less than this share of the power of its channels is only the coding noise of channels that cancel.
_CANCELED_POWER_SHARE = 1e-3
#: SF_ERR_UNRECOGNISED_FORMAT.
_UNKNOWN_FORMAT = 1


class UnusableAudio(DataError):
    """Audio that cannot be used; `reason` is the reason without the name of the file."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(escape_surrogates(f"{path}: {reason}."))
        self.reason = reason


def resampled_length(frames: int, *, rate: int, sample_rate: int = SAMPLE_RATE) -> int:
    """Return the number of samples of `frames` samples at `rate` after resampling, rounded down."""
    return frames * sample_rate // rate


def resample(audio: NDArray[np.float32], *, rate: int, sample_rate: int) -> NDArray[np.float32]:
    """Return audio, (samples,), resampled to (`resampled_length`,)."""
    samples = resampled_length(len(audio), rate=rate, sample_rate=sample_rate)
    if rate == sample_rate:
        return audio
    if not len(audio) or audio.min() == audio.max():
        # A resampler assumes zeros outside of the audio, which would add a step at both ends of a constant.
        return np.full(samples, audio[0] if len(audio) else 0, dtype=np.float32)
    resampled: NDArray[np.float32] = soxr.resample(audio, rate, sample_rate)[:samples]
    return resampled


@dataclass(frozen=True)
class _Track:
    """An open stream."""

    file: soundfile.SoundFile
    stream: Stream

    @property
    def frames(self) -> int:
        limit = self.stream.frames
        return int(self.file.frames if limit is None else min(limit, self.file.frames))

    def read(self, start: int, stop: int, inner_slice: slice) -> tuple[NDArray[np.float32], bool]:
        """Return the average of the channels, (samples,), from `start` to `stop`, and whether the channels cancel out.

        The audio is shorter if the file ends before `stop`, and constant if the part `inner_slice` is silent. Channels
        cancel out if this part is silent only in the average.
        """
        read_start = 0
        if self.file.seekable():
            # Before the segment by the preroll, and never into the last page: see `Stream`.
            read_start = max(0, min(start - self.stream.preroll, self.frames - self.stream.tail_samples - 1))
        if read_start:
            self.file.seek(read_start)
        audio = self.file.read(stop - read_start, dtype="float32", always_2d=True)
        channels = audio[start - read_start :]  # (preroll + samples, channels) -> (samples, channels)
        silent_steps = _SILENT_STEPS.get(self.file.subtype, _DEFAULT_SILENT_STEPS)
        level = _constant_level(channels[inner_slice], steps=silent_steps)
        if level is not None:
            return np.full(len(channels), level, dtype=np.float32), False
        if channels.shape[1] == 1:
            return channels[:, 0], False
        mono: NDArray[np.float32] = channels.mean(axis=1)  # (samples, channels) -> (samples,)
        is_canceled = _mean_power(mono[inner_slice]) < _CANCELED_POWER_SHARE * _mean_power(channels[inner_slice])
        return mono, is_canceled


class Recording:
    """The streams of an open audio file, in order, as a single sequence of samples.

    Attributes:
        rate: Sampling rate in hertz; the highest, if files of several rates were joined.
        frames: Number of samples at that rate.
        layout: The layout of the file.
        is_canceled: Whether the last read audio is silent in the average only, since channels of opposite phase cancel.
    """

    def __init__(self, tracks: list[_Track], layout: Layout) -> None:
        self._tracks = tracks
        self.layout = layout
        self.is_canceled = False
        self.rate: int = max(track.file.samplerate for track in tracks)
        self.frames = sum(self._length(track) for track in tracks)

    def read(self, start: int, frames: int, *, margin_before: int = 0, margin_after: int = 0) -> NDArray[np.float32]:
        """Return the average of the channels, (samples,), of a segment with margins.

        The audio is shorter if the file ends before the segment, and constant if the segment itself is silent.

        Args:
            start: First sample of the segment.
            frames: Number of samples in the segment.
            margin_before: Number of samples to read before the segment, at most `start`.
            margin_after: Number of samples to read after the segment, at most as many as there are.
        """
        parts = []
        self.is_canceled = False
        track_offset = 0  # number of samples in the tracks before
        # With tracks of 100 and 50 samples, the read 90:120 takes 90:100 of the first and 0:20 of the second; of a
        # segment 95:110 with these margins, the inner slices are 5:20 (cut off at the track's end) and 0:10.
        for track in self._tracks:
            length = self._length(track)
            track_start = min(max(start - margin_before - track_offset, 0), length)
            track_stop = min(max(start + frames + margin_after - track_offset, 0), length)
            if track_start < track_stop:
                inner_start = max(start - track_offset - track_start, 0)
                inner_stop = max(start + frames - track_offset - track_start, 0)
                parts.append(self._read(track, track_start, track_stop, slice(inner_start, inner_stop)))
            track_offset += length
        return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, dtype=np.float32), *parts])

    def _length(self, track: _Track) -> int:
        return resampled_length(track.frames, rate=track.file.samplerate, sample_rate=self.rate)

    def _read(self, track: _Track, start: int, stop: int, inner_slice: slice) -> NDArray[np.float32]:
        if track.file.samplerate == self.rate:
            mono, is_canceled = track.read(start, stop, inner_slice)
            self.is_canceled |= is_canceled
            return mono
        # Positions are at the common rate, so a track of another rate is resampled as a whole.
        mono, is_canceled = track.read(0, track.frames, slice(None))
        self.is_canceled |= is_canceled
        return resample(mono, rate=track.file.samplerate, sample_rate=self.rate)[start:stop]


@contextmanager
def open_recording(path: str, content: bytes | None = None) -> Iterator[Recording]:
    """Open an audio file.

    Args:
        path: The file, or a name for `content`.
        content: The bytes of the file, if they are not on disk.

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
            if content is None:
                layout = _cached_layout(path, size, os.stat(path).st_mtime_ns)
            else:
                layout = _detect_layout(file, size)
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
    """Return the reason why `path` is no regular file; `None` for a regular file."""
    if os.path.isfile(path):
        return None
    if os.path.isdir(path):
        return "is a folder, not a file"
    return "is a pipe or a device, not a file" if os.path.exists(path) else "does not exist"


def _open_bytes(path: str, content: bytes | None) -> BinaryIO:
    # Unbuffered, since libsndfile reads from the descriptor of the file.
    return open(path, "rb", buffering=0) if content is None else io.BytesIO(content)


def format_sndfile_error(error: soundfile.LibsndfileError) -> str:
    """Return the reason of an error of libsndfile; damaged audio has a fixed text."""
    reason = str(error.error_string).strip().rstrip(".")
    # libsndfile returns "File does not exist" for an MP3 with too few frames.
    return reason if reason and not reason.startswith("File does not exist") else "it is damaged or cut short"


def _open_tracks(file: BinaryIO, size: int, layout: Layout) -> tuple[list[_Track], Layout]:
    """Open the streams of a file; return the tracks and the layout, which may be another after a search for frames."""
    tracks: list[_Track] = []
    try:
        for stream in layout.streams:
            tracks.append(_open_track(file, stream))
    except soundfile.LibsndfileError as error:
        if layout.is_truncated and len(tracks) == len(layout.streams) - 1 > 0:
            return tracks, layout  # cut off just after the start of the last link
        if error.code != _UNKNOWN_FORMAT:
            raise
        searched_layout = mp3.mp3_layout(file, size, needs_search=True)
        if searched_layout is None:
            raise
    else:
        # libsndfile found MP3 frames further from the start than `mp3_layout` searches, and estimates their number.
        is_guessed = layout == Layout() and tracks[0].file.format == "MP3"
        searched_layout = mp3.mp3_layout(file, size, needs_search=True) if is_guessed else None
    if searched_layout is None:
        return tracks, layout
    for track in tracks:
        track.file.close()
    return [_open_track(file, stream) for stream in searched_layout.streams], searched_layout


def _open_track(file: BinaryIO, stream: Stream) -> _Track:
    """Open a stream, without the name of the file.

    By the name, libsndfile takes some files for another format: an MP3 beside a `._` file for Sound Designer, and any
    `.au`, `.vox` or `.gsm` without a header for audio.
    """
    if stream.pieces:
        return _Track(soundfile.SoundFile(io.BufferedReader(SplicedFile(file, stream.pieces), 1 << 16)), stream)
    file.seek(0)
    if isinstance(file, io.BytesIO):
        return _Track(soundfile.SoundFile(file), stream)
    return _Track(soundfile.SoundFile(file.fileno(), closefd=False), stream)


# The segments of a long file are read in order, and share the layout.
@lru_cache(maxsize=256)
def _cached_layout(path: str, size: int, modified_ns: int) -> Layout:
    """Return the layout of the file at `path`; size and time of the last change are a part of the cache's key."""
    with open(path, "rb", buffering=0) as file:
        return _detect_layout(file, size)


def _detect_layout(file: BinaryIO, size: int) -> Layout:
    """Return the layout of a file, by the format that the first bytes indicate."""
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
    """Return the constant level of silent channels, (samples, channels), or `None` if any channel is not silent."""
    if not len(channels):
        return None
    low, high = channels.min(axis=0), channels.max(axis=0)
    if not (high - low <= 2 * steps * INT16_STEP).all():
        return None
    return 0.0 if max(-low.min(), high.max()) <= steps * INT16_STEP else float((low + high).mean() / 2)
