"""The page of a quickstart, a run or several runs: one HTML file that needs no other file and no network.

Notable:
- it takes plain dicts and returns a string. A part that is missing in the content is left out of the page;
- Jinja2 escapes all text, and all data are JSON in a script element (`<` escaped), so hostile source code in a snippet
  stays text;
- each chart is in the page as SVG, so it is readable without scripts; the scripts replace it by the live chart;
- chart data are embedded as columns (one array for each field), a third of the size of rows.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import vl_convert
from markupsafe import Markup

from fast_electra.report.figures import finite
from fast_electra.report.headlines import bug_comparison, headlines
from fast_electra.report.marked_tokens import marked_bug, marked_row, marked_sentences
from fast_electra.report.plots import VEGA_LITE, Specification, theme, to_svg
from fast_electra.report.run_charts import run_charts
from fast_electra.report.templating import templates


def render_page(content: Mapping[str, Any]) -> str:
    """Return the page of a quickstart, a run or several runs as HTML text.

    Keys of `content`; only `title` is required:
        title, subtitle: text.
        summary: `summary.json` of the run.
        auxiliary_metrics, main_metrics: the records of the two runs' `metrics.jsonl`.
        answer: sentences that come first.
        overview: {tables, sentences} that come next.
        curves: headings and charts, in place of those of the two runs.
        stages: {name, seconds, found} in order.
        cost: {part, flops, seconds}.
        snippets: {tokens: [{text, masked, replaced, original, probability}]}: corrupted rows with the main
            model's probability that each token was replaced.
        bugs: {kind, source, original, replacement, tokens: [{text, suspicion, changed}]}.
        sentences: {most, least}, each a list of {text, source, suspicion}, where suspicion is the mean logit, and
            optional tokens: [{text, suspicion}], where suspicion is a probability.
        evaluation: {tables, sentences} from `evaluation_page.report_content`.
        usage_code: the lines that load the model.
        repeat: the command that writes the page again.
        config: the resolved configuration as YAML text.
        environment: names and values.
    """
    summary = content.get("summary") or {}
    comparison = bug_comparison(summary)
    records = (content.get(f"{run}_metrics") or () for run in ("auxiliary", "main"))
    curves = content.get("curves") or run_charts(*records)
    charts = [part["chart"] for part in comparison if part["chart"]] + [chart for _, part in curves for chart in part]
    embedded = {
        "charts": {chart.key: {"title": chart.title, "spec": _columns(chart.specification)} for chart in charts},
        "theme": theme(page=True),
        "file_theme": theme(),
    }
    return (
        templates()
        .get_template("page.html.j2")
        .render(
            title=content["title"],
            subtitle=content.get("subtitle") or "",
            headlines=headlines(summary),
            sources=_sources(summary),
            answer=content.get("answer"),
            overview=content.get("overview"),
            comparison=comparison,
            curves=curves,
            images={chart.key: Markup(to_svg(chart.specification, page=True)) for chart in charts},
            stages=_with_shares(content.get("stages") or (), ("seconds",)),
            cost=_with_shares(content.get("cost") or (), ("flops", "seconds")),
            snippets=[marked_row(snippet["tokens"]) for snippet in content.get("snippets") or ()],
            bugs=[marked_bug(bug) for bug in content.get("bugs") or ()],
            sentences=marked_sentences(content.get("sentences") or {}),
            evaluation=content.get("evaluation"),
            usage_code=content.get("usage_code") or "",
            repeat=content.get("repeat") or "",
            config=content.get("config") or "",
            environment=content.get("environment") or {},
            embedded=embedded,
            bundle=_bundle(),
        )
    )


@functools.cache
def _bundle() -> Markup:
    """Vega, Vega-Lite and vega-embed as one script: 0.9 MB, cached because it takes 1.4 s."""
    script = vl_convert.javascript_bundle(snippet="window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    return Markup("(()=>{" + script + "\n})();")  # otherwise its globals leak into the page


def _columns(specification: Specification) -> Specification:
    rows = specification["data"]["values"]
    fields = list(dict.fromkeys(field for row in rows for field in row))
    return specification | {"data": {"columns": {field: [row.get(field) for row in rows] for field in fields}}}


def _sources(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The sources of a mixture with the loss on held-out text, and the tokens and epochs that were read."""
    measures = summary.get("main") or summary.get("auxiliary") or {}
    names = [key.removeprefix("epochs.") for key in measures if key.startswith("epochs.")]
    rows = [{key: measures.get(f"{key}.{name}") for key in ("loss", "tokens", "epochs")} for name in names]
    return [{"name": name} | row for name, row in zip(names, rows, strict=True)]


def _with_shares(rows: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> dict[str, Any]:
    """Rows with an additional `<field>_share` of the total for each field, and the totals."""
    totals = {field: sum(finite(row.get(field)) or 0.0 for row in rows) for field in fields}
    completed = []
    for row in rows:
        shares = {f"{field}_share": (finite(row.get(field)) or 0.0) / (totals[field] or 1.0) for field in fields}
        completed.append({**{field: None for field in fields}, **row, **shares})
    return {"rows": completed, "totals": totals}
