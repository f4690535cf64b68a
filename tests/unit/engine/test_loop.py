"""The loop takes the steps torch would, logs what they were, and stops where a number is not finite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_toy import ITEMS, Toy, config, train
from safetensors.torch import load_file

from secateur.config import check
from secateur.engine import LoopConfig, Progress, run
from secateur.errors import CheckpointError, ConfigError, NumericsError


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def by_hand(toy: Toy, steps: int) -> None:
    """The same training in plain torch: the whole batch at once, torch's clipping and LambdaLR."""
    weights = torch.optim.AdamW(toy.module.parameters(), lr=1e-2)
    gains = torch.optim.SGD([toy.gain], lr=1e-2, momentum=0.9)
    rate = torch.optim.lr_scheduler.LambdaLR(
        weights, lambda step: (step + 1) / 4 if step < 3 else (steps - step) / (steps - 3)
    )
    for step in range(steps):
        x, y, _ = Toy(dropout=0.0).micro_batches(step, 0, 1)[0]
        weights.zero_grad()
        gains.zero_grad()
        ((toy.module(x) * toy.gain.sum().exp() - y).square().sum() / ITEMS).backward()
        torch.nn.utils.clip_grad_norm_(toy.module.parameters(), 1.0)
        weights.step()
        gains.step()
        rate.step()


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_the_loop_ends_where_plain_torch_does_whatever_the_accumulation(tmp_path: Path, accumulate: int) -> None:
    toy, plain = Toy(dropout=0.0, accumulate=accumulate), Toy(dropout=0.0)
    result = train(toy, tmp_path)
    by_hand(plain, 12)
    for name, expected in plain.state().items():
        torch.testing.assert_close(toy.state()[name], expected, rtol=0, atol=1e-6)
    assert result.checkpoint == tmp_path / "checkpoints" / "learn-0000012"
    torch.testing.assert_close(load_file(result.checkpoint / "state.safetensors"), toy.state(), rtol=0, atol=0)


def test_figures_are_summed_and_logged_at_the_steps_asked_for(tmp_path: Path) -> None:
    result = train(Toy(dropout=0.0, accumulate=3), tmp_path)
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in lines if "validation" in line] == [5, 10, 12]
    for line in lines:
        assert line["phase"] == "learn"
        if "loss" in line:
            assert line["items"] == ITEMS
            assert line["error"] == pytest.approx(line["loss"])
            assert line.keys() == {
                "phase", "step", "loss", "error", "items", "gain", "gradient_norm.weights",
                "gradient_norm.gains",
            }  # fmt: skip
    assert result.validation == lines[-1]["validation"]
    timings = [json.loads(line) for line in (tmp_path / "timings.jsonl").read_text().splitlines()]
    assert [line["step"] for line in timings] == [2, 4, 6, 8, 10, 12]
    assert all(line["seconds"] > 0 for line in timings)


def test_with_no_intervals_it_saves_and_validates_at_the_end_only(tmp_path: Path) -> None:
    train(Toy(dropout=0.0), tmp_path, save_every=0, validate_every=0, log_every=100)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["learn-0000012"]
    assert [line["step"] for line in metrics(tmp_path)] == [12, 12]


def test_two_phases_share_a_folder_and_a_finished_one_is_passed_over(tmp_path: Path) -> None:
    toy = Toy(dropout=0.2)
    train(toy, tmp_path, phase="learn")
    train(toy, tmp_path, phase="recover", precision="bf16")
    initial_state, weights = metrics(tmp_path), {name: t.clone() for name, t in toy.state().items()}
    repeated = Toy(dropout=0.2)
    result = train(repeated, tmp_path, phase="recover", resume=True)
    assert result.resumed_from == 12
    assert metrics(tmp_path) == initial_state
    assert [line["phase"] for line in initial_state] == ["learn"] * 9 + ["recover"] * 9
    torch.testing.assert_close(repeated.state(), weights, rtol=0, atol=0)


@pytest.mark.processor
def test_bf16_runs_forward_in_bf16_and_keeps_weights_in_float32(tmp_path: Path) -> None:
    toy, visited = Toy(dropout=0.0), set()
    toy.module[0].register_forward_hook(lambda module, args, out: visited.add(out.dtype))
    forward = toy.module.forward
    train(toy, tmp_path, precision="bf16", validate_every=0, steps=2)
    assert visited == {torch.bfloat16}
    assert {p.dtype for p in toy.module.parameters()} == {torch.float32}
    assert toy.module.forward == forward


