"""All gates of a model as one vector: draws, open probabilities and verdicts for every gated axis at once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.errors import ConfigError, nearest
from secateur.gates.hard_concrete import HardConcrete, Shape, open_logit, sample, typical
from secateur.structure import Structure
from secateur.structure.axis import KINDS

#: Open probabilities between these bounds count as undecided.
UNDECIDED = (0.05, 0.95)

#: Smallest scale of a kept unit: with some settings a gate at the verdict's boundary has a mask of zero.
SMALLEST_SCALE = 0.01


class GateSet(nn.Module):
    """Gates on every axis of some kinds.

    The draw of a step is a function of (seed, step, axis, original unit) alone, so it is the same on every rank, for
    every micro-batch, wherever it is used, and in a model from which other units have been removed.

    A gate that is `frozen` is closed for good: its mask and its open probability are zero, and nothing moves them.
    """

    def __init__(self, structure: Structure, kinds: Mapping[str, HardConcrete], *, seed: int) -> None:
        """
        Args:
            structure: The model's structure.
            kinds: Settings by kind of axis; kinds that are absent are not gated.
            seed: Of the draws and of the starting values.

        Raises:
            ConfigError: An unknown kind, one that cannot be gated, or nothing to gate.
        """
        super().__init__()
        check_kinds(kinds)
        self.structure = structure
        self.seed = seed
        self.axes = [axis for axis in structure.of_kinds(tuple(kinds)) if axis.size]
        if not self.axes:
            raise ConfigError(f"No axis of this model is of the gated kinds {', '.join(kinds) or '(none)'}.")
        settings = [(kinds[axis.kind], axis.size) for axis in self.axes]
        self.shape = Shape.of(settings)
        positions: list[int] = []
        keys, starts = [], []
        for axis, (gate, _) in zip(self.axes, settings, strict=True):
            positions += range(structure.offsets[axis.name], structure.offsets[axis.name] + axis.size)
            keys.append(_mix(np.array(axis.units, dtype=np.uint64) + _key(axis.name)))
            starts.append(np.full(axis.size, gate.start) + gate.spread * _normal(keys[-1], seed))
        self.positions = torch.tensor(positions)
        self.keys = np.concatenate(keys)
        self.log_alpha = nn.Parameter(torch.tensor(np.concatenate(starts), dtype=torch.float32))
        self.frozen = torch.zeros(len(self.positions), dtype=torch.bool)

    @property
    def gated(self) -> frozenset[str]:
        """Names of the gated axes."""
        return frozenset(axis.name for axis in self.axes)

    def draw(self, step: int) -> Tensor:
        """The masks of a step, one where nothing is gated: (units,), with a graph to log alpha."""
        uniform = torch.from_numpy(_uniform(self.keys, self.seed, step)).to(self.log_alpha)
        return self._spread(self._unless_frozen(sample(self.log_alpha, uniform, self._shape()), 0.0))

    def open_probability(self) -> Tensor:
        """P(z != 0) of every unit, one where nothing is gated: (units,) in float64, with a graph to log alpha."""
        return self._spread(torch.sigmoid(self._logit().double()))

    @torch.no_grad()
    def scores(self) -> Tensor:
        """Log-odds of being open: (units,). Above zero is a verdict to keep.

        Infinite where nothing is gated, minus infinity where a gate is frozen.
        """
        out = torch.full((self.structure.size,), float("inf"))
        out[self.positions] = self._logit().cpu()
        return out

    @torch.no_grad()
    def scales(self) -> Tensor:
        """The scale of each unit if it is kept: (units,). Never below that of a gate at the verdict's boundary."""
        shape = self._shape()
        bound = torch.log(-shape.low / shape.high)
        boundary = torch.where(shape.printed, bound, shape.temperature * bound)
        masks = typical(torch.maximum(self.log_alpha, boundary), shape)
        return self._spread(masks.clamp(min=SMALLEST_SCALE)).cpu()

    @torch.no_grad()
    def typical(self) -> Tensor:
        """The masks when nothing is drawn, by each gate's own verdict: (units,)."""
        open_ = self._spread((self._logit() > 0).float())
        return open_ * self.scales().to(open_.device)

    @torch.no_grad()
    def undecided(self) -> float:
        """Share of gates with 0.05 < P(z != 0) < 0.95."""
        probability = torch.sigmoid(self._logit())
        return float(((probability > UNDECIDED[0]) & (probability < UNDECIDED[1])).float().mean())

    @torch.no_grad()
    def open_shares(self) -> dict[str, float]:
        """Mean open probability by kind."""
        probability = self.open_probability()
        offsets = self.structure.offsets
        out: dict[str, list[Tensor]] = {}
        for axis in self.axes:
            start = offsets[axis.name]
            out.setdefault(axis.kind, []).append(probability[start : start + axis.size])
        return {kind: float(torch.cat(values).mean()) for kind, values in out.items()}

    def _logit(self) -> Tensor:
        """Log-odds of being open: (gates,)."""
        return self._unless_frozen(open_logit(self.log_alpha, self._shape()), -math.inf)

    def _unless_frozen(self, values: Tensor, closed: float) -> Tensor:
        """(gates,) -> the same where a gate is not frozen, without gradient to those that are."""
        return values.masked_fill(self.frozen.to(values.device), closed)

    def _spread(self, values: Tensor) -> Tensor:
        """(gates,) -> (units,), ones elsewhere."""
        ones = values.new_ones(self.structure.size)
        return ones.index_copy(0, self.positions.to(values.device), values)

    def _shape(self) -> Shape:
        if self.shape.low.device != self.log_alpha.device:
            self.shape = self.shape.to(self.log_alpha.device)
        return self.shape


def check_kinds(kinds: Iterable[str]) -> None:
    """Raise a ConfigError for a kind of axis that does not exist or is chosen rather than gated."""
    allowed = [kind for kind in KINDS if kind != "layer"]
    for kind in kinds:
        if kind == "layer":
            raise ConfigError("Whole layers are chosen, not gated: gate 'block', or trim layers by a selection.")
        if kind not in allowed:
            raise ConfigError(
                f"Unknown kind of axis {kind!r}; allowed are {', '.join(allowed)}.{nearest(kind, allowed)}"
            )


def _key(text: str) -> np.uint64:
    """A number that stands for a name, the same in every process."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little") >> 1)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: every input bit moves every output bit."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _uniform(keys: NDArray[np.uint64], seed: int, step: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), a function of each key, the seed and the step: (gates,)."""
    step_key = _mix(np.array([step], dtype=np.uint64) ^ _mix(np.array([seed], dtype=np.uint64)))
    return (_mix(keys ^ step_key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _normal(keys: NDArray[np.uint64], seed: int) -> NDArray[np.float64]:
    """Standard normal numbers by Box and Muller, from two draws before the first step: (gates,)."""
    first, second = (_uniform(keys, seed, 2**62 + i) for i in (1, 2))
    normal: NDArray[np.float64] = np.sqrt(-2.0 * np.log1p(-first)) * np.cos(2.0 * np.pi * second)
    return normal
