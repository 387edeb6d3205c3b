"""A study's results as sentences, tables and charts: for a terminal, as a page, and as Markdown, LaTeX or CSV.

Notable:
- one function makes each table, for all formats;
- only decided differences are bold; a figure of one seed is marked with *;
- charts show every seed as a dot, and a mean as a larger dot on its interval.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fast_electra.report.figures import MISSING, decimal, duration, finite, power
from fast_electra.report.plots import Specification
from fast_electra.report.run_charts import Chart
from fast_electra.report.text_tables import TextTable

Results = Mapping[str, Any]
FORMATS = ("text", "markdown", "latex", "csv")
_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
_SPENT = {"update": "updates", "tokens": "tokens", "flops": "FLOPs", "seconds": "seconds of training"}
_CHARTS = 8
"""largest number of measures that are drawn"""
_LINES = 8
"""largest number of rows whose curves are drawn: the palette has as many colours"""
_MEAN, _SEED = "mean and 95 % interval", "a seed"


def study_content(results: Results) -> dict[str, Any]:
    """The content of a study's page, for `page.render_page`."""
    groups = [("Every seed", _dot_charts(results)), ("Two settings", _heat_maps(results))]
    groups += [(f"Over {title}", _curves(results, axis, title)) for axis, title in _SPENT.items()]
    return {
        "title": results["title"],
        "subtitle": results["question"],
        "answer": sentences_of(results),
        "overview": {"tables": tables_of(results), "sentences": notes_of(results)},
        "curves": [(heading, charts) for heading, charts in groups if charts],
        "repeat": results["command"],
    }


# --- In words ---------------------------------------------------------------------------------------------------------


def sentences_of(results: Results) -> list[str]:
    """The answer: one sentence for each measure, then what is missing, failed, or to be known about the runs."""
    found: list[str] = []
    for measure in results["measures"]:
        own = [each for each in results["differences"] if each["measure"] == measure["name"]]
        if own:
            found.append(_answer(results, measure, own))
    if results["missing"]:
        shown = ", ".join(results["missing"][:5]) + (" and others" if len(results["missing"]) > 5 else "")
        found.append(f"{len(results['missing'])} runs have no result yet: {shown}.")
    found += [
        f"{name} failed and is tried again by the same command: {why}" for name, why in results["failures"].items()
    ]
    for entry in results["tuned"]:
        if entry.get("at_edge"):
            found.append(f"{entry['row']}: the chosen {entry['key']} is at the edge of what was tried.")
    return [*found, *results["cautions"]]


def _answer(results: Results, measure: Results, own: Sequence[Results]) -> str:
    """The decided differences of a measure in words, and the largest one that is not decided."""
    title, reference = measure["title"], results["reference"]
    decided = [each for each in own if each["decided"]]
    said = [f"{each['row']} {_signed(each['difference'])} {_interval(each)}" for each in decided]
    left = len(own) - len(decided)
    if not decided:
        largest = max(own, key=lambda each: abs(each["difference"]))
        ends = f" {_interval(largest)}" if largest["seeds"] > 1 else ""
        return (
            f"{title}: no difference from {reference} is decided; the largest is that of {largest['row']}, "
            f"{_signed(largest['difference'])}{ends}, {_seeds(largest['seeds'])}."
        )
    rest = f"; {left} others are not decided" if left > 1 else "; the other one is not decided" if left else ""
    return f"{title}, difference from {reference}: decided for {', '.join(said)}{rest}."


def notes_of(results: Results) -> list[str]:
    """How the study was done: budget, seeds, statistics."""
    notes: list[str] = []
    if budget := results["budget"]:
        unit = next(unit for unit in ("updates", "tokens", "flops", "seconds") if unit in budget)
        shown = power(budget[unit]) if unit == "flops" else f"{budget[unit]:,.10g}"
        whole = "with the stages that it uses" if budget["stages"] == "counted" else "without the stages that it uses"
        name = "FLOPs" if unit == "flops" else unit
        notes.append(
            f"Each run has {shown} {name}, {whole}."
            + (
                " Seconds became updates by the speed of each method, which was measured once, in turns."
                if unit == "seconds"
                else ""
            )
        )
    seeds = results["seeds"]
    listed = ", ".join(map(str, seeds))
    notes.append(
        f"{_seeds(len(seeds))} of pre-training: {listed}. A score is a mean over seeds with Student's 95 % interval; "
        "* marks a single seed."
    )
    if len(seeds) > 1:
        notes.append(
            "Differences are paired by seed. A difference is decided if its p-value after Holm's correction over all "
            "differences of the measure is below 0.05, and if it is not below the minimal detectable difference "
            "(two-sided, 5 %, found 8 times out of 10)."
        )
    return notes


# --- Tables -----------------------------------------------------------------------------------------------------------


