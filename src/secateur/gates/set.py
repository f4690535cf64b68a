"""All gates of a model as one vector: draws, open probabilities and verdicts for every gated axis at once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.errors import ConfigError, did_you_mean
from secateur.gates.hard_concrete import GateParameters, HardConcrete, deterministic_mask, open_logit, sample
from secateur.structure import Structure
from secateur.structure.axis import KINDS

#: Open probabilities between these bounds count as undecided.
UNDECIDED_BOUNDS = (0.05, 0.95)

#: Smallest scale of a kept unit: with some settings a gate at the verdict's boundary has a mask of zero.
MIN_SCALE = 0.01


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
        self.gate_parameters = GateParameters.from_settings(settings)
        positions: list[int] = []
        keys, starts = [], []
        for axis, (gate, _) in zip(self.axes, settings, strict=True):
            positions += range(structure.offsets[axis.name], structure.offsets[axis.name] + axis.size)
            keys.append(_splitmix64(np.array(axis.units, dtype=np.uint64) + _hash_name(axis.name)))
            starts.append(np.full(axis.size, gate.initial_log_alpha) + gate.spread * _normal(keys[-1], seed))
        self.positions = torch.tensor(positions)
        self.keys = np.concatenate(keys)
        self.log_alpha = nn.Parameter(torch.tensor(np.concatenate(starts), dtype=torch.float32))
        self.is_frozen = torch.zeros(len(self.positions), dtype=torch.bool)

    @property
    def gated_axes(self) -> frozenset[str]:
        """Names of the gated axes."""
        return frozenset(axis.name for axis in self.axes)

    def draw(self, step: int) -> Tensor:
        """The masks of a step, one where nothing is gated: (units,), with a graph to log alpha."""
        uniform = torch.from_numpy(_uniform(self.keys, self.seed, step)).to(self.log_alpha)
        return self._to_units(self._fill_frozen(sample(self.log_alpha, uniform, self._parameters_on_device()), 0.0))

    def open_probability(self) -> Tensor:
        """P(z != 0) of every unit, one where nothing is gated: (units,) in float64, with a graph to log alpha."""
        return self._to_units(torch.sigmoid(self._logit().double()))

    @torch.no_grad()
    def scores(self) -> Tensor:
        """Log-odds of being open: (units,). Above zero is a verdict to keep.

        Infinite where nothing is gated, minus infinity where a gate is frozen.
        """
        unit_scores = torch.full((self.structure.size,), float("inf"))
        unit_scores[self.positions] = self._logit().cpu()
        return unit_scores

    @torch.no_grad()
    def scales(self) -> Tensor:
        """The scale of each unit if it is kept: (units,). Never below that of a gate at the verdict's boundary."""
        parameters = self._parameters_on_device()
        bound = torch.log(-parameters.low / parameters.high)
        boundary = torch.where(parameters.as_printed, bound, parameters.temperature * bound)
        masks = deterministic_mask(torch.maximum(self.log_alpha, boundary), parameters)
        return self._to_units(masks.clamp(min=MIN_SCALE)).cpu()

    @torch.no_grad()
    def deterministic_mask(self) -> Tensor:
        """The masks when nothing is drawn, by each gate's own verdict: (units,)."""
        is_open = self._to_units((self._logit() > 0).float())
        return is_open * self.scales().to(is_open.device)

    @torch.no_grad()
    def undecided_share(self) -> float:
        """Share of gates with 0.05 < P(z != 0) < 0.95."""
        probability = torch.sigmoid(self._logit())
        return float(((probability > UNDECIDED_BOUNDS[0]) & (probability < UNDECIDED_BOUNDS[1])).float().mean())

    @torch.no_grad()
    def open_shares(self) -> dict[str, float]:
        """Mean open probability by kind."""
        probability = self.open_probability()
        offsets = self.structure.offsets
        by_kind: dict[str, list[Tensor]] = {}
        for axis in self.axes:
            start = offsets[axis.name]
            by_kind.setdefault(axis.kind, []).append(probability[start : start + axis.size])
        return {kind: float(torch.cat(values).mean()) for kind, values in by_kind.items()}

    def _logit(self) -> Tensor:
        """Log-odds of being open: (gates,)."""
        return self._fill_frozen(open_logit(self.log_alpha, self._parameters_on_device()), -math.inf)

    def _fill_frozen(self, values: Tensor, fill_value: float) -> Tensor:
        """(gates,) -> the same where a gate is not frozen, without gradient to those that are."""
        return values.masked_fill(self.is_frozen.to(values.device), fill_value)

    def _to_units(self, values: Tensor) -> Tensor:
        """(gates,) -> (units,), ones elsewhere."""
        ones = values.new_ones(self.structure.size)
        return ones.index_copy(0, self.positions.to(values.device), values)

    def _parameters_on_device(self) -> GateParameters:
        if self.gate_parameters.low.device != self.log_alpha.device:
            self.gate_parameters = self.gate_parameters.to(self.log_alpha.device)
        return self.gate_parameters


def check_kinds(kinds: Iterable[str]) -> None:
    """Raise a ConfigError for a kind of axis that does not exist or is chosen rather than gated."""
    allowed = [kind for kind in KINDS if kind != "layer"]
    for kind in kinds:
        if kind == "layer":
            raise ConfigError("Whole layers are chosen, not gated: gate 'block', or trim layers by a selection.")
        if kind not in allowed:
            raise ConfigError(
                f"Unknown kind of axis {kind!r}; allowed are {', '.join(allowed)}.{did_you_mean(kind, allowed)}"
            )


def _hash_name(text: str) -> np.uint64:
    """A number that stands for a name, the same in every process."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little") >> 1)


def _splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: every input bit moves every output bit."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _uniform(keys: NDArray[np.uint64], seed: int, step: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), a function of each key, the seed and the step: (gates,)."""
    step_key = _splitmix64(np.array([step], dtype=np.uint64) ^ _splitmix64(np.array([seed], dtype=np.uint64)))
    return (_splitmix64(keys ^ step_key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _normal(keys: NDArray[np.uint64], seed: int) -> NDArray[np.float64]:
    """Standard normal numbers by Box and Muller, from two draws before the first step: (gates,)."""
    first, second = (_uniform(keys, seed, 2**62 + i) for i in (1, 2))
    normal: NDArray[np.float64] = np.sqrt(-2.0 * np.log1p(-first)) * np.cos(2.0 * np.pi * second)
    return normal
