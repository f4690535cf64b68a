"""Constraints: the penalty by hand, ascent, and counts of published settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from secateur.compress.config import PruneConfig
from secateur.config import check, load
from secateur.cost import Cost, Terms
from secateur.errors import ConfigError
from secateur.hf.declare import declare
from secateur.losses.constraint import Constraint, Multipliers, penalty
from secateur.structure import Structure


def test_the_penalty_is_the_augmented_lagrangian() -> None:
    sparsity, goal = torch.tensor([0.5, 0.2]).double(), torch.tensor([0.8, 0.1]).double()
    linear, quadratic = torch.tensor([-2.0, 3.0]).double(), torch.tensor([4.0, 5.0]).double()
    by_hand = -2.0 * -0.3 + 4.0 * 0.09 + 3.0 * 0.1 + 5.0 * 0.01
    assert penalty(sparsity, goal, linear, quadratic).item() == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize(("sparsity", "sign"), [(0.5, -1), (0.9, 1)])
def test_ascent_moves_the_multipliers_against_the_gap(sparsity: float, sign: int) -> None:
    multipliers = Multipliers(1)
    ascent = torch.optim.SGD(multipliers.parameters(), lr=0.1, maximize=True)
    results = []
    for _ in range(3):
        ascent.zero_grad()
        loss = penalty(
            torch.tensor([sparsity]).double(), torch.tensor([0.8]).double(), multipliers.linear, multipliers.quadratic
        )
        loss.backward()
        ascent.step()
        results.append(loss.item())
    gap = sparsity - 0.8
    assert multipliers.linear.item() == pytest.approx(3 * 0.1 * gap)
    assert multipliers.linear.item() * sign > 0
    assert multipliers.quadratic.item() == pytest.approx(3 * 0.1 * gap**2)
    assert results[0] == 0
    assert results[0] < results[1] < results[2]  # it costs more the longer the gap stays


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"target": 0.5, "sparsity": 0.5}, "needs one of 'target'"),
        ({"target": 0.0}, "at most 1 of the cost, got 0"),
        ({"target": 1.2}, "got 1.2"),
        ({"sparsity": 1.0}, "got 0"),
        ({"sparsity": -0.2}, "got 1.2"),
        ({"target": float("nan")}, "got nan"),
        ({"target": 0.5, "seconds": 0.0}, "seconds: expected a number > 0 or null, got 0.0"),
        ({"target": 0.5, "target_ms": 3.0, "cost": "latency"}, "got target and target_ms"),
        ({"target_ms": 3.0, "target_rtf": 0.1, "cost": "latency"}, "got target_ms and target_rtf"),
        ({"target_ms": 3.0}, "target_ms: got 3 for the cost 'parameters', expected only for 'latency'"),
        ({"target_rtf": 0.1, "cost": "macs"}, "target_rtf: got 0.1 for the cost 'macs'"),
        ({"target_ms": 0.0, "cost": "latency"}, "target_ms: expected a number > 0 or null, got 0.0"),
        ({"target_rtf": float("inf"), "cost": "latency"}, "target_rtf: expected a number > 0 or null, got inf"),
        ({"target": 0.5, "seconds": 1.0, "cost": "latency"}, "set 'latency.seconds' instead"),
        ({"target": 0.5, "ramp": ()}, "ramp: got"),
        ({"target": 0.5, "ramp": ((0.5, 0.0), (0.1, 1.0))}, "in ascending order"),
        (
            {"target": 0.5, "ramp": ((0.0, 0.0), (100.0, 1.0))},
            r"ramp\[1\]\[0\]: expected a number >= 0 and <= 1, got 100.0",
        ),
    ],
)
def test_a_constraint_without_meaning_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check(Constraint(**fields))


def test_target_is_kept_and_sparsity_removed() -> None:
    assert Constraint(target=0.3).target_share == 0.3
    assert Constraint(sparsity=0.3).target_share == pytest.approx(0.7)
    assert Constraint(cost="macs", scope="frontend", sparsity=0.3).name == "macs-frontend"


def test_milliseconds_real_time_factor_and_share_agree() -> None:
    audio = 4 * 10.0  # four recordings of ten seconds
    is_same = ({"target": 0.25}, {"sparsity": 0.75}, {"target_ms": 100.0}, {"target_rtf": 0.0025})
    for fields in is_same:
        constraint = Constraint(cost="latency", **fields)
        assert constraint.resolve_share(dense=400.0, audio=audio) == pytest.approx(0.25, rel=1e-12)
    assert [Constraint(cost="latency", **fields).target_label for fields in is_same] == [
        "0.25",
        "0.25",
        "100ms",
        "rtf0.0025",
    ]
    with pytest.raises(ConfigError, match=r"allows 401 ms, but the dense model is predicted to take 400 ms"):
        Constraint(cost="latency", target_ms=401.0).resolve_share(dense=400.0, audio=audio)


def test_the_same_cost_and_scope_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="parameters-whole"):
        PruneConfig(constraints=(Constraint(target=0.5), Constraint(sparsity=0.4)))


def test_constraints_without_a_target_take_the_recipes() -> None:
    pair = PruneConfig(target=0.5, constraints=(Constraint(cost="macs", scope="frontend"), Constraint(sparsity=0.4)))
    assert [constraint.target_share for constraint in pair.targeted_constraints] == [0.5, 0.6]
    with pytest.raises(ConfigError, match="a target of its own, so that none would take 'target': set it to null"):
        PruneConfig(target=0.5, constraints=(Constraint(target=0.5),))
    with pytest.raises(ConfigError, match=r"needs one of 'target'.*got none for macs-whole"):
        PruneConfig(constraints=(Constraint(cost="macs"),))


@pytest.fixture(scope="module")
def base() -> Structure:
    from transformers import WavLMConfig

    return declare(WavLMConfig())


def dense_of(structure: Structure, fields: dict[str, Any]) -> list[tuple[str, float, float]]:
    """(name, dense cost, share removed) of each constraint of a recipe."""
    recipe = load(fields, PruneConfig)
    gated = frozenset(axis.name for axis in structure.axes_of_kinds(tuple(recipe.gate_configs)))
    terms = Terms(structure)
    out = []
    for limit in recipe.targeted_constraints:
        cost = Cost.from_terms(
            terms, cost=limit.cost, scope=limit.scope, samples=round(16000 * limit.audio_seconds), gated=gated
        )
        out.append((limit.name, cost.dense, 1 - limit.target_share))
    return out


NO_CHANNELS = {"channels": None, "heads": None, "qk": {}, "vo": {}, "units": {}, "block": {}}


def test_wangs_sparsity_of_the_gated_matrices_is_two_lines(base: Structure) -> None:
    fields = {"gates": NO_CHANNELS, "constraints": [{"scope": "gated", "sparsity": 0.8}]}
    assert dense_of(base, fields) == [("parameters-gated", 84_934_656, pytest.approx(0.8))]


def test_dphuberts_sparsity_of_the_whole_is_two_lines(base: Structure) -> None:
    fields = {"gates": {"channels": {}, "heads": {}, "units": {}}, "constraints": [{"sparsity": 0.75}]}
    assert dense_of(base, fields) == [("parameters-whole", 94_381_936, pytest.approx(0.75))]


@pytest.mark.parametrize(
    ("constraints", "expected"),
    [
        ([{"sparsity": 0.4}], [94_381_936]),
        ([{"cost": "macs", "sparsity": 0.4}], [6_911_374_336]),
        (
            [
                {"cost": "macs", "scope": "frontend", "sparsity": 0.4},
                {"cost": "macs", "scope": "encoder", "sparsity": 0.3},
            ],
            [2_450_123_776, None],
        ),
    ],
)
def test_hj_prunings_three_variants_are_a_few_lines(
    base: Structure, constraints: list[dict[str, Any]], expected: list[int | None]
) -> None:
    """Overall size, overall compute, and compute of front end and encoder apart (Peng et al. 2023)."""
    result = dense_of(base, {"constraints": constraints})
    for (_, dense, _), value in zip(result, expected, strict=True):
        assert value is None or dense == value
    if len(result) == 2:
        projection = 512 * 768 * 49
        assert sum(dense for _, dense, _ in result) + projection == 6_911_374_336
