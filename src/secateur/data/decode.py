"""From a file or a segment of one, at any rate and channel count, to mono float32 at one rate."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from secateur.data.corpus import SAMPLE_RATE
from secateur.errors import DataError

# Manifests round offsets and durations; a segment may overhang its file by this much.
OVERHANG_SECONDS = 0.1
# Below half a step of 16-bit audio: digital silence that went through a codec.
SILENCE = 1e-5


class UnusableAudio(DataError):
    """Audio that cannot be used; `reason` says why without naming the file."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}.")
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of a file in the file's own frames, and its length after resampling."""

    start: int
    frames: int
    samples: int
    whole: bool


def resampled_length(frames: int, *, rate: int, sample_rate: int = SAMPLE_RATE) -> int:
    """Number of samples that `frames` at `rate` become: rounded down, so that none is made up."""
    return frames * sample_rate // rate


def locate(
    path: str,
    *,
    offset: float = 0.0,
    duration: float | None = None,
    sample_rate: int = SAMPLE_RATE,
    content: bytes | None = None,
) -> Segment:
    """Where a segment lies in its file, from the header alone.

    Args:
        path: The file, or the name of one that is given as `content`.
        offset: Where the segment starts, in seconds.
        duration: How long it is in seconds; None reaches to the end.
        sample_rate: What it will be resampled to.
        content: What the file holds, where it is not on the disk.

    Raises:
        UnusableAudio: The file is missing, empty or no audio, or the segment is not in it.
    """
    with _open(path, content) as file:
        return _locate(file, path, offset=offset, duration=duration, sample_rate=sample_rate)


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
        UnusableAudio: As for `locate`, or the audio breaks off before the segment ends.
    """
    with _open(path, content) as file:
        segment = _locate(file, path, offset=offset, duration=duration, sample_rate=sample_rate)
        rate = file.samplerate
        try:
            if segment.start:
                file.seek(segment.start)
            channels = file.read(segment.frames, dtype="float32", always_2d=True)  # (frames, channels)
        except soundfile.LibsndfileError as error:
            raise UnusableAudio(path, f"cannot be decoded ({_plain(error)})") from None
        except MemoryError:
            # What a damaged header claims is allocated before anything is read.
            raise UnusableAudio(path, f"claims {segment.frames} samples, more than fit in memory") from None
    if segment.frames - len(channels) > OVERHANG_SECONDS * rate:
        raise UnusableAudio(path, f"breaks off after {len(channels) / rate:.2f} of {segment.frames / rate:.2f} s")
    mono = channels[:, 0] if channels.shape[1] == 1 else channels.mean(axis=1)  # (frames,)
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate)[: resampled_length(len(mono), rate=rate, sample_rate=sample_rate)]
    return np.ascontiguousarray(mono, dtype=np.float32)


def fault(audio: NDArray[np.float32]) -> str | None:
    """The reason why decoded audio, (samples,), is of no use, or None when it is fine."""
    if not audio.size:
        return "is empty"
    if not np.isfinite(audio).all():
        return "holds NaN or infinite samples"
    low, high = float(audio.min()), float(audio.max())
    if max(abs(low), abs(high)) < SILENCE:
        return "is silent"
    # A constant has no variance, so normalising it would divide by nothing.
    return "is silent (a constant)" if low == high else None


def _open(path: str, content: bytes | None) -> soundfile.SoundFile:
    if content is None and not os.path.isfile(path):
        raise UnusableAudio(path, "is not there")
    if not (os.path.getsize(path) if content is None else content):
        raise UnusableAudio(path, "is empty")
    try:
        return soundfile.SoundFile(path if content is None else io.BytesIO(content))
    except soundfile.LibsndfileError as error:
        raise UnusableAudio(path, f"cannot be decoded ({_plain(error)})") from None
    except (OSError, TypeError) as error:
        # TypeError: soundfile takes `.raw` for headerless audio and asks for its rate.
        raise UnusableAudio(path, f"cannot be opened ({error})") from None


def _locate(
    file: soundfile.SoundFile, path: str, *, offset: float, duration: float | None, sample_rate: int
) -> Segment:
    rate, frames = file.samplerate, file.frames
    # libsndfile gives the largest integer for a stream whose length it cannot tell.
    if not 0 <= frames < 1 << 40:
        raise UnusableAudio(path, "does not say how long it is")
    if not frames:
        raise UnusableAudio(path, "is empty")
    start = round(offset * rate)
    stop = frames if duration is None else round((offset + duration) * rate)
    if start >= frames or stop - frames > OVERHANG_SECONDS * rate:
        end = "the end" if duration is None else f"{offset + duration:.2f} s"
        raise UnusableAudio(
            path, f"holds {frames / rate:.2f} s, so the segment from {offset:.2f} s to {end} is not in it"
        )
    length = min(stop, frames) - start
    return Segment(
        start=start,
        frames=length,
        samples=resampled_length(length, rate=rate, sample_rate=sample_rate),
        whole=length == frames,
    )


def _plain(error: soundfile.LibsndfileError) -> str:
    return str(error.error_string).strip().rstrip(".")
