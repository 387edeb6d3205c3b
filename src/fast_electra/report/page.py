"""The quickstart's report: one HTML file that needs nothing else, not even a network.

Notable:
- plain dicts in, a string out; every part that the content lacks is left out of the page, every figure reads –;
- all text is escaped by Jinja2, all data travel as JSON in a script element (`<` escaped): hostile source code in a
  snippet stays text;
- each chart is in the page as SVG, so it can be read without scripts; the scripts put the live chart in its place;
- chart data are embedded as columns (an array a field) and made rows in the page: a third of the size.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vl_convert
from markupsafe import Markup

from fast_electra.data.files import write_text_atomically
from fast_electra.report import (
    CONTESTANTS,
    DIFFERENCES,
    MISSING,
    THRESHOLD,
    contestants,
    decimal,
    duration,
    finite,
    interval,
    look_up,
    percent,
    tokens_per_second,
    total_seconds,
)
from fast_electra.report.plots import (
    VEGA_LITE,
    Estimate,
    Series,
    Specification,
    interval_chart,
    line_chart,
    series_of,
    theme,
    to_svg,
)
from fast_electra.report.templating import asset, templates

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Chart:
    """A chart of the page: its specification, what it shows (heading), why it matters (note), and a line for ears."""

    key: str
    title: str
    note: str
    specification: Specification
    spoken: str


def render_quickstart_page(content: Mapping[str, Any]) -> str:
    """The page as HTML text.

    Keys of `content`, all but `title` optional:
        title, subtitle: text.
        summary: `summary.json` of the run.
        auxiliary_metrics, main_metrics: the records of the two runs' `metrics.jsonl`.
        stages: {name, seconds, found} in the order in which they ran.
        cost: {part, flops, seconds}.
        snippets: {tokens: [{text, masked, replaced, original, probability}]}: corrupted rows and, a token, the main
            model's probability that it was replaced.
        bugs: {kind, source, original, replacement, tokens: [{text, suspicion, changed}]}.
        sentences: {most, least}, each a list of {text, source, suspicion} (the mean logit), and where there are some
            tokens: [{text, suspicion}] (probabilities).
        evaluation: {tables, sentences}, as `evaluation_page.report_content` gives them.
        usage_code: the lines that load the model.
        config: the resolved configuration as YAML text.
        environment: names and values.
    """
    summary = content.get("summary") or {}
    comparison = _comparison(summary)
    curves = _curves(content.get("auxiliary_metrics") or (), content.get("main_metrics") or ())
    charts = [part["chart"] for part in comparison if part["chart"]] + [chart for _, part in curves for chart in part]
    embedded = {
        "charts": {chart.key: {"title": chart.title, "spec": _columns(chart.specification)} for chart in charts},
        "theme": theme(page=True),
        "file_theme": theme(),
    }
    return (
        templates()
        .get_template("quickstart.html.j2")
        .render(
            title=content["title"],
            subtitle=content.get("subtitle") or "",
            headlines=_headlines(summary),
            comparison=comparison,
            curves=curves,
            images={chart.key: Markup(to_svg(chart.specification, page=True)) for chart in charts},
            stages=_with_shares(content.get("stages") or (), ("seconds",)),
            cost=_with_shares(content.get("cost") or (), ("flops", "seconds")),
            snippets=[_snippet(snippet["tokens"]) for snippet in content.get("snippets") or ()],
            bugs=[_bug(bug) for bug in content.get("bugs") or ()],
            sentences=_sentences(content.get("sentences") or {}),
            evaluation=content.get("evaluation"),
            usage_code=content.get("usage_code") or "",
            config=content.get("config") or "",
            environment=content.get("environment") or {},
            embedded=embedded,
            style=asset("page.css"),
            script=asset("page.js"),
            bundle=_bundle(),
        )
    )


def save_page(html: str, path: str | Path) -> None:
    """Write the page so that it is there wholly or not at all; half a surrogate pair in a snippet becomes a `?`."""
    write_text_atomically(Path(path), html.encode("utf-8", "replace").decode("utf-8"))


@functools.cache
def _bundle() -> Markup:
    """Vega, Vega-Lite and vega-embed as one script (0.9 MB, 1.4 s to make, so once a process)."""
    script = vl_convert.javascript_bundle(snippet="window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    return Markup("(()=>{" + script + "\n})();")  # the bundle leaks its globals otherwise


def _columns(specification: Specification) -> Specification:
    rows = specification["data"]["values"]
    fields = list(dict.fromkeys(field for row in rows for field in row))
    return specification | {"data": {"columns": {field: [row.get(field) for row in rows] for field in fields}}}


def _headlines(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """The figures of the first screen: value, what it is, what it means, and what stands beside it."""
    headlines = []
    if task := summary.get("task"):
        mean, untrained = (finite(look_up(task, f"{side}.mean")) for side in ("encoder", "untrained"))
        headlines.append(
            {
                "value": percent(mean),
                "label": f"{task['metric'].replace('_', ' ')} on {task['name']}",
                "meaning": " ".join(task["sentences"]),
                "beside": f"without pre-training {percent(untrained)}",
            }
        )
    auc = finite(look_up(summary, "main.rtd_auc"))
    headlines.append(
        {
            "value": decimal(auc),
            "label": "replaced tokens told apart",
            "meaning": "ROC-AUC over all tokens of held-out text"
            + (
                f": of a replaced and an original token, the model finds the replaced one more suspicious "
                f"{100 * auc:.0f} times in 100."
                if auc is not None
                else "."
            ),
            "beside": f"chance 0.500 · masked positions alone {decimal(look_up(summary, 'main.rtd_auc_masked'))}",
        }
    )
    for kind in ("operator", "variable"):
        rows = {row.name: row for row in contestants(summary, kind)}
        if not rows:
            continue
        model = rows.get(CONTESTANTS["model"])
        beside = [f"{name} {percent(row.pair)}" for name, row in rows.items() if row is not model]
        headlines.append(
            {
                "value": percent(model.pair if model else None),
                "label": f"wrong {kind}s found",
                "meaning": f"Of a function and its copy with one wrong {kind}, the model is more suspicious of the "
                "copy this often, never having been trained to find bugs.",
                "beside": " · ".join(beside) or MISSING,
            }
        )
    masked, unigram = (finite(look_up(summary, f"auxiliary.{name}_accuracy")) for name in ("masked", "unigram"))
    ratio = f" ({masked / unigram:.1f}\u00a0× that)" if masked is not None and unigram else ""
    headlines.append(
        {
            "value": percent(masked),
            "label": "masked tokens guessed by the auxiliary",
            "meaning": "The frozen masked language model that makes the replacements: how often its guess is right.",
            "beside": f"always the most frequent token {percent(unigram)}{ratio}",
        }
    )
    headlines.append(
        {
            "value": duration(total_seconds(summary)),
            "label": "from text to this page",
            "meaning": "Wall-clock time of all stages on this machine, the auxiliary's training included.",
            "beside": f"main model {decimal(tokens_per_second(summary), 0)} tokens/s",
        }
    )
    return headlines


def _comparison(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The downstream comparison, one entry a kind of bug: rows, differences, and a chart."""
    found = [(kind, contestants(summary, kind)) for kind in ("operator", "variable")]
    shown = [value for _, rows in found for row in rows for value in (row.pair, row.low, row.high) if value is not None]
    # One axis for both kinds, so that the eye may compare; chance is always on it.
    domain = (max(0.0, min([*shown, 0.5]) - 0.05), min(1.0, max([*shown, 0.5]) + 0.05))
    parts = []
    for kind, rows in found:
        if not rows:
            continue
        estimates = [
            Estimate(row.name, row.pair, row.low, row.high, highlight=row.name == CONTESTANTS["model"])
            for row in rows
            if row.pair is not None
        ]
        differences = [
            {"name": name, **difference}
            for key, name in DIFFERENCES.items()
            if isinstance(difference := look_up(summary, f"downstream.{kind}.{key}"), Mapping)
        ]
        spoken = "; ".join(f"{e.name} {percent(e.value)} {interval(e.low, e.high)}" for e in estimates)
        chart = Chart(
            key=f"pairs-{kind}",
            title=f"Wrong {kind}",
            note="",
            specification=interval_chart(
                estimates, x_title="pairs judged right, 95 % interval", reference={"chance": 0.5}, domain=domain
            ),
            spoken=f"Pairs judged right, wrong {kind}s: {spoken}.",
        )
        parts.append(
            {
                "kind": kind,
                "rows": rows,
                "differences": differences,
                "auxiliary": look_up(summary, f"downstream.{kind}.auxiliary") or {},
                "chart": chart if estimates else None,
            }
        )
    return parts


