"""Types of config fields with bounds, which are checked when a config is loaded and printed by ``--help``."""

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
#: torch and numpy take no larger seeds.
Seed = Annotated[int, Ge(0), Le(2**63 - 1)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
PositiveFinite = Annotated[float, Gt(0), Lt(float("inf"))]
NonNegativeFinite = Annotated[float, Ge(0), Lt(float("inf"))]

#: A part of a whole; of the next two, one that is never all of it, and one that is never none of it either.
Share = Annotated[float, Ge(0), Le(1)]
ShareBelowOne = Annotated[float, Ge(0), Lt(1)]
ProperShare = Annotated[float, Gt(0), Lt(1)]
KeptShare = Annotated[float, Gt(0), Le(1)]
