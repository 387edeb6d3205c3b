"""An evaluation or a comparison as tables, a dot plot and a page: what a terminal prints and what a browser shows.

Notable:
- one function makes each table, as text, for terminal, page and run report alike;
- every score is in points (hundredths), every seed is a dot, baselines are dots of other shapes beside them;
- the page is static: the plot is SVG, in the page's colours, and there are no scripts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from fast_electra.data.files import write_text_atomically
from fast_electra.evaluation.results import (
    BASELINES,
    ZERO_SHOT,
    Contest,
    Evaluation,
    Result,
    averages_of,
    curves,
    listed,
    load,
    remarks,
    spread,
)
from fast_electra.evaluation.tasks import TEST
from fast_electra.report import MISSING, decimal, duration, finite
from fast_electra.report.plots import Specification, save_png, save_svg, stacked, to_svg
from fast_electra.report.templating import asset, templates
from fast_electra.terminal import Terminal, spelled_out

DETECTABLE = (
    "MDD, minimal detectable difference: the smallest true one, between two models of this spread, that a t-test over "
    "so many seeds finds about 8 times out of 10 (two-sided, 5 %)."
)
_SERIES = {
    "model": "model, a dot a seed",
    "untrained": "untrained, a dot a seed",
    "bag_of_words": "bag of words",
    "word_crf": "word CRF",
    "majority": "majority",
}


@dataclass(frozen=True)
class TextTable:
    """A table of text, its first columns aligned left."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    strong: frozenset[tuple[int, int]] = field(default_factory=frozenset)
    """(row, column) of the cells that are emphasised"""


class Dot(NamedTuple):
    """One score in points."""

    row: str
    series: str
    value: float


def print_table(table: TextTable, console: Terminal) -> None:
    """Print a table to a terminal."""
    shown = Table(
        title=table.caption, title_justify="left", box=None, pad_edge=False, collapse_padding=True, header_style="bold"
    )
    for place, name in enumerate(table.columns):
        shown.add_column(name, justify="left" if place < table.left else "right")
    for row, cells in enumerate(table.rows):
        styles = ("bold" if (row, place) in table.strong else "" for place in range(len(cells)))
        # A figure stays on its line.
        shown.add_row(*map(Text, (spelled_out(cell).replace(" ± ", "\u00a0±\u00a0") for cell in cells), styles))
    console.print(shown)


def points(value: Any) -> str:
    """A score of at most 1 in points: 81.2, −3.0, or – where there is none."""
    number = finite(value)
    return MISSING if number is None else decimal(100 * number, 1).replace("-", "−")


# --- One model --------------------------------------------------------------------------------------------------------


def score_tables(results: Sequence[Result]) -> list[TextTable]:
    """A table for each setup: every metric of every split, its seeds summed up, and the baselines."""
    tables: list[TextTable] = []
    for setup in dict.fromkeys(result.curve or result.setup for result in results):
        group = [result for result in results if (result.curve or result.setup) == setup]
        baselines = [name for name in BASELINES if any(name in result.baselines for result in group)]
        rows: list[list[str]] = []
        for result in group:
            for split, metrics in result.scores.items():
                for metric in metrics:
                    found = spread(result.of(split, metric))
                    rows.append(
                        [
                            _named(result, split),
                            metric,
                            points(found.median),
                            _mean(found.mean, found.deviation),
                            points(found.best),
                            points(found.detectable),
                            *(_baseline(result, name, split, metric) for name in baselines),
                        ]
                    )
        seeds = sorted({len(result.seeds) for result in group})
        names = [name.replace("_", " ") for name in baselines]
        columns = ["task", "metric", "median", "mean ± std", "best", "MDD", *names]
        on = "" if any(TEST in result.scores for result in group) else " on dev"
        caption = f"{setup}, {' or '.join(map(str, seeds))} seed{'s' * (seeds != [1])}: scores{on}, in points"
        tables.append(TextTable(caption, columns, rows, left=2))
    return tables


def _baseline(result: Result, name: str, split: str, metric: str) -> str:
    """Of an untrained encoder with several seeds the mean ± deviation."""
    deviation = spread(result.of_untrained(split, metric)).deviation if name == "untrained" else None
    return _mean(result.baseline(name, split, metric), deviation)


def group_tables(results: Sequence[Result], sets: bool = False) -> list[TextTable]:
    """Minimal pairs by what their file groups them by; `sets`: also by its finest groups, of which BLiMP has 67."""
    tables: list[TextTable] = []
    for result in results:
        keys = [key for key in result.details.get("groups", {}) if sets or key not in ("all", "UID")]
        for key in keys:
            if key == "all":
                continue
            rows = [
                [name, decimal(found["n"], 0), *(_interval(found[measure]) for measure in result.scores["dev"])]
                for name, found in result.details["groups"][key].items()
            ]
            caption = f"{result.task} ({result.setup}) by {key}: pairs judged right, in points, 95 % intervals"
            tables.append(TextTable(caption, [key, "pairs", *result.scores["dev"]], rows))
    return tables


