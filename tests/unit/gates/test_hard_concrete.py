"""Hard concrete gates against sample means, closed forms and gradients by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, special

from secateur.config import check
from secateur.errors import ConfigError
from secateur.gates.hard_concrete import GateParameters, HardConcrete, deterministic_mask, open_logit, sample

#: Temperature, stretch and parametrisation.
SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.25},
    {"temperature": 1.0, "stretch": (-0.3, 1.05)},
    {"temperature": 0.5, "stretch": (-0.05, 1.4)},
    {"parametrisation": "wang2023"},
    {"parametrisation": "wang2023", "temperature": 0.33, "stretch": (-0.2, 1.1)},
    {"parametrisation": "wang2023", "temperature": 1.5, "stretch": (-0.1, 1.5)},
]
DRAWS = 200_000


def shape_of(count: int, **fields: Any) -> GateParameters:
    return GateParameters.from_settings([(HardConcrete(**fields), count)])


def cdf(z: float, log_alpha: float, gate: HardConcrete) -> float:
    """P(z' <= z) before the clamp, from u = sigmoid(beta logit(s) - log alpha) (or its printed variant)."""
    low, high = gate.stretch
    logit = special.logit((z - low) / (high - low))
    scaled = log_alpha * gate.temperature if gate.parametrisation == "wang2023" else log_alpha
    return float(special.expit(gate.temperature * logit - scaled))


@pytest.mark.parametrize("fields", SETTINGS)
@pytest.mark.parametrize("log_alpha", [-4.0, -1.0, 0.0, 0.7, 3.0])
def test_the_open_probability_is_the_samplers(fields: dict[str, Any], log_alpha: float) -> None:
    gate, shape = HardConcrete(**fields), shape_of(DRAWS, **fields)
    uniform = torch.from_numpy((np.arange(DRAWS) + 0.5) / DRAWS).float()  # every quantile once
    z = sample(torch.full((DRAWS,), log_alpha), uniform, shape)
    opened = torch.sigmoid(open_logit(torch.tensor([log_alpha]), shape_of(1, **fields)).double()).item()
    assert opened == pytest.approx(1 - cdf(0.0, log_alpha, gate), abs=1e-6)
    assert (z > 0).double().mean().item() == pytest.approx(opened, abs=3 / DRAWS + 1e-6)
    full_result = 1 - cdf(1.0, log_alpha, gate)
    assert (z == 1).double().mean().item() == pytest.approx(full_result, abs=3 / DRAWS + 1e-6)
    mean = full_result + integrate.quad(lambda x: cdf(1.0, log_alpha, gate) - cdf(x, log_alpha, gate), 0, 1)[0]
    assert z.double().mean().item() == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize("fields", SETTINGS)
def test_random_draws_are_open_as_often_as_the_probability_says(fields: dict[str, Any]) -> None:
    shape = shape_of(DRAWS, **fields)
    alpha = torch.full((DRAWS,), 0.3)
    z = sample(alpha, torch.rand(DRAWS, generator=torch.Generator().manual_seed(1)), shape)
    p = torch.sigmoid(open_logit(alpha[:1], shape_of(1, **fields))).item()
    assert (z != 0).double().mean().item() == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / DRAWS))


@pytest.mark.parametrize("drop_rate", [0.5, 0.01, 5e-5])
def test_a_gate_starts_where_its_drop_rate_says(drop_rate: float) -> None:
    gate = HardConcrete(drop_rate=drop_rate)
    assert gate.initial_log_alpha == pytest.approx(math.log((1 - drop_rate) / drop_rate))
    assert 1 / (1 + math.exp(gate.initial_log_alpha)) == pytest.approx(drop_rate)


