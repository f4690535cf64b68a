"""MP3, FLAC and Ogg: the length is that of the decoded audio, whatever the header says, and segments are slices."""

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
    assert_segments_are_slices,
    dither,
    encoded,
    flac_in_ogg,
    flac_without_length,
    mp3,
    noise,
    samples,
    seconds,
)

from secateur.data.containers import flac
from secateur.data.containers import mp3 as mpeg
from secateur.data.containers.recording import open_recording
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


@cache
def quiet_first(mode: str, xing: bool) -> bytes:
    """An MP3 of 2 s whose first frames tell nothing of the bit rate."""
    audio = noise(2, 44_100)
    audio[:44_100] *= 0.002
    return mp3(audio, 44_100, mode=mode, xing=xing)


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_is_as_long_as_its_frames_whatever_stands_around_them(tmp_path: Path, mode: str, tags: str) -> None:
    front, back = TAGS[tags]
    for xing in (True, False):
        data = front + quiet_first(mode, xing) + back
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
@pytest.mark.parametrize("claimed_size", [1, 10, 30, 60, 1_000, 1 << 24])
def test_a_xing_frame_with_a_wrong_number_of_frames_is_not_believed(mode: str, claimed_size: int) -> None:
    data = mp3(noise(2, 44_100), 44_100, mode=mode, xing=True)
    place = data.index(b"Info" if mode == "CONSTANT" else b"Xing") + 8
    assert int.from_bytes(data[place : place + 4], "big") == 78
    corrupted = data[:place] + claimed_size.to_bytes(4, "big") + data[place + 4 :]
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


@pytest.mark.parametrize("claimed_size", [1, 10, 20_000, 1 << 33])
def test_a_flac_with_a_wrong_length_is_as_long_as_its_frames(claimed_size: int) -> None:
    data = encoded(noise(1.5, 16_000), 16_000, "FLAC")
    corrupted = bytearray(data)
    corrupted[21:26] = (data[21] >> 4 << 36 | claimed_size).to_bytes(5, "big")
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