def _interval(found: Sequence[float]) -> str:
    share, low, high = found
    return f"{points(share)} [{points(low)}, {points(high)}]"


def layer_tables(results: Sequence[Result]) -> list[TextTable]:
    """Of each probed task which layer knows what, by the first metric; the cosine of two texts by Spearman's."""
    tables: list[TextTable] = []
    for result in results:
        if not result.layers:
            continue
        metrics = {name: "spearman" if name.endswith("cosine") else result.metric for name in result.layers}
        rows = [
            ["embeddings" if layer == 0 else str(layer)]
            + [points(of[layer][result.split][metrics[name]]) for name, of in result.layers.items()]
            for layer in range(len(result.layers["model"]))
        ]
        columns = ["layer", *(f"{name}, {metric}" for name, metric in metrics.items())]
        tables.append(TextTable(f"{result.task}: what each layer knows ({result.setup}), in points", columns, rows))
    return tables


def data_table(results: Sequence[Result]) -> TextTable:
    """Examples, texts that were cut, learning rates, time."""
    rows = [
        [
            result.task,
            result.curve or result.setup,
            decimal(result.n_train, 0),
            " + ".join(decimal(count, 0) for count in result.n_dev.values()),
            decimal(result.truncated.get("train"), 0),
            decimal(result.truncated.get("dev"), 0),
            f"{rate:g}" if (rate := result.recipe.get("learning_rate")) else MISSING,
            duration(result.seconds),
        ]
        for result in results
    ]
    columns = ["task", "setup", "train", "dev", "cut, train", "cut, dev", "learning rate", "time"]
    return TextTable("Examples, those longer than the model takes, and time", columns, rows, left=2)


def average_lines(results: Sequence[Result]) -> list[str]:
    """A sentence for each published average that all tasks are there for."""
    return [
        f"{average.name} average {points(average.value)} ({average.setup}): {average.of}; of medians over seeds."
        for average in averages_of(results)
    ]


def notes(results: Sequence[Result]) -> list[str]:
    """Everything that is said below the tables."""
    return [*average_lines(results), *(sentence for result in results for sentence in remarks(result)), DETECTABLE]


def _named(result: Result, split: str) -> str:
    return result.title if len(result.scores) == 1 else f"{result.title}, {split}"


def dots(results: Sequence[Result]) -> list[Dot]:
    """Primary scores: a dot a seed, and one each for the baselines."""
    several = len({result.curve or result.setup for result in results}) > 1
    found: list[Dot] = []
    for result in results:
        for split, metrics in result.scores.items():
            metric = next(iter(metrics))
            row = f"{_named(result, split)}, {metric}" + (f" ({result.curve or result.setup})" if several else "")
            found += [Dot(row, _SERIES["model"], 100 * score) for score in result.of(split, metric)]
            untrained = result.of_untrained(split, metric)
            found += [Dot(row, _SERIES["untrained"], 100 * score) for score in untrained]
            for name in list(_SERIES)[2 if untrained else 1 :]:
                if (score := result.baseline(name, split, metric)) is not None:
                    found.append(Dot(row, _SERIES[name], 100 * score))
    return found


def dot_chart(found: Sequence[Dot], series: Sequence[str]) -> Specification:
    """One band a row, one line in it a series, one dot a score.

    Args:
        found: the scores, in points.
        series: in order; each has its own colour and shape.

    Returns:
        A Vega-Lite specification without colours; give it `theme()` as its config.
    """
    rows = list(dict.fromkeys(dot.row for dot in found))
    order = {"sort": list(series), "scale": {"domain": list(series)}}
    shapes = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]
    legend = {"title": None, "symbolType": "circle", "symbolSize": 90, "symbolStrokeWidth": 0, "columns": 2}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
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
                "scale": {"zero": False, "nice": True, "padding": 12},
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


def curve_chart(results: Sequence[Result]) -> Specification | None:
    """Score against training examples: a line through the means, a dot a seed; one chart a task, below each other.

    None where no task has two numbers of examples.
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
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
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


def render_evaluation_page(evaluation: Evaluation) -> str:
    """The page of one model as HTML text."""
    results = evaluation.results
    found = dots(results)
    series = [name for name in _SERIES.values() if any(dot.series == name for dot in found)]
    spoken = [f"{r.task} ({r.setup}): median {points(spread(r.of()).median)}" for r in results]
    return _render(
        title=f"Evaluation of {evaluation.model}",
        subtitle="Scores in points, every seed, beside what a score has to beat.",
        chart=dot_chart(found, series) if found else None,
        curve=curve_chart(results),
        spoken="; ".join(spoken),
        tables=[
            *score_tables(results),
            *layer_tables(results),
            *group_tables(results, sets=True),
            data_table(results),
        ],
        sentences=notes(results),
        commands=evaluation.commands,
        details={
            "weights, configuration and tokenizer": evaluation.digest,
            **{f"recipe of {r.task} ({r.setup})": _settings(r.recipe) for r in results},
        },
    )


def _settings(recipe: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in recipe.items())


def report_content(run: Path) -> dict[str, Any] | None:
    """What a run's report shows of its evaluation; None where it was not evaluated."""
    evaluation = load(run / "evaluation")
    if evaluation is None:
        return None
    tables = [*score_tables(evaluation.results), *group_tables(evaluation.results)]
    return {"tables": tables, "sentences": notes(evaluation.results)}


