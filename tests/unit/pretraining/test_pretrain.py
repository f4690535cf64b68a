"""Pre-training: two steps of a tiny encoder, a folder for stock classes, and micro-batches that add up to a step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoFeatureExtractor, WavLMModel

import secateur
from secateur.config import load
from secateur.data.sources import SyntheticData
from secateur.engine.loop import LoopConfig
from secateur.errors import ConfigError
from secateur.pretraining.pretrain import BestRqTrainUnit, PretrainConfig, pretrain
from secateur.pretraining.wavlm_encoder import WavLMEncoder, WavLMShape, init_mirrored
from secateur.tasks.best_rq import BestRqSettings

pytest.importorskip("espeakng_loader")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    return PretrainConfig(
        out=str(tmp_path_factory.mktemp("run")),
        data=SyntheticData(utterances=20, voices=6, words_per_utterance=(3, 4)),
        task=BestRqSettings(frame_codebooks=1, plain_codebooks=1, crop_codebooks=1, entries=8, width=4),
        encoder=WavLMShape(
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
    assert sum(p.numel() for p in model.parameters()) == record.parameters
    assert AutoFeatureExtractor.from_pretrained(folder).do_normalize
    assert (Path(config.out) / "record.json").exists()


def test_accumulated_micro_batches_have_the_gradients_of_the_whole_batch(config: PretrainConfig) -> None:
    gradients = []
    for accumulate in (1, 2):
        trainee = BestRqTrainUnit(replace(config, accumulate=accumulate, disturb=0.0, equalise=0.0, fade=0.0))
        for batch in trainee.micro_batches(1, 0, 1):
            trainee.loss(trainee.module, batch).total.backward()
        gradients.append([p.grad for p in trainee.module.parameters() if p.grad is not None])
    for full_gradients, summed in zip(*gradients, strict=True):
        torch.testing.assert_close(full_gradients, summed, rtol=1e-4, atol=1e-6)


def test_labels_come_from_clean_speech_when_the_encoder_hears_noise(config: PretrainConfig) -> None:
    (clean,) = BestRqTrainUnit(replace(config, disturb=0.0)).micro_batches(1, 0, 1)
    (noisy,) = BestRqTrainUnit(replace(config, disturb=1.0)).micro_batches(1, 0, 1)
    assert torch.equal(clean.values, noisy.values)
    assert torch.equal(clean.mask, noisy.mask)
    assert not torch.allclose(clean.inputs, noisy.inputs, atol=0.01)


def test_validation_is_the_same_whenever_it_is_asked_for(config: PretrainConfig) -> None:
    trainee = BestRqTrainUnit(config)
    first = trainee.validate(0)
    trainee.micro_batches(5, 0, 1)
    assert trainee.validate(1) == first
    assert first["hidden"] == pytest.approx(torch.log(torch.tensor(8.0)).item(), abs=0.5)


def test_the_recipe_of_the_teacher_loads() -> None:
    recipe = Path(secateur.__file__).parent / "recipes" / "tiny_teacher" / "recipe.yaml"
    assert load(recipe, PretrainConfig).encoder == WavLMShape()


def test_mirrored_layers_are_linear_to_begin_with() -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Conv1d(1, 8, 10, 5, bias=False), torch.nn.Conv1d(8, 8, 3, 2, bias=False)]
    for number, layer in enumerate(layers):
        init_mirrored(layer, is_first=number == 0)

    def apply_layers(values: torch.Tensor) -> torch.Tensor:
        for layer in layers:
            values = torch.nn.functional.gelu(layer(values))
        return values[:, 0::2] - values[:, 1::2]  # what the next pair of channels would put together

    first_item, other_tensor = torch.randn(2, 1, 1, 400)
    torch.testing.assert_close(
        apply_layers(2.0 * first_item - other_tensor),
        2.0 * apply_layers(first_item) - apply_layers(other_tensor),
        rtol=1e-4,
        atol=1e-5,
    )


def test_the_front_end_learns_alone_first(config: PretrainConfig) -> None:
    trainee = BestRqTrainUnit(config)
    for step, single_result in ((0, True), (1, False)):
        trainee.module.zero_grad()
        for batch in trainee.micro_batches(step, 0, 1):
            trainee.loss(trainee.module, batch).total.backward()
        moved = {name for name, parameter in trainee.module.named_parameters() if parameter.grad is not None}
        assert all(name.startswith(WavLMEncoder.front_parts) for name in moved) == single_result


def test_matrices_are_learned_by_muon_and_all_else_by_adam(config: PretrainConfig) -> None:
    trainee = BestRqTrainUnit(config)
    names = {id(parameter): name for name, parameter in trainee.module.named_parameters()}
    selected_items: dict[str, list[str]] = {}
    for part, spec in trainee.optimizers().items():
        kind = type(spec.optimizer).__name__
        held_value = [names[id(p)] for group in spec.optimizer.param_groups for p in group["params"]]
        assert all(name.startswith(WavLMEncoder.front_parts) for name in held_value) == part.startswith("front")
        selected_items.setdefault(kind, []).extend(held_value)
    assert sorted(selected_items["Muon"] + selected_items["AdamW"]) == sorted(names.values())  # everything once
    assert "encoder.feature_extractor.conv_layers.6.conv.parametrizations.weight.original" in selected_items["Muon"]
    assert "encoder.encoder.layers.1.attention.q_proj.weight" in selected_items["Muon"]
    assert {"head.weight", "encoder.masked_spec_embed"} <= set(selected_items["AdamW"])


def test_a_front_end_that_would_learn_to_the_end_is_refused(config: PretrainConfig) -> None:
    with pytest.raises(ConfigError, match="expected 0 to 2"):
        replace(config, front_steps=3)


def test_odd_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="seven even numbers"):
        WavLMShape(conv_channels=(7,) * 7)
