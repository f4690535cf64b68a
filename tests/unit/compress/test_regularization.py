"""What is random while a phase learns: masks by valid frames, dropped layers, and what is refused before it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pruning_toy import corpus, input_features_of, seeded_model
from support import FAMILIES, FAST_CONFORMERS, build, model_inputs, tiny, tiny_config, tiny_structure
from torch import Tensor

from secateur.architectures.registry import family_of
from secateur.compress.audio_batches import AudioFeed, MicroBatch
from secateur.compress.config import Batching, Distillation, RegularizationConfig, TrainingConfig
from secateur.compress.distiller import DistillationModel, encode
from secateur.compress.regularization import check_regularization, regularized
from secateur.compress.spec_augment import NO_MASKS, draw_masks, has_masking, set_masks
from secateur.compress.step import DistillUnit
from secateur.data.collate import AudioBatch
from secateur.errors import ConfigError
from secateur.hf.model_view import ModelView
from secateur.losses.layer_mapping import FixedLayerMapping

MASKING = [family for family in FAMILIES if hasattr(tiny(family, "large"), "masked_spec_embed")]


def feed_of(family: str, *, accumulate: int = 1, shortest: float = 0.1) -> AudioFeed:
    """Micro-batches of utterances of unequal lengths."""
    structure = tiny_structure(family, "large")
    batching = Batching(seconds=2.4, longest=0.6, shortest=shortest, accumulate=accumulate)
    return AudioFeed(
        corpus(), structure, batching, seed=3, input_features=input_features_of(structure), equal_lengths=False
    )


def masked_frames(family: str, settings: RegularizationConfig, *, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Which frames of each micro-batch are masked while a student learns, (B, T), and how many are valid, (B,)."""
    model = seeded_model(family, "large")
    with torch.no_grad():
        model.masked_spec_embed.fill_(1e3)
    training = TrainingConfig(steps=steps, regularise=settings)
    distill = Distillation(pairing=FixedLayerMapping(layers=(0,)))
    trainee = DistillUnit(
        DistillationModel(ModelView(model), distill), ModelView(copy.deepcopy(model)), feed_of(family), [], training
    )
    visited: list[Tensor] = []
    actual = family_of(model.config).layers_path.partition(".")[0]
    model.get_submodule(actual).register_forward_pre_hook(lambda module, inputs: visited.append(inputs[0].detach()))
    trainee.optimizers()
    with regularized(lambda: ModelView(model), settings):
        for step in range(steps):
            trainee.begin(step)
            for batch in trainee.micro_batches(step, 0, 1):
                visited.clear()
                with torch.no_grad():
                    trainee.loss(trainee.module, batch)
                yield (visited[-1] == 1e3).all(-1), trainee.module.frame_counts(batch.inputs)


@pytest.mark.parametrize("family", MASKING)
def test_the_share_of_masked_frames_is_the_one_asked_for_in_short_rows_of_a_batch_too(family: str) -> None:
    settings = RegularizationConfig(time_masks=0.3, time_mask_length=3)
    shares: dict[str, list[float]] = {"short": [], "long": []}
    for masked, frames in masked_frames(family, settings, steps=25):
        longest = int(frames.max())
        assert masked.shape[1] >= longest
        for row, count in zip(masked, frames.tolist(), strict=True):
            assert not row[count:].any()
            shares["short" if count < 0.8 * longest else "long"].append(float(row[:count].float().mean()))
    for name, result in shares.items():
        assert len(result) > 30, name
        assert sum(result) / len(result) == pytest.approx(0.3, abs=0.05), name


@pytest.mark.parametrize("length", [1, 5, 10, 40])
def test_masks_longer_than_every_utterance_of_a_batch_are_shortened_and_hide_none_wholly(length: int) -> None:
    settings = RegularizationConfig(time_masks=0.2, time_mask_length=length)
    masks = [draw_masks(settings, [(step, 0), (step, 1)], [7, 1], width=8).time for step in range(2000)]
    result = torch.stack([mask for mask in masks if mask is not None])
    assert result[:, 1, 1:].sum() == 0
    assert float(result[:, 0].float().mean()) == pytest.approx(0.2, abs=0.02)
    assert float(result[:, 0].all(-1).float().mean()) < 0.01


def test_masks_of_an_utterance_do_not_depend_on_processes_and_micro_batches() -> None:
    settings = RegularizationConfig(time_masks=0.4, time_mask_length=3, feature_masks=0.4, feature_mask_length=3)
    full_batch, split = feed_of("hubert"), feed_of("hubert", accumulate=2)

    def masks(batches: list[MicroBatch]) -> dict[str, tuple[list[bool], list[bool]]]:
        results = {}
        for batch in batches:
            frames = [tiny_structure("hubert", "large").lengths(int(n))[-1] for n in batch.audio.lengths]
            time, features = draw_masks(settings, batch.row_keys, frames, width=24)
            assert time is not None
            assert features is not None
            for row, name in enumerate(batch.audio.ids):
                results[name] = time[row, : frames[row]].tolist(), features[row].tolist()
        return results

    for step in (0, 5):
        first_item = masks(full_batch.micro_batches(step, 0, 1))
        assert masks([*split.micro_batches(step, 0, 2), *split.micro_batches(step, 1, 2)]) == first_item
    assert first_item != masks(full_batch.micro_batches(0, 0, 1))
    assert any(any(time) for time, _ in first_item.values())


