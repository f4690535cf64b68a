"""The global random generators of a process, seeded at the start of a phase and saved in checkpoints."""

from __future__ import annotations

import random
import zlib
from typing import Any

import numpy as np
import torch


def seed_all(seed: int, *, phase: str, rank: int) -> None:
    """Seed the generators of Python, NumPy and torch from (seed, phase, rank)."""
    # crc32, since Python's hash of a string differs between processes.
    sequence = np.random.SeedSequence([seed, zlib.crc32(phase.encode()), rank])
    python_seed, numpy_seed, torch_seed = (int(word) for word in sequence.generate_state(3))  # 32 bits each
    random.seed(python_seed)
    np.random.seed(numpy_seed)
    torch.manual_seed(torch_seed)  # CPU and accelerators


def generator_states() -> dict[str, Any]:
    """Return the states of the global generators of Python, NumPy, torch and the current accelerator."""
    name, key, position, has_gauss, gauss = np.random.get_state(legacy=True)
    assert isinstance(key, np.ndarray)  # 624 words of 32 bits; torch has no full support of uint32, hence int64
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(key.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_generators(states: dict[str, Any]) -> None:
    """Restore the states returned by `generator_states`."""
    name, key, position, has_gauss, gauss = states["numpy"]
    random.setstate(states["python"])
    np.random.set_state((name, key.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
