"""From a file or a segment of one, in any container, at any rate and channel count, to mono float32 at one rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import soundfile
from numpy.typing import NDArray

from secateur.data.containers.recording import (
    INT16_STEP,
    Recording,
    UnusableAudio,
    format_sndfile_error,
    open_recording,
    resample,
    resampled_length,
)
from secateur.data.corpus import SAMPLE_RATE

__all__ = ["AudioSegment", "UnusableAudio", "decode", "find_audio_fault", "locate", "resampled_length"]

# Manifests round offsets and durations; a segment may overhang its file by this much.
OVERHANG_SECONDS = 0.1
# What a resampler needs on either side of a sample, in samples of the lower one of its two rates.
RESAMPLER_MARGIN = 160
# What dithering makes of zeros; the half is for arithmetic on it.
SILENCE = 1.5 * INT16_STEP


@dataclass(frozen=True, kw_only=True)
class AudioSegment:
    """A stretch of a file in the file's own frames, and its length after resampling.

    Attributes:
        open_end: It reaches to the end of a file that breaks off there, nobody knows how long before its true end.
        gaps: There are damaged places in its file, of which nobody knows how long they were.
    """

    start: int
    frames: int
    samples: int
    is_full_file: bool
    is_truncated: bool = False
    has_gaps: bool = False


def locate(
    path: str,
    *,
    offset: float = 0.0,
    duration: float | None = None,
    sample_rate: int = SAMPLE_RATE,
    content: bytes | None = None,
) -> AudioSegment:
    """Where a segment lies in its file, without decoding it wherever its header or its frames tell.

    Args:
        path: The file, or the name of one that is given as `content`.
        offset: Where the segment starts, in seconds.
        duration: How long it is in seconds; None reaches to the end.
        sample_rate: What it will be resampled to.
        content: What the file holds, where it is not on the disk.

    Raises:
        UnusableAudio: The file is missing, empty or no audio, the segment is not in it, or the file breaks off before
            the end that its header claims.
    """
    with open_recording(path, content) as recording:
        return _locate_segment(recording, path, offset=offset, duration=duration, sample_rate=sample_rate)


def decode(
    path: str,
    *,
    offset: float = 0.0,
    duration: float | None = None,
    sample_rate: int = SAMPLE_RATE,
    content: bytes | None = None,
) -> NDArray[np.float32]:
    """The audio of a segment, as for `locate`: (samples,) float32 at `sample_rate`, channels averaged.

    Raises:
        UnusableAudio: As for `locate`, or the audio breaks off before the segment ends, or its channels cancel out.
    """
    with open_recording(path, content) as recording:
        segment = _locate_segment(recording, path, offset=offset, duration=duration, sample_rate=sample_rate)
        rate = recording.rate
        margin_before, margin_after = _resampler_margins(segment, recording, sample_rate)
        try:
            mono = recording.read(
                segment.start, segment.frames, margin_before=margin_before, margin_after=margin_after
            )  # (frames,)
        except soundfile.LibsndfileError as error:
            raise UnusableAudio(path, f"cannot be decoded ({format_sndfile_error(error)})") from None
        except MemoryError:
            # What a damaged header claims is allocated before anything is read.
            raise UnusableAudio(path, f"claims {segment.frames} samples, more than fit in memory") from None
    frames_read = min(len(mono) - margin_before, segment.frames)
    if segment.frames - frames_read > OVERHANG_SECONDS * rate:
        raise UnusableAudio(path, f"breaks off after {frames_read / rate:.2f} of {segment.frames / rate:.2f} s")
    if recording.is_canceled:
        raise UnusableAudio(path, "is silent as the average of its channels, which cancel each other; keep one of them")
    audio = resample(mono, rate=rate, sample_rate=sample_rate)
    samples = resampled_length(frames_read, rate=rate, sample_rate=sample_rate)
    # The nearest sample of the whole file, as far as there are enough behind it.
    first_sample = round(offset * sample_rate) - resampled_length(
        segment.start - margin_before, rate=rate, sample_rate=sample_rate
    )
    first_sample = max(0, min(first_sample, len(audio) - samples))
    return np.ascontiguousarray(audio[first_sample : first_sample + samples], dtype=np.float32)


def _resampler_margins(segment: AudioSegment, recording: Recording, sample_rate: int) -> tuple[int, int]:
    """Return how many samples to read in front of a segment and behind it, to resample it as in the whole file.

    A resampler takes zeros for what lies outside. In front, it also needs a sample that is one of the whole file at the
    other rate too: from 44.1 to 16 kHz every 441st one, which is the 160th there.
    """
    rate = recording.rate
    if rate == sample_rate:
        return 0, 0
    margin = math.ceil(RESAMPLER_MARGIN * rate / min(rate, sample_rate))
    step = rate // math.gcd(rate, sample_rate)
    read_start = max(0, segment.start - margin) // step * step
    stop = segment.start + segment.frames
    return segment.start - read_start, min(margin, recording.frames - stop)


def find_audio_fault(audio: NDArray[np.float32]) -> str | None:
    """The reason why decoded audio, (samples,), is of no use, or None when it is fine."""
    if not audio.size:
        return "is empty"
    if not np.isfinite(audio).all():
        return "holds NaN or infinite samples"
    low, high = float(audio.min()), float(audio.max())
    if max(abs(low), abs(high)) <= SILENCE:
        return "is silent"
    # A constant has no variance, so normalising it would divide by nothing.
    return "is silent (a constant)" if high - low <= 2 * INT16_STEP else None


def _locate_segment(
    recording: Recording, path: str, *, offset: float, duration: float | None, sample_rate: int
) -> AudioSegment:
    rate, frames = recording.rate, recording.frames
    if not frames:
        raise UnusableAudio(path, "is empty")
    start = round(offset * rate)
    stop = frames if duration is None else round((offset + duration) * rate)
    if start >= frames or stop - frames > OVERHANG_SECONDS * rate:
        end = "the end" if duration is None else f"{offset + duration:.2f} s"
        raise UnusableAudio(
            path, f"holds {frames / rate:.2f} s, so the segment from {offset:.2f} s to {end} is not in it"
        )
    shortfall = recording.layout.shortfall
    if duration is None and shortfall is not None:
        seconds = frames / rate
        claimed_seconds = seconds * shortfall[1] / shortfall[0] if shortfall[0] else math.inf
        if claimed_seconds - seconds > OVERHANG_SECONDS:
            raise UnusableAudio(path, f"breaks off after {seconds:.2f} of {claimed_seconds:.2f} s")
    if duration is None and recording.layout.is_damaged:
        raise UnusableAudio(path, f"is damaged, so that only {frames / rate:.2f} s of it can be decoded")
    length = min(stop, frames) - start
    return AudioSegment(
        start=start,
        frames=length,
        samples=resampled_length(length, rate=rate, sample_rate=sample_rate),
        is_full_file=length == frames,
        is_truncated=recording.layout.is_truncated and start + length == frames,
        has_gaps=recording.layout.has_gaps,
    )
