"""A whole run killed with SIGKILL and resumed ends with the bytes of one that was not."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch
from prune_job import STEPS, job
from pruning_toy import write_teacher, write_wavs
from safetensors.torch import load_file

Start = Callable[..., ForkServerProcess]
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the teacher and recordings."""
    root = tmp_path_factory.mktemp("root")
    write_wavs(root / "speech")
    write_teacher(root / "teacher")
    return root


@pytest.fixture(scope="module")
def start(root: Path) -> Start:
    """Starts the run in a new process, forked from one that has torch and transformers loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["secateur.compress.phases", "transformers.models.wavlm", "torch._dynamo"])

    def start_job(out: Path, kill: tuple[str, int] | None = None) -> ForkServerProcess:
        process = context.Process(target=job, args=(str(root), str(out), kill))
        process.start()
        return process

    return start_job


@pytest.fixture(scope="module")
def whole(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert finish(start(folder)) == 0
    return folder


def finish(process: ForkServerProcess) -> int | None:
    process.join(120)
    return process.exitcode


def progress(folder: Path) -> int:
    """How far a run is, in lines of its log and files."""
    try:
        files = [path for path in folder.rglob("*") if path.is_file()]
        return len(files) + sum(path.read_bytes().count(b"\n") for path in files if path.name == "metrics.jsonl")
    except FileNotFoundError:  # renamed while we looked
        return progress(folder)


def kill_at(process: ForkServerProcess, folder: Path, expected: float, delay: float) -> int | None:
    """Kill a process some seconds after its run has come as far as wanted; whatever it is doing then."""
    while process.exitcode is None and progress(folder) < expected:
        time.sleep(0.003)
    process.join(delay)
    if process.exitcode is None:
        process.kill()
    return finish(process)


def assert_same_end(folder: Path, whole: Path) -> None:
    for name in ("model/model.safetensors", "learned/model.safetensors", "learned/gates.safetensors"):
        actual, expected = load_file(folder / name), load_file(whole / name)
        assert actual.keys() == expected.keys()
        assert all(torch.equal(actual[key], expected[key]) for key in expected), name
    for name in ("metrics.jsonl", "selection.json", "choice.json", "model/config.json", "recipe.yaml"):
        candidate, reference = (
            path.read_bytes().replace(str(path).encode(), b"OUT") for path in (folder / name, whole / name)
        )
        if name == "recipe.yaml":
            candidate, reference = (
                t.replace(str(p).encode(), b"OUT") for t, p in ((candidate, folder), (reference, whole))
            )
        assert candidate == reference, name
    assert listing(folder) == listing(whole)


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("kill", [("save", 3), ("recover step", STEPS - 1), ("model", 2)], ids=str)
def test_a_killed_run_ends_as_one_that_was_not(
    start: Start, whole: Path, tmp_path: Path, kill: tuple[str, int]
) -> None:
    assert finish(start(tmp_path / "run", kill)) == KILLED
    assert not (tmp_path / "run" / "model").exists()
    assert finish(start(tmp_path / "run")) == 0
    assert_same_end(tmp_path / "run", whole)


#: Each list is one run: killed at every point of it in turn, then finished. Numbers are how far it has come then, as
#: shares of the whole run, and a random moment is added; words are places, half of them inside a save.
KILLS: list[list[float | tuple[str, int]]] = [
    [0.05, 0.3],
    [0.15, 0.4, 0.6],
    [0.25, 0.5],
    [0.35, 0.7, 0.75],
    [0.02, 0.45, 0.8, 0.9],
    [("learn step", 2), ("removal", 1)],
    [("save", 2), ("rename", 4), 0.5],
    [("learned", 1), ("json", 1), ("json", 2)],
    [("verify", 1), ("save", 2), ("recover step", 3)],
    [("model", 1), ("json", 4), ("model", 1), ("record", 1)],
]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(KILLS)))
def test_ten_runs_killed_again_and_again_end_as_one_that_was_not(
    start: Start, whole: Path, tmp_path: Path, number: int
) -> None:
    folder, kills, draw = tmp_path / "run", 0, random.Random(number)
    for point in KILLS[number]:
        if isinstance(point, tuple):
            code = finish(start(folder, point))
        else:
            code = kill_at(start(folder), folder, point * progress(whole), draw.uniform(0, 0.2))
        assert code in (0, KILLED)
        kills += code == KILLED
    assert kills > 0
    assert finish(start(folder)) == 0
    assert_same_end(folder, whole)
