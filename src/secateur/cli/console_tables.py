"""Tables and lines that several verbs print."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secateur.records.choice import RoundingCost
    from secateur.records.score import ScoreInfo
    from secateur.records.verification import Verification


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with a left-aligned first column and right-aligned figures."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")  # names may hold brackets, which a str would be styled by
    for index, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def print_broken_contract(verification: Verification) -> None:
    """Print the lines of the drop-in contract that do not hold."""
    for check in verification.broken:
        print(f"secateur: contract: {check.name}: {check.detail}", file=sys.stderr)


def print_verification(verification: Verification) -> None:
    """Print every check of a verification, and the differences that were measured."""
    for check in verification.checks:
        print(f"{'holds ' if check.holds else 'FAILS '} {check.name}: {check.detail}")
    for index, difference in enumerate(verification.differences):
        # A difference for each hidden state, then one for the output.
        name = "output" if index == len(verification.differences) - 1 else f"hidden state {index}"
        print(f"        {name}: {difference:.1e}")


def print_rounding(rounding: RoundingCost | None) -> None:
    """Print the cost of rounding sizes to multiples, where sizes were rounded."""
    if rounding is None:
        return
    # Kinds without a multiple may change, too: costs that rounding frees or takes move units of other kinds.
    rows = [
        (kind, str(rounding.multiples.get(kind, "")), f"{kept_units:,}", f"{rounding.closed[kind]:,}")
        for kind, kept_units in rounding.opened.items()
    ]
    print_table("What rounding cost", ("kind", "multiples of", "units kept for it", "units removed for it"), rows)
    for name, given_up_share in rounding.given_up.items():
        change = "less" if given_up_share >= 0 else "more"
        print(f"{name}: {abs(given_up_share):.2%} of the dense cost {change} kept than without rounding")


def format_score(name: str, value: float | None, infos: Mapping[str, ScoreInfo]) -> str:
    """Return a score as text, a share as a percentage, and an empty text for `None`."""
    from secateur.records.score import find_score_info

    if value is None:
        return ""
    return f"{value:.2%}" if find_score_info(name, infos).is_share else f"{value:.4f}"


def format_fidelity(value: float | None) -> str:
    """Return a loss or cosine with four decimals, and an empty text for `None`."""
    return "" if value is None else f"{round(value, 4) + 0.0:.4f}"  # + 0.0: no minus before a zero


def mean(values: Sequence[float] | None) -> float | None:
    """Return the mean of values, or `None` for an empty sequence."""
    return sum(values) / len(values) if values else None
