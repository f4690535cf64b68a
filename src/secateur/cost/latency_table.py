"""Table of measured times: milliseconds of every block of an architecture, as functions of widths."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt, Le
from torch import Tensor

from secateur.bounds import PositiveInt
from secateur.errors import ConfigError, SecateurError
from secateur.records.files import plain, read_json, to_line
from secateur.schema import Mistakes, build


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Conditions of a latency measurement: the inference-only form of the model (`for_inference`), on the CPU."""

    seconds: Annotated[float, Gt(0), Le(3600)] = 10.0
    """length of each recording"""
    batch: PositiveInt = 1
    """recordings in a batch"""
    threads: PositiveInt | None = None
    """of the processor; None takes what torch takes"""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """dtype of the forward pass"""
    tuned: bool = True
    """large buffers stay in the process and float32 products take the faster library where that is as exact, as in
    `bench`; False leaves both as they are"""

    @property
    def audio(self) -> float:
        """Seconds of audio in a measurement."""
        return self.seconds * self.batch

    def __str__(self) -> str:
        threads = "" if self.threads is None else f", {self.threads} thread{'s' if self.threads > 1 else ''}"
        settings = "tuned" if self.tuned else "default"
        return f"{self.batch} x {self.seconds:g} s, {self.dtype}{threads}, {settings} settings"


@dataclass(frozen=True, kw_only=True)
class LatencyCurve:
    """Milliseconds at some widths, linear in between.

    Attributes:
        widths: From 0 to the dense model's, ascending.
        ms: At each width, ascending.
    """

    widths: tuple[float, ...]
    ms: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_grid(self.widths)
        if len(self.ms) != len(self.widths):
            raise ConfigError(f"{len(self.widths)} widths need as many times, got {len(self.ms)}.")
        _check_times(self.ms)

    def interpolate(self, width: Tensor) -> Tensor:
        """Interpolate at widths of any shape: -> milliseconds of the same shape, with a graph to the widths."""
        interval, fraction = _locate(self.widths, width)
        values = torch.tensor(self.ms, dtype=torch.float64)
        return values[interval] * (1 - fraction) + values[interval + 1] * fraction