@pytest.mark.parametrize("fields", SETTINGS)
def test_without_straight_through_the_gradient_is_that_of_the_written_out_formula(fields: dict[str, Any]) -> None:
    gate, count = HardConcrete(**fields), 2000
    generator = torch.Generator().manual_seed(0)
    alpha = torch.randn(count, generator=generator, dtype=torch.float64).requires_grad_()
    u = torch.rand(count, generator=generator, dtype=torch.float64).clamp(1e-4, 1 - 1e-4)
    z = sample(alpha, u, shape_of(count, **fields))
    (actual,) = torch.autograd.grad((z * torch.arange(count)).sum(), alpha)
    noise, beta = torch.log(u / (1 - u)), gate.temperature
    inner = noise / beta + alpha if gate.parametrisation == "wang2023" else (noise + alpha) / beta
    low, high = gate.stretch
    plain = (torch.sigmoid(inner) * (high - low) + low).clamp(0, 1)
    torch.testing.assert_close(z, plain, rtol=1e-5, atol=1e-6)
    (expected,) = torch.autograd.grad((plain * torch.arange(count)).sum(), alpha)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_straight_through_passes_the_gradient_everywhere_clipped_to_one() -> None:
    # beta 1 and log alpha 0: s = u, s~ = 1.2 u - 0.1, ds~/dlog_alpha = 1.2 u (1 - u).
    u = torch.tensor([0.02, 0.5, 0.5, 0.5, 0.98, 0.98])
    above = torch.tensor([0.5, 0.25, 7.0, -3.0, -0.5, 40.0])  # gradient that arrives at z
    clipped = torch.tensor([0.5, 0.25, 1.0, -1.0, -0.5, 1.0])
    slope = 1.2 * u * (1 - u)
    expected = {True: clipped * slope, False: above * slope * torch.tensor([0.0, 1, 1, 1, 0, 0])}
    for straight_through in (True, False):
        alpha = torch.zeros(6, requires_grad=True)
        z = sample(alpha, u, shape_of(6, temperature=1.0, straight_through=straight_through))
        torch.testing.assert_close(z.detach(), torch.tensor([0, 0.5, 0.5, 0.5, 1, 1]))
        z.backward(above)
        assert alpha.grad is not None
        torch.testing.assert_close(alpha.grad, expected[straight_through])


def test_numbers_at_the_ends_of_the_interval_give_no_infinity() -> None:
    alpha = torch.tensor([0.0, 0.0, 50.0, -50.0], requires_grad=True)
    z = sample(alpha, torch.tensor([0.0, 1.0, 0.0, 1.0]), shape_of(4, straight_through=True))
    z.sum().backward()
    assert torch.isfinite(z).all()
    assert alpha.grad is not None
    assert torch.isfinite(alpha.grad).all()


def test_the_typical_mask_is_the_stretched_sigmoid() -> None:
    alpha = torch.tensor([-9.0, -2.0, 0.0, 1.0, 9.0])
    expected = [min(1.0, max(0.0, 1.3 / (1 + math.exp(-a)) - 0.2)) for a in alpha.tolist()]
    torch.testing.assert_close(deterministic_mask(alpha, shape_of(5, stretch=(-0.2, 1.1))), torch.tensor(expected))


def test_settings_of_several_gates_stand_one_behind_the_other() -> None:
    first, second = HardConcrete(temperature=0.4, straight_through=True), HardConcrete(parametrisation="wang2023")
    shape = GateParameters.from_settings([(first, 2), (second, 1)])
    torch.testing.assert_close(shape.temperature, torch.tensor([0.4, 0.4, 2 / 3]))
    assert shape.straight_through.tolist() == [True, True, False]
    assert shape.as_printed.tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"stretch": (0.0, 1.1)}, r"stretch\[0\]: expected a number < 0, got 0\.0"),
        ({"stretch": (-0.1, 1.0)}, r"stretch\[1\]: expected a number > 1, got 1\.0"),
        ({"temperature": 0.0}, r"temperature: expected a number > 0, got 0\.0"),
        ({"drop_rate": 0.0}, r"drop_rate: expected a number > 0 and < 1, got 0\.0"),
        ({"drop_rate": 1.0}, "drop_rate: expected"),
        ({"temperature": float("nan")}, "temperature: expected a number > 0, got nan"),
        ({"spread": -0.1}, r"spread: expected a number >= 0, got -0\.1"),
        ({"stretch": (-math.inf, math.inf)}, r"(?s)stretch\[0\]: expected.*stretch\[1\]: expected"),
    ],
)
def test_settings_without_meaning_are_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check(HardConcrete(**fields))
