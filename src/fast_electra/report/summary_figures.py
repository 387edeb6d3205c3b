"""Figures of a quickstart's `summary.json`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from fast_electra.report.figures import finite, look_up

THRESHOLD = 0.5  # a token with at least this probability counts as detected


def total_seconds(summary: Mapping[str, Any]) -> float | None:
    """Return the sum of `timing.seconds` over the stages; None if no stage was timed."""
    stages = look_up(summary, "timing.seconds")
    seconds = [finite(value) for value in (stages if isinstance(stages, Mapping) else {}).values()]
    return sum(value for value in seconds if value is not None) if any(seconds) else None


def tokens_per_second(summary: Mapping[str, Any]) -> float | None:
    """Return the main model's `timing.tokens_per_second`; None if it is missing."""
    value = look_up(summary, "timing.tokens_per_second")
    return finite(value.get("main") if isinstance(value, Mapping) else value)


class BugRow(NamedTuple):
    """One row of the bug-finding comparison: shares between 0 and 1; None where a measure does not apply."""

    name: str
    pair: float | None
    low: float | None
    high: float | None
    whole_function: float | None
    auc: float | None
    top1: float | None
    passes: float | None
    pairs: float | None


BUG_ROWS = {
    "model": "main model",
    "auxiliary": "auxiliary",
    "frequency_table": "frequency table",
    "untrained": "untrained",
}
DIFFERENCES = {
    "model_minus_table": BUG_ROWS["frequency_table"],
    "model_minus_untrained": BUG_ROWS["untrained"],
    "model_minus_auxiliary": BUG_ROWS["auxiliary"],
}


def bug_rows(summary: Mapping[str, Any], kind: str) -> list[BugRow]:
    """Return the rows of `downstream.<kind>` (`operator` or `variable`) in the summary, the main model first."""
    rows = []
    for key, name in BUG_ROWS.items():
        scores = look_up(summary, f"downstream.{kind}.{key}")
        if isinstance(scores, Mapping):
            passes = finite(scores.get("passes_per_function"))
            if passes is None:
                passes = {"frequency_table": 0.0, "auxiliary": None}.get(key, 1.0)
            rows.append(
                BugRow(
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
