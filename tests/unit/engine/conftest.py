"""Processes for tests of the engine, forked from a process with torch loaded, for a fast start."""

from __future__ import annotations

import multiprocessing
import socket
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from engine_toy import job

Start = Callable[..., ForkServerProcess]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def start() -> Start:
    """Return a function that trains the toy in a new process: `start(folder, **options)`, see `engine_toy.job`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["secateur.engine", "torch._dynamo"])  # an optimizer imports the latter

    def start_job(folder: Path, **options: Any) -> ForkServerProcess:
        folder.mkdir(exist_ok=True)
        process = context.Process(target=job, args=(folder, options))
        process.start()
        return process

    return start_job


@pytest.fixture(scope="session")
def train_in_ranks(start: Start) -> Callable[..., list[int | None]]:
    """Return a function that trains the toy in two processes with gloo, and returns the exit codes."""

    def train(folder: Path, **options: Any) -> list[int | None]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks = [
            start(folder, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, **options) for rank in range(2)
        ]
        for process in ranks:
            process.join(60)
        return [process.exitcode for process in ranks]

    return train
