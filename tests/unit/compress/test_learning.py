"""The learn phase: where gradients go, what stays as it is, and what a checkpoint holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pruning_toy import LENGTHS, gradients, make_prune_unit, step_gradients
from support import FAMILIES
from torch import Tensor

from secateur.compress.audio_batches import split_held_out
from secateur.compress.step import PruneUnit
from secateur.engine import LoopConfig, run
from secateur.engine.checkpoint import Checkpoints, read
from secateur.losses.constraint import Constraint, penalty
from secateur.losses.layer_mapping import LearnedLayerMapping
from secateur.masking import attach

TWO = (Constraint(target=0.4), Constraint(cost="macs", scope="frontend", sparsity=0.3, ramp=((0, 1),)))


def shared_loss(trainee: PruneUnit, step: int) -> Tensor:
    """The whole objective of a step as one graph, nothing detached."""
    trainee.optimizers()
    trainee.begin(step)
    trainee.student.masking.set(trainee.gates.draw(step))
    total = sum(trainee.loss(trainee.module, batch).total for batch in trainee.micro_batches(step, 0, 1))
    goal = torch.tensor(
        [
            ramp.factor(step + 1) * (1 - b.constraint.target_share)
            for ramp, b in zip(trainee.ramps, trainee.cost_targets, strict=True)
        ]
    ).double()
    opened = trainee.gates.open_probability()
    sparsity = torch.stack([1 - b.cost.expected(opened) / b.cost.dense for b in trainee.cost_targets])
    return total + penalty(sparsity, goal, trainee.multipliers.linear, trainee.multipliers.quadratic)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gates_gradient_is_that_of_one_undetached_graph(family: str) -> None:
    trainee = make_prune_unit(family=family, size="base" if family == "hubert" else "large", constraints=TWO)
    with torch.no_grad():
        trainee.multipliers.linear.copy_(torch.tensor([-3.0, -1.0]))
        trainee.multipliers.quadratic.copy_(torch.tensor([5.0, 2.0]))
    actual = step_gradients(trainee, step=1)
    twin = make_prune_unit(family=family, size="base" if family == "hubert" else "large", constraints=TWO)
    twin.multipliers.load_state_dict(trainee.multipliers.state_dict())
    shared_loss(twin, step=1).backward()
    expected = gradients(twin)
    assert actual.keys() == expected.keys()
    for name in expected:
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-3, atol=1e-4 * scale + 1e-9, msg=name)
    assert actual["log_alpha"].abs().max() > 0


def test_the_straight_through_gradient_is_the_summed_gradient_clipped() -> None:
    # Without constraint (its multipliers are zero) only the masks' gradient reaches the gates.
    trainee = make_prune_unit(straight_through=True, accumulate=2, l1=3000.0)
    actual = step_gradients(trainee)["log_alpha"]
    leaf = trainee.mask_leaf.grad
    assert leaf is not None
    gate_positions = leaf[trainee.gates.positions]
    assert (gate_positions.abs() > 1).any()
    assert (gate_positions.abs() < 1).any()
    shape, alpha = trainee.gates.gate_parameters, trainee.gates.log_alpha.detach()
    drawn = trainee.gate_values.detach()[trainee.gates.positions]
    # By hand: dz/ds~ is one everywhere, ds~/dlog_alpha = (zeta - gamma) s (1 - s) / beta with the step's own draw.
    from secateur.gates.keyed_random import uniform

    u = torch.tensor(uniform(trainee.gates.keys, trainee.gates.seed, 0), dtype=torch.float32).clamp(1e-6, 1 - 1e-6)
    s = torch.sigmoid((torch.log(u) - torch.log1p(-u) + alpha) / shape.temperature)
    stretched = s * (shape.high - shape.low) + shape.low
    torch.testing.assert_close(drawn, stretched.clamp(0, 1))
    slope = (shape.high - shape.low) * s * (1 - s) / shape.temperature
    torch.testing.assert_close(actual, gate_positions.clamp(-1, 1) * slope, rtol=1e-4, atol=1e-7)
    closed = (drawn == 0) & (gate_positions != 0)
    assert closed.any()
    assert (actual[closed] != 0).all()


def test_clipping_comes_after_the_sum_over_micro_batches() -> None:
    full_gradients = step_gradients(make_prune_unit(straight_through=True, l1=3000.0))["log_alpha"]
    parts = step_gradients(make_prune_unit(straight_through=True, l1=3000.0, accumulate=3))["log_alpha"]
    torch.testing.assert_close(parts, full_gradients, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("straight_through", [False, True])
@pytest.mark.parametrize("size", ["base", "large"])
def test_one_batch_and_its_accumulation_have_the_same_gradients(straight_through: bool, size: str) -> None:
    # The large size pads its micro-batches, each to a length of its own.
    full_trainee = make_prune_unit(
        size=size, straight_through=straight_through, pairing=LearnedLayerMapping(layers=(1, 3))
    )
    parts = make_prune_unit(
        size=size, straight_through=straight_through, pairing=LearnedLayerMapping(layers=(1, 3)), accumulate=2
    )
    batches = parts.micro_batches(0, 0, 1)
    assert len(batches) == 2
    assert size == "base" or any(batch.audio.mask is not None for batch in batches)
    first, second = step_gradients(full_trainee), step_gradients(parts)
    assert first.keys() == second.keys()
    for name in first:
        scale = first[name].abs().max().item()
        torch.testing.assert_close(second[name], first[name], rtol=1e-3, atol=1e-4 * scale + 1e-9, msg=name)
    assert full_trainee.distances is not None
    assert parts.distances is not None
    torch.testing.assert_close(parts.distances, full_trainee.distances, rtol=1e-4, atol=1e-3)


def test_the_teacher_stays_frozen_and_in_eval_mode_whatever_is_called(tmp_path: Path) -> None:
    trainee = make_prune_unit()
    initial_state = {name: value.clone() for name, value in trainee.teacher.state_dict().items()}
    trainee.teacher.train()
    trainee.module.train()
    run(trainee, LoopConfig(steps=2, validate_every=1), phase="learn", folder=tmp_path, resume=False)
    assert not any(module.training for module in trainee.teacher.modules())
    assert not any(module.training for module in trainee.module.modules())
    assert all(value.grad is None and not value.requires_grad for value in trainee.teacher.parameters())
    assert all(torch.equal(value, initial_state[name]) for name, value in trainee.teacher.state_dict().items())


def test_masks_leave_the_students_weights_as_they_are(tmp_path: Path) -> None:
    trainee = make_prune_unit(learning_rate=0.0)
    run(trainee, LoopConfig(steps=2, validate_every=1), phase="learn", folder=tmp_path, resume=False)
    trainee.student.masking.remove()
    student, teacher = trainee.module.student.state_dict(), trainee.teacher.state_dict()
    assert student.keys() == teacher.keys()
    assert all(torch.equal(student[name], teacher[name]) for name in teacher)


def test_gates_and_multipliers_are_outside_weight_decay_and_clipping(tmp_path: Path) -> None:
    trainee = make_prune_unit(weight_decay=1e6, learning_rate=1e-6, clip=1e-9, gate_learning_rate=0.0)
    initial_state = trainee.gates.log_alpha.detach().clone()
    created = trainee.optimizers()
    assert created["gates"].clip is None
    assert created["multipliers"].clip is None
    owners = {id(p): name for name, o in created.items() for group in o.optimizer.param_groups for p in group["params"]}
    assert [owners[id(p)] for p in trainee.gates.parameters()] == ["gates"]
    assert {owners[id(p)] for p in trainee.multipliers.parameters()} == {"multipliers"}
    assert len(owners) == sum(len(g["params"]) for o in created.values() for g in o.optimizer.param_groups)
    weight = trainee.module.student.encoder.layers[0].feed_forward.output_dense.bias.detach().clone()
    run(trainee, LoopConfig(steps=1), phase="learn", folder=tmp_path, resume=False)
    assert torch.equal(trainee.gates.log_alpha, initial_state)
    clock = trainee.module.student.encoder.layers[0].feed_forward.output_dense.bias
    assert clock.abs().sum() < weight.abs().sum() * 0.5


def test_a_checkpoint_holds_gates_multipliers_and_the_distances_of_the_last_step(tmp_path: Path) -> None:
    trainee = make_prune_unit(pairing=LearnedLayerMapping(layers=(1, 3)), constraints=TWO)
    run(trainee, LoopConfig(steps=2), phase="learn", folder=tmp_path, resume=False)
    saved_state = Checkpoints(tmp_path, phase="learn", keep=1).latest()
    assert saved_state is not None
    contents = read(saved_state.path, phase="learn")
    assert torch.equal(contents.state["gates"], trainee.gates.log_alpha)
    for name, value in trainee.multipliers.state_dict().items():
        assert torch.equal(contents.state[f"multipliers.{name}"], value)
        assert value.abs().min() > 0
    assert set(contents.extras["optimisers"]) == {"weights", "gates", "multipliers"}
    twin = make_prune_unit(pairing=LearnedLayerMapping(layers=(1, 3)), constraints=TWO)
    twin.load(contents.state)
    for step in (2,):
        actual, expected = step_gradients(twin, step), step_gradients(trainee, step)
        assert twin.pairs == trainee.pairs
        assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_the_pairs_of_a_step_come_from_the_distances_of_the_step_before() -> None:
    trainee = make_prune_unit(pairing=LearnedLayerMapping(layers=(1, 2)))
    trainee.optimizers()
    trainee.begin(0)
    assert trainee.pairs == ((1, 1), (2, 2))
    trainee.distances = torch.tensor([[5.0, 1.0, 9.0], [9.0, 8.0, 1.0]])
    trainee._open_layers = lambda: [True] * 3  # type: ignore[method-assign]
    trainee.begin(1)
    assert trainee.pairs == ((2, 1), (3, 2))


def test_validation_hears_the_gates_own_verdicts_and_leaves_training_alone() -> None:
    trainee, single_result = make_prune_unit(), make_prune_unit()
    trainee.optimizers()
    first = trainee.validate(1)
    assert trainee.validate(1) == first
    final = step_gradients(trainee, 1)
    for name, value in step_gradients(single_result, 1).items():
        assert torch.equal(final[name], value), name
    # The same loss from a student whose masks are set by hand.
    masking, typical = trainee.student.masking, trainee.gates.deterministic_mask()
    assert ((typical == 0) == (trainee.gates.scores() <= 0)).all()
    masking.set(typical)
    with torch.no_grad():
        loss = sum(float(trainee.loss(trainee.module, batch).total) for batch in trainee.held_out)
    assert loss == pytest.approx(first["loss"])


def test_the_first_steps_figures_name_every_constraint_kind_and_multiplier() -> None:
    trainee = make_prune_unit(constraints=TWO, log_every=2, steps=3)
    trainee.optimizers()
    trainee.begin(0)
    for batch in trainee.micro_batches(0, 0, 1):
        trainee.loss(trainee.module, batch).total.backward()
    assert trainee.end(0, lambda tensor: tensor) == {}  # not logged, so not computed
    trainee.begin(1)
    for batch in trainee.micro_batches(1, 0, 1):
        trainee.loss(trainee.module, batch).total.backward()
    metric_values = trainee.end(1, lambda tensor: tensor)
    names = ("parameters-whole", "macs-frontend")
    expected = {f"{word}/{name}" for name in names for word in ("kept", "target", "lambda1", "lambda2")}
    expected |= {f"open/{kind}" for kind in ("channels", "groups", "heads", "qk", "vo", "units", "block")}
    assert metric_values.keys() == expected | {"constraint", "undecided"}
    assert metric_values["target/macs-frontend"] == pytest.approx(0.7)


def test_a_crop_is_held_out_from_the_rest() -> None:
    from pruning_toy import corpus

    full_corpus = corpus()
    train, held_value = split_held_out(full_corpus, seconds=0.5)
    ids = [u.id for u in (*train.utterances, *held_value.utterances)]
    assert sorted(ids) == sorted(u.id for u in full_corpus.utterances)
    assert 0 < len(held_value) <= len(LENGTHS) // 5


@pytest.mark.parametrize(
    ("splits", "learned", "held"),
    [
        (("train", "dev", "test"), {"train"}, {"dev"}),  # Speech Commands, and what is synthetic
        (("train", "train_synthetic", "devel", "test"), {"train", "train_synthetic"}, {"devel"}),  # SLURP
        (("train", "valid", "test"), {"train"}, {"valid"}),  # Fluent Speech Commands
        (("train-clean-100", "dev-clean", "dev-other", "test-clean"), {"train-clean-100"}, {"dev-clean", "dev-other"}),
        (("train-clean-100", "test-clean"), {"train-clean-100"}, {"train-clean-100"}),
        (("test-clean",), {"test-clean"}, {"test-clean"}),  # as asked for
    ],
)
def test_nothing_is_learned_from_the_test_split_of_a_corpus_with_others(
    splits: tuple[str, ...], learned: set[str], held: set[str]
) -> None:
    from pruning_toy import corpus

    full_corpus = corpus()
    by_name = [replace(utterance, split=splits[i % len(splits)]) for i, utterance in enumerate(full_corpus.utterances)]
    parts = split_held_out(replace(full_corpus, utterances=tuple(by_name)), seconds=0.5)
    assert [{utterance.split for utterance in part.utterances} for part in parts] == [learned, held]


def test_masks_removed_give_stock_modules_back() -> None:
    trainee = make_prune_unit()
    trainee.student.masking.remove()
    repeated = attach(trainee.module.student, trainee.gates.structure)  # raises when something was left behind
    repeated.remove()
