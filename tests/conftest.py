"""Settings that every test runs under: one thread, fixed seeds, and hypothesis examples that CI repeats."""

from __future__ import annotations

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


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    """One torch thread and a fixed seed, whatever the test before did."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
