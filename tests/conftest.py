"""Settings that every test runs under: one thread, fixed seeds, and hypothesis examples that CI repeats."""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=6,
    phases=(Phase.explicit, Phase.generate),  # shrinking whole models takes minutes; plans print well as they are
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("repeatable")

# Processes that tests start take one thread too; beside another worker, threads that wait for each other spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
gc.disable()


def pytest_collection_finish() -> None:
    """Take what was imported out of garbage collection.

    Learning collects garbage at the end of every phase, which takes a quarter of a second with all of torch to look
    through, more than the phase itself.
    """
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _timed_quickly() -> None:
    """Let runs time their models on half a second of audio: ten take longer than all else that a tiny run does."""
    from secateur.compress import phases

    phases.TIMED_SECONDS, phases.TIMED_REPEATS = 0.5, 2


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    """One torch thread and a fixed seed, whatever the test before did."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
