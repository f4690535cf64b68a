"""The proof stops a run; a failed check of the drop-in contract is reported; heads of long audio are verified."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers
from support import TOLERANCE, build, randomize, tiny, tiny_config, tiny_structure
from torch import nn

import wav2vec2_axes as names
from secateur.hf.declare import declare
from secateur.hf.models import build_model
from secateur.nn import narrow_convolution
from secateur.structure import Selection
from secateur.surgery import cut
from secateur.surgery.comparison import min_usable_samples, relative_difference
from secateur.surgery.verify import Verification, verify

EQUAL = "cut model equals masked model"
SELECTION = Selection(axes={names.feed_forward_units(0): (0, 3, 4, 8), names.heads(1): (0, 2)})
X_VECTOR = {"tdnn_dim": [8, 8, 8, 8, 12], "xvector_output_dim": 6}


def failed(result: Verification) -> set[str]:
    return {check.name for check in result.checks if not check.holds}


def with_x_vectors(family: str, size: str = "base", **fields: Any) -> Any:
    return build(tiny_config(family, size, **(X_VECTOR | fields)), "ForXVector")


@pytest.mark.parametrize(
    ("family", "size"),
    [("wavlm", "base"), ("wav2vec2", "large"), ("wav2vec2-conformer", "base"), ("wav2vec2-bert", "base")],
)
def test_a_model_whose_head_needs_sixteen_frames_is_proven(family: str, size: str) -> None:
    dense, structure = with_x_vectors(family, size), tiny_structure(family, size)
    shortest = min_usable_samples(dense, structure)
    assert structure.lengths(shortest)[-1] == 16  # windows over 15 frames, and two of them for a standard deviation
    kept_units = {name: axis.units[::2] for name, axis in structure.axes.items() if axis.kind == "units"}
    result = verify(cut(dense, Selection(axes=kept_units)), dense, Selection(axes=kept_units))
    assert result.holds, failed(result)
    assert all(math.isfinite(difference) for difference in result.differences)


def test_a_head_of_longer_windows_is_given_longer_audio() -> None:
    dense = with_x_vectors("wav2vec2", tdnn_kernel=[9, 3, 3, 1, 1], tdnn_dilation=[2, 3, 4, 1, 1])
    structure = tiny_structure("wav2vec2", "base")
    assert structure.lengths(min_usable_samples(dense, structure))[-1] == 1 + 16 + 6 + 8 + 1
    assert verify(cut(dense, SELECTION), dense, SELECTION).holds


def test_a_fault_that_only_audio_too_short_for_the_head_shows_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = with_x_vectors("wav2vec2")
    model: Any = cut(dense, SELECTION)
    forward = type(model.wav2vec2.encoder).forward

    def wrong_below_sixteen_frames(self: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        short = hidden_states.shape[1] < 16 and self is model.wav2vec2.encoder
        return forward(self, hidden_states + 1.0 if short else hidden_states, *args, **kwargs)

    monkeypatch.setattr(type(model.wav2vec2.encoder), "forward", wrong_below_sixteen_frames)
    assert EQUAL in failed(verify(model, dense, SELECTION))


def test_a_front_end_of_one_convolution_and_a_group_norm_is_proven() -> None:
    fields = {"conv_dim": [6], "conv_kernel": [400], "conv_stride": [320], "do_stable_layer_norm": False}
    config = transformers.Wav2Vec2Config(
        **fields, hidden_size=24, num_hidden_layers=3, num_attention_heads=4, intermediate_size=10,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    dense: Any = transformers.Wav2Vec2Model(config).eval()
    randomize(dense)
    structure = declare(config)
    assert structure.min_samples == 720  # a variance over one window is refused by the library
    selection = Selection(axes={names.channels(0): (0, 2, 5), names.feed_forward_units(0): (1, 2)})
    result = verify(cut(dense, selection), dense, selection)
    assert result.holds, failed(result)


def test_a_broken_line_of_the_contract_leaves_the_proof_standing(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = tiny("hubert", "base")
    model: Any = cut(dense, SELECTION)
    forward = nn.Linear.forward

    def coarse(self: nn.Linear, values: torch.Tensor) -> torch.Tensor:
        result = forward(self, values)
        return result.round() if self in own_values and result.dtype == torch.bfloat16 else result

    own_values = {module for module in model.modules() if isinstance(module, nn.Linear)}
    monkeypatch.setattr(nn.Linear, "forward", coarse)
    result = verify(model, dense, SELECTION)
    assert failed(result) == {"bfloat16"}
    assert result.is_proven
    assert not result.holds
    assert result.refusal == ""
    assert result.to_dict()["proven"]


def test_a_wrong_kernel_in_dense_and_cut_model_alike_is_no_fault_of_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    def garbage(self: nn.Conv1d, input: Any, weight: Any, bias: Any) -> Any:
        result = nn.Conv1d._conv_forward(self, input, weight, bias)
        return result.flip(-1) if input.dtype == torch.bfloat16 else result

    monkeypatch.setattr(narrow_convolution, "_conv_forward", garbage)
    config = tiny_config("hubert", "base", num_conv_pos_embeddings=32)
    dense = build_model(config).eval()
    dense.load_state_dict(build(config).state_dict())
    result = verify(cut(dense, SELECTION), dense, SELECTION)
    assert result.holds, failed(result)
    line = next(check.detail for check in result.checks if check.name == "bfloat16")
    assert float(line.rpartition(" ")[2]) > 0.05


def test_the_error_for_weights_that_are_not_finite_names_the_masked_model() -> None:
    dense = build(tiny_config("hubert", "base"))
    with torch.no_grad():
        dense.encoder.layers[0].attention.q_proj.weight[0] = float("nan")
    result = verify(cut(dense, SELECTION), dense, SELECTION)
    assert not result.is_proven
    assert "NaN or infinite values" in result.refusal
    assert "an error in secateur" not in result.refusal


def test_an_unequal_model_is_an_error_in_secateur() -> None:
    dense = tiny("hubert", "base")
    model: Any = cut(dense, SELECTION)
    with torch.no_grad():
        model.encoder.layers[0].final_layer_norm.bias[0] += 1.0
    result = verify(model, dense, SELECTION)
    assert "an error in secateur" in result.refusal
    assert EQUAL in result.refusal


def test_differences_tell_a_broken_reference_from_a_broken_copy() -> None:
    good, bad = torch.ones(3), torch.tensor([1.0, float("inf"), 1.0])
    assert math.isnan(relative_difference(bad, good))
    assert relative_difference(good, bad) == math.inf
    assert relative_difference(good, torch.ones(2)) == math.inf
    assert relative_difference(good, good + TOLERANCE[torch.float32]) == pytest.approx(1e-4, rel=1e-2)