def tables_of(results: Results) -> list[TextTable]:
    """All tables, the most important first."""
    found = [_scores(results), _differences(results), _trials(results), _runs(results)]
    return [table for table in found if table.rows]


def _scores(results: Results) -> TextTable:
    measures = results["measures"]
    decided = {(each["row"], each["measure"]) for each in results["differences"] if each["decided"]}
    rows: list[list[str]] = []
    strong: set[tuple[int, int]] = set()
    for number, row in enumerate(results["rows"]):
        cells = [_mean(row["scores"][measure["name"]]) for measure in measures]
        strong |= {(number, place + 1) for place, m in enumerate(measures) if (row["row"], m["name"]) in decided}
        diverged = f", {row['diverged']} diverged" if row["diverged"] else ""
        rows.append([row["row"], *cells, f"{row['seeds']}{diverged}"])
    for name, scores in results["baselines"].items():
        rows.append([name.replace("_", " "), *(decimal(scores.get(m["name"]), 1) for m in measures), MISSING])
    columns = ["", *(measure["title"] for measure in measures), "seeds"]
    return TextTable("Scores, mean [95 % interval] over seeds", columns, rows, strong=frozenset(strong))


def _mean(cell: Results) -> str:
    if cell["mean"] is None:
        return MISSING
    shown = _figure(cell["mean"])
    return f"{shown} [{_figure(cell['low'])}, {_figure(cell['high'])}]" if cell["seeds"] > 1 else f"{shown}*"


def _differences(results: Results) -> TextTable:
    titles = {measure["name"]: measure["title"] for measure in results["measures"]}
    several = len({each["reference"] for each in results["differences"]}) > 1
    rows = [
        [
            titles[each["measure"]],
            each["row"],
            *([each["reference"]] if several else []),
            _signed(each["difference"]),
            _interval(each) if each["seeds"] > 1 else MISSING,
            _figure(each["detectable"]),
            decimal(each["p_corrected"], 3),
            str(each["seeds"]),
            "decided" if each["decided"] else "not decided",
        ]
        for each in results["differences"]
    ]
    left = 3 if several else 2
    strong = frozenset((number, left) for number, each in enumerate(results["differences"]) if each["decided"])
    columns = ["measure", "", *(["against"] if several else []), "difference", "95 % interval", "detectable"]
    columns += ["p, corrected", "seeds", "verdict"]
    caption = f"Differences from {results['reference']}, paired by seed"
    return TextTable(caption, columns, rows, left=left, strong=strong)


def _trials(results: Results) -> TextTable:
    rows = [
        [
            entry["row"],
            *(f"{_value(trial['value'])}: {_figure(trial['score'])}" for trial in entry["trials"]),
            _value(entry.get("chosen")),
        ]
        for entry in results["tuned"]
    ]
    first = results["tuned"][0] if rows else {"key": "", "by": "", "seed": 0, "trials": []}
    columns = ["", *(f"trial {number + 1}" for number in range(len(first["trials"]))), "chosen"]
    return TextTable(f"{first['key']}, chosen by {first['by']} with seed {first['seed']}", columns, rows)


def _runs(results: Results) -> TextTable:
    rows = [
        [
            run["row"],
            str(run["seed"]),
            *(_figure(run["scores"].get(measure["name"])) for measure in results["measures"]),
            decimal(run["updates"], 0),
            decimal(run["tokens"], 0),
            power(run["flops"]),
            power(run["flops_with_stages"]),
            duration(run["seconds"]),
            str(len(run["findings"])),
            run["name"],
        ]
        for run in results["runs"]
    ]
    measures = (measure["title"] for measure in results["measures"])
    links = {
        (n, len(row) - 1): run["page"]
        for n, (row, run) in enumerate(zip(rows, results["runs"], strict=True))
        if run["page"]
    }
    spent = ["updates", "tokens", "FLOPs", "FLOPs with stages", "time of updates"]
    return TextTable("Every run", ["", "seed", *measures, *spent, "findings of doctor", "folder"], rows, links=links)


def as_text(tables: Sequence[TextTable], form: str) -> str:
    """Tables as Markdown, LaTeX (booktabs) or CSV."""
    write = {"markdown": _markdown, "latex": _latex, "csv": _csv}[form]
    return "\n".join("\n".join(write(table)) + "\n" for table in tables)


def _markdown(table: TextTable) -> Iterator[str]:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    yield f"**{table.caption}**"
    yield ""
    yield line(table.columns)
    yield line(["---" if place < table.left else "---:" for place in range(len(table.columns))])
    for row, cells in enumerate(table.rows):
        yield line([f"**{cell}**" if (row, place) in table.strong else cell for place, cell in enumerate(cells)])


