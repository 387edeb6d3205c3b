"""Charts as Vega-Lite specifications: plain dicts from pure functions, the same for the page, for SVG and for PNG.

Notable:
- a specification has data and structure but no colours. Colours are in `theme`: CSS variables for a page, so that dark
  mode and print need no redraw, and plain values for files, where a variable would mean black;
- series differ by dash and by colour;
- data are wide (one row for each x, one field for each series) and thinned to what a screen can show; spikes stay;
- Vega-Lite 6.1 is pinned, because 6.4 writes "undefined" into tooltips.

The page does hovering and zooming (`templates/page.js`); the specification has the fields and names of its series under
`usermeta` for it. Vega's nearest-point selection would add two invisible shapes for each point to every SVG.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vl_convert

from fast_electra.data.files import write_bytes_atomically, write_text_atomically
from fast_electra.report.figures import finite, look_up
from fast_electra.report.figures import percent as written_percent

VEGA_LITE = "6.1"
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
NUMBER = ",.10~g"  # 0.5, 500, 12,000: d3's bare "," would write 5e+2
_MOST_POINTS = 500
"""points of a series that are drawn"""
Specification = dict[str, Any]


@dataclass(frozen=True)
class Series:
    """One line of a chart: `y` (None where not measured) over ascending `x`."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]

    def __bool__(self) -> bool:
        """Whether there is anything to draw."""
        return any(value is not None for value in self.y)


