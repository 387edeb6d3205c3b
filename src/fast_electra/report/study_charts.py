"""The charts of a study's page.

Notable: every seed is a dot, and a mean a larger dot on its interval; curves have a band from the lowest to the highest
seed.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fast_electra.report.figures import MISSING, finite
from fast_electra.report.plots import SCHEMA, Specification
from fast_electra.report.run_charts import Chart

Results = Mapping[str, Any]
SPENT = {"update": "updates", "tokens": "tokens", "flops": "FLOPs", "seconds": "seconds of training"}
"""titles of what curves are drawn over, by key of the curves"""
_CHARTS = 8
"""largest number of measures that are drawn"""
_LINES = 8
"""largest number of rows whose curves are drawn: the palette has as many colours"""
_MEAN, _SEED = "mean and 95 % interval", "a seed"


def figure(value: Any) -> str:
    """A score with one decimal place from 10 on, and three below, for example of a loss."""
    number = finite(value)
    if number is None:
        return MISSING
    return f"{number:,.{0 if abs(number) >= 1000 else 1 if abs(number) >= 10 else 3}f}".replace("-", "−")


def setting_text(value: Any) -> str:
    """A value of a setting."""
    return MISSING if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def dot_charts(results: Results) -> list[Chart]:
    """A chart of each measure, with a row for each row of the study."""
    found: list[Chart] = []
    order = [row["row"] for row in results["rows"]]
    for number, measure in enumerate(results["measures"][:_CHARTS]):
        name = measure["name"]
        seeds = [
            {"row": run["row"], "value": round(run["scores"][name], 4)}
            for run in results["runs"]
            if finite(run["scores"].get(name)) is not None
        ]
        means = [
            {"row": row["row"], **row["scores"][name]}
            for row in results["rows"]
            if row["scores"][name]["mean"] is not None
        ]
        if not means:
            continue
        spoken = f"{measure['title']}: " + "; ".join(f"{mean['row']} {figure(mean['mean'])}" for mean in means)
        found.append(Chart(f"seeds-{number}", measure["title"], "", _dots(seeds, means, order), f"{spoken}."))
    return found


def _dots(seeds: list[dict[str, Any]], means: list[dict[str, Any]], order: list[str]) -> Specification:
    y = {"field": "row", "type": "nominal", "title": None, "sort": order, "scale": {"domain": order}}
    # The reader's font may be wider than the one that the drawing is laid out with.
    y["axis"] = {"minExtent": 7 * min(30, max(map(len, order))), "labelLimit": 260}
    x = {"type": "quantitative", "title": None, "scale": {"zero": False, "nice": True, "padding": 12}}
    x["axis"] = {"grid": True, "tickCount": 5}
    color = {"field": "what", "type": "nominal", "scale": {"domain": [_MEAN, _SEED]}}
    color["legend"] = {"title": None, "columns": 1, "symbolType": "circle", "symbolSize": 90, "symbolStrokeWidth": 0}
    values = [{"row": m["row"], "value": m["mean"], "low": m["low"], "high": m["high"], "what": _MEAN} for m in means]
    point = {"y": y, "x": x | {"field": "value"}, "color": color}
    layers = [
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", "style": "interval"},
            "encoding": {"y": y, "x": x | {"field": "low"}, "x2": {"field": "high"}, "color": color},
        },
        {
            "transform": [{"filter": f"datum.what == '{_MEAN}'"}],
            "mark": {"type": "point", "style": "estimate"},
            "encoding": point,
        },
        {
            "transform": [{"filter": f"datum.what == '{_SEED}'"}],
            "mark": {"type": "point", "filled": True, "size": 30, "opacity": 0.9},
            "encoding": point,
        },
    ]
    data = {"values": [*values, *(seed | {"what": _SEED} for seed in seeds)]}
    return {"$schema": SCHEMA, "width": 460, "height": 26 * len(order), "data": data, "layer": layers}


def heat_maps(results: Results) -> list[Chart]:
    """For two axes: the mean of each measure by the values of both; a method has rows of its own."""
    if len(results["axes"]) != 2:
        return []
    first, second = results["axes"]
    several = len({row["method"] for row in results["rows"]}) > 1
    found: list[Chart] = []
    for number, measure in enumerate(results["measures"][:_CHARTS]):
        values = [
            {
                "first": f"{row['method']}, {setting_text(row['point'][first])}"
                if several
                else setting_text(row["point"][first]),
                "second": setting_text(row["point"][second]),
                "value": mean,
                "written": figure(mean),
            }
            for row in results["rows"]
            if (mean := row["scores"][measure["name"]]["mean"]) is not None
        ]
        if values:
            specification = _heat_map(values, first, second, measure["more_is_better"] is False)
            spoken = "; ".join(f"{first} {v['first']}, {second} {v['second']}: {v['written']}" for v in values)
            note = f"Mean over seeds, by {first} and {second}."
            found.append(Chart(f"map-{number}", measure["title"], note, specification, f"{spoken}."))
    return found


def _heat_map(values: list[dict[str, Any]], first: str, second: str, less_is_better: bool) -> Specification:
    """A map whose better cells are darker."""
    domains = {key: list(dict.fromkeys(value[key] for value in values)) for key in ("first", "second")}
    x = {"field": "second", "type": "nominal", "title": second, "sort": domains["second"], "axis": {"labelAngle": 0}}
    y = {"field": "first", "type": "nominal", "title": first, "sort": domains["first"]}
    figures = [value["value"] for value in values]
    scale = {"scheme": "blues", "reverse": less_is_better, "zero": False}
    color = {"field": "value", "type": "quantitative", "legend": None, "scale": scale}
    is_dark = f"datum.value {'<' if less_is_better else '>'} {(min(figures) + max(figures)) / 2}"
    ink = {"condition": {"test": is_dark, "value": "#ffffff"}, "value": "#1f2328"}
    layer = [
        {"mark": {"type": "rect"}, "encoding": {"color": color}},
        {"mark": {"type": "text", "fontSize": 12}, "encoding": {"text": {"field": "written"}, "color": ink}},
    ]
    size = {"width": 460, "height": 36 * len(domains["first"])}
    encoding = {"x": x, "y": y}
    return {"$schema": SCHEMA, **size, "data": {"values": values}, "encoding": encoding, "layer": layer}


def curve_charts(results: Results, axis: str, title: str) -> list[Chart]:
    """Measures of validation over what was spent: the mean of the seeds, and a band from the lowest to the highest."""
    rows = [row for row, curves in results["curves"].items() if any(curves)][:_LINES]
    found: list[Chart] = []
    for measure, name in results["drawn"].items():
        values = [value for row in rows for value in _band(results["curves"][row], axis, measure, row)]
        if len(values) > len({value["row"] for value in values}):  # a line needs two points
            left_out = len(results["curves"]) - len(rows)
            note = f"{left_out} further rows are not drawn." if left_out > 0 else ""
            ends = {value["row"]: value["y"] for value in values}
            spoken = "; ".join(f"{row} ends at {figure(value)}" for row, value in ends.items())
            key = f"{re.sub(r'[^a-z0-9]+', '-', measure.lower())}-{axis}"
            found.append(Chart(key, name, note, _lines(values, rows, title), f"{name}: {spoken}."))
    return found


def _band(
    curves: Sequence[Sequence[Mapping[str, float]]], axis: str, measure: str, row: str
) -> Iterator[dict[str, Any]]:
    """Mean, lowest and highest of the seeds at each validation; x is the mean of what the seeds had spent."""
    for together in zip(*(curve for curve in curves if curve), strict=False):
        values = [value for point in together if (value := finite(point.get(measure))) is not None]
        if values:
            spent = float(np.mean([point[axis] for point in together]))
            yield {"x": spent, "y": float(np.mean(values)), "low": min(values), "high": max(values), "row": row}


def _lines(values: list[dict[str, Any]], rows: list[str], title: str) -> Specification:
    columns = 1 if max(map(len, rows)) > 20 else 2
    color = {
        "field": "row",
        "type": "nominal",
        "sort": rows,
        "scale": {"domain": rows},
        "legend": {"title": None, "columns": columns, "labelLimit": 300, "symbolOpacity": 1},
    }
    x = {
        "field": "x",
        "type": "quantitative",
        "title": title,
        "axis": {"tickCount": 5, "format": "~s"},
        "scale": {"nice": False},
    }
    y = {"type": "quantitative", "title": None, "scale": {"zero": False}}
    layers = [
        {
            "mark": {"type": "area", "opacity": 0.18},
            "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}, "color": color},
        },
        {
            "mark": {"type": "line", "style": "series", "point": True},
            "encoding": {"x": x, "y": y | {"field": "y"}, "color": color, "strokeDash": color},
        },
    ]
    return {"$schema": SCHEMA, "width": 460, "height": 200, "data": {"values": values}, "layer": layers}
