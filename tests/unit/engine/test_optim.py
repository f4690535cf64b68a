"""Schedules as points, and the norms gradients are clipped to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from secateur.engine.optim import OptimizerSpec, Schedule, ScheduledOptimizer
from secateur.errors import ConfigError


def test_a_schedule_is_numpys_piecewise_linear_interpolation() -> None:
    points = ((2.0, 0.1), (5.0, 1.0), (9.0, 0.4))
    steps = np.arange(0, 12, 0.25)
    expected = np.interp(steps, [2.0, 5.0, 9.0], [0.1, 1.0, 0.4])
    actual = [Schedule(points=points).factor(step) for step in steps]
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize("warmup", [0, 1, 4, 10])
def test_warmup_and_decay_peak_at_one_and_waste_no_step(warmup: int) -> None:
    factors = [Schedule.warmup_decay(10, warmup).factor(step) for step in range(10)]
    assert min(factors) > 0
    rising = [(step + 1) / (warmup + 1) for step in range(warmup)]
    falling = [(10 - step) / (10 - warmup) for step in range(warmup, 10)]
    assert factors == pytest.approx(rising + falling)


def test_two_points_on_one_step_are_a_jump() -> None:
    schedule = Schedule(points=((0, 1), (3, 1), (3, 0.1)))
    assert [schedule.factor(step) for step in (2, 3, 4)] == [1, 0.1, 0.1]


def test_a_constant_schedule_is_one() -> None:
    assert {Schedule.constant().factor(step) for step in (0, 1, 10**6)} == {1.0}


@pytest.mark.parametrize("points", [(), ((3.0, 1.0), (1.0, 0.0))])
def test_points_out_of_order_or_absent_are_refused(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ConfigError, match="at least one point, in ascending order"):
        Schedule(points=points)


def test_a_warmup_longer_than_the_phase_is_refused() -> None:
    with pytest.raises(ConfigError, match="warmup: expected an integer from 0 to the number of steps, 10, got 11"):
        Schedule.warmup_decay(10, 11)


def test_clipping_is_over_all_groups_and_leaves_a_small_gradient_alone() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    groups: list[dict[str, Any]] = [{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.5}]
    sgd = torch.optim.SGD(groups, lr=1.0)
    scheduled = ScheduledOptimizer(OptimizerSpec(optimizer=sgd, clip=1.0))
    for parameter, value in zip(parameters[:2], (3.0, 4.0), strict=True):  # the third has no gradient
        parameter.grad = torch.tensor([value, 0.0])
    norm = scheduled.norm()
    assert float(norm) == pytest.approx(5.0)
    scheduled.clip(norm)
    assert float(scheduled.norm()) == pytest.approx(1.0, rel=1e-5)
    parameters[0].grad = torch.tensor([0.25, 0.0])
    parameters[1].grad = None
    scheduled.clip(scheduled.norm())
    assert parameters[0].grad[0] == 0.25


def test_each_group_steps_at_its_own_rate_times_the_factor() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups: list[dict[str, Any]] = [{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.5}]
    sgd = torch.optim.SGD(groups, lr=2.0)
    scheduled = ScheduledOptimizer(OptimizerSpec(optimizer=sgd, schedule=Schedule(points=((0, 1), (4, 0)))))
    for step in range(4):
        for parameter in parameters:
            parameter.grad = torch.ones(1)
        scheduled.step(step)
    total = 1 + 0.75 + 0.5 + 0.25
    assert [p.item() for p in parameters] == pytest.approx([-2.0 * total, -0.5 * total])
