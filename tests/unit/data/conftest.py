"""Small recordings made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

Write = Callable[..., NDArray[np.float32]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes noise (or given samples) as an audio file below `tmp_path`, and returns its samples."""

    def write(
        name: str,
        samples: NDArray[np.float32] | None = None,
        *,
        seconds: float = 1.0,
        rate: int = 16_000,
        seed: int = 0,
        kind: str | None = None,
        subtype: str | None = None,
    ) -> NDArray[np.float32]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if samples is None:
            noise = np.random.default_rng(seed).standard_normal(round(seconds * rate))
            samples = np.clip(0.1 * noise, -1, 1).astype(np.float32)
        if path.suffix == ".opus":
            kind, subtype = "OGG", "OPUS"
        soundfile.write(path, samples, rate, format=kind, subtype=subtype)
        return samples

    return write
