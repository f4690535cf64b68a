"""Progressive shrinking: what is frozen, and that a student that loses it learns what one that keeps it learns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pruning_toy import make_prune_unit

from secateur.compress.config import FreezeConfig, RegularizationConfig
from secateur.compress.progressive import ProgressiveShrinking
from secateur.compress.regularization import regularized
from secateur.compress.spec_augment import has_masking
from secateur.compress.step import PruneUnit
from secateur.compress.student import selection_of
from secateur.engine import LoopConfig, run
from secateur.losses.constraint import Constraint
from secateur.losses.layer_mapping import LearnedLayerMapping
from secateur.surgery.verify import verify

STEPS = 30
QUICK: dict[str, Any] = {"below": 0.2, "patience": 1, "every": 0.1, "worth": 0.02}
#: Closed at the start: every kind of unit, a whole head, an attention block and a feed-forward block.
SHUT = (
    ("feature_extractor.conv_layers.0/channels", (1, 4)),
    ("feature_extractor.conv_layers.2/channels", (0, 3)),
    ("encoder.pos_conv_embed.conv/groups", (2,)),
    ("encoder.layers.0.attention/head1.vo", (0, 1, 2, 3, 4, 5)),
    ("encoder.layers.0.attention/head2.qk", (0, 1, 2, 3, 4, 5)),
    ("encoder.layers.1.attention/block", (0,)),
    ("encoder.layers.2.feed_forward/block", (0,)),
)


def trainee_of(*, shrink: bool, dtype: torch.dtype = torch.float32, **changes: Any) -> PruneUnit:
    """The trainee of a learn phase in which many gates close early, some of them at once."""
    settings: dict[str, Any] = {
        "steps": STEPS,
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
        "clip": 0.05,
        "gate_learning_rate": 0.2,
        "constraints": (Constraint(target=0.25, ramp=((0.0, 0.5), (0.3, 1.0))),),
        "freeze": FreezeConfig(shrink=shrink, **QUICK),
    }
    trainee = make_prune_unit(**(settings | changes))
    close(trainee, SHUT)
    for module in (trainee.module, trainee.teacher, trainee.gates):
        module.to(dtype)
    return trainee


def close(trainee: PruneUnit, shut: tuple[tuple[str, tuple[int, ...]], ...], value: float = -6.0) -> None:
    """Set the gates of some units, so that these are all but surely closed."""
    everywhere = torch.zeros(trainee.gates.structure.size, dtype=torch.bool)
    for name, units in shut:
        if trainee.gates.structure.axes[name].size:
            everywhere[trainee.gates.structure.offsets[name] + torch.tensor(units)] = True
    with torch.no_grad():
        trainee.gates.log_alpha[everywhere[trainee.gates.positions]] = value


def learn(trainee: PruneUnit, folder: Path, **extra_fields: Any) -> list[dict[str, Any]]:
    """Run the phase to its end; what it logged."""
    run(trainee, LoopConfig(steps=STEPS, log_every=1, **extra_fields), phase="learn", folder=folder, resume=False)
    return logged(folder)


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def progress(trainee: PruneUnit) -> ProgressiveShrinking:
    assert trainee.progressive is not None
    return trainee.progressive


def frozen(trainee: PruneUnit, name: str) -> list[bool]:
    """Whether each unit of an axis is frozen."""
    start = trainee.gates.structure.offsets[name]
    return (~progress(trainee).kept_units[start : start + trainee.gates.structure.axes[name].size]).tolist()


@pytest.mark.parametrize(
    ("family", "size", "more"),
    [
        ("wavlm", "large", {}),
        ("wavlm", "base", {"straight_through": True}),
        ("hubert", "large", {"pairing": LearnedLayerMapping(layers=(1, 3))}),
        ("hubert", "base", {"gradient_checkpointing": True, "accumulate": 2}),
    ],
)
def test_a_student_that_shrinks_learns_what_one_that_does_not_learns(
    tmp_path: Path, family: str, size: str, more: dict[str, Any]
) -> None:
    full_trainee, small = (
        trainee_of(shrink=shrink, family=family, size=size, dtype=torch.float64, **more) for shrink in (False, True)
    )
    expected, actual = learn(full_trainee, tmp_path / "whole"), learn(small, tmp_path / "small")
    assert len(progress(small).shrink_events) > 2
    assert not progress(full_trainee).shrink_events
    for axis, _ in SHUT:
        assert any(frozen(small, axis)), axis
    assert torch.equal(small.gates.is_frozen, full_trainee.gates.is_frozen)
    torch.testing.assert_close(small.gates.log_alpha, full_trainee.gates.log_alpha, rtol=0, atol=1e-9)
    for candidate, reference in zip(
        actual, expected, strict=True
    ):  # losses, gradient norms, expected costs, multipliers
        assert candidate.keys() == reference.keys()
        for name in candidate.keys() - {"phase", "student"}:
            assert candidate[name] == pytest.approx(reference[name], rel=1e-9, abs=1e-9), name
    # What is left of the student that kept everything is the student that did not.
    full_trainee.student.shrink(small.student.to_all_units(torch.ones(len(small.student.units))).bool())
    weights = dict(full_trainee.student.base.named_parameters())
    assert len(weights) == len(list(small.student.base.parameters()))
    for name, value in small.student.base.named_parameters():
        if value.grad is None and "norm" in name:  # in front of a block that is gone: nothing hears it any more
            assert {1, 2} & {int(part) for part in name.split(".") if part.isdigit()} or "encoder.layer_norm" in name
            continue
        torch.testing.assert_close(value, weights[name], rtol=0, atol=1e-9, msg=name)


def test_a_resumed_student_that_shrank_ends_with_the_bytes_of_one_that_was_not_stopped(tmp_path: Path) -> None:
    full_trainee = trainee_of(shrink=True)
    learn(full_trainee, tmp_path / "whole", save_every=7, keep=9)
    steps = [shrunk.step for shrunk in progress(full_trainee).shrink_events]
    assert min(steps) < 14 < max(steps)
    kept_label = "checkpoints/learn-0000014"
    shutil.copytree(tmp_path / "whole" / kept_label, tmp_path / "again" / kept_label)
    repeated = trainee_of(shrink=True)
    run(repeated, LoopConfig(steps=STEPS, save_every=7), phase="learn", folder=tmp_path / "again", resume=True)
    expected, actual = full_trainee.state(), repeated.state()
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name
    moments, reference = (
        [trainee.weight_optimizer.state[p] for group in trainee.weight_optimizer.param_groups for p in group["params"]]
        for trainee in (repeated, full_trainee)
    )
    assert any(moments)
    for own_values, alternative in zip(moments, reference, strict=True):
        assert own_values.keys() == alternative.keys()
        assert all(torch.equal(own_values[name], alternative[name]) for name in alternative)


def test_a_gate_is_frozen_once_it_was_closed_at_so_many_checks_in_a_row() -> None:
    trainee = trainee_of(shrink=False, freeze=FreezeConfig(below=0.2, patience=3, every=0.1), kinds=("units",))
    axis, unit = "encoder.layers.1.feed_forward/units", 4
    trainee.optimizers()
    history = []
    for check in range(6):
        close(trainee, ((axis, (unit,)),), value=9.0 if check == 1 else -6.0)
        progress(trainee).begin(3 * (check + 1), trainee.weight_optimizer)
        progress(trainee).begin(3 * (check + 1) + 1, trainee.weight_optimizer)  # not a step at which gates are checked
        history.append(frozen(trainee, axis)[unit])
    assert history == [False, False, False, False, True, True]
    close(trainee, ((axis, (unit,)),), value=9.0)
    trainee.begin(18)
    assert frozen(trainee, axis)[unit]
    assert trainee.gate_values[trainee.gates.structure.offsets[axis] + unit] == 0


def test_a_frozen_block_takes_all_inside_with_it_and_a_head_without_values_is_gone() -> None:
    trainee = trainee_of(shrink=False)
    trainee.optimizers()
    progress(trainee).begin(3, trainee.weight_optimizer)
    layer = "encoder.layers.1.attention"
    assert all(all(frozen(trainee, f"{layer}/{name}")) for name in ("block", "heads", "head0.qk", "head3.vo"))
    assert frozen(trainee, "encoder.layers.0.attention/heads")[1]
    assert all(frozen(trainee, "encoder.layers.0.attention/head1.qk"))
    assert not all(frozen(trainee, "encoder.layers.0.attention/head0.qk"))


def test_an_axis_that_must_keep_a_unit_keeps_the_one_most_open() -> None:
    trainee = trainee_of(shrink=True)
    axis = "feature_extractor.conv_layers.1/channels"
    close(trainee, ((axis, (0, 1, 2, 3, 4)),), value=-7.0)
    close(trainee, ((axis, (3,)),), value=-6.5)
    trainee.optimizers()
    progress(trainee).begin(3, trainee.weight_optimizer)
    assert frozen(trainee, axis) == [True, True, True, False, True]
    assert trainee.student.structure.axes[axis].units == (3,)


def test_what_is_left_never_costs_less_than_a_limit_allows() -> None:
    pair = (Constraint(target=0.4), Constraint(cost="macs", scope="frontend", target=0.6))
    trainee = trainee_of(shrink=True, constraints=pair)
    with torch.no_grad():
        trainee.gates.log_alpha.uniform_(-9, -5, generator=torch.Generator().manual_seed(0))
    trainee.optimizers()
    progress(trainee).begin(3, trainee.weight_optimizer)
    kept_units = progress(trainee).kept_units
    costs = [bound.cost.exact(kept_units) / bound.cost.dense for bound in trainee.cost_targets]
    assert costs[0] >= 0.4
    assert costs[1] >= 0.6
    assert min(costs[0] - 0.4, costs[1] - 0.6) < 0.1  # one of them is what stops it
    probability = trainee.gates.open_probability()
    assert probability[~kept_units].abs().max() == 0


def test_a_frozen_gate_gets_no_gradient_and_no_score() -> None:
    trainee = trainee_of(shrink=False)
    trainee.gates.is_frozen[::3] = True
    drawn, probability = trainee.gates.draw(5), trainee.gates.open_probability()
    (gradient,) = torch.autograd.grad(drawn.sum() + probability.sum(), trainee.gates.log_alpha)
    gate_positions = trainee.gates.positions[::3]
    assert not drawn[gate_positions].any()
    assert not probability[gate_positions].any()
    assert not gradient[::3].any()
    assert gradient[1::3].any()
    assert (trainee.gates.scores()[gate_positions] == -torch.inf).all()
    assert not trainee.gates.deterministic_mask()[gate_positions].any()


def test_without_a_closed_gate_nothing_is_frozen_and_nothing_shrinks() -> None:
    trainee = trainee_of(shrink=True)
    with torch.no_grad():
        trainee.gates.log_alpha.fill_(2.0)
    trainee.optimizers()
    student = trainee.student.model
    progress(trainee).begin(3, trainee.weight_optimizer)
    assert not trainee.gates.is_frozen.any()
    assert trainee.student.model is student


def test_a_shrunk_student_is_the_masked_one_and_keeps_what_does_not_learn() -> None:
    trainee = trainee_of(shrink=True)
    initial = trainee.student.model
    initial.masked_spec_embed.requires_grad_(False)
    trainee.optimizers()
    progress(trainee).begin(3, trainee.weight_optimizer)
    small, kept_units = trainee.student.model, progress(trainee).kept_units
    assert small is not initial
    trainee.student.masking.remove()
    structure = trainee.gates.structure
    selection = selection_of(structure, trainee.student.remaining_units(kept_units))
    assert verify(small, initial, selection).holds
    assert [p for p in small.named_parameters() if not p[1].requires_grad] == [
        ("masked_spec_embed", small.masked_spec_embed)
    ]
    held_value = {id(p) for group in trainee.weight_optimizer.param_groups for p in group["params"]}
    assert held_value == {id(p) for p in trainee.module.parameters() if p.requires_grad}


def test_a_student_that_is_cut_within_a_phase_is_set_up_for_it_and_given_back_as_it_was() -> None:
    trainee = trainee_of(shrink=True)
    initial = trainee.student.model
    fields, vector = initial.config.to_dict(), initial.masked_spec_embed.detach().clone()
    rates = {name: module.p for name, module in initial.named_modules() if isinstance(module, torch.nn.Dropout)}
    with regularized(lambda: trainee.module.student_view, RegularizationConfig(dropout=0.3), freeze_frontend=True):
        trainee.optimizers()
        progress(trainee).begin(3, trainee.weight_optimizer)
        small = trainee.student.model
        assert small is not initial
        dropouts = {name: module for name, module in small.named_modules() if isinstance(module, torch.nn.Dropout)}
        assert dropouts
        assert all(module.p == 0.3 for module in dropouts.values())
        assert small.encoder.layers[0].attention.dropout == 0.3
        assert not any(value.requires_grad for value in small.feature_extractor.parameters())
        assert has_masking(small)
        assert small.config.layerdrop == 0
    assert not has_masking(small)
    assert {name: value for name, value in small.config.to_dict().items() if "mask" in name or "drop" in name} == {
        name: value for name, value in fields.items() if "mask" in name or "drop" in name
    }
    assert torch.equal(small.masked_spec_embed, vector)
    assert all(module.p == rates[name] for name, module in dropouts.items())
    assert all(value.requires_grad for value in small.feature_extractor.parameters())