@dataclass(frozen=True, kw_only=True)
class LatencySurface:
    """Milliseconds over a grid of inputs and outputs, bilinear in between.

    Attributes:
        inputs: From 0 to the dense model's, ascending.
        outputs: From 0 to the dense model's, ascending.
        ms: At each pair, 0 without outputs and ascending along both: (inputs, outputs).
    """

    inputs: tuple[float, ...]
    outputs: tuple[float, ...]
    ms: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        _check_grid(self.inputs)
        _check_grid(self.outputs)
        if len(self.ms) != len(self.inputs) or any(len(row) != len(self.outputs) for row in self.ms):
            raise ConfigError(f"A grid of {len(self.inputs)} x {len(self.outputs)} widths needs a time for each.")
        # Times rise along rows and columns, except for column 0: no outputs take no time for any inputs.
        columns = list(zip(*self.ms, strict=True))
        for times in [*self.ms, *columns[1:]]:
            _check_times(times)
        if any(columns[0]):
            raise ConfigError(f"A convolution without outputs takes no time, got {list(columns[0])}.")

    def interpolate(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Interpolate at inputs and outputs of equal shape: -> milliseconds of the same shape, with a graph to each."""
        row, row_fraction = _locate(self.inputs, inputs)
        column, column_fraction = _locate(self.outputs, outputs)
        values = torch.tensor(self.ms, dtype=torch.float64)
        # First between two outputs, for the inputs below and above; then between these inputs.
        lower_values, upper_values = (
            values[row_index, column] * (1 - column_fraction) + values[row_index, column + 1] * column_fraction
            for row_index in (row, row + 1)
        )
        return lower_values * (1 - row_fraction) + upper_values * row_fraction


@dataclass(frozen=True, kw_only=True)
class AttentionTime:
    """Milliseconds of an attention block: a constant for the block, and additions for each head.

    Attributes:
        block: A block with any heads.
        run: Each run of heads of equal dimensions, which are computed together.
        head: Each head, independent of its dimensions.
        query_key: By a head's query/key dimensions, its share of the projections included; 0 at 0.
        value_output: By a head's value/output dimensions; 0 at 0.
    """

    block: float
    run: float
    head: float
    query_key: LatencyCurve
    value_output: LatencyCurve

    def __post_init__(self) -> None:
        _check_nonnegative(block=self.block, run=self.run, head=self.head)
        for name, curve in (("query_key", self.query_key), ("value_output", self.value_output)):
            if curve.ms[0]:
                raise ConfigError(f"{name}: no dimensions take no time, got {curve.ms[0]}.")


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Measured times of the blocks of an architecture on a machine.

    Attributes:
        model_type: Stock model type of the architecture.
        conditions: Conditions of the measurement, with the number of threads resolved.
        first_convolution: By its outputs; at 0 the constant time of the front end.
        convolutions: Of each later front-end layer, by inputs and outputs.
        projection: The feature projection, by the last layer's channels; at 0 its constant time.
        positional: The positional convolution, by its groups; at 0 its constant time.
        attention: Of one layer.
        feed_forward: Of one layer, by units; at 0 the constant time of a block with any unit.
        layer: Norms and residuals of one layer.
        rest: Time of the rest of the model.
        decides: Key of a cached table: machine, versions, architecture, conditions.
        agreement: Predicted over measured time: of the measured parts, and of whole models measured beside them.
        format: Of the file.
    """

    model_type: str
    conditions: Conditions
    first_convolution: LatencyCurve
    convolutions: tuple[LatencySurface, ...]
    projection: LatencyCurve
    positional: LatencyCurve
    attention: AttentionTime
    feed_forward: LatencyCurve
    layer: float
    rest: float
    decides: Mapping[str, Any]
    agreement: Mapping[str, Any] = field(default_factory=dict)
    format: Literal[1] = 1

    def __post_init__(self) -> None:
        _check_nonnegative(layer=self.layer, rest=self.rest)

    @property
    def identity(self) -> str:
        """Hash of the table's content, sixteen hexadecimal digits."""
        numbers = json.loads(to_line(self), parse_int=float)  # 4 and 4.0 are the same width
        return hashlib.sha256(to_line(numbers).encode()).hexdigest()[:16]

    @property
    def machine(self) -> str:
        """The processor that was measured."""
        return str(self.decides.get("cpu", "an unknown processor"))

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Load a table from a file.

        Raises:
            SecateurError: The file is missing, or holds no latency table.
        """
        data = read_json(path)
        try:
            return build(cls, data)
        except Mistakes as mistakes:
            raise SecateurError(f"{path}: not a table of latencies: {mistakes.messages[0]}") from None

    def to_json(self) -> Any:
        """Return the table as plain JSON, which `load` reads back to the last bit."""
        return plain(self)


def _locate(grid: tuple[float, ...], width: Tensor) -> tuple[Tensor, Tensor]:
    """Return the interval of the grid that each width lies in, and the fraction of the interval below the width."""
    knots = torch.tensor(grid, dtype=torch.float64)
    # Width 6 on the grid 0, 4, 8: interval 1, fraction 0.5. Width 8 is the end of interval 1, hence the clamp.
    interval = (torch.searchsorted(knots, width.detach(), right=True) - 1).clamp(0, len(grid) - 2)
    return interval, (width - knots[interval]) / (knots[interval + 1] - knots[interval])


def _check_grid(widths: tuple[float, ...]) -> None:
    if len(widths) < 2 or widths[0] != 0 or any(b <= a for a, b in pairwise(widths)):
        raise ConfigError(f"Widths go from 0 up, got {list(widths)}.")


def _check_times(times: tuple[float, ...]) -> None:
    is_rising = all(b > a for a, b in pairwise(times))
    if not (times[0] >= 0 and times[-1] < math.inf and is_rising):
        raise ConfigError(f"Times rise with widths, got {list(times)}.")


def _check_nonnegative(**times: float) -> None:
    for name, value in times.items():
        if not 0 <= value < math.inf:
            raise ConfigError(f"{name}: got {value}, a time is not below 0.")
