"""A model that hears features goes the whole way: learned, chosen, shrunk, proven, recovered."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from prune_job import recipe
from pruning_toy import seeded_model, write_wavs
from support import FAST_CONFORMERS, tiny_structure

import secateur
from secateur.compress.config import RegularizationConfig
from secateur.compress.regularization import regularized
from secateur.hf.model_view import ModelView


@pytest.mark.parametrize(
    ("family", "sample_rate"), [("wav2vec2-bert", 8_000), *zip(FAST_CONFORMERS, (8_000, 16_000), strict=True)]
)
def test_an_encoder_is_pruned_with_the_features_of_its_folder(tmp_path: Path, family: str, sample_rate: int) -> None:
    features = tiny_structure(family, "base").features
    assert features is not None
    seeded_model(family, "base").save_pretrained(tmp_path / "teacher")
    settings = {**features.settings, "sampling_rate": sample_rate}
    getattr(transformers, features.extractor)(**settings).save_pretrained(tmp_path / "teacher")
    write_wavs(tmp_path / "speech")
    steps = {"steps": 2, "log_every": 1, "validate_every": 2, "save_every": 2}
    record = secateur.prune(recipe(tmp_path, tmp_path / "run", learn=steps, recover=steps))
    (constraint,) = record.constraints
    assert constraint.counted <= constraint.limit
    assert record.verification.holds
    assert record.data.train.sample_rate == sample_rate
    reloaded = transformers.AutoModel.from_pretrained(tmp_path / "run" / "model")
    assert sum(parameter.numel() for parameter in reloaded.parameters()) == constraint.counted


def test_what_is_dropped_while_learning_is_what_a_task_asks_for() -> None:
    model = seeded_model("parakeet_encoder", "base")
    layer = model.layers[0]
    with regularized(lambda: ModelView(model), RegularizationConfig(dropout=0.3)):
        assert (model.layerdrop, model.dropout, layer.self_attn.attention_dropout) == (0.0, 0.3, 0.3)
        assert layer.feed_forward1.activation_dropout == 0.3
    assert (model.layerdrop, model.dropout, layer.feed_forward1.activation_dropout) == (0.1, 0.1, 0.1)
