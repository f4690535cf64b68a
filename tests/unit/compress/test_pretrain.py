"""Pre-training: two steps on a tiny encoder, a folder that stock classes load, and batches that sum to one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoFeatureExtractor, WavLMModel

import secateur
from secateur.compress.masked_encoder import EncoderShape, MaskedEncoder, mirror
from secateur.compress.pretrain import BestRqTrainee, PretrainConfig, pretrain
from secateur.config import load
from secateur.data.config import SyntheticData
from secateur.engine.loop import LoopConfig
from secateur.errors import ConfigError
from secateur.objective.tasks.best_rq import BestRqTask

pytest.importorskip("espeakng_loader")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    return PretrainConfig(
        out=str(tmp_path_factory.mktemp("run")),
        data=SyntheticData(utterances=20, voices=6, words_per_utterance=(3, 4)),
        task=BestRqTask(frame_codebooks=1, plain_codebooks=1, crop_codebooks=1, entries=8, width=4),
        encoder=EncoderShape(
            conv_channels=(12,) * 7, width=16, layers=2, heads=2, feed_forward=32, positions=4, position_groups=1
        ),
        loop=LoopConfig(steps=3, log_every=1),
        front_steps=1,
        front_weight=1.0,
        drift_weight=1.0,
        seconds=4.0,
        crop=1.0,
    )


def test_the_folder_loads_with_stock_classes(config: PretrainConfig) -> None:
    record = pretrain(config)
    folder = Path(config.out) / "model"
    model = WavLMModel.from_pretrained(folder)
    assert model.dtype == torch.float32
    assert sum(p.numel() for p in model.parameters()) == record["parameters"]
    assert AutoFeatureExtractor.from_pretrained(folder).do_normalize
    assert (Path(config.out) / "record.json").exists()


def test_accumulated_micro_batches_have_the_gradients_of_the_whole_batch(config: PretrainConfig) -> None:
    gradients = []
    for accumulate in (1, 2):
        trainee = BestRqTrainee(replace(config, accumulate=accumulate, disturb=0.0, equalise=0.0, fade=0.0))
        for batch in trainee.micro_batches(1, 0, 1):
            trainee.loss(trainee.module, batch).total.backward()
        gradients.append([p.grad for p in trainee.module.parameters() if p.grad is not None])
    for whole, summed in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, summed, rtol=1e-4, atol=1e-6)


def test_labels_come_from_clean_speech_when_the_encoder_hears_noise(config: PretrainConfig) -> None:
    (clean,) = BestRqTrainee(replace(config, disturb=0.0)).micro_batches(1, 0, 1)
    (noisy,) = BestRqTrainee(replace(config, disturb=1.0)).micro_batches(1, 0, 1)
    assert torch.equal(clean.values, noisy.values)
    assert torch.equal(clean.mask, noisy.mask)
    assert not torch.allclose(clean.heard, noisy.heard, atol=0.01)


def test_validation_is_the_same_whenever_it_is_asked_for(config: PretrainConfig) -> None:
    trainee = BestRqTrainee(config)
    first = trainee.validate(0)
    trainee.micro_batches(5, 0, 1)
    assert trainee.validate(1) == first
    assert first["hidden"] == pytest.approx(torch.log(torch.tensor(8.0)).item(), abs=0.5)


def test_the_recipe_of_the_teacher_loads() -> None:
    recipe = Path(secateur.__file__).parent / "recipes" / "tiny_teacher" / "recipe.yaml"
    assert load(recipe, PretrainConfig).encoder == EncoderShape()


def test_mirrored_layers_are_linear_to_begin_with() -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Conv1d(1, 8, 10, 5, bias=False), torch.nn.Conv1d(8, 8, 3, 2, bias=False)]
    for number, layer in enumerate(layers):
        mirror(layer, first=number == 0)

    def through(values: torch.Tensor) -> torch.Tensor:
        for layer in layers:
            values = torch.nn.functional.gelu(layer(values))
        return values[:, 0::2] - values[:, 1::2]  # what the next pair of channels would put together

    one, other = torch.randn(2, 1, 1, 400)
    torch.testing.assert_close(through(2.0 * one - other), 2.0 * through(one) - through(other), rtol=1e-4, atol=1e-5)


def test_the_front_end_learns_alone_first(config: PretrainConfig) -> None:
    trainee = BestRqTrainee(config)
    for step, alone in ((0, True), (1, False)):
        trainee.module.zero_grad()
        for batch in trainee.micro_batches(step, 0, 1):
            trainee.loss(trainee.module, batch).total.backward()
        moved = {name for name, parameter in trainee.module.named_parameters() if parameter.grad is not None}
        assert all(name.startswith(MaskedEncoder.front_parts) for name in moved) == alone


def test_matrices_are_learned_by_muon_and_all_else_by_adam(config: PretrainConfig) -> None:
    trainee = BestRqTrainee(config)
    names = {id(parameter): name for name, parameter in trainee.module.named_parameters()}
    taken: dict[str, list[str]] = {}
    for part, optimiser in trainee.optimisers().items():
        kind = type(optimiser.optimiser).__name__
        held = [names[id(p)] for group in optimiser.optimiser.param_groups for p in group["params"]]
        assert all(name.startswith(MaskedEncoder.front_parts) for name in held) == part.startswith("front")
        taken.setdefault(kind, []).extend(held)
    assert sorted(taken["Muon"] + taken["AdamW"]) == sorted(names.values())  # everything once
    assert "encoder.feature_extractor.conv_layers.6.conv.parametrizations.weight.original" in taken["Muon"]
    assert "encoder.encoder.layers.1.attention.q_proj.weight" in taken["Muon"]
    assert {"head.weight", "encoder.masked_spec_embed"} <= set(taken["AdamW"])


def test_a_front_end_that_would_learn_to_the_end_is_refused(config: PretrainConfig) -> None:
    with pytest.raises(ConfigError, match="allowed is 0 to 2"):
        replace(config, front_steps=3)


def test_odd_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="seven even numbers"):
        EncoderShape(conv_channels=(7,) * 7)
