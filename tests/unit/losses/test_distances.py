"""Distances against torch, and without influence of padding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pruning_toy import seeded_model
from support import FAMILIES, FAST, audio, model_inputs
from torch.nn import functional as F

from secateur.compress.config import Distillation
from secateur.compress.distiller import DistillationModel, hidden_states
from secateur.config import check
from secateur.data.collate import AudioBatch
from secateur.errors import ConfigError
from secateur.hf.model_view import ModelView
from secateur.losses.distances import L1Cosine, LogitDistance, SquaredError, sum_over
from secateur.losses.layer_mapping import FixedLayerMapping, LearnedLayerMapping


def states() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 5, 8, generator=generator), torch.randn(3, 5, 8, generator=generator)


def test_l1_and_cosine_are_torchs() -> None:
    a, b = states()
    expected = 0.3 * F.l1_loss(a, b, reduction="none").mean(-1)
    expected += 2.0 * F.cosine_embedding_loss(
        a.reshape(-1, 8), b.reshape(-1, 8), torch.ones(15), reduction="none"
    ).reshape(3, 5)
    torch.testing.assert_close(L1Cosine(l1=0.3, cosine=2.0).per_frame(a, b), expected)


def test_squared_error_is_torchs() -> None:
    a, b = states()
    torch.testing.assert_close(SquaredError().per_frame(a, b), F.mse_loss(a, b, reduction="none").mean(-1))
    torch.testing.assert_close(SquaredError().per_frame(a, b).mean(), F.mse_loss(a, b))


def test_relative_squared_error_does_not_know_the_scale_of_the_teacher() -> None:
    a, b = states()
    plain, relative = SquaredError(), SquaredError(relative=True)
    torch.testing.assert_close(relative.per_frame(30 * a, 30 * b), relative.per_frame(a, b))
    torch.testing.assert_close(relative.per_frame(a, b) * b.square().mean(-1), plain.per_frame(a, b))
    assert torch.isfinite(relative.per_frame(a, torch.zeros_like(b))).all()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_distance_of_logits_is_torchs_divergence(temperature: float) -> None:
    a, b = states()
    scaled = (
        torch.distributions.Categorical(logits=b / temperature),
        torch.distributions.Categorical(logits=a / temperature),
    )
    expected = temperature**2 * torch.distributions.kl_divergence(*scaled)
    distance = LogitDistance(temperature=temperature)
    torch.testing.assert_close(distance.per_row(a, b), expected)
    torch.testing.assert_close(distance.per_row(a[0, 0], b[0, 0]), expected[0, 0])
    torch.testing.assert_close(distance.per_row(b, b), torch.zeros(3, 5))
    half = distance.per_row(a.bfloat16(), b.bfloat16())
    assert half.dtype is torch.float32
    torch.testing.assert_close(half, distance.per_row(a.bfloat16().float(), b.bfloat16().float()))


def test_the_gradient_of_the_distance_of_logits_is_the_difference_of_the_posteriors() -> None:
    a, b = states()
    a.requires_grad_()
    LogitDistance().per_row(a, b).sum().backward()
    assert a.grad is not None
    torch.testing.assert_close(a.grad, (a.softmax(-1) - b.softmax(-1)).detach())


def test_a_temperature_that_is_not_above_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="temperature: expected a number > 0, got 0"):
        check(LogitDistance(temperature=0.0))


def test_padding_is_left_out_of_the_sum_even_when_it_is_not_a_number() -> None:
    frames = torch.tensor([[1.0, 2.0, torch.nan], [4.0, torch.inf, torch.nan]], requires_grad=True)
    valid = torch.tensor([[True, True, False], [True, False, False]])
    total = sum_over(frames, valid)
    assert total.item() == 7
    total.backward()
    assert frames.grad is not None
    assert torch.equal(frames.grad, valid.float())
    assert sum_over(frames[:1, :2], None).item() == 3


def batch_of(lengths: tuple[int, ...], seed: int = 0) -> list[AudioBatch]:
    """Return a padded batch, and a batch for each of the utterances."""
    values, mask = audio(lengths, seed=seed)
    ids = tuple(map(str, range(len(lengths))))
    full_result = AudioBatch(values=values, lengths=torch.tensor(lengths), ids=ids, mask=mask)
    single_result = [
        AudioBatch(values=values[i : i + 1, :n], lengths=torch.tensor([n]), ids=(ids[i],), mask=None)
        for i, n in enumerate(lengths)
    ]
    return [full_result, *single_result]


@pytest.mark.parametrize("family", [family for family in FAST if family != "data2vec-audio"])
@pytest.mark.parametrize("pairing", [FixedLayerMapping(), LearnedLayerMapping(layers=(1, 3))])
def test_a_padded_batch_has_the_sums_of_its_utterances_alone(family: str, pairing: Any) -> None:
    teacher, student = seeded_model(family, "large"), seeded_model(family, "large")
    with torch.no_grad():
        for value in student.parameters():
            value.mul_(1.1)
    distillation_model = DistillationModel(ModelView(student), Distillation(pairing=pairing))
    pairs = [(layer, layer) for layer in distillation_model.layers]
    sums, gradients = [], []
    for batches in (lambda b: b[:1], lambda b: b[1:]):
        distillation_model.zero_grad()
        total = torch.zeros(len(pairs))
        for item in batches(batch_of((4000, 2501, 1777))):
            with torch.no_grad():
                targets = hidden_states(ModelView(teacher), item)
            passed = distillation_model(item, targets, pairs)
            assert (passed.layer_distances is None) == isinstance(pairing, FixedLayerMapping)
            passed.pairs.mean().backward()
            total += passed.pairs.detach()
        sums.append(total)
        gradients.append(student.encoder.layers[0].feed_forward.output_dense.weight.grad.clone())
    torch.testing.assert_close(sums[0], sums[1], rtol=1e-4, atol=1e-3)
    scale = gradients[1].abs().max().item()
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-3 * scale)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("maps", ["none", "shared", "each"])
def test_a_student_that_is_the_teacher_has_no_loss(family: str, maps: Any) -> None:
    teacher = seeded_model(family, "base")
    (batch,) = batch_of((3000, 3000))[:1]
    batch = replace(batch, values=model_inputs(teacher, batch.values)[0])
    distillation_model = DistillationModel(
        ModelView(seeded_model(family, "base")), Distillation(pairing=FixedLayerMapping(maps=maps))
    )
    targets = hidden_states(ModelView(teacher), batch)
    result = distillation_model(batch, targets, [(layer, layer) for layer in distillation_model.layers]).pairs
    torch.testing.assert_close(result, torch.zeros_like(result), atol=1e-3, rtol=0)


def test_a_missing_hidden_state_is_noticed() -> None:
    student = seeded_model("hubert", "base")
    student.config.num_hidden_layers = 4
    (batch,) = batch_of((3000, 3000))[:1]
    with pytest.raises(AssertionError, match="got 4 hidden states of 5"):
        hidden_states(ModelView(student), batch)
