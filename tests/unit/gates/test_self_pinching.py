"""Self-pinching gates against closed forms: open probability, decision, and gradients to thresholds and weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pruning_toy import make_prune_unit, step_gradients
from support import tiny, tiny_structure
from torch import Tensor

from secateur.compress.config import PruneConfig
from secateur.config import check, load
from secateur.errors import ConfigError
from secateur.gates import GateSet, HardConcrete, MixedGates, SelfPinching, SelfPinchingGates, make_gates
from secateur.hf.model_view import ModelView
from secateur.masking.parameter_view import ParameterView
from secateur.structure import Structure
from secateur.surgery.importance import magnitude_scores, squared_norms

TAU = 0.2


@pytest.fixture(scope="module")
def structure() -> Structure:
    return tiny_structure("wavlm", "base")


def known_norms(structure: Structure) -> Callable[[], Tensor]:
    """Squared norms 1, 2, 3, ... of the units of each axis, with a graph to a scale."""
    norms = torch.cat([torch.arange(1.0, axis.size + 1, dtype=torch.float64) for axis in structure.axes.values()])
    return lambda: norms


def pinching(structure: Structure, thresholds: float, *kinds: str, **fields: Any) -> SelfPinchingGates:
    gates = SelfPinchingGates(structure, dict.fromkeys(kinds, SelfPinching(temperature=TAU, **fields)))
    gates.bind_weights(known_norms(structure))
    with torch.no_grad():
        gates.thresholds.fill_(thresholds)
    return gates


def values_of(gates: GateSet, values: Tensor, axis: str) -> Tensor:
    start = gates.structure.offsets[axis]
    return values[start : start + gates.structure.axes[axis].size]


def test_the_open_probability_is_the_sigmoid_of_the_relative_squared_norm(structure: Structure) -> None:
    gates = pinching(structure, 0.8, "units")
    for axis in gates.axes:
        actual = values_of(gates, gates.open_probability(), axis.name).tolist()
        mean = (axis.size + 1) / 2  # of 1, 2, ..., size
        expected = [1 / (1 + math.exp(-((i / mean) - 0.64) / (2 * TAU))) for i in range(1, axis.size + 1)]
        assert actual == pytest.approx(expected, rel=1e-5)


def test_masks_are_zero_and_one_by_the_threshold_and_the_same_at_all_steps(structure: Structure) -> None:
    gates = pinching(structure, 0.8, "units")
    for axis in gates.axes:
        mean = (axis.size + 1) / 2
        expected = [float(i / mean > 0.64) for i in range(1, axis.size + 1)]
        assert 0 < sum(expected) < axis.size
        for masks in (gates.draw(0), gates.draw(9), gates.deterministic_mask()):
            assert values_of(gates, masks, axis.name).tolist() == expected
    assert ((gates.scores() > 0) == (gates.draw(0) > 0)).all()
    assert (gates.scales() == 1).all()


def test_the_gradient_of_a_hard_mask_is_that_of_the_soft_one(structure: Structure) -> None:
    # m = sigmoid((r - t^2) / (2 tau)): dm/dt = -m (1 - m) t / tau and dm/dr = m (1 - m) / (2 tau).
    gates = pinching(structure, 0.8, "units")
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    fixed_norms = known_norms(structure)()
    gates._squared_norms = lambda: scale * fixed_norms  # the mean stays that of the dense model
    upstream = torch.linspace(-1, 1, structure.size)
    threshold_gradient, scale_gradient = torch.autograd.grad(
        (gates.draw(3) * upstream).sum(), [gates.thresholds, scale]
    )
    expected_scale_gradient = 0.0
    for index, axis in enumerate(gates.axes):
        relative = torch.arange(1.0, axis.size + 1, dtype=torch.float64) / ((axis.size + 1) / 2)
        soft = torch.sigmoid((relative - 0.64) / (2 * TAU))
        slope = soft * (1 - soft) * values_of(gates, upstream, axis.name)
        assert threshold_gradient[index].item() == pytest.approx(-(slope * 0.8 / TAU).sum().item(), rel=1e-4)
        expected_scale_gradient += (slope * relative / (2 * TAU)).sum().item()
    assert scale_gradient.item() == pytest.approx(expected_scale_gradient, rel=1e-4)


def test_the_axes_of_one_kind_in_one_layer_share_a_threshold(structure: Structure) -> None:
    gates = pinching(structure, 0.1, "qk", "units")
    attention_layers = len(list(structure.axes_of_kinds(("heads",))))
    assert len([axis for axis in gates.axes if axis.kind == "qk"]) > attention_layers
    assert len(gates.thresholds) == attention_layers + len(list(structure.axes_of_kinds(("units",))))
    first = gates.axes[0]
    before = gates.open_probability().detach()
    with torch.no_grad():
        gates.thresholds[0] = 1.5
    moved = [axis for axis in gates.axes if (values_of(gates, gates.open_probability() - before, axis.name) < 0).any()]
    assert {(axis.path, axis.kind) for axis in moved} == {(first.path, first.kind)}
    assert len(moved) > 1


def test_squared_norms_are_the_squares_of_magnitude_scores_with_a_gradient(structure: Structure) -> None:
    model = tiny("wavlm", "base")
    norms = squared_norms(ParameterView(ModelView(model), structure).parameters(), structure)
    torch.testing.assert_close(norms.detach().sqrt().float(), magnitude_scores(ModelView(model), structure))
    layer = model.encoder.layers[0].feed_forward
    axis = structure.axes["encoder.layers.0.feed_forward/units"]
    start = structure.offsets[axis.name]
    weights = layer.intermediate_dense.weight, layer.output_dense.weight
    inner, outer = torch.autograd.grad(norms[start : start + axis.size].sum(), weights)
    torch.testing.assert_close(inner, 2 * weights[0])  # d(sum of squares)/dw = 2 w
    torch.testing.assert_close(outer, 2 * weights[1])


def test_a_learn_step_moves_thresholds_and_weights(structure: Structure) -> None:
    train_unit = make_prune_unit(gate=SelfPinching(threshold=0.9), kinds=("units", "qk", "vo"), size="base")
    actual = step_gradients(train_unit)
    assert actual["thresholds"].abs().min() > 0
    # The constraint alone reaches the weights through the open probability, too.
    weight = train_unit.student.parameters["encoder.layers.0.feed_forward.output_dense.weight"]
    (gradient,) = torch.autograd.grad(train_unit.gates.open_probability().sum(), weight)
    assert gradient.abs().max() > 0


def test_kinds_of_gates_mix_and_each_is_as_alone(structure: Structure) -> None:
    configs = {"qk": HardConcrete(drop_rate=0.5, spread=1.0), "units": SelfPinching(), "vo": HardConcrete()}
    mixed = make_gates(structure, configs, seed=3)
    assert isinstance(mixed, MixedGates)
    mixed.bind_weights(known_norms(structure))
    concrete = make_gates(structure, {kind: configs[kind] for kind in ("qk", "vo")}, seed=3)
    pinched = SelfPinchingGates(structure, {"units": SelfPinching()})
    pinched.bind_weights(known_norms(structure))
    assert mixed.positions.tolist() == sorted(concrete.positions.tolist() + pinched.positions.tolist())
    for method in ("open_probability", "scales", "deterministic_mask"):
        values = [getattr(gates, method)() for gates in (mixed, concrete, pinched)]
        assert torch.equal(values[0], values[1] * values[2]), method  # one where nothing is gated
    assert torch.equal(mixed.draw(4), concrete.draw(4) * pinched.draw(4))
    assert torch.equal(mixed.scores(), torch.minimum(concrete.scores(), pinched.scores()))
    assert mixed.state().keys() == {"gates", "gates.thresholds"}
    twin = make_gates(structure, configs, seed=4)
    twin.bind_weights(known_norms(structure))
    twin.load(mixed.state())
    assert torch.equal(twin.scores(), mixed.scores())
    mixed.is_frozen[::2] = True
    assert not mixed.draw(0)[mixed.positions[::2]].any()


def test_a_gate_without_a_kind_is_hard_concrete(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "gates: {units: {temperature: 0.3}, heads: {kind: self_pinching, temperature: 0.3}, channels: {}}"
    )
    assert load(recipe, PruneConfig).gate_configs == {
        "units": HardConcrete(temperature=0.3),
        "heads": SelfPinching(temperature=0.3),
        "channels": HardConcrete(),
    }


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"temperature": 0.0}, r"temperature: expected a number > 0, got 0\.0"),
        ({"threshold": 0.0}, r"threshold: expected a number > 0, got 0\.0"),
        ({"threshold": math.inf}, "threshold: expected a number > 0, got inf"),
    ],
)
def test_settings_without_meaning_are_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check(SelfPinching(**fields))