def _curves(auxiliary: Records, main: Records) -> list[tuple[str, list[Chart]]]:
    """The charts of the two runs, by heading; a chart without data is left out."""
    both = ((auxiliary, "auxiliary"), (main, "main model"))
    unigram = series_of(auxiliary, "validation.unigram_accuracy", "").y
    reference = {"unigram baseline": unigram[-1] or 0.0} if unigram else {}
    main_charts = [
        _chart(
            "main-loss",
            "Loss of the main model",
            "Binary cross-entropy a token, in nats. It may rise while the corruption gets harder.",
            [series_of(main, "loss", "training"), series_of(main, "validation.loss", "held-out text")],
            y_title="nats a token",
            smoothing=0.02,
        ),
        _chart(
            "main-auc",
            "Replaced tokens told apart",
            "ROC-AUC on held-out text, corrupted at temperature 1, over all tokens and over masked positions alone.",
            [
                series_of(main, "validation.rtd_auc", "all tokens"),
                series_of(main, "validation.rtd_auc_masked", "masked positions"),
            ],
            y_title="ROC-AUC",
            reference={"chance": 0.5},
        ),
        _chart(
            "temperature",
            "Temperature",
            "Of the auxiliary's output: high at first, so that replacements are easy to see through.",
            [series_of(main, "temperature", "temperature")],
            y_title="temperature",
        ),
        _chart(
            "replaced",
            "Masked positions really replaced",
            "A sample may equal the original. The expected share is known exactly; the two lines must agree.",
            [
                series_of(main, "replaced_fraction", "counted"),
                series_of(main, "replaced_fraction_expected", "expected"),
            ],
            y_title="share of masked positions",
            percent=True,
            smoothing=0.02,
        ),
        _chart(
            "entropy",
            "Entropy of the auxiliary",
            "Of the distribution that replacements are drawn from, at the temperature of the update.",
            [series_of(main, "auxiliary_entropy", "entropy")],
            y_title="nats",
            smoothing=0.02,
        ),
        _chart(
            "gradients",
            "Gradient norm",
            _clipped_note(main),
            [series_of(main, field, name) for field, name in _groups(main, "gradient_norm", "gradient norm")],
            y_title="norm before clipping, logarithmic",
            logarithmic=True,
            smoothing=0.02,
        ),
        _inside_chart("main-inside", main),
    ]
    auxiliary_charts = [
        _chart(
            "auxiliary-loss",
            "Loss of the auxiliary",
            "Masked language modelling: cross-entropy a masked token, in nats.",
            [series_of(auxiliary, "loss", "training"), series_of(auxiliary, "validation.loss", "held-out text")],
            y_title="nats a masked token",
            smoothing=0.02,
        ),
        _chart(
            "auxiliary-accuracy",
            "Masked tokens guessed right",
            "On held-out text, beside always guessing the most frequent token.",
            [series_of(auxiliary, "validation.masked_accuracy", "auxiliary")],
            y_title="share of masked positions",
            percent=True,
            reference=reference,
        ),
        _inside_chart("auxiliary-inside", auxiliary),
    ]
    speed_charts = [
        _chart(
            "throughput",
            "Throughput",
            "Original tokens a second of wall clock, whole step, padding left out.",
            [series_of(records, "timing.tokens_per_second", name) for records, name in both],
            y_title="tokens a second",
            smoothing=0.02,
        ),
        _chart(
            "learning-rate",
            "Learning rate",
            "",
            [series_of(records, "learning_rate", name) for records, name in both],
            y_title="learning rate",
            y_format=".1~e",
        ),
        _chart(
            "waiting",
            "Waiting for data",
            "Share of the time in which the loop waits for the next batch.",
            [series_of(records, "timing.data_wait_share", name) for records, name in both],
            y_title="share of the time",
            percent=True,
            smoothing=0.02,
        ),
    ]
    groups = [("Main model", main_charts), ("Auxiliary", auxiliary_charts), ("Both", speed_charts)]
    shown = [(heading, [chart for chart in charts if chart]) for heading, charts in groups]
    return [(heading, charts) for heading, charts in shown if charts]


