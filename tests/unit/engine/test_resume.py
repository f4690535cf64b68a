"""An interrupted and resumed phase ends with the bytes of an uninterrupted one."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

Start = Callable[..., ForkServerProcess]
KILLED = -signal.SIGKILL


def finish(process: ForkServerProcess) -> int | None:
    process.join(60)
    return process.exitcode


@pytest.fixture(scope="module")
def uninterrupted(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted phase."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert finish(start(folder)) == 0
    return folder


def assert_same_end(folder: Path, uninterrupted: Path) -> None:
    """Weights bit-equal, metrics byte-equal, the same checkpoints, nothing half-written left."""
    actual, expected = load_file(folder / "final-0.safetensors"), load_file(uninterrupted / "final-0.safetensors")
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name
    assert (folder / "metrics.jsonl").read_bytes() == (uninterrupted / "metrics.jsonl").read_bytes()
    for name in ("state.safetensors", "optimisers.safetensors", "meta.json"):
        final = f"checkpoints/learn-0000012/{name}"
        assert (folder / final).read_bytes() == (uninterrupted / final).read_bytes(), name
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["learn-0000009", "learn-0000012"]


@pytest.mark.parametrize(
    "kill",
    [
        ("begin", 1), ("end", 2), ("tensors", 3), ("rename", 3), ("begin", 4), ("begin", 6), ("tensors", 9),
        ("removal", 9), ("end", 11), ("rename", 12), ("removal", 12),
    ],
    ids=lambda kill: f"{kill[0]}-{kill[1]}",
)  # fmt: skip
def test_a_run_killed_and_resumed_ends_bit_equal_to_one_that_was_not(
    start: Start, uninterrupted: Path, tmp_path: Path, kill: tuple[str, int]
) -> None:
    assert finish(start(tmp_path, kill=kill)) == KILLED
    assert not (tmp_path / "final-0.safetensors").exists()
    assert finish(start(tmp_path, resume=True)) == 0
    assert_same_end(tmp_path, uninterrupted)


def test_a_run_killed_again_and_again_at_random_moments_ends_bit_equal(
    start: Start, uninterrupted: Path, tmp_path: Path
) -> None:
    draw, kills = random.Random(5), 0
    for _ in range(10):
        process = start(tmp_path, resume=True, slow=0.02)
        process.join(draw.uniform(0.1, 0.5))
        if process.exitcode is None:
            process.kill()
        kills += finish(process) == KILLED
    assert kills > 0
    assert finish(start(tmp_path, resume=True)) == 0
    assert_same_end(tmp_path, uninterrupted)


def test_two_killed_processes_resume_each_with_its_own_random_numbers(
    train_in_ranks: Callable[..., list[Any]], tmp_path: Path
) -> None:
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    assert train_in_ranks(uninterrupted, accumulate=2) == [0, 0]
    assert train_in_ranks(killed, accumulate=2, kill=("begin", 8)) == [KILLED, KILLED]
    assert train_in_ranks(killed, accumulate=2, resume=True) == [0, 0]
    assert_same_end(killed, uninterrupted)


def test_a_full_disk_leaves_the_last_good_checkpoint_and_names_it(
    start: Start, uninterrupted: Path, tmp_path: Path
) -> None:
    assert finish(start(tmp_path, full=True)) == 1
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert names == ["learn-0000003"]
    message = (tmp_path / "error.txt").read_text()
    assert "at step 6" in message
    assert f"the last good checkpoint is {tmp_path / 'checkpoints' / 'learn-0000003'}" in message
    assert finish(start(tmp_path, resume=True)) == 0
    assert_same_end(tmp_path, uninterrupted)


def test_no_file_of_a_run_is_a_pickle(uninterrupted: Path) -> None:
    suffixes = {path.suffix for path in uninterrupted.rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".json", ".jsonl"}
    for path in uninterrupted.rglob("*.safetensors"):
        data = path.read_bytes()
        assert data[8:9] == b"{"  # a header of JSON after its length, and neither zip nor pickle opcodes
