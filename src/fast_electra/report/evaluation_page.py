"""The page of an evaluation or a comparison.

Notable: the page is static. The plot is SVG in the colours of the page, and there are no scripts.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fast_electra.data.files import write_text_atomically
from fast_electra.evaluation.contests import Contest
from fast_electra.evaluation.evaluations import Evaluation, load
from fast_electra.evaluation.remarks import listed
from fast_electra.evaluation.results import spread
from fast_electra.report.evaluation_charts import SERIES, comparison_chart, curve_chart, dot_chart, dots
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
from fast_electra.report.plots import Specification, save_png, save_svg, to_svg
from fast_electra.report.templating import templates


def render_evaluation_page(evaluation: Evaluation) -> str:
    """Return the page of one model as HTML text."""
    results = evaluation.results
    found = dots(results)
    series = [name for name in SERIES.values() if any(dot.series == name for dot in found)]
    spoken = [f"{r.task} ({r.setup}): median {points(spread(r.of()).median)}" for r in results]
    return _render(
        title=f"Evaluation of {evaluation.model}",
        subtitle="Scores in points of every seed, with the baselines that they have to beat.",
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
    chart = comparison_chart(contests, names)
    match path.suffix.lower():
        case ".svg":
            save_svg(chart, path)
        case ".png":
            save_png(chart, path)
        case _:
            sentences = verdicts(contests)
            page = _render(
                title=f"Comparison of {listed(names)}",
                subtitle="Scores in points of every seed. Intervals: bootstrap over examples, Student's t over seeds.",
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
    return template.render(**content, image=image, curve=curve_image)
