"""Masks on the smaller of weight and activation give the same results in both places."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support import (
    MODELS,
    TOLERANCE,
    audio,
    build,
    difference,
    model_inputs,
    outputs,
    tiny,
    tiny_config,
    tiny_structure,
)
from torch import Tensor

from secateur.masking import attach
from secateur.masking.mask_placement import MaskParametrization, MaskPlacement

LONG, SHORT = (12_000, 12_000), (1_600,)  # 150 frames: more than any layer is wide; 10 frames: fewer


def masked(structure: Any) -> Tensor:
    """Return a mask with zeros and scales."""
    values = torch.rand(structure.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1.5
    values[::3] = 0.0
    for axis in structure.axes_of_kinds(("block", "layer")):  # dead blocks would leave nothing to compare
        values[structure.offsets[axis.name] : structure.offsets[axis.name] + axis.size] = 1.0
    return values.requires_grad_(True)


def aside(model: Any, lengths: tuple[int, ...]) -> set[str]:
    """Return the paths of modules whose mask is on an activation in a forward pass."""
    visited: set[str] = set()
    hooks = []
    for path, module in model.named_modules():
        if hasattr(module, "parametrizations") and isinstance(module.parametrizations.weight[0], MaskParametrization):

            def look(module: Any, inputs: Any, path: str = path) -> None:
                if module.parametrizations.weight[0].is_bypassed:
                    visited.add(path)

            hooks.append(module.register_forward_pre_hook(look))
    outputs(model, *audio(lengths, torch.float64))
    for hook in hooks:
        hook.remove()
    return visited


@pytest.mark.parametrize(("family", "size"), MODELS)
@pytest.mark.parametrize("lengths", [LONG, SHORT], ids=["long", "short"])
def test_masks_on_activations_and_on_weights_give_equal_outputs_and_gradients(
    family: str, size: str, lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    structure, result = tiny_structure(family, size), []
    for weights_only in (False, True):
        if weights_only:
            monkeypatch.setattr(MaskPlacement, "pre_forward_hook", lambda self, module, inputs: None)
        model = copy.deepcopy(tiny(family, size, dtype=torch.float64))
        masking, values = attach(model, structure), masked(structure)
        masking.set(values)
        heard_values, _ = model_inputs(model, *audio(lengths, torch.float64))
        states = model(heard_values, output_hidden_states=True).hidden_states
        sum(state.square().mean() for state in states).backward()
        masking.remove()
        gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        result.append(([*states, values.grad], gradients))
    (actual, own_values), (reference, weights) = result
    assert all(difference(b, a) <= TOLERANCE[torch.float64] for a, b in zip(actual, reference, strict=True))
    assert own_values.keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(own_values[name], value, rtol=1e-9, atol=1e-12, msg=name)


def test_the_mask_is_on_the_smaller_of_weight_and_activation() -> None:
    structure, model = tiny_structure("hubert", "base"), build(tiny_config("hubert", "base"), dtype=torch.float64)
    masking = attach(model, structure)
    assert aside(model, SHORT) == set()  # no mask, nothing to carry
    masking.set(torch.ones(structure.size, dtype=torch.float64))
    assert aside(model, LONG) == set()
    short = aside(model, SHORT)
    # 10 frames: 10 x 10 inputs of a 24 x 10 weight, 10 x 24 outputs of a 24 x 24 one.
    layers = [f"encoder.layers.{layer}" for layer in range(3)]
    taken = {f"{layer}.{name}" for layer in layers for name in ("feed_forward.output_dense", "attention.out_proj")}
    taken |= {f"{layer}.attention.q_proj" for layer in layers}
    # 10 x 7 inputs of a 24 x 7 weight; convolutions have more frames than weights.
    assert short == {*taken, "feature_projection.projection"}


def test_stock_attention_that_reads_weights_directly_keeps_masks_on_weights() -> None:
    structure, model = tiny_structure("wavlm", "base"), build(tiny_config("wavlm", "base"), dtype=torch.float64)
    attach(model, structure).set(torch.ones(structure.size, dtype=torch.float64))
    taken = {f"encoder.layers.{layer}.feed_forward.output_dense" for layer in range(3)}
    assert aside(model, SHORT) == {*taken, "feature_projection.projection"}


def test_a_failed_forward_pass_returns_the_mask_to_the_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    structure, model = tiny_structure("hubert", "base"), build(tiny_config("hubert", "base"))
    masking = attach(model, structure)
    masking.set(torch.zeros(structure.size))
    linear = model.feature_projection.projection
    with pytest.raises(RuntimeError):
        linear(torch.zeros(1, 2, 3))  # features that do not fit
    assert float(linear.weight.abs().sum()) == 0.0
