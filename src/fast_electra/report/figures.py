"""Numbers as text, for pages, plots and terminals alike.

Notable:
- every figure is written by one function here, so a page and a terminal never show two versions of one number;
- a missing figure reads `–` everywhere and is never an error: a report of half a run is still a report.
"""

import math
from collections.abc import Mapping
from typing import Any

from fast_electra import terminal

MISSING = "–"
SPACE = "\u00a0"  # between a number and its unit, so that a line does not end between them


def look_up(mapping: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path (`downstream.operator.model`); None if a part of the path is missing.

    A key that contains the dots itself (`gradient_norm.main`) has priority over a path.
    """
    if path in mapping:
        return mapping[path]
    value: Any = mapping
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def finite(value: Any) -> float | None:
    """Return the value as a float; None if it is not a finite number (missing, NaN, infinite, text, true or false)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def percent(value: Any) -> str:
    """Return a share between 0 and 1 as text, for example `62.3 %`."""
    number = finite(value)
    return MISSING if number is None else f"{100 * number:.1f}{SPACE}%"


def decimal(value: Any, places: int = 3) -> str:
    """Return a number with fixed decimal places and commas at the thousands, for example `0.823` or `18,400`."""
    number = finite(value)
    return MISSING if number is None else f"{number:,.{places}f}"


def power(value: Any) -> str:
    """Return a large number of operations as text, for example `1.2e+15`."""
    number = finite(value)
    return MISSING if number is None else f"{number:.1e}"


def interval(low: Any, high: Any) -> str:
    """Return two shares between 0 and 1 in percent, for example `[54.1, 57.9]`."""
    ends = finite(low), finite(high)
    return MISSING if None in ends else f"[{100 * (ends[0] or 0):.1f}, {100 * (ends[1] or 0):.1f}]"


def duration(seconds: Any) -> str:
    """Return seconds as text: `8 min 12 s`, `1 h 05 min`, `3 d 04 h`, or `3.4 s` under ten seconds."""
    number = finite(seconds)
    return MISSING if number is None else terminal.duration(number, SPACE)
