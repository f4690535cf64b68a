"""From measured times to a table: least squares over piecewise linear functions that rise everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.benchmarking.latency.shapes import ModelShape, architecture_view, time_key
from secateur.cost.latency_table import AttentionTime, LatencyCurve, LatencySurface, LatencyTable
from secateur.records.block_part import ATTENTION, FEED_FORWARD, FRONT_END, POSITIONAL_CONV, PROJECTION, REST

FloatArray = NDArray[np.float64]

#: Knots, as shares of the dense width. Narrow widths are a larger part of what is left of a strongly pruned model. The
#: step from all channels but one to all is apart: powers of two, as dense models have them, may be slower than others,
#: since rows that lie a power of two apart share few lines of a cache.
CONVOLUTION_KNOTS = (0.0, 0.25, 1.0)
PROJECTION_KNOTS = (0.0, 0.5, 1.0)
GROUP_KNOTS = (0.0, 0.5, 1.0)
HEAD_KNOTS = (0.0, 0.25, 0.5, 1.0)
UNIT_KNOTS = (0.0, 0.125, 0.5, 1.0)
#: Every step from knot to knot takes at least this share of the longest time, so that no width is free of charge.
_MIN_STEP_SHARE = 1e-4
#: Times below this share of the longest count by their absolute error, others by their relative one.
_SMALL_TIME_SHARE = 0.05


def fit_table_parts(
    architecture: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, float]]:
    """Fit the parts of a `LatencyTable`; return the parts and the root mean square of the relative errors of each fit.

    Args:
        architecture: Fields of a stock config.
        rows: Rows that `measure` returned.
    """
    front_end_rows = [row for row in rows if row["name"] == "front end"]
    (layers,) = (row for row in rows if row["name"] == "layers")
    parts: dict[str, Any] = {}
    errors: dict[str, float] = {}
    times = [row["ms"][FRONT_END] for row in front_end_rows]
    convolutions, errors["front end"] = _fit_front_end(
        architecture["conv_dim"], [row["channels"] for row in front_end_rows], times
    )
    parts |= convolutions
    last_channels = [row["channels"][-1] for row in front_end_rows]
    parts["projection"], errors["projection"] = _fit_curve(
        PROJECTION_KNOTS,
        architecture["conv_dim"][-1],
        last_channels,
        [row["ms"][PROJECTION] for row in front_end_rows],
    )
    depth = len(layers["units"])
    attention, feed_forward = (
        [layers["ms"][time_key(part, layer)] for layer in range(depth)] for part in (ATTENTION, FEED_FORWARD)
    )
    width = architecture["hidden_size"] // architecture["num_attention_heads"]
    parts["attention"], errors["attention"] = _fit_attention(width, layers["heads"], attention)
    parts["feed_forward"], errors["feed-forward"] = _fit_curve(
        UNIT_KNOTS, architecture["intermediate_size"], layers["units"], feed_forward
    )
    positions = [row for row in rows if row["name"] == "positions"]
    parts["positional"], errors["positions"] = _fit_curve(
        GROUP_KNOTS,
        architecture["num_conv_pos_embedding_groups"],
        [row["groups"] for row in positions],
        [row["ms"][POSITIONAL_CONV] for row in positions],
    )
    one_layer_rest = float(
        np.median([row["ms"][REST] for row in front_end_rows])
    )  # of one layer, whose blocks are gone
    # The model `layers` has depth - 1 more layers, which account for the longer rest.
    parts["layer"] = max(0.0, (layers["ms"][REST] - one_layer_rest) / (depth - 1))
    parts["rest"] = max(0.0, one_layer_rest - parts["layer"])
    return parts, errors


def predicted_to_measured(
    architecture: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], table: LatencyTable
) -> list[float]:
    """Return predicted over measured time of the whole models, the dense model first."""
    from secateur.cost import Terms
    from secateur.cost.predicted_time import latency
    from secateur.structure import normalize

    structure = architecture_view(architecture).structure
    cost = latency(Terms(structure), table)
    return [
        cost.count(normalize(structure, _shape_of_row(row).selection(structure)).selection) / row["ms"]["whole"]
        for row in rows
        if row["name"] in ("dense", "whole")
    ]


def _shape_of_row(row: Mapping[str, Any]) -> ModelShape:
    return ModelShape(**{name: row[name] for name in ("name", "channels", "groups", "heads", "units")})


def _fit_front_end(
    sizes: Sequence[int], widths: Sequence[Sequence[int]], times: Sequence[float]
) -> tuple[dict[str, Any], float]:
    """Fit a curve of the first convolution's outputs, and a surface of inputs and outputs for every later layer.

    A convolution takes what its outputs take, and what the product of inputs and outputs takes, its MACs.
    """
    grids = [tuple(sorted({*_knot_widths(CONVOLUTION_KNOTS, size), max(0.0, size - 1.0)})) for size in sizes]
    ramps = [_ramps(grid, [row[i] for row in widths]) for i, grid in enumerate(grids)]  # (rows, steps) each
    shares = np.asarray(widths) / np.asarray(sizes)
    products = shares[:, :-1] * shares[:, 1:]  # (rows, convolutions but the first)
    columns = [np.ones((len(times), 1)), *ramps, products]
    steps, error = _solve_steps(np.concatenate(columns, axis=1), np.asarray(times))
    # Two layers of 3 steps have 1, 3, 3 and 1 columns, which are split at 1, 4 and 7.
    constant, *width_steps, product_steps = np.split(steps, np.cumsum([column.shape[1] for column in columns])[:-1])
    surfaces = []
    for output_steps, product_step, (inputs, outputs) in zip(
        width_steps[1:], product_steps, pairwise(grids), strict=True
    ):
        # (inputs, outputs): milliseconds of the MACs, `product_step` at the dense widths
        grid = product_step * np.outer(np.asarray(inputs) / inputs[-1], np.asarray(outputs) / outputs[-1])
        grid[:, 1:] += output_steps.cumsum()  # column 0 stays 0: no outputs take no time
        surfaces.append(LatencySurface(inputs=inputs, outputs=outputs, ms=tuple(tuple(row) for row in grid.tolist())))
    first_convolution = LatencyCurve(widths=grids[0], ms=_cumulative_times(float(constant[0]), width_steps[0]))
    return {"first_convolution": first_convolution, "convolutions": tuple(surfaces)}, error


def _fit_attention(
    width: int, heads: Sequence[Sequence[Sequence[int]]], times: Sequence[float]
) -> tuple[AttentionTime, float]:
    """Fit the time of an attention block, and the additions of each run of equal heads and each head."""
    grid = _knot_widths(HEAD_KNOTS, width)
    sums = [
        [_ramps(grid, [head[side] for head in layer]).sum(axis=0) for layer in heads] for side in (0, 1)
    ]  # of each layer's heads: (layers, steps) each
    # Heads (64, 64), (64, 64), (32, 64): 1 block, 2 runs, 3 heads.
    count = [[1.0, len({tuple(head) for head in layer}), len(layer)] for layer in heads]
    steps, error = _solve_steps(np.concatenate([count, *sums], axis=1), np.asarray(times))
    query_key, value_output = np.split(steps[3:], 2)
    return AttentionTime(
        block=float(steps[0]),
        run=float(steps[1]),
        head=float(steps[2]),
        query_key=LatencyCurve(widths=grid, ms=_cumulative_times(0.0, query_key)),
        value_output=LatencyCurve(widths=grid, ms=_cumulative_times(0.0, value_output)),
    ), error


def _fit_curve(
    shares: Sequence[float], size: int, widths: Sequence[int], times: Sequence[float]
) -> tuple[LatencyCurve, float]:
    grid = _knot_widths(shares, size)
    features = np.concatenate([np.ones((len(times), 1)), _ramps(grid, widths)], axis=1)
    steps, error = _solve_steps(features, np.asarray(times))
    return LatencyCurve(widths=grid, ms=_cumulative_times(float(steps[0]), steps[1:])), error


def _knot_widths(shares: Sequence[float], size: int) -> tuple[float, ...]:
    """Return widths at given shares of a size; fewer widths if the size is small."""
    return tuple(float(width) for width in sorted({round(size * share) for share in shares}))


def _ramps(grid: Sequence[float], widths: Sequence[int]) -> FloatArray:
    """Return the completed fraction of every step of the grid at each width: (widths, steps), from 0 to 1.

    Example: widths 1 and 6 on the grid 0, 4, 8 give [[0.25, 0], [1, 0.5]]. With step times of 2 and 3 ms, width 6 takes
    1 * 2 + 0.5 * 3 = 3.5 ms.
    """
    values = np.asarray(widths, dtype=np.float64)[:, None]
    low, high = np.asarray(grid[:-1]), np.asarray(grid[1:])
    ramps: FloatArray = np.clip((values - low) / (high - low), 0.0, 1.0)
    return ramps


def _cumulative_times(start: float, steps: FloatArray) -> tuple[float, ...]:
    return tuple(np.cumsum([start, *steps]).tolist())


def _solve_steps(features: FloatArray, times: FloatArray) -> tuple[FloatArray, float]:
    """Solve for steps above a minimum with sums nearest to the times; return the steps and the relative error.

    Args:
        features: Completed fraction of each step in each time: (times, steps).
        times: Milliseconds.
    """
    weights = 1.0 / np.maximum(times, _SMALL_TIME_SHARE * times.max())
    min_steps = _MIN_STEP_SHARE * times.max() / np.maximum(features.max(axis=0), 1.0)
    excess_steps = nonnegative_least_squares(features * weights[:, None], (times - features @ min_steps) * weights)
    steps = min_steps + excess_steps
    return steps, float(np.sqrt((((features @ steps - times) * weights) ** 2).mean()))


def nonnegative_least_squares(matrix: FloatArray, target: FloatArray) -> FloatArray:
    """Minimize |matrix x - target| over x >= 0: (rows, columns), (rows,) -> (columns,).

    Source: Lawson and Hanson 1974, "Solving Least Squares Problems", chapter 23.
    """
    scale = np.maximum(np.linalg.norm(matrix, axis=0), 1e-300)
    columns = matrix / scale
    x, is_free = np.zeros(matrix.shape[1]), np.zeros(matrix.shape[1], dtype=bool)
    for _ in range(10 * len(x)):
        # Free entries are optimal already; the fixed entry of steepest descent becomes free.
        gradient = np.where(is_free, -np.inf, columns.T @ (target - columns @ x))
        if gradient.max() <= 1e-10 * max(1.0, float(np.linalg.norm(target))):
            break
        is_free[gradient.argmax()] = True
        while True:
            trial_x = np.zeros_like(x)
            trial_x[is_free] = np.linalg.lstsq(columns[:, is_free], target, rcond=None)[0]
            is_blocked = is_free & (trial_x <= 0)
            if not is_blocked.any():
                break
            # Move towards the trial until an entry reaches zero, and fix that entry at zero.
            x = x + (x[is_blocked] / (x[is_blocked] - trial_x[is_blocked])).min() * (trial_x - x)
            is_free &= x > 1e-12
        x = trial_x
    solution: FloatArray = x / scale
    return solution
