"""WAV, AIFF, AU, VOC and the like: files are read to the end without a size, and refused if cut off."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from container_toy import assert_segments_are_slices, dither, encoded, mp3, noise, samples, seconds, wav_of_size

from secateur.data.containers.recording import INT16_STEP
from secateur.data.decode import UnusableAudio, decode, find_audio_fault, locate


@pytest.mark.parametrize("claimed_size", [0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFF - 36])
def test_a_wav_of_no_size_is_read_to_its_end(tmp_path: Path, claimed_size: int) -> None:
    encoder_states = (
        b"LIST" + (26).to_bytes(4, "little") + b"INFOISFT" + (14).to_bytes(4, "little") + b"an encoder 60\0"
    )
    for chunks in (b"", encoder_states):
        assert seconds(tmp_path, wav_of_size(noise(1, 16_000), 16_000, claimed_size, chunks=chunks)) == 1


def test_wavs_joined_end_to_end_are_read_to_the_end(tmp_path: Path) -> None:
    first_item, two, three = (
        encoded(noise(length, rate, channels), rate, "WAV", subtype)
        for length, rate, channels, subtype in (
            (1, 16_000, 1, "PCM_16"),
            (0.5, 16_000, 2, "PCM_16"),
            (1, 8_000, 1, "ALAW"),
        )
    )
    assert seconds(tmp_path, first_item + two + first_item) == 2.5
    assert seconds(tmp_path, first_item + three + two) == 2.5
    assert seconds(tmp_path, first_item + b"LIST" + (4).to_bytes(4, "little") + b"INFO") == 1
    assert_segments_are_slices(first_item + two)


def test_an_empty_wav_with_other_chunks_behind_is_empty(tmp_path: Path) -> None:
    empty = encoded(noise(0, 16_000), 16_000, "WAV", "PCM_16")
    for data in (empty, empty + b"LIST" + (4).to_bytes(4, "little") + b"INFO"):
        with pytest.raises(UnusableAudio, match="is empty"):
            locate("x", content=data)


def test_other_containers_without_a_size_are_read_to_their_end(tmp_path: Path) -> None:
    au = encoded(noise(1, 16_000), 16_000, "AU", "PCM_16")
    rf64 = encoded(noise(1, 16_000), 16_000, "RF64", "PCM_16")
    caf = encoded(noise(1, 16_000), 16_000, "CAF", "PCM_16")
    wide, data = rf64.index(b"ds64") + 8, caf.index(b"data") + 4
    for size in (b"\0", b"\xff"):
        assert seconds(tmp_path, au[:8] + size * 4 + au[12:]) == 1
        assert seconds(tmp_path, rf64[:wide] + size * 24 + rf64[wide + 24 :]) == 1
    assert seconds(tmp_path, caf[:data] + b"\xff" * 8 + caf[data + 8 :]) == 1


def test_a_file_shorter_than_its_header_claims_is_not_used_to_its_end_but_in_segments() -> None:
    audio = noise(2, 16_000)
    for data in (encoded(audio, 16_000, "WAV", "PCM_16"), mp3(audio, 16_000, xing=True)):
        cut = data[: len(data) // 2]
        for read in (locate, decode):
            with pytest.raises(UnusableAudio, match=r"x: breaks off after (0\.9|1\.)\d+ of 2\.\d+ s"):
                read("x", content=cut)
        assert locate("x", content=cut, offset=0.2, duration=0.5).samples == 8_000
        assert len(decode("x", content=cut, offset=0.2, duration=0.5)) == 8_000


def test_audio_that_cannot_be_sought_is_read_from_its_start() -> None:
    assert_segments_are_slices(encoded(noise(1, 8_000), 8_000, "WAV", "GSM610"))


def test_an_mp3_is_read_beside_the_file_that_a_mac_leaves_there(tmp_path: Path) -> None:
    (tmp_path / "x.mp3").write_bytes(mp3(noise(1, 44_100), 44_100, xing=True))
    fork = b"\0\5\x16\7\0\2\0\0Mac OS X        \0\2" + bytes(4_000)
    (tmp_path / "._x.mp3").write_bytes(fork)
    assert locate(str(tmp_path / "x.mp3")).samples == 16_000
    with pytest.raises(UnusableAudio, match="cannot be decoded"):
        locate(str(tmp_path / "._x.mp3"))


@pytest.mark.parametrize("suffix", [".au", ".snd", ".vox", ".gsm", ".raw"])
def test_no_ending_makes_audio_of_what_has_no_header(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"no audio at all " * 1000)
    with pytest.raises(UnusableAudio, match=r"cannot be decoded \(Format not recognised\)"):
        locate(str(path))


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_dithered_silence_is_silent_at_any_rate_and_in_any_format(rate: int) -> None:
    kinds = [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("WAV", "FLOAT")]
    for (kind, subtype), channels in itertools.product(kinds, (1, 2)):
        assert (
            find_audio_fault(decode("x", content=encoded(dither(rate, channels), rate, kind, subtype))) == "is silent"
        )
    level = encoded(dither(rate) + np.float32(100 * INT16_STEP), rate, "WAV", "PCM_16")
    assert find_audio_fault(decode("x", content=level)) == "is silent (a constant)"
    assert find_audio_fault(decode("x", content=encoded(dither(rate) * 8, rate, "WAV", "ALAW"))) == "is silent"


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_speech_as_quiet_as_two_steps_of_16_bits_and_one_of_8_bits_is_heard(rate: int) -> None:
    quiet = (np.round(noise(1, rate) * 8) * INT16_STEP).clip(-2 * INT16_STEP, 2 * INT16_STEP)
    assert np.abs(quiet).max() == 2 * INT16_STEP
    assert find_audio_fault(decode("x", content=encoded(quiet, rate, "WAV", "PCM_16"))) is None
    assert find_audio_fault(decode("x", content=encoded(dither(rate) * 256, rate, "WAV", "PCM_U8"))) is None
    first_item = np.stack([dither(rate)[:, 0], noise(1, rate)[:, 0] * 0.01], axis=1)  # one channel is silent
    assert find_audio_fault(decode("x", content=encoded(first_item, rate, "WAV", "PCM_16"))) is None


SIZED = ("WAV", "WAVEX", "RF64", "AIFF", "SVX", "AU", "W64", "CAF", "NIST", "VOC")


@pytest.mark.parametrize("kind", SIZED)
def test_a_file_of_any_format_that_breaks_off_is_refused_with_both_lengths(kind: str) -> None:
    data = encoded(noise(1, 16_000), 16_000, kind, "PCM_16")
    cut = data[: len(data) * 3 // 4]
    with pytest.raises(UnusableAudio, match=r"x: breaks off after 0\.7\d of 1\.00 s"):
        locate("x", content=cut)
    np.testing.assert_array_equal(samples(cut, 4_000, 4_000), samples(data, 4_000, 4_000))
    assert locate("x", content=cut, offset=0.2, duration=0.4).samples == 6_400


@pytest.mark.parametrize("byte_rate", [0, 1, 0xFFFFFFFF])
def test_a_wav_that_breaks_off_is_refused_whatever_its_byte_rate(byte_rate: int) -> None:
    data = encoded(noise(1, 16_000), 16_000, "WAV", "PCM_16")
    data = data[:28] + byte_rate.to_bytes(4, "little") + data[32:]
    assert locate("x", content=data).samples == 16_000
    with pytest.raises(UnusableAudio, match=r"breaks off after 0\.50 of 1\.00 s"):
        locate("x", content=data[: 44 + 16_000])


@pytest.mark.parametrize("kind", SIZED)
def test_files_of_any_format_joined_end_to_end_are_all_read(kind: str) -> None:
    first_item, other_value = (encoded(noise(0.5, 16_000, seed=seed), 16_000, kind, "PCM_16") for seed in (1, 2))
    np.testing.assert_array_equal(
        samples(first_item + other_value), np.concatenate([samples(first_item), samples(other_value)])
    )
    with pytest.raises(UnusableAudio, match=r"breaks off after 0\.\d+ of 1\.00 s" if kind != "CAF" else "malformed"):
        locate("x", content=first_item + other_value[: len(other_value) * 3 // 4])
    if kind != "SVX":
        assert len(samples(first_item + b"no sound")) == 8_000


def test_all_blocks_of_a_voc_are_read() -> None:
    data = encoded(noise(0.5, 16_000), 16_000, "VOC", "PCM_16")
    assert data.endswith(b"\0")
    two_blocks = data[:-1] + b"\2" + (8_000).to_bytes(3, "little") + data[-8_001:-1] + b"\0"
    assert len(samples(two_blocks)) == 8_000 + 2 + 4_000  # the header of the second block too, which takes 4 bytes
    assert len(samples(two_blocks + data)) == 8_000 + 2 + 4_000 + 8_000


@pytest.mark.parametrize("order", ["BIG", "LITTLE"])
def test_au_of_no_size_is_read_to_its_end_in_either_byte_order(order: str) -> None:
    data = encoded(noise(1, 16_000), 16_000, "AU", "PCM_16", endian=order)
    for size in (0, 0xFFFFFFFF):
        assert locate("x", content=data[:8] + size.to_bytes(4, "big") + data[12:]).samples == 16_000


@pytest.mark.parametrize("claimed_size", [0, 0x7F000008])
def test_an_aiff_of_no_size_is_read_to_its_end(claimed_size: int) -> None:
    data = encoded(noise(1, 16_000), 16_000, "AIFF", "PCM_16")
    place = data.index(b"SSND") + 4
    assert len(samples(data[:place] + claimed_size.to_bytes(4, "big") + data[place + 4 :])) == 16_000


@pytest.mark.parametrize("claimed_size", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_chunks_behind_the_audio_of_a_wav_of_no_size_are_no_sound(claimed_size: int) -> None:
    data = wav_of_size(noise(1, 16_000), 16_000, claimed_size)
    trailing_chunk = b"LIST" + (4).to_bytes(4, "little") + b"INFO"
    for chunks in (trailing_chunk, b"bext" + (602).to_bytes(4, "little") + bytes(602) + trailing_chunk):
        assert len(samples(data + chunks)) == 16_000
