"""What is decoded is the truth about the length of a file, whatever its container says; a segment is a slice of it."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from container_toy import (
    ID3V1,
    ID3V2,
    ape_tag,
    encoded,
    flac_in_ogg,
    flac_without_length,
    mp3,
    noise,
    wav_of_size,
)
from numpy.typing import NDArray

from secateur.data.containers import flac
from secateur.data.containers import mp3 as mpeg
from secateur.data.containers.recording import INT16_STEP, open_recording
from secateur.data.decode import UnusableAudio, decode, find_audio_fault, locate

RATES = (8_000, 22_050, 24_000, 32_000, 44_100, 48_000)
# A picture in a tag, which by chance may hold anything.
PICTURE = np.random.default_rng(0).integers(0, 256, 100_000, dtype=np.uint8).tobytes()
# Bytes that stand before and behind the frames of an MP3.
TAGS = {
    "none": (b"", b""),
    "ID3v2": (ID3V2, b""),
    "two ID3v2": (ID3V2 * 2, b""),
    "ID3v1": (b"", ID3V1),
    "APE behind": (b"", ape_tag(PICTURE) + ID3V1),
    "APE in front": (ape_tag(bytes(200)), b""),
    "picture": (b"ID3\4\0\0\0\6\15\40" + PICTURE, b""),
    "padding": (bytes(1000), b""),
}


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


@cache
def quiet_first(mode: str, xing: bool) -> bytes:
    """An MP3 of 2 s whose first frames tell nothing of the bit rate."""
    audio = noise(2, 44_100)
    audio[:44_100] *= 0.002
    return mp3(audio, 44_100, mode=mode, xing=xing)


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_is_as_long_as_its_frames_whatever_stands_around_them(tmp_path: Path, mode: str, tags: str) -> None:
    front, behind = TAGS[tags]
    for xing in (True, False):
        data = front + quiet_first(mode, xing) + behind
        # Without Xing frame the encoder's own samples at both ends stay: three frames at most.
        assert seconds(tmp_path, data) == pytest.approx(2, abs=1e-3 if xing else 0.08)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_segment_of_an_mp3_is_the_slice_of_the_whole(rate: int, channels: int) -> None:
    audio = noise(1, rate, channels)
    # The lowest bit rate borrows the bits of the most frames in front: 85 for 24 kHz stereo.
    for mode, xing in (("CONSTANT", True), ("VARIABLE", True), ("VARIABLE", False)):
        assert_segments_are_slices(mp3(audio, rate, mode=mode, level=0.99, xing=xing), tries=4)


def test_mp3s_joined_end_to_end_are_read_to_the_end(tmp_path: Path) -> None:
    for xing in (True, False):
        first, second = (mp3(noise(length, 44_100), 44_100, xing=xing) for length in (1, 2))
        assert seconds(tmp_path, ID3V2 + first + ID3V1 + ID3V2 + second) == pytest.approx(3, abs=0.1)
        other_value = mp3(noise(2, 16_000, 2), 16_000, xing=xing)
        assert seconds(tmp_path, first + other_value) == pytest.approx(3, abs=0.2)
        assert_segments_are_slices(first + other_value)


def test_bytes_between_the_frames_of_an_mp3_are_passed_over(tmp_path: Path) -> None:
    data = mp3(noise(2, 44_100), 44_100, xing=True)
    middle = data.index(data[:3], len(data) // 2)
    for junk in (ID3V2, PICTURE[:5000]):
        assert seconds(tmp_path, data[:middle] + junk + data[middle:]) == 2


def test_damaged_frames_of_an_mp3_are_left_out_and_said() -> None:
    data = mp3(noise(2, 44_100), 44_100)
    assert not locate("x", content=data).has_gaps
    middle = data.index(data[:3], len(data) // 2)
    for size in (4, 3000):
        damaged = locate("x", content=data[:middle] + b"\x55" * size + data[middle + size :])
        assert damaged.has_gaps
        assert 28_000 < damaged.samples < 33_000
    for tags in (ID3V1, ID3V2, ID3V1 + ID3V2):
        assert not locate("x", content=data[:middle] + tags + data[middle:]).has_gaps
    cut = locate("x", content=data[: middle + 100])
    assert (cut.is_truncated, cut.has_gaps) == (True, False)


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("claimed", [1, 10, 30, 60, 1_000, 1 << 24])
def test_a_xing_frame_with_a_wrong_number_of_frames_is_not_believed(mode: str, claimed: int) -> None:
    data = mp3(noise(2, 44_100), 44_100, mode=mode, xing=True)
    place = data.index(b"Info" if mode == "CONSTANT" else b"Xing") + 8
    assert int.from_bytes(data[place : place + 4], "big") == 78
    corrupted = data[:place] + claimed.to_bytes(4, "big") + data[place + 4 :]
    assert locate("x", content=corrupted).samples == pytest.approx(32_000, abs=1_500)
    assert len(decode("x", content=corrupted)) == locate("x", content=corrupted).samples


def test_an_mp3_of_one_frame_is_not_said_to_be_missing() -> None:
    data = mp3(noise(1, 16_000), 16_000, xing=True)
    with pytest.raises(UnusableAudio, match=r"cannot be decoded \(it is damaged or cut short\)"):
        locate("x", content=data[: data.index(data[:2], 4)])


def test_a_stream_of_mp3_that_was_joined_in_the_middle_of_a_frame_is_read(tmp_path: Path) -> None:
    data = mp3(noise(2, 44_100), 44_100)
    assert seconds(tmp_path, data[len(data) // 2 + 13 :]) == pytest.approx(1, abs=0.1)
    data = quiet_first("VARIABLE", False)
    assert seconds(tmp_path, ID3V2 + PICTURE + data) == pytest.approx(2, abs=0.1)  # a tag of another size than it says


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2)])
def test_a_flac_that_is_damaged_in_front_of_its_end_is_refused_with_and_without_a_length(
    rate: int, channels: int
) -> None:
    audio = noise(2, rate, channels)
    for full_audio in (encoded(audio, rate, "FLAC"), flac_without_length(audio, rate)):
        damaged = bytearray(full_audio)
        damaged[len(full_audio) // 2 : len(full_audio) // 2 + 40] = bytes(40)
        with pytest.raises(UnusableAudio, match=r"cannot be decoded|is damaged, so that only [01]\.\d\d s of it"):
            decode("x", content=bytes(damaged))
        segment = decode("x", content=bytes(damaged), offset=0.1, duration=0.2)
        np.testing.assert_array_equal(segment, decode("x", content=full_audio, offset=0.1, duration=0.2))


@pytest.mark.parametrize("claimed", [1, 10, 20_000, 1 << 33])
def test_a_flac_with_a_wrong_length_is_as_long_as_its_frames(claimed: int) -> None:
    data = encoded(noise(1.5, 16_000), 16_000, "FLAC")
    corrupted = bytearray(data)
    corrupted[21:26] = (data[21] >> 4 << 36 | claimed).to_bytes(5, "big")
    np.testing.assert_array_equal(samples(bytes(corrupted)), samples(data))
    assert_segments_are_slices(bytes(corrupted))


def test_flacs_joined_end_to_end_are_all_read() -> None:
    audio = noise(1.1, 16_000), noise(0.7, 16_000, seed=1)
    full_audio = np.concatenate([samples(encoded(part, 16_000, "FLAC")) for part in audio])
    for first, second in itertools.product((encoded, flac_without_length), repeat=2):
        first_item, two = (
            make(part, 16_000, "FLAC") if make is encoded else make(part, 16_000)
            for make, part in zip((first, second), audio, strict=True)
        )
        np.testing.assert_array_equal(samples(first_item + two), full_audio)
        assert not locate("x", content=first_item + two).is_truncated
        with pytest.raises(UnusableAudio, match=r"is damaged|cannot be decoded"):
            decode("x", content=first_item[:-500] + two)


def test_the_frames_of_an_mp3_with_a_true_xing_frame_and_those_of_flac_are_not_walked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the header tells the length")

    monkeypatch.setattr(mpeg, "_runs", refuse)
    monkeypatch.setattr(flac, "count_samples", refuse)
    for data in (mp3(noise(1, 44_100), 44_100, xing=True), encoded(noise(1, 16_000), 16_000, "FLAC")):
        assert locate("x", content=ID3V2 + data + ID3V1).samples == 16_000


@pytest.mark.parametrize("front", [b"", ID3V2])
def test_a_flac_without_a_length_is_read_and_sought(tmp_path: Path, front: bytes) -> None:
    data = front + flac_without_length(noise(1.5, 16_000), 16_000)
    assert seconds(tmp_path, data) == 1.5
    np.testing.assert_array_equal(samples(data), samples(encoded(noise(1.5, 16_000), 16_000, "FLAC")))
    assert_segments_are_slices(data)
    # Cut off: the last block that is whole.
    assert seconds(tmp_path, data[: len(data) // 2]) == 2 * 4096 / 16_000
    assert locate("x", content=data[: len(data) // 2]).is_truncated
    assert not locate("x", content=data + ID3V1).is_truncated
    with pytest.raises(UnusableAudio, match="x: is empty"):
        locate("x", content=data[: len(front) + 42])


@pytest.mark.parametrize(("rate", "kind"), [(44_100, "MP3"), (48_000, "OGG"), (8_000, "WAV"), (22_051, "FLAC")])
def test_a_segment_at_another_rate_is_the_slice_of_the_whole_too(rate: int, kind: str) -> None:
    data = encoded(noise(2, rate), rate, kind)
    full_audio = decode("x", content=data)
    for offset, duration in ((0.5, 0.25), (0.0, 0.3), (1.1234, 0.5), (0.9, 0.05), (1.5, None)):
        segment = decode("x", content=data, offset=offset, duration=duration)
        start = round(offset * 16_000)
        assert len(segment) == locate("x", content=data, offset=offset, duration=duration).samples
        np.testing.assert_allclose(segment, full_audio[start : start + len(segment)], atol=2e-6)
    silent = dither(rate)
    silent[: rate // 2] = 0.5
    assert find_audio_fault(decode("x", content=encoded(silent, rate, "WAV", "PCM_16"), offset=0.5)) == "is silent"


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_all_links_of_a_chained_ogg_file_are_read(tmp_path: Path, subtype: str) -> None:
    first_item, two, three = (
        encoded(noise(length, rate, channels, seed=rate), rate, "OGG", subtype)
        for length, rate, channels in ((1.5, 16_000, 1), (1, 16_000, 1), (1, 48_000, 2))
    )
    assert seconds(tmp_path, first_item + two) == 2.5
    assert seconds(tmp_path, first_item + first_item) == 3  # the streams have one number, against the rules
    assert seconds(tmp_path, first_item + bytes(100_000) + two + b"junk") == 2.5
    np.testing.assert_array_equal(samples(first_item + two), np.concatenate([samples(first_item), samples(two)]))
    mixed = first_item + three + two
    assert seconds(tmp_path, mixed) == 3.5
    with open_recording("x", mixed) as recording:
        assert recording.rate == 48_000
    assert_segments_are_slices(mixed)


def test_flac_in_ogg_is_read_alone_chained_and_without_a_length(tmp_path: Path) -> None:
    flac_file = encoded(noise(1, 16_000), 16_000, "FLAC")
    first_item, other_value = (
        flac_in_ogg(flac_file, 1),
        flac_in_ogg(flac_without_length(noise(1.5, 16_000, 2), 16_000), 2),
    )
    np.testing.assert_array_equal(samples(first_item), samples(flac_file))
    assert seconds(tmp_path, other_value) == 1.5
    assert seconds(tmp_path, first_item + other_value) == 2.5
    assert seconds(tmp_path, first_item + encoded(noise(1, 48_000), 48_000, "OGG", "OPUS")) == 2
    assert_segments_are_slices(first_item + other_value)


@pytest.mark.parametrize(("length", "rate"), [(3, 16_000), (0.9, 16_000), (1.5, 22_050), (2, 44_100)])
def test_a_segment_at_the_end_of_a_vorbis_file_is_the_slice_of_the_whole(length: float, rate: int) -> None:
    data = encoded(noise(length, rate), rate, "OGG", "VORBIS")
    full_audio = samples(data)
    for start in range(1000, len(full_audio), len(full_audio) // 12):
        np.testing.assert_array_equal(samples(data, start, 500), full_audio[start : start + 500])


def test_an_ogg_file_that_breaks_off_in_a_page_says_so(tmp_path: Path) -> None:
    data = encoded(noise(3, 16_000), 16_000, "OGG", "OPUS")
    assert not locate("x", content=data).is_truncated
    cut = data[: len(data) * 2 // 3]
    assert locate("x", content=cut).is_truncated
    assert not locate("x", content=cut, offset=0.1, duration=0.5).is_truncated
    assert 0 < seconds(tmp_path, cut) < 2
    assert seconds(tmp_path, data + data[:100]) == 3  # a link that has just begun
    for damaged in (data[:20], data[:5] + b"\0" + data[6:]):  # no page that is a first one
        with pytest.raises(UnusableAudio, match="cannot be decoded"):
            locate("x", content=damaged)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_file_that_ends_between_two_pages_or_was_joined_when_cut_says_so(subtype: str) -> None:
    data, other_value = (encoded(noise(3, 16_000, seed=seed), 16_000, "OGG", subtype) for seed in (1, 2))
    last = data.rindex(b"OggS")
    middle = data.rindex(b"OggS", 0, last)
    assert locate("x", content=data[:last]).is_truncated
    cut = data[: (middle + last) // 2]  # in a page, which seems to go on in the next file
    for front in (data[:last], cut):
        assert locate("x", content=front + other_value).is_truncated
        np.testing.assert_array_equal(samples(front + other_value)[-48_000:], samples(other_value))
    assert not locate("x", content=data + other_value).is_truncated


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 48_000])
def test_a_segment_of_opus_is_the_slice_of_the_whole(rate: int) -> None:
    tone = np.sin(np.arange(3 * rate) / rate * 2 * np.pi * 440).astype(np.float32)[:, None] / 2
    for data in (encoded(audio, rate, "OGG", "OPUS") for audio in (tone, noise(3, rate))):
        full_audio = samples(data)
        for start in (0.03, 0.36, 1.36, 2.6):
            place = round(start * rate)
            segment = samples(data, place, rate * 3 // 10)
            np.testing.assert_array_equal(segment, full_audio[place : place + len(segment)])


@pytest.mark.parametrize("claimed", [0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFF - 36])
def test_a_wav_of_no_size_is_read_to_its_end(tmp_path: Path, claimed: int) -> None:
    encoder_states = (
        b"LIST" + (26).to_bytes(4, "little") + b"INFOISFT" + (14).to_bytes(4, "little") + b"an encoder 60\0"
    )
    for chunks in (b"", encoder_states):
        assert seconds(tmp_path, wav_of_size(noise(1, 16_000), 16_000, claimed, chunks=chunks)) == 1


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


def dither(rate: int, channels: int = 1) -> NDArray[np.float32]:
    """What dithering makes of a second of zeros: -1, 0 or 1 step of 16 bits."""
    steps = np.random.default_rng(0).integers(-1, 2, (rate, channels))
    return (steps * INT16_STEP).astype(np.float32)


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
    further = data[:-1] + b"\2" + (8_000).to_bytes(3, "little") + data[-8_001:-1] + b"\0"
    assert len(samples(further)) == 8_000 + 2 + 4_000  # the header of the second block too, which takes 4 bytes
    assert len(samples(further + data)) == 8_000 + 2 + 4_000 + 8_000


@pytest.mark.parametrize("order", ["BIG", "LITTLE"])
def test_au_of_no_size_is_read_to_its_end_in_either_byte_order(order: str) -> None:
    data = encoded(noise(1, 16_000), 16_000, "AU", "PCM_16", endian=order)
    for size in (0, 0xFFFFFFFF):
        assert locate("x", content=data[:8] + size.to_bytes(4, "big") + data[12:]).samples == 16_000


@pytest.mark.parametrize("claimed", [0, 0x7F000008])
def test_an_aiff_of_no_size_is_read_to_its_end(claimed: int) -> None:
    data = encoded(noise(1, 16_000), 16_000, "AIFF", "PCM_16")
    place = data.index(b"SSND") + 4
    assert len(samples(data[:place] + claimed.to_bytes(4, "big") + data[place + 4 :])) == 16_000


@pytest.mark.parametrize("claimed", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_chunks_behind_the_audio_of_a_wav_of_no_size_are_no_sound(claimed: int) -> None:
    data = wav_of_size(noise(1, 16_000), 16_000, claimed)
    behind = b"LIST" + (4).to_bytes(4, "little") + b"INFO"
    for chunks in (behind, b"bext" + (602).to_bytes(4, "little") + bytes(602) + behind):
        assert len(samples(data + chunks)) == 16_000
