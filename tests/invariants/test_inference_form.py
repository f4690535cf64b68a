"""The inference-only form computes what the model computes, for every family, dense and cut, padded and not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from support import MODELS, TOLERANCE, Plan, audio, build, plans, realise, tiny, tiny_config, tiny_structure
from torch import Tensor

import secateur
from secateur.errors import ModelError
from secateur.inference import for_inference
from secateur.inference import linear as fused
from secateur.surgery import cut

PLAN = Plan(
    seed=3,
    channels=("some", "some", "whole"),
    attention=("ragged", "removed", "narrow"),
    feed_forward=("units", "dead", "removed"),
    trimmed=0,
    scales=True,
)
LENGTHS = (3100, 990, 1575)


def worst(model: Any, other: Any, values: Tensor, mask: Tensor | None) -> float:
    """Largest difference of any hidden state's valid frames and of the output, relative to its root mean square."""
    with torch.no_grad():
        ours, theirs = (m(values, attention_mask=mask, output_hidden_states=True) for m in (other, model))
    assert len(ours.hidden_states) == len(theirs.hidden_states)
    valid = torch.ones(theirs.hidden_states[0].shape[:2], dtype=torch.bool)
    if mask is not None:
        frames = model._get_feat_extract_output_lengths(mask.sum(1))
        valid = torch.arange(valid.shape[1]) < frames[:, None]
    pairs = [*zip(ours.hidden_states, theirs.hidden_states, strict=True), (ours[0], theirs[0])]
    return max(
        float((a[valid].double() - b[valid].double()).abs().max() / b[valid].double().square().mean().sqrt())
        for a, b in pairs
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", ["dense", "cut"])
@pytest.mark.parametrize(("family", "size"), MODELS)
def test_equal_for_every_family(family: str, size: str, kind: str, dtype: torch.dtype) -> None:
    model = tiny(family, size, "Model", dtype)
    if kind == "cut":
        model = cut(model, realise(tiny_structure(family, size), PLAN))
    fast = for_inference(model)
    values, mask = audio(LENGTHS)
    assert mask is not None
    for one in (None, mask):
        assert worst(model, fast, values.to(dtype), one) <= TOLERANCE[dtype]


@settings(max_examples=15, deadline=None)
@given(plan=plans(ragged=True))
def test_equal_for_random_ragged_shapes(plan: Plan) -> None:
    for family, size in (("wavlm", "base"), ("hubert", "large")):
        model = cut(tiny(family, size, "Model", torch.float64), realise(tiny_structure(family, size), plan))
        values, mask = audio((2000, 1200))
        assert worst(model, for_inference(model), values.double(), mask) <= TOLERANCE[torch.float64]


@pytest.mark.parametrize("family", ["wavlm", "wav2vec2"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_equal_without_the_fused_operators_and_in_blocks(
    family: str, implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "has_fused_ops", lambda: False)
    monkeypatch.setattr("secateur.inference.attention._LOGITS", 64)  # a few rows at a time
    model = build(tiny_config(family, "base", attn_implementation=implementation if family != "wavlm" else "eager"))
    values, mask = audio(LENGTHS)
    assert worst(model, for_inference(model), values, mask) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("family", ["wavlm", "wav2vec2"])
def test_all_heads_at_once_is_the_same(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = cut(tiny(family, "base", "Model", torch.float64), realise(tiny_structure(family, "base"), PLAN))
    fast = for_inference(model)
    for layer in fast.encoder.layers:
        if hasattr(layer.attention, "_at_once"):
            monkeypatch.setattr(layer.attention, "_one_by_one", layer.attention._at_once)
    values, mask = audio(LENGTHS)
    assert worst(model, fast, values.double(), mask) <= TOLERANCE[torch.float64]


@pytest.mark.parametrize(("family", "size"), [("wavlm", "base"), ("hubert", "large")])
def test_bfloat16_is_as_near_as_the_model_itself(family: str, size: str) -> None:
    model = tiny(family, size)
    values, _ = audio((3100,))
    rounded = build(tiny_config(family, size), dtype=torch.bfloat16)
    with torch.no_grad():
        exact = model(values).last_hidden_state
        theirs = rounded(values.bfloat16()).last_hidden_state.float()
        ours = for_inference(rounded)(values.bfloat16()).last_hidden_state.float()
    assert (ours - exact).norm() <= 1.5 * (theirs - exact).norm()


@pytest.mark.parametrize("ending", ["ForCTC", "ForSequenceClassification"])
def test_heads_work_and_weights_are_shared(ending: str) -> None:
    model = build(tiny_config("hubert", "base"), ending)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = secateur.for_inference(model)
    assert type(fast) is type(model)
    values, _ = audio((3100, 990))
    with torch.no_grad():
        torch.testing.assert_close(fast(values).logits, model(values).logits, rtol=1e-4, atol=1e-5)
    ours = {value.data_ptr() for value in [*fast.parameters(), *fast.buffers()]}
    shared = [name for name, value in model.named_parameters() if value.data_ptr() in ours]
    assert any("feed_forward" in name for name in shared)
    assert any("out_proj" in name for name in shared)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_another_activation_keeps_its_stock_form() -> None:
    model = build(tiny_config("wav2vec2", "base", hidden_act="relu", feat_extract_activation="silu"))
    values, mask = audio(LENGTHS)
    assert worst(model, for_inference(model), values, mask) <= TOLERANCE[torch.float32]


def test_it_is_not_saved_and_not_made_twice(tmp_path: Any) -> None:
    fast = for_inference(tiny("wavlm", "base"))
    with pytest.raises(ModelError, match="not saved"):
        fast.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="already"):
        for_inference(fast)
    assert not any(parameter.requires_grad for parameter in fast.parameters())
