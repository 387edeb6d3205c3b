"""The charts of an evaluation or a comparison: dot plots, and scores against the number of training examples.

Notable: every seed is a dot, and baselines are dots of other shapes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from fast_electra.evaluation.contests import Contest
from fast_electra.evaluation.results import BASELINES, Result, curves
from fast_electra.report.evaluation_tables import row_name
from fast_electra.report.plots import SCHEMA, Estimate, Specification, interval_chart, stacked

SERIES = {
    "model": "model, one dot per seed",
    "untrained": "untrained, one dot per seed",
    "bag_of_words": "bag of words",
    "word_crf": "word CRF",
    "majority": "majority",
}


LEAST_SPAN = 10.0
"""points that an axis of scores or differences spans at least"""


class Dot(NamedTuple):
    """One score in points."""

    row: str
    series: str
    value: float


def dots(results: Sequence[Result]) -> list[Dot]:
    """Return the primary scores: a dot for each seed and for each baseline."""
    several = len({result.curve or result.setup for result in results}) > 1
    found: list[Dot] = []
    for result in results:
        for split, metrics in result.scores.items():
            metric = next(iter(metrics))
            row = f"{row_name(result, split)}, {metric}" + (f" ({result.curve or result.setup})" if several else "")
            found += [Dot(row, SERIES["model"], 100 * score) for score in result.of(split, metric)]
            untrained = result.of_untrained(split, metric)
            found += [Dot(row, SERIES["untrained"], 100 * score) for score in untrained]
            for name in list(SERIES)[2 if untrained else 1 :]:
                if (score := result.baseline(name, split, metric)) is not None:
                    found.append(Dot(row, SERIES[name], 100 * score))
    return found


def dot_chart(found: Sequence[Dot], series: Sequence[str]) -> Specification:
    """Draw a dot plot: a band for each row, a line in it for each series, a dot for each score.

    Args:
        found: the scores, in points.
        series: names in order; each series has its own colour and shape.

    Returns:
        a Vega-Lite specification without colours, which need `theme()` as its config.
    """
    rows = list(dict.fromkeys(dot.row for dot in found))
    order = {"sort": list(series), "scale": {"domain": list(series)}}
    shapes = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]
    legend = {"title": None, "symbolType": "circle", "symbolSize": 90, "symbolStrokeWidth": 0}
    legend |= {"columns": 1 if max(map(len, series), default=0) > 30 else 2, "labelLimit": 420}
    return {
        "$schema": SCHEMA,
        "width": 420,
        "height": {"step": 11, "for": "offset"},
        "data": {"values": [{"row": dot.row, "series": dot.series, "value": round(dot.value, 3)} for dot in found]},
        "mark": {"type": "point", "style": "estimate", "opacity": 0.85},
        "encoding": {
            "y": {
                "field": "row",
                "type": "nominal",
                "title": None,
                "sort": rows,
                "scale": {"domain": rows, "paddingInner": 0.25},
                "axis": {"minExtent": 7 * max(map(len, rows), default=0), "labelLimit": 400},
            },
            "yOffset": {"field": "series", "type": "nominal", **order},
            "x": {
                "field": "value",
                "type": "quantitative",
                "title": "points",
                "scale": {"zero": False, "nice": True, "padding": 12, **_domain([dot.value for dot in found])},
                "axis": {"grid": True, "tickCount": 6},
            },
            "color": {"field": "series", "type": "nominal", "legend": legend, **order},
            "shape": {
                "field": "series",
                "type": "nominal",
                "legend": legend,
                "sort": list(series),
                "scale": {"domain": list(series), "range": [shapes[n % len(shapes)] for n in range(len(series))]},
            },
            "tooltip": [
                {"field": "row", "title": " "},
                {"field": "series", "title": " "},
                {"field": "value", "type": "quantitative", "format": ".1f", "title": "points"},
            ],
        },
    }


def _domain(values: Sequence[float]) -> dict[str, Any]:
    """Ends of an axis for values that lie close together: it spans `LEAST_SPAN` points, so it does not exaggerate."""
    middle, half = (min(values) + max(values)) / 2, LEAST_SPAN / 2
    return {"domain": [middle - half, middle + half]} if max(values) - min(values) < LEAST_SPAN else {}


def difference_chart(contests: Sequence[Contest]) -> Specification | None:
    """Draw the difference of each two models with its interval, around zero; None if there is no interval.

    The axis goes at least `LEAST_SPAN` / 2 points to both sides.
    """
    rows = _rows(contests)
    found = [
        Estimate(
            (f"{row}: " if len(rows) > 1 else "") + " − ".join(without_shared_folders((one.first, one.second))),
            round(one.difference, 1),
            one.low,
            one.high,
            highlight=one.decided,
        )
        for row, contest in zip(rows, contests, strict=True)
        for one in contest.comparisons.values()
    ]
    if not found:
        return None
    end = 1.1 * max(LEAST_SPAN / 2, *(abs(end) for one in found for end in (one.low, one.high) if end is not None))
    return interval_chart(
        found,
        x_title="points, 95 % interval",
        percent=False,
        reference={"no difference": 0.0},
        domain=(-end, end),
    )


def curve_chart(results: Sequence[Result]) -> Specification | None:
    """Draw the score against the number of training examples: a line through the means, and a dot for each seed.

    Returns:
        one chart for each task, below each other; None if no task has results for two numbers of examples.
    """
    charts = [_curve(name, points_of) for name, points_of in curves(results).items()]
    return stacked(charts) if charts else None


def _curve(name: str, results: Sequence[Result]) -> Specification:
    metric, rows = results[0].metric, list[dict[str, Any]]()
    for result in results:
        for series, scores in {
            "encoder": result.of(),
            "untrained": result.of_untrained(),
            **{
                key.replace("_", " "): [score]
                for key in BASELINES
                if key not in ("chance", "untrained") and (score := result.baseline(key)) is not None
            },
        }.items():
            rows += [{"x": result.n_train, "series": series, "y": round(100 * score, 3)} for score in scores]
    series = list(dict.fromkeys(row["series"] for row in rows))
    domain = {"sort": series, "scale": {"domain": series}}
    x = {
        "field": "x",
        "type": "quantitative",
        "title": f"{name}: labelled training examples",
        "scale": {"type": "log", "nice": False, "padding": 12},
        "axis": {"values": [result.n_train for result in results], "format": ",d", "labelOverlap": "greedy"},
    }
    y = {"type": "quantitative", "title": f"{metric}, points", "scale": {"zero": False}}
    color = {"field": "series", "type": "nominal", "legend": {"title": None}, **domain}
    line = {"y": {**y, "field": "y", "aggregate": "mean"}, "strokeDash": color}
    return {
        "$schema": SCHEMA,
        "width": 420,
        "height": 220,
        "data": {"values": rows},
        "encoding": {"x": x, "color": color},
        "layer": [
            {"mark": {"type": "line", "style": "series"}, "encoding": line},
            {
                "mark": {"type": "point", "style": "estimate", "size": 40, "opacity": 0.7},
                "encoding": {"y": {**y, "field": "y"}},
            },
        ],
    }


def without_shared_folders(names: Sequence[str]) -> list[str]:
    """Names of models without the folders that all of them begin with: a chart has room for what differs."""
    parts = [name.split("/") for name in names]
    while all(len(each) > 1 for each in parts) and len({each[0] for each in parts}) == 1:
        parts = [each[1:] for each in parts]
    return ["/".join(each) for each in parts]


def _rows(contests: Sequence[Contest]) -> list[str]:
    """Names of the contests, all different."""
    several = len({contest.setup for contest in contests}) > 1
    return [f"{one.title}, {one.metric}" + (f" ({one.setup})" if several else "") for one in contests]


def comparison_chart(contests: Sequence[Contest], names: Sequence[str]) -> Specification:
    """Draw a comparison: a dot for each seed, a shape and colour for each model."""
    found: list[Dot] = []
    short = without_shared_folders(names)
    for row, contest in zip(_rows(contests), contests, strict=True):
        for name, scores in zip(short, contest.scores, strict=True):
            found += [Dot(row, name, 100 * score) for score in scores]
    return dot_chart(found, short)
