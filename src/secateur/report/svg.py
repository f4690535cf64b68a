"""Pure functions for inline SVG: elements, images, scales and ticks.

Every text and attribute is escaped here. Colors are CSS classes that the style sheet defines, so that the same image
works in light mode, in dark mode and in print.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup, escape


def element(name: str, *children: str | Markup, **attributes: str | float | None) -> Markup:
    """Return an element; ``class_`` and ``stroke_width`` become ``class`` and ``stroke-width``, `None` is omitted."""
    attribute_text = Markup("").join(
        # stroke_width=1.5 -> ` stroke-width="1.5"`; class_="dot s0" -> ` class="dot s0"`
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _attribute_value(value))
        for key, value in attributes.items()
        if value is not None
    )
    content = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), attribute_text, content)


def _attribute_value(value: str | float) -> str:
    # Two decimals at most: 12.0 -> "12", 3.14159 -> "3.14".
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def svg_image(*children: str | Markup, width: float, height: float, name: str, title: str, description: str) -> Markup:
    """Return an image that scales with the column of the page.

    Args:
        children: Elements of the image.
        width: Width of the view box; a unit is about a CSS pixel.
        height: Height of the view box.
        name: Prefix of the element ids, unique on the page.
        title: Accessible name, which screen readers read first.
        description: Accessible description: a sentence with the main numbers.
    """
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", description, id=f"{name}-desc"),
        *children,
        viewBox=f"0 0 {_attribute_value(width)} {_attribute_value(height)}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        # Wide columns enlarge the image by 35 % at most, so that the text stays near the font size of the page.
        style=f"max-width:{_attribute_value(width * 1.35)}px",
    )


def text(x: float, y: float, content: str, *, anchor: str | None = None, class_: str | None = None) -> Markup:
    """Return a text with the baseline at y."""
    return element("text", content, x=x, y=y, text_anchor=anchor, class_=class_)


def rectangle(
    x: float, y: float, width: float, height: float, *, class_: str, tooltip: str = "", radius: float = 0
) -> Markup:
    """Return a rectangle with an optional tooltip."""
    children = (element("title", tooltip),) if tooltip else ()
    return element(
        "rect",
        *children,
        x=x,
        y=y,
        width=max(width, 0),
        height=max(height, 0),
        rx=radius or None,
        class_=class_,
    )


def line(x1: float, y1: float, x2: float, y2: float, *, class_: str) -> Markup:
    """Return a straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def crossed_box(x: float, y: float, width: float, height: float, *, tooltip: str) -> Markup:
    """Return the symbol of a removed block: an outline with a horizontal line through the middle."""
    y_middle = y + height / 2
    return element(
        "g",
        element("title", tooltip),
        rectangle(x, y, width, height, class_="removed", radius=2),
        line(x + 3, y_middle, x + width - 3, y_middle, class_="strike"),
    )


@dataclass(frozen=True, kw_only=True)
class AxisScale:
    """Linear or logarithmic map from values to coordinates.

    Attributes:
        low: Value at `start`.
        high: Value at `end`.
        start: Coordinate of `low`.
        end: Coordinate of `high`; less than `start` for a y-axis, since y points down in SVG.
        is_log: Whether the scale is logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Return the coordinate of a value, clamped to the range of the axis."""
        low, high = self._transform(self.low), self._transform(self.high)
        # 0 at `low`, 1 at `high`; the middle of an axis without extent.
        fraction = (self._transform(value) - low) / (high - low) if high > low else 0.5
        return self.start + min(max(fraction, 0.0), 1.0) * (self.end - self.start)

    def _transform(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.is_log else value


def round_step(span: float, count: int) -> float:
    """Return the smallest 1, 2, 2.5 or 5 times a power of 10 that covers `span` in at most `count` steps."""
    # span 0.83, count 4: raw step 0.2075, power 0.1, result 0.25
    raw_step = span / count
    power = 10.0 ** math.floor(math.log10(raw_step))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw_step * (1 - 1e-9))


def linear_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return ticks at a round step; the first is at most `low` and the last at least `high`."""
    if not high > low:
        # A constant curve lies in the middle of an axis of ±10 %.
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    step = round_step(high - low, count)
    # low 0.93, high 0.99, step 0.02: indices 46 to 50, ticks 0.92 to 1.0
    first_index, last_index = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first_index, last_index + 1)]


def inner_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return integer ticks at a round step within [low, high]."""
    step = max(1.0, round_step(max(high - low, 1.0), count))
    first_index, last_index = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [value for index in range(first_index, last_index + 1) if (value := index * step).is_integer()]


def log_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` powers of 10 within [low, high], or 1-2-5 steps where fewer than 3 powers fit."""
    first_power, last_power = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    powers = list(range(first_power, last_power + 1))
    if len(powers) >= 3:
        # 9 decades and count 5: every second power.
        return [10.0**power for power in powers[:: math.ceil(len(powers) / count)]]
    fine_ticks = [factor * 10.0**power for power in range(first_power - 1, last_power + 1) for factor in (1, 2, 5)]
    return [value for value in fine_ticks if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