# --- Several models ---------------------------------------------------------------------------------------------------


def contest_table(contests: Sequence[Contest], names: Sequence[str]) -> TextTable:
    """Mean ± deviation of every model; in bold only one that is ahead of all others, each time decided."""
    rows: list[list[str]] = []
    strong: set[tuple[int, int]] = set()
    for contest in contests:
        split = "" if contest.split == "dev" else f", {contest.split}"
        if contest.leader is not None:
            strong.add((len(rows), 2 + contest.leader))
        cells = [MISSING if one is None else _mean(one.mean, one.deviation) for one in contest.spreads]
        detectable = MISSING if contest.detectable is None else decimal(contest.detectable, 1)
        rows.append([f"{contest.task}{split} ({contest.setup})", contest.metric, *cells, detectable])
    columns = ["task", "metric", *names, "MDD"]
    return TextTable("mean ± std over seeds, in points", columns, rows, left=2, strong=frozenset(strong))


def _mean(mean: float | None, deviation: float | None) -> str:
    return points(mean) + ("" if deviation is None else f" ± {points(deviation)}")


def verdicts(contests: Sequence[Contest]) -> list[str]:
    """What is decided and what is not, a sentence for each two models and task."""
    found: list[str] = []
    for contest in contests:
        split = "" if contest.split == "dev" else f", {contest.split}"
        lead = f"{contest.task}{split} ({contest.setup}): "
        for comparison in contest.comparisons.values():
            where = f" On the {decimal(comparison.examples, 0)} pairs that both were asked about."
            found.append(f"{lead}{comparison.sentence}.{where if contest.setup.startswith(ZERO_SHOT) else ''}")
        if not contest.comparisons and sum(bool(scores) for scores in contest.scores) > 1:
            found.append(f"{lead}no interval, since there are no predictions of the same examples: not decided.")
    intervals = sum(len(contest.comparisons) for contest in contests)
    if intervals > 1:
        found.append(
            f"Each interval is a 95 % one by itself: of {intervals} between equal models, "
            f"{0.05 * intervals:.1f} would be expected to leave 0 out."
        )
    found.append(
        "MDD, minimal detectable difference: the smallest true one that a t-test over these seeds finds about 8 times "
        "out of 10 (two-sided, 5 %), of the two models for which it is largest. A smaller one is never called decided."
    )
    return found


def comparison_chart(contests: Sequence[Contest], names: Sequence[str]) -> Specification:
    """A dot a seed, a shape and colour a model."""
    several = len({contest.setup for contest in contests}) > 1
    found: list[Dot] = []
    for contest in contests:
        split = "" if contest.split == "dev" else f", {contest.split}"
        row = f"{contest.task}{split}, {contest.metric}" + (f" ({contest.setup})" if several else "")
        for name, scores in zip(names, contest.scores, strict=True):
            found += [Dot(row, name, 100 * score) for score in scores]
    return dot_chart(found, names)


def save_comparison(contests: Sequence[Contest], names: Sequence[str], commands: Sequence[str], path: Path) -> None:
    """Write a comparison as a page, or its plot alone where the name ends in .svg or .png."""
    chart = comparison_chart(contests, names)
    path.parent.mkdir(parents=True, exist_ok=True)
    match path.suffix.lower():
        case ".svg":
            save_svg(chart, path)
        case ".png":
            save_png(chart, path)
        case _:
            sentences = verdicts(contests)
            page = _render(
                title=f"Comparison of {listed(names)}",
                subtitle="Scores in points, every seed; intervals: examples are resampled, seeds vary as Student's t.",
                chart=chart,
                spoken=" ".join(sentences),
                tables=[contest_table(contests, names)],
                sentences=sentences,
                commands=commands,
                details={},
            )
            write_text_atomically(path, page)


def _render(*, chart: Specification | None, curve: Specification | None = None, **content: Any) -> str:
    image, curve_image = (None if one is None else Markup(to_svg(one, page=True)) for one in (chart, curve))
    template = templates().get_template("evaluation.html.j2")
    return template.render(**content, image=image, curve=curve_image, style=asset("page.css"))
