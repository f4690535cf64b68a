"""One forward pass of the student: compiled, recomputed or in bfloat16, it is the same step."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pruning_toy import make_prune_unit, step_gradients
from support import FAMILIES, audio, build, tiny_config
from torch import Tensor

from secateur.compress.config import Distillation, TrainingConfig
from secateur.compress.distiller import DistillationModel, compile_encoder, encode
from secateur.compress.step import DistillUnit
from secateur.compress.teacher import Teacher
from secateur.data.collate import AudioBatch
from secateur.engine import LoopConfig, check_compiler, run
from secateur.errors import ConfigError
from secateur.hf.declare import declare
from secateur.hf.model_view import ModelView
from secateur.losses.layer_mapping import FixedLayerMapping, LearnedLayerMapping
from secateur.masking import attach


def saved_bytes(**training: bool) -> int:
    """What autograd keeps between the passes of a step, parameters and what they share storage with left out."""
    trainee = make_prune_unit(family="hubert", size="base", **training)
    trainee.optimizers()
    trainee.begin(0)
    own_values = {value.data_ptr() for value in (*trainee.module.parameters(), trainee.mask_leaf)}
    kept_units: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own_values:
            kept_units[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    (batch,) = trainee.micro_batches(0, 0, 1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = trainee.loss(trainee.module, batch).total
    assert loss.requires_grad
    return sum(kept_units.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_computed_again_give_the_same_gradients(family: str) -> None:
    size = "base" if family == "hubert" else "large"
    settings: dict[str, Any] = {"family": family, "size": size, "pairing": LearnedLayerMapping(layers=(1, 3))}
    plain = step_gradients(make_prune_unit(**settings), 1)
    repeated = step_gradients(make_prune_unit(**settings, gradient_checkpointing=True), 1)
    assert plain.keys() == repeated.keys()
    assert all(torch.equal(repeated[name], value) for name, value in plain.items())


def test_activations_computed_again_are_not_kept() -> None:
    assert saved_bytes(gradient_checkpointing=True) < 0.4 * saved_bytes()


def compiled_and_plain() -> list[dict[str, Tensor]]:
    """Gradients of a masked student of one layer, compiled and not, with their targets from a teacher likewise."""
    front = {"conv_dim": [6, 7], "conv_kernel": [10, 8], "conv_stride": [10, 8]}
    config = tiny_config("hubert", "base", num_hidden_layers=1, **front)
    structure, base, result = declare(config), build(config), []
    values = torch.rand(structure.size) * (torch.arange(structure.size) % 5 > 0)
    samples = audio((1600, 1600))[0]
    batch = AudioBatch(values=samples, lengths=torch.tensor((1600, 1600)), ids=("a", "b"), mask=None)
    for compile in (False, True):
        student = copy.deepcopy(base)
        attach(student, structure, static=compile).set(mask := values.clone().requires_grad_())
        imitator = DistillationModel(
            ModelView(student), Distillation(pairing=FixedLayerMapping(layers=(0, 1))), compile=compile
        )
        targets = Teacher(ModelView(base), (0, 1), compile=compile)(batch).states
        imitator(batch, targets, [(0, 0), (1, 1)]).pairs.sum().backward()
        assert mask.grad is not None
        result.append({name: p.grad for name, p in imitator.named_parameters() if p.grad is not None} | {"": mask.grad})
    return result


def assert_agree(plain: dict[str, Tensor], actual: dict[str, Tensor]) -> None:
    assert set(plain) <= set(actual)
    for name, value in actual.items():
        # Compiled, what is not used has a gradient of zero instead of none. A key's bias moves no softmax: noise.
        reference = plain.get(name, torch.zeros_like(value))
        scale = 1.0 if name.endswith("k_proj.bias") else reference.abs().max().item()
        torch.testing.assert_close(value, reference, rtol=1e-3, atol=1e-4 * scale + 1e-9, msg=name)


def test_a_compiled_student_and_teacher_agree_with_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    # All but the machine code, which takes half a minute to make: the slow test's.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    assert_agree(*compiled_and_plain())


@pytest.mark.slow
def test_a_student_and_teacher_in_machine_code_agree_with_plain_ones() -> None:
    assert_agree(*compiled_and_plain())


@pytest.mark.slow
def test_compiled_steps_of_many_lengths_agree_with_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    settings: dict[str, Any] = {"family": "wavlm", "size": "large", "gradient_checkpointing": True}
    plain, actual = make_prune_unit(**settings), make_prune_unit(**settings, compile=True)
    for step in range(3):
        assert_agree(step_gradients(plain, step), step_gradients(actual, step))


def test_a_compiler_that_is_missing_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config

    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "/nowhere/g++"))
    with pytest.raises(
        ConfigError, match=r"^compile: torch.compile does not work on this machine \(.*nowhere.*\): "
    ) as reported:
        check_compiler()
    assert "\n" not in str(reported.value)


@pytest.mark.parametrize("family", ["wavlm", "hubert"])
def test_a_learn_phase_in_bf16_stays_near_one_in_fp32(family: str, tmp_path: Path) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        trainee = make_prune_unit(family=family, size="base", precision=precision)
        config = LoopConfig(steps=4, precision=precision)  # type: ignore[arg-type]
        result = run(trainee, config, phase="learn", folder=tmp_path / precision, resume=False)
        losses[precision] = torch.tensor([result.metrics["loss"], result.validation["loss"]])
        assert {value.dtype for value in trainee.module.parameters()} == {torch.float32}
    torch.testing.assert_close(losses["bf16"], losses["fp32"], rtol=0.05, atol=0)
    assert not torch.equal(losses["bf16"], losses["fp32"])


@pytest.mark.processor
def test_a_recover_phase_in_bf16_stays_near_one_in_fp32(tmp_path: Path) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        toy = make_prune_unit(family="wavlm", size="base")
        toy.student.masking.remove()
        with torch.no_grad():
            for value in toy.module.student.parameters():
                value.mul_(1.1)
        training = TrainingConfig(steps=4, precision=precision)  # type: ignore[arg-type]
        trainee = DistillUnit(toy.module, toy.teacher_view, toy.feed, toy.held_out, training)
        config = LoopConfig(steps=4, precision=precision)  # type: ignore[arg-type]
        result = run(trainee, config, phase="recover", folder=tmp_path / precision, resume=False)
        losses[precision] = torch.tensor([result.metrics["loss"], result.validation["loss"]])
    torch.testing.assert_close(losses["bf16"], losses["fp32"], rtol=0.05, atol=0)
    assert not torch.equal(losses["bf16"], losses["fp32"])


def test_a_model_with_a_head_records_each_hidden_state_once_after_it_is_compiled() -> None:
    model = build(tiny_config("hubert", "large"), "ForCTC")
    batch = AudioBatch(values=audio((1600,))[0], lengths=torch.tensor((1600,)), ids=("a",), mask=None)
    with torch.no_grad():
        initial_output = encode(ModelView(model), batch).states
        compile_encoder(ModelView(model))
        assert list(encode(ModelView(model), batch).states) == list(initial_output)