@dataclass(frozen=True)
class Estimate:
    """One row of an interval chart: a value and the ends of its interval, in the same unit."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    highlight: bool = False


def series_of(records: Sequence[Mapping[str, Any]], field: str, name: str, x: str = "update") -> Series:
    """Return the series of a field (a dotted path, `validation.rtd_auc`) of records; others are left out."""
    points = [
        (position, value)
        for record in records
        if (position := finite(record.get(x))) is not None and (value := finite(look_up(record, field))) is not None
    ]
    return Series(name, [position for position, _ in points], [value for _, value in points])


def line_chart(
    series: Sequence[Series],
    *,
    y_title: str,
    x_title: str = "update",
    y_format: str = NUMBER,
    percent: bool = False,
    logarithmic: bool = False,
    smoothing: float = 0.0,
    reference: Mapping[str, float] | None = None,
    marks: Mapping[str, float] | None = None,
    height: int = 200,
) -> Specification:
    """Lines over a common x.

    Args:
        series: the lines; an empty one is left out.
        y_title: what y is, with its unit.
        x_title: what x is.
        y_format: d3's format of the numbers at the y axis.
        percent: y is a share in 0 to 1, shown in percent.
        logarithmic: y on a logarithmic axis; values of zero or less are left out.
        smoothing: half-life of an exponential mean, as a share of a series' points; the raw line stays behind it, pale.
            A series of under 40 points is not smoothed.
        reference: names and values of horizontal lines (chance, a baseline).
        marks: names and places of vertical lines (the start of a phase).
        height: of the plotting area, in pixels.

    Returns:
        A Vega-Lite specification without colours; give it `theme()` as its config.
    """
    series = [line for line in series if line]
    names = [line.name for line in series]
    rows: dict[float, dict[str, float]] = {}
    layers: list[Specification] = []
    axis: dict[str, Any] = {"format": "~%" if percent else y_format, "tickCount": 5}
    if logarithmic:
        axis["values"] = _decades([value for line in series for value in line.y if value is not None and value > 0])
    scale: dict[str, Any] = {"type": "log"} if logarithmic else {"zero": False}
    legend = {"title": None, "columns": 2} if len(series) > 1 else None
    for number, line in enumerate(series):
        y = [None if value is None or (logarithmic and value <= 0) else value for value in line.y]
        smoothed = smooth(y, smoothing * len(y)) if smoothing and len(y) >= 40 else None
        for field, values in ((f"y{number}", smoothed or y), (f"raw{number}", y if smoothed else None)):
            if values is None:
                continue
            x, values = thin(line.x, values, _MOST_POINTS)
            for position, value in zip(x, values, strict=True):
                rows.setdefault(position, {"x": position})[field] = float(f"{value:.5g}")
            identity = {"datum": line.name, "type": "nominal", "scale": {"domain": names}, "legend": legend}
            encoding: dict[str, Any] = {
                "x": {
                    "field": "x",
                    "type": "quantitative",
                    "title": x_title,
                    "axis": {"format": NUMBER, "tickCount": 5},
                },
                "y": {"field": field, "type": "quantitative", "title": y_title, "scale": scale, "axis": axis},
                "color": identity,
            }
            if field.startswith("raw"):
                mark: dict[str, Any] = {"type": "line", "style": "raw"}
            else:
                mark = {"type": "line", "style": "series"} | ({"point": True} if len(x) <= 30 else {})
                encoding["strokeDash"] = identity
            # A row has only some of the series: without the filter a line would break at every gap.
            layers.append({"transform": [{"filter": f"isValid(datum.{field})"}], "mark": mark, "encoding": encoding})
    for name, value in (reference or {}).items():
        y = {"datum": value, "type": "quantitative", "scale": scale}
        layers += _rule({"y": y}, {"style": "reference-label", "text": name}, {"x": {"value": "width"}})
    for name, place in (marks or {}).items():
        late = place > 0.8 * max(rows, default=0)  # a name to its right would be cut off
        label = {"style": "mark-label", "text": name} | ({"align": "right", "dx": -3} if late else {})
        layers += _rule({"x": {"datum": place, "type": "quantitative"}}, label, {"y": {"value": 0}})
    return {
        "$schema": SCHEMA,
        "width": 460,
        "height": height,
        "data": {"values": [rows[position] for position in sorted(rows)]},
        "layer": layers,
        "usermeta": {
            "x": x_title,
            "percent": percent,
            "series": [{"field": f"y{number}", "name": name} for number, name in enumerate(names)],
        },
    }


def _rule(place: Specification, label: Specification, end: Specification) -> list[Specification]:
    """A line across a chart at a place on one axis, and its label at one end of it."""
    one = {"values": [{}]}  # with the rows of the chart the line would be drawn once a row
    return [
        {"data": one, "mark": {"type": "rule", "style": "reference"}, "encoding": place},
        {"data": one, "mark": {"type": "text", **label}, "encoding": place | end},
    ]


def stacked(charts: Sequence[Specification], one_legend: bool = True) -> Specification:
    """Put charts below each other, with one legend or their own, for SVG and PNG; the page does not support it."""
    bare = [{key: value for key, value in chart.items() if key not in ("$schema", "usermeta")} for chart in charts]
    own = {} if one_legend else {"resolve": {"scale": {"color": "independent", "shape": "independent"}}}
    return {"$schema": charts[0]["$schema"], "vconcat": bare, "spacing": 12 if one_legend else 40, **own}


def interval_chart(
    estimates: Sequence[Estimate],
    *,
    x_title: str,
    percent: bool = True,
    reference: Mapping[str, float] | None = None,
    domain: tuple[float, float] | None = None,
) -> Specification:
    """One row for each estimate, from top to bottom in the given order: a point and its interval.

    Args:
        estimates: the rows; names must differ.
        x_title: what is measured, with its unit.
        percent: values are shares in 0 to 1, shown in percent.
        reference: names and values of vertical lines (chance).
        domain: ends of the x axis, for charts that stand side by side; None: what the data need.

    Returns:
        A Vega-Lite specification without colours; give it `theme()` as its config.
    """
    names = [estimate.name for estimate in estimates]
    form = ".1%" if percent else NUMBER
    values = [
        {
            "name": estimate.name,
            "value": estimate.value,
            "written": written_percent(estimate.value) if percent else f"{estimate.value:,.4g}",
            "low": estimate.low,
            "high": estimate.high,
            "kind": "result" if estimate.highlight else "beside it",
        }
        for estimate in estimates
    ]
    # Explicit order and domain, or Vega-Lite sorts the rows by name.
    y = {"field": "name", "type": "nominal", "sort": names, "scale": {"domain": names}, "title": None}
    # The reader's font may be wider than the one that the drawing is laid out with.
    y["axis"] = {"minExtent": min(400, 8 * max(map(len, names), default=0)), "labelLimit": 400}
    scale: dict[str, Any] = {"zero": False, "nice": domain is None} | ({"domain": list(domain)} if domain else {})
    x = {"field": "value", "type": "quantitative", "title": x_title, "scale": scale}
    x["axis"] = {"format": ".0%" if percent else NUMBER, "tickCount": 5}
    color = {"field": "kind", "type": "nominal", "legend": None, "scale": {"domain": ["result", "beside it"]}}
    tooltip = [
        {"field": "name", "title": " "},
        {"field": "value", "type": "quantitative", "format": form},
        {"field": "low", "type": "quantitative", "format": form},
        {"field": "high", "type": "quantitative", "format": form},
    ]
    layers: list[Specification] = []
    for name, value in (reference or {}).items():
        label = {"style": "reference-label-top", "text": name}
        layers += _rule({"x": {"datum": value, "type": "quantitative"}}, label, {"y": {"value": 0}})
    have_both = {"filter": "isValid(datum.low) && isValid(datum.high)"}
    span = {"y": y, "x": x | {"field": "low"}, "x2": {"field": "high"}, "color": color, "tooltip": tooltip}
    mark = {"type": "point", "style": "estimate"}
    point = {"mark": mark, "encoding": {"y": y, "x": x, "color": color, "tooltip": tooltip}}
    whisker = {"transform": [have_both], "mark": {"type": "rule", "style": "interval"}, "encoding": span}
    ends = [
        {
            "transform": [have_both],
            "mark": {"type": "tick", "style": "interval-end"},
            "encoding": {"y": y, "x": x | {"field": field}, "color": color, "tooltip": tooltip},
        }
        for field in ("low", "high")
    ]
    written = {
        "mark": {"type": "text", "style": "written-above"},
        "encoding": {"y": y, "x": x, "text": {"field": "written"}},
    }
    return {
        "$schema": SCHEMA,
        "width": 420,
        "height": 42 * len(estimates),
        "data": {"values": values},
        "layer": [*layers, whisker, *ends, point, written],
    }


def smooth(values: Sequence[float | None], half_life: float) -> list[float | None]:
    """Return the mean of a forward and a backward exponential mean, which does not lag; None stays None without weight.

    `half_life` is in points. Both means are corrected for the bias at their start.
    """
    keep = 0.5 ** (1 / max(half_life, 1e-9))

    def one_way(ordered: Sequence[float | None]) -> list[float | None]:
        total, weight = 0.0, 0.0
        means: list[float | None] = []
        for value in ordered:
            if value is not None:
                total, weight = keep * total + value, keep * weight + 1
            means.append(total / weight if value is not None else None)
        return means

    both = zip(one_way(values), reversed(one_way(values[::-1])), strict=True)
    return [None if before is None or after is None else (before + after) / 2 for before, after in both]


def thin(x: Sequence[float], y: Sequence[float | None], maximum: int) -> tuple[list[float], list[float]]:
    """Return at most `maximum` points: first, last, and the lowest and highest of equal parts, so spikes stay."""
    points = [(position, value) for position, value in zip(x, y, strict=True) if value is not None]
    if len(points) > maximum:
        stretches = max(1, (maximum - 2) // 2)
        kept = {0, len(points) - 1}
        for stretch in range(stretches):
            inside = range(stretch * len(points) // stretches, (stretch + 1) * len(points) // stretches)
            kept.add(min(inside, key=lambda index: points[index][1]))
            kept.add(max(inside, key=lambda index: points[index][1]))
        points = [points[index] for index in sorted(kept)]
    return [position for position, _ in points], [value for _, value in points]


def theme(*, page: bool = False) -> Specification:
    """Return a Vega-Lite config: sizes, and colours as CSS variables for a page or as values for a file.

    The variables (`--ink`, `--muted`, `--line`, `--series-1` to `--series-8`) are set in `templates/page.css`. The
    first four series colours are distinguishable with any common colour blindness (after Okabe and Ito, 2008); further
    series also differ by their dashes.
    """
    plain = {
        "ink": "#1f2328",
        "muted": "#59636e",
        "line": "#d7dce1",
        "series-1": "#0b62a8",
        "series-2": "#c2500a",
        "series-3": "#05795a",
        "series-4": "#8a3f76",
        "series-5": "#806000",
        "series-6": "#2b7a8c",
        "series-7": "#b02a4c",
        "series-8": "#5a5a5a",
    }
    colour = {name: f"var(--{name})" if page else value for name, value in plain.items()}
    muted, ink = colour["muted"], colour["ink"]
    label = {"fontSize": 11.5, "color": muted}
    return {
        "background": "transparent" if page else "#ffffff",
        "font": "system-ui, sans-serif" if page else "sans-serif",
        "padding": {"left": 2, "right": 10, "top": 6, "bottom": 2} if page else 10,
        "aria": False,  # the figure has one label; a label a point is noise to a screen reader
        "view": {"stroke": None},
        "axis": {
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelColor": muted,
            "titleColor": muted,
            "gridColor": colour["line"],
            "domainColor": colour["line"],
            "tickColor": colour["line"],
            "labelLimit": 220,
            "titleLimit": 400,
        },
        "axisX": {"grid": False},
        "axisY": {
            "titleAnchor": "end",
            "titleAngle": 0,
            "titleAlign": "left",
            "titleX": 0,
            "titleY": -14,
            "domain": False,
        },
        "legend": {
            "orient": "bottom",
            "labelFontSize": 12,
            "labelColor": ink,
            "labelLimit": 240,
            "symbolStrokeWidth": 2.5,
            "symbolSize": 260,
            "symbolType": "stroke",
            "columnPadding": 18,
            "offset": 6,
        },
        "range": {"category": [colour[f"series-{number}"] for number in range(1, 9)]},
        "point": {"size": 34, "filled": True},
        "style": {
            "series": {"strokeWidth": 2},
            "raw": {"strokeWidth": 1, "opacity": 0.3},
            "reference": {"color": muted, "strokeDash": [3, 3], "strokeWidth": 1},
            "reference-label": label | {"align": "right", "baseline": "bottom", "dx": -2, "dy": -3},
            "mark-label": label | {"align": "left", "baseline": "top", "dx": 3},
            "reference-label-top": label | {"align": "center", "baseline": "bottom", "dy": -3},
            "estimate": {"size": 90, "filled": True, "opacity": 1},
            "interval": {"strokeWidth": 2.5},
            "interval-end": {"thickness": 2.5, "size": 12, "opacity": 1},
            "written-above": {"fontSize": 12, "color": ink, "align": "center", "baseline": "bottom", "dy": -8},
        },
    }


def _decades(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times the powers of ten around the values; Vega-Lite would draw a line at every tick between them."""
    if not values:
        return []
    exponents = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    steps = (1, 2, 5) if len(exponents) <= 4 else (1,)
    return [step * 10.0**exponent for exponent in exponents for step in steps]


def to_svg(specification: Specification, *, page: bool = False) -> str:
    """Return the chart as SVG text; `page` for SVG that is part of a page. It needs neither a browser nor a network."""
    return vl_convert.vegalite_to_svg(
        specification, vl_version=VEGA_LITE, config=theme(page=page), allowed_base_urls=[]
    )


def save_svg(specification: Specification, path: Path) -> None:
    """Write the chart as an SVG file with plain colours on white."""
    write_text_atomically(path, to_svg(specification))


def save_png(specification: Specification, path: Path) -> None:
    """Write the chart as a PNG file with two pixels per unit, on white."""
    png = vl_convert.vegalite_to_png(
        specification, vl_version=VEGA_LITE, config=theme(), scale=2.0, allowed_base_urls=[]
    )
    write_bytes_atomically(path, png)
