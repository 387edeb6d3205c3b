"""The page of an evaluation or a comparison.

Notable: the charts are static. They are SVG in the colours of the page.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from fast_electra.data.files import write_text_atomically
from fast_electra.evaluation.contests import Contest
from fast_electra.evaluation.evaluations import Evaluation, load
from fast_electra.evaluation.remarks import listed
from fast_electra.evaluation.results import Result, curves, spread
from fast_electra.report.evaluation_charts import (
    SERIES,
    comparison_chart,
    curve_chart,
    difference_chart,
    dot_chart,
    dots,
)
from fast_electra.report.evaluation_tables import (
    contest_table,
    data_table,
    group_tables,
    layer_tables,
    notes,
    points,
    score_tables,
    verdicts,
)
from fast_electra.report.plots import Specification, save_png, save_svg, stacked, to_svg
from fast_electra.report.templating import templates

DIFFERENCES_NOTE = (
    "Difference of the means over seeds, with its 95\u00a0% interval. Blue ones are decided; of the others "
    "the data do not say which model is ahead."
)


class Figure(NamedTuple):
    """A chart of the page with its heading and its text for screen readers; a figure without a chart is left out."""

    title: str
    chart: Specification | None
    spoken: str
    note: str = ""


def render_evaluation_page(evaluation: Evaluation) -> str:
    """Return the page of one model as HTML text."""
    results = evaluation.results
    found = dots(results)
    series = [name for name in SERIES.values() if any(dot.series == name for dot in found)]
    spoken = [f"{r.task} ({r.setup}): median {_median(r)}" for r in results]
    by_number = [
        f"{name}: " + ", ".join(f"{_median(r)} with {r.n_train:,} examples" for r in points_of)
        for name, points_of in curves(results).items()
    ]
    return _render(
        title=f"Evaluation of {evaluation.model}",
        subtitle="Scores in points of every seed, with the baselines that they have to beat.",
        figures=[
            Figure("Score against labelled examples", curve_chart(results), "Median scores. " + "; ".join(by_number)),
            Figure("Every seed", dot_chart(found, series) if found else None, "; ".join(spoken)),
        ],
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
    """Return tables and sentences of a run's evaluation for its report; None if it was not evaluated."""
    evaluation = load(run / "evaluation")
    if evaluation is None:
        return None
    tables = [*score_tables(evaluation.results), *group_tables(evaluation.results)]
    return {"tables": tables, "sentences": notes(evaluation.results)}


def save_comparison(contests: Sequence[Contest], names: Sequence[str], commands: Sequence[str], path: Path) -> None:
    """Write a comparison as a page, or only its plot if the name ends in .svg or .png.

    Args:
        contests: the comparison.
        names: of the models.
        commands: that repeat it.
        path: of the file; its folder is created if it is missing.
    """
    seeds, differences = comparison_chart(contests, names), difference_chart(contests)
    both = stacked([chart for chart in (seeds, differences) if chart], one_legend=False)
    match path.suffix.lower():
        case ".svg":
            save_svg(both, path)
        case ".png":
            save_png(both, path)
        case _:
            sentences = verdicts(contests)
            page = _render(
                title=f"Comparison of {listed(names)}",
                subtitle="Scores in points of every seed. Intervals: bootstrap over examples, Student's t over seeds.",
                figures=[
                    Figure("Every seed", seeds, _spoken_seeds(contests, names)),
                    Figure("Differences", differences, " ".join(sentences), DIFFERENCES_NOTE),
                ],
                tables=[contest_table(contests, names)],
                sentences=sentences,
                commands=commands,
                details={},
            )
            write_text_atomically(path, page)


def _spoken_seeds(contests: Sequence[Contest], names: Sequence[str]) -> str:
    return "; ".join(
        f"{contest.task} ({contest.setup}): "
        + ", ".join(
            f"{name} {' '.join(points(score) for score in scores)}"
            for name, scores in zip(names, contest.scores, strict=True)
            if scores
        )
        for contest in contests
    )


def _median(result: Result) -> str:
    return points(spread(result.of()).median)


def _render(*, figures: Sequence[Figure], **content: Any) -> str:
    drawn = [
        {"title": one.title, "note": one.note, "spoken": one.spoken, "image": Markup(to_svg(one.chart, page=True))}
        for one in figures
        if one.chart
    ]
    return templates().get_template("evaluation.html.j2").render(**content, figures=drawn)