@pytest.mark.parametrize("family", MASKING)
def test_features_are_masked_in_every_frame_of_an_utterance(family: str) -> None:
    """WavLM's config lacks a field that the library's own draw asks for."""
    model = copy.deepcopy(tiny(family, "large"))
    settings = RegularizationConfig(feature_masks=0.3, feature_mask_length=2)
    check_regularization(ModelView(model), TrainingConfig(regularise=settings), phase="recover")
    values, mask = model_inputs(model, *sound(8000, 5000))
    visited: list[Tensor] = []
    stem = family_of(model.config).layers_path.partition(".")[0]
    model.get_submodule(stem).register_forward_pre_hook(lambda module, inputs: visited.append(inputs[0].detach()))
    with regularized(lambda: ModelView(model), settings), torch.no_grad():
        model.train()
        for step in range(3):
            masks = draw_masks(settings, [(step, 0), (step, 1)], [1, 1], width=24)
            set_masks(model, masks)
            model(values, attention_mask=mask)
            assert masks.time is None
            assert torch.equal((visited[-1][:, :5] == 0).all(1), masks.features)
        set_masks(model, NO_MASKS)
        model(values, attention_mask=mask)
        assert (visited[-1][:, :5] != 0).all()
    assert not has_masking(model)
    shares = [draw_masks(settings, [(step,)], [1], width=24).features for step in range(500)]
    assert float(torch.cat([share for share in shares if share is not None]).float().mean()) == pytest.approx(
        0.3, abs=0.02
    )


def sound(*lengths: int) -> tuple[Tensor, Tensor]:
    """Noise of these lengths, padded, and its mask."""
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return torch.randn(mask.shape, generator=torch.Generator().manual_seed(0)) * mask, mask


@pytest.mark.parametrize("family", [*FAMILIES, *FAST_CONFORMERS])
def test_the_hidden_state_of_a_dropped_layer_is_its_input(family: str) -> None:
    """The library leaves the states of dropped layers out, so that all behind them would be taken for others."""
    model = copy.deepcopy(tiny(family, "large"))
    values, _ = model_inputs(model, *sound(8000, 8000))
    batch = AudioBatch(values=values, lengths=torch.full((2,), values.shape[1]), ids=("a", "b"), mask=None)
    layers = model.get_submodule(family_of(model.config).layers_path)
    with regularized(lambda: ModelView(model), RegularizationConfig(layer_drop=0.5)), torch.no_grad():
        model.train()
        patterns = set()
        for seed in range(12):
            torch.manual_seed(seed)
            drawn = [float(torch.rand(())) < 0.5 for _ in layers]
            torch.manual_seed(seed)
            states = encode(ModelView(model), batch).states
            assert list(states) == [0, 1, 2, 3]
            assert [torch.equal(states[i], states[i + 1]) for i in range(3)] == drawn
            patterns.add(tuple(drawn))
        model.eval()
        states = encode(ModelView(model), batch).states
        assert not any(torch.equal(states[i], states[i + 1]) for i in range(3))
    assert len(patterns) > 4


def test_dropout_is_the_same_when_activations_are_computed_again() -> None:
    gradients = []
    for recompute in (False, True):
        model = seeded_model("wavlm", "large")
        imitator = DistillationModel(ModelView(model), None, gradient_checkpointing=recompute)
        values, _ = sound(6000)
        with regularized(lambda model=model: ModelView(model), RegularizationConfig(dropout=0.3)):
            imitator.train()
            torch.manual_seed(5)
            batch = AudioBatch(values=values, lengths=torch.tensor([6000]), ids=("a",), mask=None)
            imitator(batch, {}, []).output.square().sum().backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, msg=name)


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("parakeet_encoder", {"feature_masks": 0.1}, r"recover\.regularise\.feature_masks: this model cannot mask"),
        ("parakeet_encoder", {"time_masks": 0.1}, r"recover\.regularise\.time_masks: this model has no mask vector"),
        (
            "wavlm",
            {"feature_masks": 0.1, "feature_mask_length": 25},
            r"feature_mask_length: got 25, allowed is 1 to 24",
        ),
    ],
)
def test_what_a_model_cannot_mask_is_refused(family: str, settings: dict[str, Any], message: str) -> None:
    training = TrainingConfig(regularise=RegularizationConfig(**settings))
    with pytest.raises(ConfigError, match=message):
        check_regularization(ModelView(tiny(family, "base")), training, phase="recover")


def test_a_mask_vector_that_the_config_switches_off_is_refused_by_the_fields_that_do() -> None:
    model = build(tiny_config("wavlm", "base", mask_time_prob=0.0, mask_feature_prob=0.0))
    training = TrainingConfig(regularise=RegularizationConfig(time_masks=0.1))
    with pytest.raises(ConfigError, match=r"mask_time_prob and mask_feature_prob 0, .*: set mask_time_prob above 0"):
        check_regularization(ModelView(model), training, phase="recover")


def test_a_front_end_that_is_not_there_keeps_no_weights() -> None:
    with pytest.raises(ConfigError, match=r"learn\.freeze_frontend: got true, but this model takes features"):
        check_regularization(
            ModelView(tiny("wav2vec2-bert", "base")), TrainingConfig(freeze_frontend=True), phase="learn"
        )
