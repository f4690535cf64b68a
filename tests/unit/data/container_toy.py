"""Audio files without a length in the header, as written to a pipe, and parts of joined files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from secateur.data.containers.recording import INT16_STEP, open_recording
from secateur.data.decode import decode, locate

Samples = NDArray[np.float32]

ID3V2 = b"ID3\4\0\0\0\0\7\x76" + bytes(1014)
ID3V1 = b"TAG" + b"x" * 125


def noise(seconds: float, rate: int, channels: int = 1, *, seed: int = 0) -> Samples:
    """Return noise of varying level, (samples, channels), so that no two parts are alike."""
    samples = round(seconds * rate)
    swell = 1 + np.sin(np.arange(samples) / rate * 9)[:, None]
    samples_drawn = 0.1 * np.random.default_rng(seed).standard_normal((samples, channels)) * swell
    return samples_drawn.clip(-1, 1).astype(np.float32)


def encoded(audio: Samples, rate: int, kind: str, subtype: str | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, audio, rate, format=kind, subtype=subtype, **options)
    return file.getvalue()


def mp3(audio: Samples, rate: int, *, mode: str = "CONSTANT", level: float = 0.5, xing: bool = False) -> bytes:
    """Return an MP3 of layer III; without `xing`, no length is in the file."""
    options = {"bitrate_mode": mode, "compression_level": level}
    data = encoded(audio, rate, "MP3", "MPEG_LAYER_III", **options)
    if xing:
        return data
    # Drop the Xing frame: the next frame has the same first two bytes.
    return data[data.index(data[:2], 4) :]


def flac_without_length(audio: Samples, rate: int) -> bytes:
    data = bytearray(encoded(audio, rate, "FLAC"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return bytes(data)


def wav_of_size(audio: Samples, rate: int, claimed_size: int, *, chunks: bytes = b"") -> bytes:
    """Return a WAV with a header that claims `claimed_size` bytes of audio, with `chunks` before the audio."""
    data = encoded(audio, rate, "WAV", "PCM_16")
    size = claimed_size.to_bytes(4, "little")
    return data[:4] + size + data[8:36] + chunks + b"data" + size + data[44:]


def ape_tag(content: bytes) -> bytes:
    """Return an APEv2 tag with a header and a footer."""
    size = (2000).to_bytes(4, "little") + (len(content) + 32).to_bytes(4, "little") + (1).to_bytes(4, "little")
    header, footer = (b"APETAGEX" + size + flags.to_bytes(4, "little") + bytes(8) for flags in (0xA0000000, 0x80000000))
    return header + content + footer


def flac_in_ogg(data: bytes, number: int) -> bytes:
    """Return a FLAC file in pages of Ogg without checksums; `number` is the number of the stream."""
    packets = [b"\x7fFLAC\1\0\0\0" + data[:42], *(data[start : start + 2000] for start in range(42, len(data), 2000))]
    pages = []
    for place, packet in enumerate(packets):
        flags = 2 if place == 0 else 4 if place == len(packets) - 1 else 0
        sizes = bytes([255] * (len(packet) // 255) + [len(packet) % 255])
        head = bytes([flags]) + bytes(8) + number.to_bytes(4, "little") + place.to_bytes(4, "little") + bytes(4)
        pages.append(b"OggS\0" + head + bytes([len(sizes)]) + sizes + packet)
    return b"".join(pages)


def seconds(tmp_path: Path, data: bytes) -> float:
    """The length of a file, which must be the same located and decoded, from the disk and from memory."""
    path = tmp_path / "x.bin"
    path.write_bytes(data)
    lengths = {locate(str(path)).samples, locate("x", content=data).samples}
    lengths |= {len(decode(str(path))), len(decode("x", content=data))}
    assert len(lengths) == 1
    return lengths.pop() / 16_000


def samples(data: bytes, start: int = 0, frames: int | None = None) -> NDArray[np.float32]:
    with open_recording("x", data) as recording:
        return recording.read(start, recording.frames if frames is None else frames)


def assert_segments_are_slices(data: bytes, *, tries: int = 6) -> None:
    full_audio = samples(data)
    rng = np.random.default_rng(1)
    for start in (*rng.integers(0, len(full_audio) - 1000, tries), len(full_audio) - 700):
        frames = min(int(rng.integers(500, 3000)), len(full_audio) - int(start))
        np.testing.assert_allclose(samples(data, int(start), frames), full_audio[start : start + frames], atol=2e-6)


def dither(rate: int, channels: int = 1) -> NDArray[np.float32]:
    """What dithering makes of a second of zeros: -1, 0 or 1 step of 16 bits."""
    steps = np.random.default_rng(0).integers(-1, 2, (rate, channels))
    return (steps * INT16_STEP).astype(np.float32)
