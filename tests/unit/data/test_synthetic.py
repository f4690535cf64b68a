"""Synthetic speech: the same everywhere, with voices kept apart and words where they are said."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soxr

from secateur.data import synthetic
from secateur.data.corpus import Corpus
from secateur.data.espeak import Voice
from secateur.data.sentences import WORDS
from secateur.data.sources import SyntheticData
from secateur.data.synthetic import open_synthetic, splits_of, variants_of, voices_of
from secateur.errors import DataError

SMALL = SyntheticData(utterances=20, voices=20, seed=3, words_per_utterance=(2, 4))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    pytest.importorskip("espeakng_loader")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECATEUR_CACHE", str(tmp_path_factory.mktemp("cache")))
        return open_synthetic(SMALL)


def test_another_cache_gets_the_same_samples_and_labels(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    repeated = open_synthetic(SMALL)
    assert repeated.name == corpus.name
    assert all(np.array_equal(repeated.audio(i), corpus.audio(i)) for i in range(len(corpus)))


def test_another_seed_makes_another_corpus(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    other_value = open_synthetic(SyntheticData(utterances=3, voices=3, seed=4, words_per_utterance=(2, 4)))
    assert other_value.utterances[0].text != corpus.utterances[0].text
    assert other_value.name != corpus.name


def test_what_is_in_the_cache_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    config = SyntheticData(utterances=3, voices=3, words_per_utterance=(1, 1))
    first = open_synthetic(config)
    monkeypatch.setattr(synthetic, "_make_corpus", lambda *_: pytest.fail("made again"))
    assert open_synthetic(config).name == first.name
    assert len(list((tmp_path / "synthetic").iterdir())) == 1  # no temporary folder is left behind


def test_audio_is_as_long_as_its_utterance_says(corpus: Corpus) -> None:
    for index, utterance in enumerate(corpus.utterances):
        audio = corpus.audio(index)
        assert audio.shape == (utterance.samples,)
        assert audio.dtype == np.float32
        assert 0.05 < float(np.abs(audio).max()) <= 1.0


def test_words_follow_each_other_and_spell_the_text(corpus: Corpus) -> None:
    for utterance in corpus.utterances:
        assert " ".join(word for _, _, word in utterance.words) == utterance.text
        assert set(str(utterance.text).split()) <= set(WORDS)
        edges = [edge for start, end, _ in utterance.words for edge in (start, end)]
        assert edges == sorted(edges)
        assert edges[-1] <= utterance.samples


def test_words_are_where_the_sound_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    config = SyntheticData(utterances=4, voices=4, words_per_utterance=(1, 1), rooms=False)
    clean = open_synthetic(config)
    for index, utterance in enumerate(clean.utterances):
        energy = np.cumsum(clean.audio(index).astype(np.float64) ** 2)
        (start, end, _), *_ = utterance.words
        assert energy[end - 1] - energy[start] > 0.99 * energy[-1]


def test_no_timbre_speaks_in_two_splits_whatever_the_seed() -> None:
    inputs = {voice.variant for seed in range(5) for voice in voices_of(SyntheticData(seed=seed))["train"]}
    held_out = {
        voice.variant
        for seed in range(5)
        for split in ("dev", "test")
        for voice in voices_of(SyntheticData(seed=seed))[split]
    }
    assert not inputs & held_out
    assert sorted(sum((variants_of(split) for split in ("train", "dev", "test")), ())) == sorted(synthetic.VARIANTS)


def test_splits_take_eight_one_and_one_tenth() -> None:
    splits = splits_of(SyntheticData(utterances=200))
    assert [splits.count(name) for name in ("train", "dev", "test")] == [160, 20, 20]


def test_too_few_utterances_for_three_splits_is_said() -> None:
    with pytest.raises(DataError, match="utterances: expected an integer >= 3"):
        splits_of(SyntheticData(utterances=2))


def test_without_the_loader_the_message_holds_the_pip_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(DataError, match="pip install espeakng-loader"):
        open_synthetic(SMALL)


def test_voices_that_differ_have_names_that_differ() -> None:
    first_item = Voice(accent="gmw/en", variant="f1", rate=150, pitch=50, range=50)
    assert first_item.name == "gmw/en+f1-r150-p50-i50"


def test_another_rate_has_the_same_sentences_and_voices(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    other_value = open_synthetic(SMALL, sample_rate=8_000)
    assert other_value.name != corpus.name
    assert other_value.seconds == pytest.approx(corpus.seconds, abs=1e-2)
    likeness = []
    for index, (first_item, two) in enumerate(zip(corpus.utterances, other_value.utterances, strict=True)):
        assert (two.text, two.speaker, two.split) == (first_item.text, first_item.speaker, first_item.split)
        assert two.words[-1][1] / 8_000 == pytest.approx(first_item.words[-1][1] / 16_000, abs=1e-3)
        expected = soxr.resample(corpus.audio(index), 16_000, 8_000)[: two.samples]
        likeness.append(np.corrcoef(expected, other_value.audio(index)[: len(expected)])[0, 1])
    assert np.median(likeness) > 0.9  # rooms and noise are drawn at the rate of the corpus
