"""What models hear, against the library's own feature extractors and length functions."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_structure

from secateur.data.batches import Crop
from secateur.data.collate import collate
from secateur.data.corpus import Corpus, Utterance
from secateur.data.input_features import ExtractedFeatures, InputFeatures
from secateur.hf.frame_counts import frames_of
from secateur.structure import ConvStage, FeatureSpec, Structure

SEAMLESS = FeatureSpec(extractor="SeamlessM4TFeatureExtractor", width=160, stages=2)
PARAKEET = FeatureSpec(extractor="ParakeetFeatureExtractor", width=80)
NEMOTRON = FeatureSpec(extractor="NemotronAsrStreamingFeatureExtractor", width=80)
HALVED = ConvStage(kernel=3, stride=2, padding=2)
CAUSAL = ConvStage(kernel=3, stride=2, padding=3)
#: Features, the way to frames and the class whose lengths these are.
CASES = {
    "w2v-bert": (SEAMLESS, (ConvStage(kernel=400, stride=160), ConvStage(kernel=2, stride=2)), "Wav2Vec2BertModel"),
    "parakeet": (PARAKEET, (ConvStage(kernel=160, stride=160, min_windows=2), *[HALVED] * 3), "ParakeetEncoder"),
    "nemotron": (NEMOTRON, (ConvStage(kernel=160, stride=160), *[CAUSAL] * 3), "NemotronAsrStreamingEncoder"),
}


@cache
def case(name: str) -> tuple[Structure, InputFeatures, torch.nn.Module]:
    """The structure, the hearing, and a model of one layer."""
    features, stages, kind = CASES[name]
    cls = getattr(transformers, kind)
    config = cls.config_class(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=4, subsampling_conv_channels=2
    )
    structure = replace(tiny_structure("hubert", "base"), stages=stages, features=features)
    return structure, ExtractedFeatures(getattr(transformers, features.extractor)()), cls(config).eval()


def noise(samples: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.random.default_rng(samples).standard_normal(samples).astype(np.float32)


@pytest.mark.parametrize("name", CASES)
@given(lengths=st.lists(st.integers(900, 7000), min_size=1, max_size=3))
def test_lengths_and_frames_are_those_of_the_library(name: str, lengths: list[int]) -> None:
    structure, input_features_of, model = case(name)
    values, valid = input_features_of([noise(length) for length in lengths])
    assert valid.tolist() == [structure.input_length(length) for length in lengths]
    assert tuple(values.shape) == structure.input_shape(len(lengths), max(lengths))
    frames = frames_of(model, torch.from_numpy(valid))
    assert frames.tolist() == [structure.lengths(length)[-1] for length in lengths]
    with torch.no_grad():
        state = model(values[:, : int(valid.max())])[0]
    assert state.shape[1] == int(frames.max())


@pytest.mark.parametrize("name", CASES)
def test_the_shortest_audio_is_the_first_of_one_finite_frame(name: str) -> None:
    structure, input_features_of, _ = case(name)
    minimum = structure.min_samples
    assert [structure.lengths(samples)[-1] for samples in (minimum - 1, minimum)] == [0, 1]
    assert torch.isfinite(input_features_of([noise(minimum)])[0]).all()


@pytest.mark.parametrize("name", CASES)
def test_a_row_is_heard_alike_alone_and_beside_longer_ones(name: str) -> None:
    structure, input_features_of, _ = case(name)
    single_result, sibling = input_features_of([noise(3217)])[0], input_features_of([noise(3217), noise(5000)])[0]
    torch.testing.assert_close(single_result[0], sibling[0, : structure.input_length(3217)], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_batches_of_features_are_masked_where_a_row_is_padded(name: str) -> None:
    structure, input_features_of, _ = case(name)
    sizes = (3217, 5000)
    audio = {str(size): noise(size) for size in sizes}
    utterances = tuple(Utterance(id=key, path=key, samples=len(values)) for key, values in audio.items())
    corpus = Corpus(name="c", utterances=utterances, skipped=(), read=lambda utterance: audio[utterance.path])
    batch = collate(corpus, [Crop(0, 0, 3217), Crop(1, 0, 5000)], input_features=input_features_of)
    assert batch.mask is not None
    assert batch.mask.sum(-1).tolist() == batch.lengths.tolist() == [structure.input_length(size) for size in sizes]
    assert collate(corpus, [Crop(1, 0, 5000)], input_features=input_features_of).mask is None
