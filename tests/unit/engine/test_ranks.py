"""Two processes and one take the same steps on the same global batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import engine_toy
import pytest
import torch
from engine_toy import Toy, train
from safetensors.torch import load_file

PHASES = ["learn", "recover"]  # the second wraps the module of the first again


@pytest.fixture(scope="module")
def single_rank(tmp_path_factory: pytest.TempPathFactory) -> tuple[Toy, Path]:
    """Two phases in this process, dropout off, and their folder."""
    folder, toy = tmp_path_factory.mktemp("single_rank"), Toy(dropout=0.0)
    for phase in PHASES:
        train(toy, folder, phase=phase)
    return toy, folder


def assert_two_equal_one(two: Path, single_rank: tuple[Toy, Path]) -> None:
    toy, folder = single_rank
    for rank in range(2):
        weights, gradients = (load_file(two / f"{name}-{rank}.safetensors") for name in ("final", "gradients"))
        torch.testing.assert_close(weights, toy.state(), rtol=0, atol=1e-6)
        torch.testing.assert_close(gradients, toy.gradients, rtol=0, atol=1e-6)
    lines = zip(*((path / "metrics.jsonl").read_text().splitlines() for path in (two, folder)), strict=True)
    for actual, expected in ((json.loads(a), json.loads(b)) for a, b in lines):
        assert actual.keys() == expected.keys()
        for name in actual.keys() - {"phase", "validation"}:
            assert actual[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_with_uneven_shares_equal_one(
    train_in_ranks: Callable[..., list[int | None]], single_rank: tuple[Toy, Path], tmp_path: Path, accumulate: int
) -> None:
    assert train_in_ranks(tmp_path, dropout=0.0, accumulate=accumulate, phases=PHASES) == [0, 0]
    assert_two_equal_one(tmp_path, single_rank)


@pytest.mark.slow
def test_two_processes_under_torchrun_equal_one(single_rank: tuple[Toy, Path], tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = json.dumps({"dropout": 0.0, "accumulate": 2, "phases": PHASES})
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port),
        engine_toy.__file__, str(tmp_path), options,
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert_two_equal_one(tmp_path, single_rank)
