"""The inference-only form computes what the model computes, for every family, dense and cut, padded and not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from support import (
    FAST_MODELS,
    LOW_RANK,
    RAGGED,
    TOLERANCE,
    UNITS,
    Plan,
    audio,
    build,
    make_selection,
    plans,
    tiny,
    tiny_config,
    tiny_structure,
)
from torch import Tensor
from torch.nn.utils import parametrize

import secateur
import wav2vec2_axes as names
from secateur.errors import ModelError
from secateur.inference import for_inference
from secateur.inference import linear as fused
from secateur.structure import Selection
from secateur.surgery import cut

pytestmark = pytest.mark.processor

LENGTHS = (3100, 990, 1575)


def worst(model: Any, other_value: Any, values: Tensor, mask: Tensor | None) -> float:
    """Largest difference of any hidden state's valid frames and of the output, relative to its root mean square."""
    with torch.no_grad():
        actual, reference = (m(values, attention_mask=mask, output_hidden_states=True) for m in (other_value, model))
    assert len(actual.hidden_states) == len(reference.hidden_states)
    valid = torch.ones(reference.hidden_states[0].shape[:2], dtype=torch.bool)
    if mask is not None:
        frames = model._get_feat_extract_output_lengths(mask.sum(1))
        valid = torch.arange(valid.shape[1]) < frames[:, None]
    pairs = [*zip(actual.hidden_states, reference.hidden_states, strict=True), (actual[0], reference[0])]
    return max(
        float((a[valid].double() - b[valid].double()).abs().max() / b[valid].double().square().mean().sqrt())
        for a, b in pairs
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", ["dense", "cut"])
@pytest.mark.parametrize(("family", "size"), FAST_MODELS + LOW_RANK[:2])
def test_equal_for_every_family(family: str, size: str, kind: str, dtype: torch.dtype) -> None:
    model = tiny(family, size, "Model", dtype)
    if kind == "cut":
        model = cut(model, make_selection(tiny_structure(family, size), RAGGED))
    fast = for_inference(model)
    values, mask = audio(LENGTHS)
    assert mask is not None
    for first_item in (None, mask):
        assert worst(model, fast, values.to(dtype), first_item) <= TOLERANCE[dtype]


@pytest.mark.parametrize("family", ["wav2vec2-conformer", "wav2vec2-bert"])
def test_families_without_an_inference_form_raise_a_one_sentence_error(family: str) -> None:
    with pytest.raises(ModelError, match=f"There is no inference-only form of {family} models; there is of wav2vec2, "):
        for_inference(tiny(family, "base"))


def test_equal_when_positional_groups_are_scaled_and_none_is_gone() -> None:
    name = names.positional_groups()
    scaled = Selection(axes={name: (0, 1, 2, 3)}, scales={name: (0.5, 1.0, 2.0, 1.5)})
    model = cut(tiny("hubert", "base", "Model", torch.float64), scaled)
    values, mask = audio(LENGTHS)
    assert worst(model, for_inference(model), values.double(), mask) <= TOLERANCE[torch.float64]
    assert worst(tiny("hubert", "base", "Model", torch.float64), model, values.double(), mask) > 0.1


@settings(max_examples=15, deadline=None)
@given(plan=plans(ragged=True))
def test_equal_for_random_ragged_shapes(plan: Plan) -> None:
    for family, size in (("wavlm", "base"), ("hubert", "large")):
        model = cut(tiny(family, size, "Model", torch.float64), make_selection(tiny_structure(family, size), plan))
        values, mask = audio((2000, 1200))
        assert worst(model, for_inference(model), values.double(), mask) <= TOLERANCE[torch.float64]


@pytest.mark.parametrize("family", ["wavlm", "wav2vec2"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_equal_without_the_fused_operators_and_in_blocks(
    family: str, implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "has_fused_ops", lambda dtype: False)
    monkeypatch.setattr("secateur.inference.fused_attention._MAX_BLOCK_LOGITS", 64)  # a few rows at a time
    model = build(tiny_config(family, "base", attn_implementation=implementation if family != "wavlm" else "eager"))
    values, mask = audio(LENGTHS)
    assert worst(model, for_inference(model), values, mask) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("family", ["wavlm", "wav2vec2"])
def test_all_heads_at_once_is_the_same(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = cut(tiny(family, "base", "Model", torch.float64), make_selection(tiny_structure(family, "base"), RAGGED))
    fast = for_inference(model)
    for layer in fast.encoder.layers:
        if hasattr(layer.attention, "_attend_batched"):
            monkeypatch.setattr(layer.attention, "_attend_blockwise", layer.attention._attend_batched)
    values, mask = audio(LENGTHS)
    assert worst(model, fast, values.double(), mask) <= TOLERANCE[torch.float64]


@pytest.mark.parametrize(("family", "size"), [("wavlm", "base"), ("hubert", "large")])
def test_bfloat16_is_as_near_as_the_model_itself(family: str, size: str) -> None:
    model = tiny(family, size)
    values, _ = audio((3100,))
    rounded = build(tiny_config(family, size), dtype=torch.bfloat16)
    with torch.no_grad():
        exact = model(values).last_hidden_state
        reference = rounded(values.bfloat16()).last_hidden_state.float()
        actual = for_inference(rounded)(values.bfloat16()).last_hidden_state.float()
    assert (actual - exact).norm() <= 1.5 * (reference - exact).norm()


@pytest.mark.parametrize("ending", ["ForCTC", "ForSequenceClassification"])
def test_heads_work_and_weights_are_shared(ending: str) -> None:
    model = build(tiny_config("hubert", "base"), ending)
    initial_state = {name: value.clone() for name, value in model.state_dict().items()}
    fast = secateur.for_inference(model)
    assert type(fast) is type(model)
    values, _ = audio((3100, 990))
    with torch.no_grad():
        torch.testing.assert_close(fast(values).logits, model(values).logits, rtol=1e-4, atol=1e-5)
    actual = {value.data_ptr() for value in [*fast.parameters(), *fast.buffers()]}
    shared = [name for name, value in model.named_parameters() if value.data_ptr() in actual]
    assert any("feed_forward" in name for name in shared)
    assert any("out_proj" in name for name in shared)
    assert all(torch.equal(value, initial_state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("family", "size"), [("wavlm", "base"), ("hubert", "large")])
def test_training_mode_changes_nothing(family: str, size: str) -> None:
    fast = for_inference(tiny(family, size, "ForCTC"))
    values, mask = audio(LENGTHS)
    with torch.no_grad():
        initial_output = fast(values, attention_mask=mask).logits
        assert torch.equal(fast.train()(values, attention_mask=mask).logits, initial_output)
    fast.freeze_feature_encoder()


@pytest.mark.parametrize("family", ["wavlm", "hubert"])
def test_gradients_reach_the_input(family: str) -> None:
    model = tiny(family, "base", "Model", torch.float64)
    values, mask = audio((2000, 1200))
    gradients = []
    for first_item in (model, for_inference(model)):
        own_values = values.double().requires_grad_()
        first_item(own_values, attention_mask=mask).last_hidden_state[:, :3].square().sum().backward()
        gradients.append(own_values.grad)
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


def test_folded_weight_norm_other_weights_and_other_attention() -> None:
    values, mask = audio(LENGTHS)
    model = build(tiny_config("hubert", "base"))
    parametrize.remove_parametrizations(model.encoder.pos_conv_embed.conv, "weight")
    assert worst(model, for_inference(model), values, mask) <= TOLERANCE[torch.float32]
    model.encoder.layers[0].feed_forward.output_dense = torch.nn.Linear(UNITS, 3)
    with pytest.raises(ModelError, match="another form"):
        for_inference(model)
    eager = build(tiny_config("hubert", "base"))
    flexible = copy.deepcopy(eager)
    flexible.set_attn_implementation("flex_attention")
    fast = for_inference(flexible)
    assert flexible.config._attn_implementation == "flex_attention"
    assert worst(eager, fast, values, mask) <= TOLERANCE[torch.float32]


def test_one_graph_serves_every_length() -> None:
    fast = for_inference(tiny("wavlm", "base"))
    graphs: list[Any] = []

    def count(module: Any, _: Any) -> Any:
        graphs.append(module)
        return module.forward

    torch.compiler.reset()
    compiled = torch.compile(fast, fullgraph=True, dynamic=True, backend=count)
    for samples in (1600, 2100, 3300, 4700, 5000):
        values, _ = audio((samples,))
        with torch.no_grad():
            torch.testing.assert_close(
                compiled(values).last_hidden_state, fast(values).last_hidden_state, rtol=1e-4, atol=1e-4
            )
    assert len(graphs) <= 2


def test_the_state_of_the_process_does_not_matter() -> None:
    fused.has_fused_ops.cache_clear()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        finished_results = fused.has_fused_ops()
    assert torch.equal(torch.rand(1), expected)
    fused.has_fused_ops.cache_clear()
    assert fused.has_fused_ops() == finished_results
    values, _ = audio((3100,))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for_inference(tiny("wavlm", "base"))(values)


def test_another_activation_keeps_its_stock_form() -> None:
    model = build(tiny_config("wav2vec2", "base", hidden_act="relu", feat_extract_activation="silu"))
    values, mask = audio(LENGTHS)
    assert worst(model, for_inference(model), values, mask) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("family", ["wavlm", "hubert"])
def test_attention_weights_are_refused(family: str) -> None:
    values, _ = audio((3100,))
    with pytest.raises(ModelError, match="no attention weights"):
        for_inference(tiny(family, "base"))(values, output_attentions=True)
    with pytest.raises(ModelError, match="no attention weights"):
        for_inference(build(tiny_config(family, "base", output_attentions=True)))(values)


def test_it_is_not_saved_and_not_made_twice(tmp_path: Any) -> None:
    fast = for_inference(tiny("wavlm", "base"))
    with pytest.raises(ModelError, match="not saved"):
        fast.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="not saved"):
        for_inference(tiny("hubert", "base", "ForCTC")).hubert.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ModelError, match="already"):
        for_inference(fast)
    assert not any(parameter.requires_grad for parameter in fast.parameters())
