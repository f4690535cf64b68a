"""The random generators of a process: seeded at the start of a phase, saved and restored with it."""

from __future__ import annotations

import random
import zlib
from typing import Any

import numpy as np
import torch


def seed_all(seed: int, *, phase: str, rank: int) -> None:
    """Seed Python, NumPy and torch from (seed, phase, rank), whatever the process did before."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(phase.encode()), rank])
    python_seed, numpy_seed, torch_seed = (int(word) for word in sequence.generate_state(3))
    random.seed(python_seed)
    np.random.seed(numpy_seed)
    torch.manual_seed(torch_seed)  # also the accelerators'


def generator_states() -> dict[str, Any]:
    """The states of the global generators of Python, NumPy, torch and its current accelerator."""
    name, key, position, has_gauss, gauss = np.random.get_state(legacy=True)
    assert isinstance(key, np.ndarray)
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(key.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_generators(states: dict[str, Any]) -> None:
    """Put back what `generator_states` gave."""
    name, key, position, has_gauss, gauss = states["numpy"]
    random.setstate(states["python"])
    np.random.set_state((name, key.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