def _latex(table: TextTable) -> Iterator[str]:
    def line(cells: Sequence[str]) -> str:
        return f"{' & '.join(map(_escaped, cells))} \\\\"

    alignment = "".join("l" if place < table.left else "r" for place in range(len(table.columns)))
    yield f"% {table.caption}"
    yield f"\\begin{{tabular}}{{{alignment}}}"
    yield "\\toprule"
    yield line(table.columns)
    yield "\\midrule"
    for row, cells in enumerate(table.rows):
        marked = [
            f"\\textbf{{{_escaped(c)}}}" if (row, place) in table.strong else _escaped(c)
            for place, c in enumerate(cells)
        ]
        yield f"{' & '.join(marked)} \\\\"
    yield "\\bottomrule"
    yield "\\end{tabular}"


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "–": "--"}
    return re.sub(r"[\\~^−–&%$#_{}]", lambda found: special.get(found[0], f"\\{found[0]}"), text)


def _csv(table: TextTable) -> Iterator[str]:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["table", *table.columns])
    writer.writerows([table.caption, *row] for row in table.rows)
    yield file.getvalue().rstrip("\n")


# --- Charts -----------------------------------------------------------------------------------------------------------


def _dot_charts(results: Results) -> list[Chart]:
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
        spoken = f"{measure['title']}: " + "; ".join(f"{mean['row']} {_figure(mean['mean'])}" for mean in means)
        found.append(Chart(f"seeds-{number}", measure["title"], "", _dots(seeds, means, order), f"{spoken}."))
    return found


def _dots(seeds: list[dict[str, Any]], means: list[dict[str, Any]], order: list[str]) -> Specification:
    y = {"field": "row", "type": "nominal", "title": None, "sort": order, "scale": {"domain": order}}
    # The reader's font may be wider than the one that the drawing is laid out with.
    y["axis"] = {"minExtent": 7 * min(30, max(map(len, order))), "labelLimit": 260}
    x = {"type": "quantitative", "title": None, "scale": {"zero": False, "nice": True, "padding": 12}}
    x["axis"] = {"grid": True, "tickCount": 5}
    color = {"field": "what", "type": "nominal", "scale": {"domain": [_MEAN, _SEED]}}
    color["legend"] = {"title": None, "symbolType": "circle", "symbolSize": 90, "symbolStrokeWidth": 0}
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
    return {"$schema": _SCHEMA, "width": 460, "height": 26 * len(order), "data": data, "layer": layers}


def _heat_maps(results: Results) -> list[Chart]:
    """For two axes: the mean of each measure by the values of both; a method has rows of its own."""
    if len(results["axes"]) != 2:
        return []
    first, second = results["axes"]
    several = len({row["method"] for row in results["rows"]}) > 1
    found: list[Chart] = []
    for number, measure in enumerate(results["measures"][:_CHARTS]):
        values = [
            {
                "first": f"{row['method']}, {_value(row['point'][first])}" if several else _value(row["point"][first]),
                "second": _value(row["point"][second]),
                "value": mean,
                "written": _figure(mean),
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
    return {"$schema": _SCHEMA, **size, "data": {"values": values}, "encoding": encoding, "layer": layer}


def _curves(results: Results, axis: str, title: str) -> list[Chart]:
    """Measures of validation over what was spent: the mean of the seeds, and a band from the lowest to the highest."""
    rows = [row for row, curves in results["curves"].items() if any(curves)][:_LINES]
    found: list[Chart] = []
    for measure, name in results["drawn"].items():
        values = [value for row in rows for value in _band(results["curves"][row], axis, measure, row)]
        if len(values) > len({value["row"] for value in values}):  # a line needs two points
            left_out = len(results["curves"]) - len(rows)
            note = f"{left_out} further rows are not drawn." if left_out > 0 else ""
            ends = {value["row"]: value["y"] for value in values}
            spoken = "; ".join(f"{row} ends at {_figure(value)}" for row, value in ends.items())
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
    color = {
        "field": "row",
        "type": "nominal",
        "sort": rows,
        "scale": {"domain": rows},
        "legend": {"title": None, "columns": 2},
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
    return {"$schema": _SCHEMA, "width": 460, "height": 200, "data": {"values": values}, "layer": layers}


# --- Figures ----------------------------------------------------------------------------------------------------------


def _figure(value: Any) -> str:
    """A score with one decimal place from 10 on, and three below, for example of a loss."""
    number = finite(value)
    if number is None:
        return MISSING
    return f"{number:,.{0 if abs(number) >= 1000 else 1 if abs(number) >= 10 else 3}f}".replace("-", "−")


def _signed(value: float) -> str:
    text = _figure(value)
    return text if text.startswith("−") else f"+{text}"


def _interval(each: Results) -> str:
    return f"[{_figure(each['low'])}, {_figure(each['high'])}]"


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"


def _value(value: Any) -> str:
    return MISSING if value is None else f"{value:g}" if isinstance(value, float) else str(value)
