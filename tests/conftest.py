"""Settings of all tests: a single thread, fixed seeds and reproducible hypothesis examples."""

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
    phases=(Phase.explicit, Phase.generate),  # no shrinking, which takes minutes with models
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("repeatable")

# Processes started by tests have one thread too: threads that wait for each other spin and slow down other workers.
os.environ.setdefault("OMP_NUM_THREADS", "1")
gc.disable()


def pytest_collection_finish() -> None:
    """Exclude imported modules from garbage collection.

    Learning collects garbage at the end of every phase. With the objects of torch this takes a quarter of a second,
    longer than the phase of a toy model.
    """
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _timed_quickly() -> None:
    """Time the models of runs on half a second of audio, since ten seconds take longer than the rest of a tiny run."""
    from secateur.compress import stage_measurements

    stage_measurements.TIMED_SECONDS, stage_measurements.TIMED_REPEATS = 0.5, 2


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    """Set a single torch thread and a fixed seed before each test."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