def test_a_loss_that_is_not_finite_stops_before_anything_changes(tmp_path: Path) -> None:
    toy = Toy(dropout=0.0, accumulate=3)
    initial: dict[str, torch.Tensor] = {}

    def poison(step: int) -> float:
        if step == 7:
            initial.update({name: t.clone() for name, t in toy.state().items()})
            return float("nan")
        return 0.0

    toy.poison = poison
    with pytest.raises(NumericsError) as caught:
        train(toy, tmp_path)
    message = str(caught.value)
    assert "Step 8: got a loss of nan" in message
    assert all(f"{row}.wav" in message for row in range(ITEMS))
    assert f"the last good checkpoint is {tmp_path / 'checkpoints' / 'learn-0000006'}" in message
    torch.testing.assert_close(toy.state(), initial, rtol=0, atol=0)
    assert metrics(tmp_path)[-1]["step"] == 6


def test_only_the_files_of_the_micro_batch_that_broke_are_named(tmp_path: Path) -> None:
    toy = Toy(dropout=0.0, accumulate=3)
    loss = toy.loss

    def broken(wrapped: torch.nn.Module, batch: Any) -> Any:
        toy.poison = lambda step: float("inf") if 2 in batch[2] else 0.0
        return loss(wrapped, batch)

    toy.loss = broken  # type: ignore[method-assign]
    with pytest.raises(
        NumericsError, match=r"a loss of inf.*updated, no checkpoint.*Files of the batch: 2\.wav, 5\.wav\."
    ):
        train(toy, tmp_path)


def test_a_gradient_that_is_not_finite_stops_too(tmp_path: Path) -> None:
    toy = Toy(dropout=0.0)
    next(toy.module.parameters()).register_hook(lambda grad: grad * float("inf"))  # type: ignore[no-untyped-call]
    initial_state = {name: t.clone() for name, t in toy.state().items()}
    with pytest.raises(NumericsError, match=r"Step 1: got a gradient norm of (nan|inf) in optimizer 'weights'"):
        train(toy, tmp_path)
    torch.testing.assert_close(toy.state(), initial_state, rtol=0, atol=0)


def test_starting_again_over_a_checkpoint_is_refused(tmp_path: Path) -> None:
    train(Toy(dropout=0.0), tmp_path)
    with pytest.raises(CheckpointError, match=r"already has the checkpoint .*learn-0000012.* \(resume=True"):
        train(Toy(dropout=0.0), tmp_path)
    with pytest.raises(CheckpointError, match="after 12 steps, but the phase has only 5"):
        train(Toy(dropout=0.0), tmp_path, resume=True, steps=5)


def test_resuming_with_other_optimisers_is_refused(tmp_path: Path) -> None:
    train(Toy(dropout=0.0), tmp_path)
    toy = Toy(dropout=0.0)
    single_limit = {"weights": toy.optimizers()["weights"]}
    toy.optimizers = lambda: single_limit  # type: ignore[method-assign]
    with pytest.raises(CheckpointError, match=r"expected optimizers \['weights'\], got \['gains', 'weights'\]"):
        train(toy, tmp_path, resume=True)


def test_progress_counts_up_with_the_loss_and_the_time_left(tmp_path: Path) -> None:
    visited: list[Progress] = []
    run(Toy(dropout=0.0), config(), phase="learn", folder=tmp_path, resume=False, on_progress=visited.append)
    assert [progress.step for progress in visited] == list(range(1, 13))
    assert all("loss" in progress.parts and progress.steps == 12 for progress in visited)
    assert visited[0].seconds_left is None
    assert visited[-1].seconds_left == 0
    assert all(progress.seconds_left is not None and progress.seconds_left > 0 for progress in visited[1:-1])


def test_the_progress_bar_shows_phase_step_and_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(Toy(dropout=0.0), tmp_path, progress=True)
    displayed = capsys.readouterr().err
    assert "learn" in displayed
    assert "12/12" in displayed
    assert "loss" in displayed


def test_wrong_lengths_are_told_all_at_once() -> None:
    with pytest.raises(ConfigError, match=r"(?s)steps: expected an integer >= 1, got 0\..*keep: expected"):
        check(LoopConfig(steps=0, keep=0))
