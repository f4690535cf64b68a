"""Decoding against SciPy's resampling, plain slicing and hand counts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import resample_poly

from secateur.data.decode import UnusableAudio, decode, find_audio_fault, locate, resampled_length

Write = Callable[..., NDArray[np.float32]]  # the fixture in conftest.py


def test_sixteen_kilohertz_mono_comes_back_sample_for_sample(tmp_path: Path, write: Write) -> None:
    expected = write("a.wav", subtype="FLOAT")
    actual = decode(str(tmp_path / "a.wav"))
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual, expected)


def test_channels_are_averaged(tmp_path: Path, write: Write) -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, (1600, 3)).astype(np.float32)
    write("a.wav", noise, subtype="FLOAT")
    np.testing.assert_allclose(decode(str(tmp_path / "a.wav")), noise.mean(axis=1), atol=1e-7)


def test_channels_of_opposite_phase_are_told_from_silence(tmp_path: Path, write: Write) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (16_000, 1)).astype(np.float32)
    path = str(tmp_path / "a.wav")
    for rate in (8_000, 16_000):
        for subtype in ("FLOAT", "PCM_16", "PCM_U8"):
            write("a.wav", np.concatenate([noise, -noise], axis=1), rate=rate, subtype=subtype)
            with pytest.raises(UnusableAudio, match=r"is silent in the average of its channels, which cancel each"):
                decode(path, offset=0.1)
            write("a.wav", np.concatenate([noise, -0.5 * noise], axis=1), rate=rate, subtype=subtype)
            assert find_audio_fault(decode(path)) is None
    write("a.wav", np.zeros((16_000, 2), dtype=np.float32))
    assert find_audio_fault(decode(path)) == "is silent"


@pytest.mark.parametrize(("rate", "up", "down"), [(8_000, 2, 1), (48_000, 1, 3), (44_100, 160, 441)])
def test_resampling_agrees_with_scipy_on_a_tone(tmp_path: Path, write: Write, rate: int, up: int, down: int) -> None:
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype(np.float32)
    write("a.wav", tone, rate=rate, subtype="FLOAT")
    actual = decode(str(tmp_path / "a.wav"))
    expected = resample_poly(tone, up, down)
    assert len(actual) == 16_000
    # The ends differ: each resampler has its own idea of what lies outside.
    np.testing.assert_allclose(actual[800:-800], expected[800:-800], atol=2e-3)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_the_header_tells_the_decoded_length_of_every_format(
    tmp_path: Path, write: Write, suffix: str, rate: int
) -> None:
    write(f"a{suffix}", seconds=1.237, rate=rate)
    path = str(tmp_path / f"a{suffix}")
    assert len(decode(path)) == locate(path).samples == resampled_length(round(1.237 * rate), rate=rate)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
def test_a_file_held_in_memory_is_read_like_one_on_the_disk(tmp_path: Path, write: Write, suffix: str) -> None:
    write(f"a{suffix}", seconds=2, rate=48_000)
    path = tmp_path / f"a{suffix}"
    held_value = path.read_bytes()
    for place in ({}, {"offset": 0.5, "duration": 1.0}):
        assert locate("a name", content=held_value, **place) == locate(str(path), **place)
        np.testing.assert_array_equal(decode("a name", content=held_value, **place), decode(str(path), **place))
    with pytest.raises(UnusableAudio, match="a name: is empty"):
        locate("a name", content=b"")


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_segment_is_the_slice_of_the_whole(tmp_path: Path, write: Write, suffix: str) -> None:
    write(f"a{suffix}", seconds=2)
    path = str(tmp_path / f"a{suffix}")
    full_audio = decode(path)
    np.testing.assert_array_equal(decode(path, offset=0.5, duration=0.25), full_audio[8_000:12_000])
    np.testing.assert_array_equal(decode(path, offset=1.75), full_audio[28_000:])


def test_a_rounded_duration_may_overhang_a_little_but_not_much(tmp_path: Path, write: Write) -> None:
    write("a.wav", seconds=1)
    path = str(tmp_path / "a.wav")
    assert locate(path, duration=1.05).samples == 16_000
    with pytest.raises(UnusableAudio, match=r"holds 1\.00 s, so the segment from 0\.50 s to 2\.00 s is not in it"):
        locate(path, offset=0.5, duration=1.5)
    with pytest.raises(UnusableAudio, match="to the end is not in it"):
        locate(path, offset=1.0)


def test_unreadable_files_give_a_plain_reason(tmp_path: Path, write: Write) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("not audio")
    write("none.wav", np.zeros(0, dtype=np.float32))
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    for name, reason in {
        "missing.wav": "does not exist",
        "folder.wav": "is a folder, not a file",
        "pipe.wav": "is a pipe or a device, not a file",
        "empty.wav": "is empty",
        "none.wav": "is empty",
        "text.wav": r"cannot be decoded \(Format not recognised\)",
    }.items():
        with pytest.raises(UnusableAudio, match=f"{name}: {reason}"):
            locate(str(tmp_path / name))


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".opus", ".mp3", ".wav"])
def test_a_file_cut_in_the_middle_is_unusable_or_shorter_but_never_padded(
    tmp_path: Path, write: Write, suffix: str
) -> None:
    write(f"a{suffix}", seconds=3)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    try:
        audio = decode(str(path))
    except UnusableAudio:
        return
    assert len(audio) < 40_000


def test_bytes_changed_at_random_never_end_in_another_error(tmp_path: Path, write: Write) -> None:
    rng = np.random.default_rng(0)
    for suffix in (".wav", ".flac", ".ogg", ".opus", ".mp3"):
        write(f"a{suffix}", seconds=0.5)
        path = tmp_path / f"a{suffix}"
        full_run = path.read_bytes()
        for _ in range(10):
            damaged = bytearray(full_run)
            for place in rng.integers(0, min(len(full_run), 200), size=8):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged)
            with contextlib.suppress(UnusableAudio):
                assert decode(str(path)).dtype == np.float32


@pytest.mark.parametrize(
    ("audio", "reason"),
    [
        ([], "is empty"),
        ([0.0, 0.0, 9e-6], "is silent"),
        ([0.3, 0.3, 0.3], r"is silent (a constant)"),
        ([0.1, float("nan")], "holds NaN or infinite samples"),
        ([0.1, float("inf")], "holds NaN or infinite samples"),
        ([0.1, -0.1], None),
    ],
)
def test_faults_are_named(audio: list[float], reason: str | None) -> None:
    assert find_audio_fault(np.array(audio, dtype=np.float32)) == reason
