"""Formatting of numbers, times and counts in the report; a missing value is a dash."""

from __future__ import annotations

import math

THIN = "\u202f"  # a narrow space that does not break, between a figure and its unit
#: Minus sign, which is as wide as a plus sign.
MINUS = "\u2212"


def format_number(value: float | None, digits: int = 3) -> str:
    """Format a number with `digits` significant digits, and an exponent below 1e-4 and from 1e7."""
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
    # 3 digits: 1234 -> "1,234", 12.345 -> "12.3", 0.012345 -> "0.0123"
    return f"{value:,.{max(digits - 1 - size, 0)}f}".replace("-", MINUS)


def format_si(value: float | None, unit: str = "") -> str:
    """Format a count with an SI prefix: ``94.4 M``; with a unit, ``6.91 GMAC``."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return format_number(value)
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 0.9995 of a limit rounds up to the limit: 999,600 is 1.00 M, not 1000 k.
        if abs(value) >= limit * 0.9995:
            return f"{format_number(value / limit)}{THIN}{prefix}{unit}"
    return f"{format_number(value)}{THIN}{unit}" if unit else format_number(value)


def format_exact(value: float | None) -> str:
    """Format a count with all digits: ``94,381,936``; a small cost with a fraction gets 4 significant digits."""
    if value is None:
        return "–"
    if math.isfinite(value) and (abs(value) >= 1000 or float(value).is_integer()):
        return f"{round(value):,}".replace("-", MINUS)
    return format_number(value, 4)


def format_percent(value: float | None, digits: int = 1) -> str:
    """Format a share as a percentage: ``28.0 %``; a positive share that rounds to 0 is ``<0.1 %``."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{100 * value:.{digits}f}"
    # A small positive share must not read as zero.
    if float(text) == 0 and value > 0:
        return f"<{THIN}{10**-digits:.{digits}f}{THIN}%"
    return f"{text}{THIN}%"


def format_milliseconds(value: float | None) -> str:
    """Format a time in milliseconds or seconds: ``497 ms``, ``1.24 s``."""
    if value is None:
        return "–"
    return f"{format_number(value / 1000)}{THIN}s" if value >= 1000 else f"{format_number(value)}{THIN}ms"


def format_duration(seconds: float | None) -> str:
    """Format a duration: ``42 s``, ``5 min 12 s``, ``3 h 04 min``."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    # Rounded first, so that 59.7 s is 1 min 00 s, not 60 s.
    whole_seconds = round(seconds)
    if whole_seconds < 60:
        return f"{format_number(seconds, 2)}{THIN}s"
    if whole_seconds < 3600:
        return f"{whole_seconds // 60}{THIN}min {whole_seconds % 60:02d}{THIN}s"
    return f"{whole_seconds // 3600}{THIN}h {whole_seconds % 3600 // 60:02d}{THIN}min"


def format_count(count: int, singular: str, plural_form: str | None = None) -> str:
    """Format a count with a noun: ``1 file``, ``2 files``."""
    return f"{count:,} {singular if count == 1 else plural_form or singular + 's'}"
