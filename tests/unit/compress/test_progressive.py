"""Progressive shrinking: what is frozen, and that a student that loses it learns what one that keeps it learns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pruning_toy import pruning

from secateur.compress.config import Freeze, Regularisation
from secateur.compress.progressive import Progressive
from secateur.compress.regularise import regularised
from secateur.compress.spec_augment import masks_from_here
from secateur.compress.step import Pruning
from secateur.compress.student import selection_of
from secateur.engine import LoopConfig, run
from secateur.objective.constraint import Constraint
from secateur.objective.pairing import Learned
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


def trainee_of(*, shrink: bool, dtype: torch.dtype = torch.float32, **changes: Any) -> Pruning:
    """The trainee of a learn phase in which many gates close early, some of them at once."""
    settings: dict[str, Any] = {
        "steps": STEPS,
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
        "clip": 0.05,
        "gate_learning_rate": 0.2,
        "constraints": (Constraint(target=0.25, ramp=((0.0, 0.5), (0.3, 1.0))),),
        "freeze": Freeze(shrink=shrink, **QUICK),
    }
    trainee = pruning(**(settings | changes))
    close(trainee, SHUT)
    for module in (trainee.module, trainee.teacher, trainee.gates):
        module.to(dtype)
    return trainee


def close(trainee: Pruning, shut: tuple[tuple[str, tuple[int, ...]], ...], value: float = -6.0) -> None:
    """Set the gates of some units, so that these are all but surely closed."""
    everywhere = torch.zeros(trainee.gates.structure.size, dtype=torch.bool)
    for name, units in shut:
        if trainee.gates.structure.axes[name].size:
            everywhere[trainee.gates.structure.offsets[name] + torch.tensor(units)] = True
    with torch.no_grad():
        trainee.gates.log_alpha[everywhere[trainee.gates.positions]] = value


def learn(trainee: Pruning, folder: Path, **more: Any) -> list[dict[str, Any]]:
    """Run the phase to its end; what it logged."""
    run(trainee, LoopConfig(steps=STEPS, log_every=1, **more), phase="learn", folder=folder, resume=False)
    return logged(folder)


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def progress(trainee: Pruning) -> Progressive:
    assert trainee.progressive is not None
    return trainee.progressive


def frozen(trainee: Pruning, name: str) -> list[bool]:
    """Whether each unit of an axis is frozen."""
    start = trainee.gates.structure.offsets[name]
    return (~progress(trainee).kept[start : start + trainee.gates.structure.axes[name].size]).tolist()


@pytest.mark.parametrize(
    ("family", "size", "more"),
    [
        ("wavlm", "large", {}),
        ("wavlm", "base", {"straight_through": True}),
        ("hubert", "large", {"pairing": Learned(layers=(1, 3))}),
        ("hubert", "base", {"gradient_checkpointing": True, "accumulate": 2}),
    ],
)
def test_a_student_that_shrinks_learns_what_one_that_does_not_learns(
    tmp_path: Path, family: str, size: str, more: dict[str, Any]
) -> None:
    whole, small = (
        trainee_of(shrink=shrink, family=family, size=size, dtype=torch.float64, **more) for shrink in (False, True)
    )
    expected, got = learn(whole, tmp_path / "whole"), learn(small, tmp_path / "small")
    assert len(progress(small).shrunk) > 2
    assert not progress(whole).shrunk
    for axis, _ in SHUT:
        assert any(frozen(small, axis)), axis
    assert torch.equal(small.gates.frozen, whole.gates.frozen)
    torch.testing.assert_close(small.gates.log_alpha, whole.gates.log_alpha, rtol=0, atol=1e-9)
    for ours, theirs in zip(got, expected, strict=True):  # losses, gradient norms, expected costs, multipliers
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"phase", "student"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-9, abs=1e-9), name
    # What is left of the student that kept everything is the student that did not.
    whole.student.shrink(small.student.spread(torch.ones(len(small.student.units))).bool())
    weights = dict(whole.student.base.named_parameters())
    assert len(weights) == len(list(small.student.base.parameters()))
    for name, value in small.student.base.named_parameters():
        if value.grad is None and "norm" in name:  # in front of a block that is gone: nothing hears it any more
            assert {1, 2} & {int(part) for part in name.split(".") if part.isdigit()} or "encoder.layer_norm" in name
            continue
        torch.testing.assert_close(value, weights[name], rtol=0, atol=1e-9, msg=name)


def test_a_resumed_student_that_shrank_ends_with_the_bytes_of_one_that_was_not_stopped(tmp_path: Path) -> None:
    whole = trainee_of(shrink=True)
    learn(whole, tmp_path / "whole", save_every=7, keep=9)
    steps = [shrunk.step for shrunk in progress(whole).shrunk]
    assert min(steps) < 14 < max(steps)
    kept = "checkpoints/learn-0000014"
    shutil.copytree(tmp_path / "whole" / kept, tmp_path / "again" / kept)
    again = trainee_of(shrink=True)
    run(again, LoopConfig(steps=STEPS, save_every=7), phase="learn", folder=tmp_path / "again", resume=True)
    expected, got = whole.state(), again.state()
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(got[name], value), name
    moments, theirs = (
        [trainee.adam.state[p] for group in trainee.adam.param_groups for p in group["params"]]
        for trainee in (again, whole)
    )
    assert any(moments)
    for mine, other in zip(moments, theirs, strict=True):
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in other)


def test_a_gate_is_frozen_once_it_was_closed_at_so_many_checks_in_a_row() -> None:
    trainee = trainee_of(shrink=False, freeze=Freeze(below=0.2, patience=3, every=0.1), kinds=("units",))
    axis, unit = "encoder.layers.1.feed_forward/units", 4
    trainee.optimisers()
    history = []
    for check in range(6):
        close(trainee, ((axis, (unit,)),), value=9.0 if check == 1 else -6.0)
        progress(trainee).begin(3 * (check + 1), trainee.adam)
        progress(trainee).begin(3 * (check + 1) + 1, trainee.adam)  # not a step at which gates are checked
        history.append(frozen(trainee, axis)[unit])
    assert history == [False, False, False, False, True, True]
    close(trainee, ((axis, (unit,)),), value=9.0)
    trainee.begin(18)
    assert frozen(trainee, axis)[unit]
    assert trainee.drawn[trainee.gates.structure.offsets[axis] + unit] == 0


def test_a_frozen_block_takes_all_inside_with_it_and_a_head_without_values_is_gone() -> None:
    trainee = trainee_of(shrink=False)
    trainee.optimisers()
    progress(trainee).begin(3, trainee.adam)
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
    trainee.optimisers()
    progress(trainee).begin(3, trainee.adam)
    assert frozen(trainee, axis) == [True, True, True, False, True]
    assert trainee.student.structure.axes[axis].units == (3,)


def test_what_is_left_never_costs_less_than_a_limit_allows() -> None:
    both = (Constraint(target=0.4), Constraint(cost="macs", scope="frontend", target=0.6))
    trainee = trainee_of(shrink=True, constraints=both)
    with torch.no_grad():
        trainee.gates.log_alpha.uniform_(-9, -5, generator=torch.Generator().manual_seed(0))
    trainee.optimisers()
    progress(trainee).begin(3, trainee.adam)
    kept = progress(trainee).kept
    costs = [bound.cost.at(kept) / bound.cost.dense for bound in trainee.bounds]
    assert costs[0] >= 0.4
    assert costs[1] >= 0.6
    assert min(costs[0] - 0.4, costs[1] - 0.6) < 0.1  # one of them is what stops it
    probability = trainee.gates.open_probability()
    assert probability[~kept].abs().max() == 0


def test_a_frozen_gate_gets_no_gradient_and_no_score() -> None:
    trainee = trainee_of(shrink=False)
    trainee.gates.frozen[::3] = True
    drawn, probability = trainee.gates.draw(5), trainee.gates.open_probability()
    (gradient,) = torch.autograd.grad(drawn.sum() + probability.sum(), trainee.gates.log_alpha)
    mine = trainee.gates.positions[::3]
    assert not drawn[mine].any()
    assert not probability[mine].any()
    assert not gradient[::3].any()
    assert gradient[1::3].any()
    assert (trainee.gates.scores()[mine] == -torch.inf).all()
    assert not trainee.gates.typical()[mine].any()


def test_without_a_closed_gate_nothing_is_frozen_and_nothing_shrinks() -> None:
    trainee = trainee_of(shrink=True)
    with torch.no_grad():
        trainee.gates.log_alpha.fill_(2.0)
    trainee.optimisers()
    student = trainee.student.model
    progress(trainee).begin(3, trainee.adam)
    assert not trainee.gates.frozen.any()
    assert trainee.student.model is student


def test_a_shrunk_student_is_the_masked_one_and_keeps_what_does_not_learn() -> None:
    trainee = trainee_of(shrink=True)
    before = trainee.student.model
    before.masked_spec_embed.requires_grad_(False)
    trainee.optimisers()
    progress(trainee).begin(3, trainee.adam)
    small, kept = trainee.student.model, progress(trainee).kept
    assert small is not before
    trainee.student.masking.remove()
    structure = trainee.gates.structure
    selection = selection_of(structure, trainee.student.stays(kept))
    assert verify(small, before, selection).holds
    assert [p for p in small.named_parameters() if not p[1].requires_grad] == [
        ("masked_spec_embed", small.masked_spec_embed)
    ]
    held = {id(p) for group in trainee.adam.param_groups for p in group["params"]}
    assert held == {id(p) for p in trainee.module.parameters() if p.requires_grad}


def test_a_student_that_is_cut_within_a_phase_is_set_up_for_it_and_given_back_as_it_was() -> None:
    trainee = trainee_of(shrink=True)
    before = trainee.student.model
    fields, vector = before.config.to_dict(), before.masked_spec_embed.detach().clone()
    rates = {name: module.p for name, module in before.named_modules() if isinstance(module, torch.nn.Dropout)}
    with regularised(lambda: trainee.module.student, Regularisation(dropout=0.3), freeze_frontend=True):
        trainee.optimisers()
        progress(trainee).begin(3, trainee.adam)
        small = trainee.student.model
        assert small is not before
        dropouts = {name: module for name, module in small.named_modules() if isinstance(module, torch.nn.Dropout)}
        assert dropouts
        assert all(module.p == 0.3 for module in dropouts.values())
        assert small.encoder.layers[0].attention.dropout == 0.3
        assert not any(value.requires_grad for value in small.feature_extractor.parameters())
        assert masks_from_here(small)
        assert small.config.layerdrop == 0
    assert not masks_from_here(small)
    assert {name: value for name, value in small.config.to_dict().items() if "mask" in name or "drop" in name} == {
        name: value for name, value in fields.items() if "mask" in name or "drop" in name
    }
    assert torch.equal(small.masked_spec_embed, vector)
    assert all(module.p == rates[name] for name, module in dropouts.items())
    assert all(value.requires_grad for value in small.feature_extractor.parameters())
