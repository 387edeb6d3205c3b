"""The first screen of a quickstart's page: the headline figures, and the comparison on the bug-finding benchmark."""

from collections.abc import Mapping
from typing import Any

from fast_electra.report.figures import MISSING, decimal, duration, finite, interval, look_up, percent
from fast_electra.report.plots import (
    Estimate,
    interval_chart,
)
from fast_electra.report.run_charts import Chart
from fast_electra.report.summary_figures import (
    BUG_ROWS,
    DIFFERENCES,
    bug_rows,
    tokens_per_second,
    total_seconds,
)


def headlines(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the figures of the first screen: value, label, meaning and comparison of each."""
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
            "label": "ROC-AUC of replaced-token detection",
            "meaning": "Over all tokens of held-out text"
            + (
                f": of a replaced and an original token, the model gives the replaced one the higher logit "
                f"{100 * auc:.0f} times in 100."
                if auc is not None
                else "."
            ),
            "beside": f"chance 0.500 · masked positions only {decimal(look_up(summary, 'main.rtd_auc_masked'))}",
        }
    )
    for kind in ("operator", "variable"):
        rows = {row.name: row for row in bug_rows(summary, kind)}
        if not rows:
            continue
        model = rows.get(BUG_ROWS["model"])
        beside = [f"{name} {percent(row.pair)}" for name, row in rows.items() if row is not model]
        headlines.append(
            {
                "value": percent(model.pair if model else None),
                "label": f"wrong {kind}s found",
                "meaning": f"How often the model gives the copy of a function with one wrong {kind} the higher logit "
                "at the change. It was never trained to find bugs.",
                "beside": " · ".join(beside) or MISSING,
            }
        )
    masked, unigram = (finite(look_up(summary, f"auxiliary.{name}_accuracy")) for name in ("masked", "unigram"))
    ratio = f" ({masked / unigram:.1f}\u00a0× that)" if masked is not None and unigram else ""
    headlines.append(
        {
            "value": percent(masked),
            "label": "masked tokens predicted by the auxiliary",
            "meaning": "Accuracy of the frozen masked language model that makes the replacements.",
            "beside": f"always the most frequent token {percent(unigram)}{ratio}",
        }
    )
    headlines.append(
        {
            "value": duration(total_seconds(summary)),
            "label": "from text to this page",
            "meaning": "Wall-clock time of all stages on this machine, with the training of the auxiliary.",
            "beside": f"main model {decimal(tokens_per_second(summary), 0)} tokens/s",
        }
    )
    return headlines


def bug_comparison(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return rows, differences and a chart of the bug-finding benchmark for each kind of bug."""
    found = [(kind, bug_rows(summary, kind)) for kind in ("operator", "variable")]
    shown = [value for _, rows in found for row in rows for value in (row.pair, row.low, row.high) if value is not None]
    # Both kinds have the same axis, so that they can be compared; it always includes chance.
    domain = (max(0.0, min([*shown, 0.5]) - 0.05), min(1.0, max([*shown, 0.5]) + 0.05))
    parts = []
    for kind, rows in found:
        if not rows:
            continue
        estimates = [
            Estimate(row.name, row.pair, row.low, row.high, highlight=row.name == BUG_ROWS["model"])
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
                estimates, x_title="pairs judged correctly, 95 % interval", reference={"chance": 0.5}, domain=domain
            ),
            spoken=f"Pairs judged correctly, wrong {kind}s: {spoken}.",
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
