"""Collation against Hugging Face's feature extractor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2FeatureExtractor

from secateur.data.batches import Crop
from secateur.data.collate import collate
from secateur.data.corpus import Corpus, Utterance
from secateur.data.input_features import Waveform
from secateur.errors import DataError


@pytest.fixture
def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    audio = {str(i): (0.2 + rng.standard_normal(n)).astype(np.float32) for i, n in enumerate([900, 1500, 1200])}
    utterances = tuple(Utterance(id=f"u{name}", path=name, samples=len(x)) for name, x in audio.items())
    return Corpus(name="c", utterances=utterances, skipped=(), read=lambda utterance: audio[utterance.path])


@pytest.mark.parametrize("normalize", [True, False])
def test_a_padded_batch_is_what_the_feature_extractor_makes(corpus: Corpus, normalize: bool) -> None:
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=True)
    crops = [Crop(0, 100, 700), Crop(1, 0, 1500), Crop(2, 3, 1000)]
    pieces = [corpus.audio(crop.index)[crop.start : crop.start + crop.samples] for crop in crops]
    expected = extractor(pieces, sampling_rate=16_000, padding=True, return_tensors="pt")
    batch = collate(corpus, crops, input_features=Waveform(normalize=normalize))
    torch.testing.assert_close(batch.values, expected["input_values"], rtol=0, atol=1e-6)
    assert batch.mask is not None
    assert torch.equal(batch.mask.int(), expected["attention_mask"].int())
    assert batch.lengths.tolist() == [700, 1500, 1000]
    assert batch.ids == ("u0", "u1", "u2")


def test_equal_lengths_need_no_mask(corpus: Corpus) -> None:
    batch = collate(corpus, [Crop(0, 0, 800), Crop(1, 5, 800)], input_features=Waveform(normalize=True))
    assert batch.mask is None
    assert batch.values.shape == (2, 800)
    torch.testing.assert_close(batch.values.mean(dim=1), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(batch.values.var(dim=1, correction=0), torch.ones(2), atol=1e-5, rtol=0)


def test_a_crop_beyond_the_end_is_refused(corpus: Corpus) -> None:
    with pytest.raises(DataError, match="ends 100 samples before its crop"):
        collate(corpus, [Crop(0, 500, 500)], input_features=Waveform(normalize=False))