def _chart(key: str, title: str, note: str, lines: list[Series], **options: Any) -> Chart | None:
    lines = [line for line in lines if line]
    if not lines:
        return None
    ends = []
    for line in lines:
        values = [value for value in line.y if value is not None]
        show = percent if options.get("percent") else "{:,.4g}".format
        ends.append(f"{line.name} from {show(values[0])} to {show(values[-1])}")
    return Chart(key, title, note, line_chart(lines, **options), f"{title}: {'; '.join(ends)}.")


def _inside_chart(key: str, records: Records) -> Chart | None:
    """Root mean square of the main model's hidden states by layer: early in the run, in the middle and at its end."""
    looks = [(r["update"], rms) for r in records if (rms := look_up(r, "internals.main.hidden_rms"))]
    lines = []
    for update, rms in dict(looks[number] for number in (0, len(looks) // 2, -1) if looks).items():
        values = [finite(value) for value in rms.values()]  # the embeddings first, then the layers in order
        lines.append(Series(f"after update {update:,}", range(len(values)), values))
    return _chart(
        key,
        "Hidden states by layer",
        "Root mean square on held-out text; 0 is what the first layer is given. Above ten times that, layers drown it.",
        lines,
        y_title="root mean square",
        x_title="layer",
    )


def _clipped_note(records: Records) -> str:
    notes = []
    for field, group in _groups(records, "clipped", ""):
        clipped = [value for value in (_share(record.get(field)) for record in records) if value is not None]
        if clipped:
            notes.append(
                f"{group + ': ' if group else ''}{percent(sum(clipped) / len(clipped))} of the updates clipped"
            )
    return "; ".join(notes) + "." if notes else ""


def _groups(records: Records, metric: str, alone: str) -> list[tuple[str, str]]:
    """Fields of a metric that each parameter group has (`gradient_norm.main`), with the groups' names.

    Args:
        records: of a run.
        metric: without a group.
        alone: the name where there is one group, whose field is `metric` itself.
    """
    fields = dict.fromkeys(key for record in records for key in record if key.split(".")[0] == metric)
    return [(field, field.removeprefix(metric).lstrip(".") or alone) for field in fields]


def _share(value: Any) -> float | None:
    return float(value) if isinstance(value, bool) else finite(value)


def _with_shares(rows: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> dict[str, Any]:
    """The rows with `<field>_share` of the total beside each field, and the totals."""
    totals = {field: sum(finite(row.get(field)) or 0.0 for row in rows) for field in fields}
    completed = []
    for row in rows:
        shares = {f"{field}_share": (finite(row.get(field)) or 0.0) / (totals[field] or 1.0) for field in fields}
        completed.append({**{field: None for field in fields}, **row, **shares})
    return {"rows": completed, "totals": totals}


def _snippet(tokens: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A corrupted row for the template: every token with its shade, its marks and a sentence about it."""
    shown = []
    for token in tokens:
        probability = finite(token.get("probability"))
        believed = f"replaced with {percent(probability)}, says the model"
        if token.get("replaced"):
            mark, note = "replaced", f"{_quote(token['text'])} replaces {_quote(token.get('original'))}: {believed}"
        elif token.get("masked"):
            mark, note = "restored", f"{_quote(token['text'])} was masked, and the sample is the original: {believed}"
        else:
            mark, note = "", f"{_quote(token['text'])}: {believed}"
        shown.append({"text": token["text"], "shade": _shade(probability), "mark": mark, "note": note})
    replaced = [token for token in tokens if token.get("replaced")]
    seen = sum((finite(token.get("probability")) or 0.0) >= THRESHOLD for token in replaced)
    false = sum((finite(t.get("probability")) or 0.0) >= THRESHOLD for t in tokens if not t.get("replaced"))
    caption = f"{seen} of {len(replaced)} replaced tokens seen through, {false} false alarm{'s' * (false != 1)}"
    return {"tokens": shown, "caption": caption}


def _bug(bug: Mapping[str, Any]) -> dict[str, Any]:
    """An injected bug for the template, with the rank of the changed token among all of the function's."""
    tokens = bug["tokens"]
    scores = [finite(token.get("suspicion")) for token in tokens]
    changed = [score for token, score in zip(tokens, scores, strict=True) if token.get("changed") and score is not None]
    known = [score for score in scores if score is not None]
    rank = 1 + sum(score > max(changed) for score in known) if changed else None
    shown = []
    for token, score in zip(tokens, scores, strict=True):
        note = f"{_quote(token['text'])}: suspicion {percent(score)}"
        if token.get("changed"):
            note += f", changed from {_quote(bug.get('original'))}"
        mark = "changed" if token.get("changed") else "top" if known and score == max(known) else ""
        shown.append({"text": token["text"], "shade": _shade(score), "mark": mark, "note": note})
    return {
        "kind": bug.get("kind") or "bug",
        "source": bug.get("source") or "",
        "original": bug.get("original"),
        "replacement": bug.get("replacement"),
        "rank": rank,
        "count": len(known),
        "tokens": shown,
    }


def _sentences(sentences: Mapping[str, Any]) -> list[dict[str, Any]]:
    groups = []
    for key in ("most", "least"):
        entries = []
        for sentence in sentences.get(key) or ():
            whole = [{"text": sentence.get("text", ""), "suspicion": None}]
            entries.append(
                {
                    "suspicion": decimal(sentence.get("suspicion"), 2).replace("-", "−"),
                    "source": sentence.get("source") or "",
                    "tokens": [
                        {
                            "text": token["text"],
                            "shade": _shade(token.get("suspicion")),
                            "mark": "",
                            "note": f"{_quote(token['text'])}: suspicion {percent(token.get('suspicion'))}",
                        }
                        for token in sentence.get("tokens") or whole
                    ],
                }
            )
        if entries:
            groups.append({"heading": f"{key.capitalize()} suspicious", "entries": entries})
    return groups


def _shade(probability: Any) -> float:
    """Opacity of a token's background: none under 4 %, else the probability to two places (short HTML)."""
    probability = finite(probability) or 0.0
    return round(probability, 2) if probability >= 0.04 else 0


def _quote(text: Any) -> str:
    """A token as one line in quotation marks, white space made visible."""
    return MISSING if text is None else json.dumps(str(text), ensure_ascii=False).replace('\\"', '"')
