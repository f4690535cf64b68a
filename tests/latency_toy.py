"""A hand-written table of latencies for the tiny models of `support`."""

from __future__ import annotations

import itertools
from typing import Any

from support import CHANNELS, HEAD_DIM, UNITS

from secateur.cost.latency_table import AttentionTime, Conditions, LatencyCurve, LatencySurface, LatencyTable

GROUPS = 4


def curve(size: float, start: float, *rates: float) -> LatencyCurve:
    """Return a curve in milliseconds that starts at `start`; each rate is the slope in an equal part of the range."""
    part = size / len(rates)
    widths, ms = [0.0], [start]
    for rate in rates:
        widths.append(widths[-1] + part)
        ms.append(ms[-1] + rate * part)
    return LatencyCurve(widths=tuple(widths), ms=tuple(ms))


def surface(inputs: float, outputs: float, *, item: float, product: float) -> LatencySurface:
    """Return a surface of `item` ms for each output and `product` ms for each pair of input and output."""
    rows = tuple(
        tuple(item * output + product * i * output for output in (0.0, outputs / 2, outputs)) for i in (0.0, inputs)
    )
    return LatencySurface(inputs=(0.0, inputs), outputs=(0.0, outputs / 2, outputs), ms=rows)


def toy_table(model_type: str = "wavlm", **changes: Any) -> LatencyTable:
    """Return a table in which all parts have different, positive times."""
    pairs = itertools.pairwise(CHANNELS)
    fields: dict[str, Any] = {
        "model_type": model_type,
        "conditions": Conditions(threads=1, seconds=0.4),
        "first_convolution": curve(CHANNELS[0], 1.0, 0.5),
        "convolutions": tuple(surface(i, o, item=0.1, product=0.03 + 0.01 * i) for i, o in pairs),
        "projection": curve(CHANNELS[-1], 0.3, 0.2),
        "positional": curve(GROUPS, 0.4, 0.25),
        "attention": AttentionTime(
            block=0.7,
            run=0.2,
            head=0.11,
            query_key=curve(HEAD_DIM, 0.0, 0.05, 0.08),
            value_output=curve(HEAD_DIM, 0.0, 0.07, 0.03),
        ),
        "feed_forward": curve(UNITS, 0.9, 0.3, 0.1),
        "layer": 0.21,
        "rest": 0.33,
        "decides": {"cpu": "a processor", "cores": 1},
    }
    return LatencyTable(**(fields | changes))
