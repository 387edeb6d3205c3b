"""Pages, plots and terminal tables: everything that a person looks at after a run.

Notable:
- figures are written by the few functions here, so page and terminal never show two versions of one number;
- a figure that is missing reads `–` everywhere, and is never an error: a report of half a run is still a report.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

MISSING = "–"
THRESHOLD = 0.5  # probability from which the model is said to hold a token for replaced
SPACE = "\u00a0"  # between a number and its unit: they must not part at a line's end


def look_up(mapping: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path (`downstream.operator.model`), or None when a part of the path is missing.

    A key that holds the dots itself (`gradient_norm.main`) goes before a path.
    """
    if path in mapping:
        return mapping[path]
    value: Any = mapping
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def finite(value: Any) -> float | None:
    """The value as a float, or None for what is no finite number (missing, NaN, infinite, text, true or false)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def percent(value: Any) -> str:
    """A share in 0 to 1 as `62.3 %`."""
    number = finite(value)
    return MISSING if number is None else f"{100 * number:.1f}{SPACE}%"


def decimal(value: Any, places: int = 3) -> str:
    """A number with a fixed number of places and a comma at the thousands: `0.823`, `18,400`."""
    number = finite(value)
    return MISSING if number is None else f"{number:,.{places}f}"


def power(value: Any) -> str:
    """A large number of operations as `1.2e+15`."""
    number = finite(value)
    return MISSING if number is None else f"{number:.1e}"


def interval(low: Any, high: Any) -> str:
    """Two shares in 0 to 1 as `[54.1, 57.9]`, in percent."""
    ends = finite(low), finite(high)
    return MISSING if None in ends else f"[{100 * (ends[0] or 0):.1f}, {100 * (ends[1] or 0):.1f}]"


def duration(seconds: Any) -> str:
    """Seconds as `8 min 12 s`, `1 h 05 min` or, under ten, `3.4 s`."""
    number = finite(seconds)
    if number is None:
        return MISSING
    if number < 9.95:
        return f"{number:.1f}{SPACE}s"
    minutes, rest = divmod(round(number), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}{SPACE}h {minutes:02d}{SPACE}min"
    return f"{minutes}{SPACE}min {rest:02d}{SPACE}s" if minutes else f"{rest}{SPACE}s"


def total_seconds(summary: Mapping[str, Any]) -> float | None:
    """The sum of `timing.seconds` over the stages, or None when no stage was timed."""
    stages = look_up(summary, "timing.seconds")
    seconds = [finite(value) for value in (stages if isinstance(stages, Mapping) else {}).values()]
    return sum(value for value in seconds if value is not None) if any(seconds) else None


def tokens_per_second(summary: Mapping[str, Any]) -> float | None:
    """The main model's tokens per second: `timing.tokens_per_second`, or its `main` where it is given by part."""
    value = look_up(summary, "timing.tokens_per_second")
    return finite(value.get("main") if isinstance(value, Mapping) else value)


class Contestant(NamedTuple):
    """One row of the bug-finding comparison: shares in 0 to 1, None where the measure does not apply."""

    name: str
    pair: float | None
    low: float | None
    high: float | None
    whole_function: float | None
    auc: float | None
    top1: float | None
    passes: float | None
    pairs: float | None


CONTESTANTS = {
    "model": "main model",
    "auxiliary": "auxiliary",
    "frequency_table": "frequency table",
    "untrained": "untrained",
}
DIFFERENCES = {
    "model_minus_table": CONTESTANTS["frequency_table"],
    "model_minus_untrained": CONTESTANTS["untrained"],
    "model_minus_auxiliary": CONTESTANTS["auxiliary"],
}


def contestants(summary: Mapping[str, Any], kind: str) -> list[Contestant]:
    """The rows of `downstream.<kind>` (`operator` or `variable`) that the summary has, the main model first."""
    rows = []
    for key, name in CONTESTANTS.items():
        scores = look_up(summary, f"downstream.{kind}.{key}")
        if isinstance(scores, Mapping):
            passes = finite(scores.get("passes_per_function"))
            if passes is None:
                passes = {"frequency_table": 0.0, "auxiliary": None}.get(key, 1.0)
            rows.append(
                Contestant(
                    name,
                    pair=finite(scores.get("pair")),
                    low=finite(scores.get("low")),
                    high=finite(scores.get("high")),
                    whole_function=finite(scores.get("pair_whole_function")),
                    auc=finite(scores.get("auc")),
                    top1=finite(scores.get("top1")),
                    passes=passes,
                    pairs=finite(scores.get("n")),
                )
            )
    return rows
