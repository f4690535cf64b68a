"""Random numbers that are a function of a unit, a seed and a step, with no state between draws."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from secateur.structure import Axis

#: Steps of the two uniform draws behind the normal numbers of the first log alpha; no run has as many steps.
INITIAL_STEPS = (2**62 + 1, 2**62 + 2)


def unit_keys(axes: Sequence[Axis]) -> NDArray[np.uint64]:
    """Return the keys of the units of some axes: (units,).

    A key depends on the name of the axis and the original index of the unit only. A unit keeps its key when units
    before it are cut, and whichever other kinds are gated.
    """
    keys = [_splitmix64(np.array(axis.units, dtype=np.uint64) + _hash_name(axis.name)) for axis in axes]
    return np.concatenate(keys)


def uniform(keys: NDArray[np.uint64], seed: int, step: int) -> NDArray[np.float64]:
    """Return uniform numbers in [0, 1), a function of each key, the seed and the step: (keys,)."""
    step_key = _splitmix64(np.array([step], dtype=np.uint64) ^ _splitmix64(np.array([seed], dtype=np.uint64)))
    # The upper 53 of 64 bits: as many as a float64 holds exactly.
    return (_splitmix64(keys ^ step_key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(keys: NDArray[np.uint64], seed: int) -> NDArray[np.float64]:
    """Return standard normal numbers by the Box-Muller transform, a function of each key and the seed: (keys,)."""
    first, second = (uniform(keys, seed, step) for step in INITIAL_STEPS)
    # Finite, since uniform numbers are below 1.
    values: NDArray[np.float64] = np.sqrt(-2.0 * np.log1p(-first)) * np.cos(2.0 * np.pi * second)
    return values


def _hash_name(text: str) -> np.uint64:
    """Return a number for a name, the same in every process (Python's own `hash` is salted)."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    # One bit less than 64, so that adding the index of a unit cannot overflow.
    return np.uint64(int.from_bytes(digest, "little") >> 1)


def _splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the splitmix64 finalizer of each number: every input bit moves every output bit."""
    # Sums and products modulo 2^64 are part of the function.
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
