"""Decoding of an audio file or a segment, in any container and at any rate and channel count, to mono float32."""

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

# Manifests round offsets and durations; a segment may end this much after the end of the file.
OVERHANG_SECONDS = 0.1
# Context that the resampler needs on either side of a sample, in samples at the lower of the two rates.
RESAMPLER_MARGIN = 160
# Peak of silence. Dithering turns zeros into 0 and ±1 step; the half step is a margin for rounding.
SILENCE = 1.5 * INT16_STEP


@dataclass(frozen=True, kw_only=True)
class AudioSegment:
    """The location of a segment in a file, in samples at the file's rate, and the segment's length after resampling.

    Attributes:
        start: First sample, at the file's rate.
        frames: Number of samples, at the file's rate.
        samples: Number of samples after resampling.
        is_full_file: Whether the segment is the whole file.
        is_truncated: Whether the segment reaches to the end of a file that is cut off, by an unknown amount.
        has_gaps: Whether damaged parts of unknown length were left out of the file.
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
    """Locate a segment in a file, by header and frames if possible, else by decoding.

    Args:
        path: The file, or a name for `content`.
        offset: Start of the segment, in seconds.
        duration: Length of the segment in seconds; None reaches to the end of the file.
        sample_rate: Rate to resample to, in hertz.
        content: The bytes of the file, if they are not on disk.

    Raises:
        UnusableAudio: The file is missing, empty or no audio, the segment is outside of it, or the file ends before
            the length in its header.
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
    """Decode a segment to (samples,) float32 at `sample_rate`, the average of the channels.

    The arguments are those of `locate`.

    Raises:
        UnusableAudio: As for `locate`; or the audio ends before the segment does, or the channels cancel out.
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
            # The length in the header, which may be damaged, is allocated before anything is read.
            raise UnusableAudio(path, f"claims {segment.frames} samples, more than fit in memory") from None
    frames_read = min(len(mono) - margin_before, segment.frames)
    if segment.frames - frames_read > OVERHANG_SECONDS * rate:
        raise UnusableAudio(path, f"breaks off after {frames_read / rate:.2f} of {segment.frames / rate:.2f} s")
    if recording.is_canceled:
        raise UnusableAudio(path, "is silent in the average of its channels, which cancel each other; keep one of them")
    audio = resample(mono, rate=rate, sample_rate=sample_rate)
    samples = resampled_length(frames_read, rate=rate, sample_rate=sample_rate)
    # Cut the margins off, at the sample of the offset in the whole file resampled. An offset of 1 s at 16 kHz is sample
    # 16,000; if the read started at sample 35,280 of a file at 44.1 kHz (12,800), this is sample 3,200 of `audio`.
    first_sample = round(offset * sample_rate) - resampled_length(
        segment.start - margin_before, rate=rate, sample_rate=sample_rate
    )
    first_sample = max(0, min(first_sample, len(audio) - samples))
    return np.ascontiguousarray(audio[first_sample : first_sample + samples], dtype=np.float32)


def _resampler_margins(segment: AudioSegment, recording: Recording, sample_rate: int) -> tuple[int, int]:
    """Return the numbers of samples to read before and after a segment, so as to resample as in the whole file.

    A resampler assumes zeros outside of its input. The read must also start at a sample that exists at both rates: from
    44.1 to 16 kHz that is every 441st sample of the file, which becomes every 160th of the output.
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
    """Return the reason why decoded audio, (samples,), is unusable, or `None` if the audio is fine."""
    if not audio.size:
        return "is empty"
    if not np.isfinite(audio).all():
        return "holds NaN or infinite samples"
    low, high = float(audio.min()), float(audio.max())
    if max(abs(low), abs(high)) <= SILENCE:
        return "is silent"
    # A constant has no variance to normalize by.
    return "is silent (a constant)" if high - low <= 2 * INT16_STEP else None


def _locate_segment(
    recording: Recording, path: str, *, offset: float, duration: float | None, sample_rate: int
) -> AudioSegment:
    rate = recording.rate
    frames = recording.frames
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
        # The shortfall is (available, claimed) in any unit, such as bytes: 3,000 of 4,000 bytes in 3 s claims 4 s.
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
