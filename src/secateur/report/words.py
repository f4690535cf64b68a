"""Figures in words: how numbers are written in the report."""

from __future__ import annotations

import math

THIN = "\u202f"  # a narrow space that does not break, between a figure and its unit
MINUS = "\u2212"


def figure(value: float | None, digits: int = 3) -> str:
    """A number to so many significant digits, whole ones in full; an exponent only where it is needed."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    if value == 0:
        return "0"
    size = int(f"{value:.{digits - 1}e}".split("e")[1])  # of the rounded value: 0.9996 is 1.00, not 1.000
    if size < -4 or size > 6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    return f"{value:,.{max(digits - 1 - size, 0)}f}".replace("-", MINUS)


def amount(value: float | None, unit: str = "") -> str:
    """A count with k, M or G: ``94.4 M``; with a unit, ``6.91 GMAC``."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return figure(value)
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * 0.9995:
            return f"{figure(value / limit)}{THIN}{letter}{unit}"
    return f"{figure(value)}{THIN}{unit}" if unit else figure(value)


def exact(value: float | None) -> str:
    """A count in full: ``94,381,936``; a cost that is not whole keeps its first digits."""
    if value is None:
        return "–"
    if math.isfinite(value) and (abs(value) >= 1000 or float(value).is_integer()):
        return f"{round(value):,}".replace("-", MINUS)
    return figure(value, 4)


def share(value: float | None, digits: int = 1) -> str:
    """A share as a percentage: ``28.0 %``."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{100 * value:.{digits}f}"
    if float(text) == 0 and value > 0:
        return f"<{THIN}{10**-digits:.{digits}f}{THIN}%"
    return f"{text}{THIN}%"


def milliseconds(value: float | None) -> str:
    """A time: ``497 ms``, ``1.24 s``."""
    if value is None:
        return "–"
    return f"{figure(value / 1000)}{THIN}s" if value >= 1000 else f"{figure(value)}{THIN}ms"


def duration(seconds: float | None) -> str:
    """A stretch of time in the units that suit it: ``42 s``, ``5 min 12 s``, ``3 h 04 min``."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{figure(seconds, 2)}{THIN}s"
    if whole < 3600:
        return f"{whole // 60}{THIN}min {whole % 60:02d}{THIN}s"
    return f"{whole // 3600}{THIN}h {whole % 3600 // 60:02d}{THIN}min"


def plural(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun: ``1 file``, ``2 files``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
