"""Targets: those of the encoder itself, whatever form and precision the teacher computes in."""

from __future__ import annotations

import logging

import pytest
import torch
from pruning_toy import seeded_model
from support import FAST_MODELS, TOLERANCE, audio, difference
from torch import nn

from secateur.compress import teacher as module
from secateur.compress.distiller import hidden_states
from secateur.compress.teacher import Teacher
from secateur.data.collate import AudioBatch
from secateur.hf.model_view import ModelView
from secateur.inference.fused_attention import InferenceAttention

LENGTHS = (4000, 2501)


def batch(lengths: tuple[int, ...] = LENGTHS) -> AudioBatch:
    values, mask = audio(lengths)
    return AudioBatch(values=values, lengths=torch.tensor(lengths), ids=("a", "b"), mask=mask)


def is_fast(teacher: Teacher) -> bool:
    return any(isinstance(part, InferenceAttention) for part in teacher.inference_model.modules())


@pytest.mark.parametrize(("family", "size"), FAST_MODELS)
def test_targets_are_the_encoders_hidden_states_and_only_those_asked_for(family: str, size: str) -> None:
    base = seeded_model(family, size)
    teacher = Teacher(ModelView(base), (0, 2, 3))
    assert is_fast(teacher)
    targets, expected = teacher(batch()).states, hidden_states(ModelView(base), batch())
    assert set(targets) == {0, 2, 3}
    assert set(expected) == {0, 1, 2, 3}
    frames = base._get_feat_extract_output_lengths(torch.tensor(LENGTHS))
    for layer, state in targets.items():
        assert not state.requires_grad
        for row, valid in enumerate(frames):  # behind an utterance's end anything may stand
            assert difference(expected[layer][row, :valid], state[row, :valid]) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("family", ["wavlm", "hubert"])
def test_in_a_bf16_phase_the_teacher_computes_in_bfloat16_as_near_as_autocast_does(family: str) -> None:
    base = seeded_model(family, "base")
    teacher = Teacher(ModelView(base), (1, 3), precision="bf16")
    assert {value.dtype for value in teacher.inference_model.state_dict().values()} == {torch.bfloat16}
    assert {value.dtype for value in base.state_dict().values()} == {torch.float32}
    exact = hidden_states(ModelView(base), batch((4000, 4000)))
    with torch.autocast("cpu", torch.bfloat16):
        cast, targets = hidden_states(ModelView(base), batch((4000, 4000))), teacher(batch((4000, 4000))).states
    for layer, state in targets.items():
        actual, reference = (
            float((x.float() - exact[layer]).norm() / exact[layer].norm()) for x in (state, cast[layer])
        )
        assert 0 < actual < 1.5 * reference


def test_a_form_that_does_not_agree_is_not_used_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    base, right = seeded_model("hubert", "base"), module.inference_view

    def off(view: ModelView) -> ModelView:
        form = right(view)
        with torch.no_grad():
            form.model.encoder.layer_norm = nn.LayerNorm(24, eps=0.1)
        return form

    monkeypatch.setattr(module, "inference_view", off)
    with caplog.at_level(logging.WARNING):
        teacher = Teacher(ModelView(base), (1, 3))
    assert teacher.inference_model is base
    assert "stock form" in caplog.text


def test_an_encoder_without_such_a_form_is_used_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    base = seeded_model("hubert", "base")
    form = Teacher(ModelView(base), (1, 3)).inference_model
    with caplog.at_level(logging.WARNING):
        repeated = Teacher(ModelView(form), (1, 3))  # it is in its inference-only form already
    assert repeated.inference_model is form
    assert "stock form" in caplog.text
