"""The first screen of a quickstart's page: the headline figures, and the comparison on the bug-finding benchmark."""

from collections.abc import Iterator, Mapping
from typing import Any

from fast_electra.report.figures import MISSING, decimal, duration, finite, interval, look_up, percent, power
from fast_electra.report.plots import Estimate, interval_chart
from fast_electra.report.run_charts import Chart
from fast_electra.report.summary_figures import BUG_ROWS, DIFFERENCES, bug_rows, tokens_per_second, total_seconds

Headline = dict[str, str]


def headlines(summary: Mapping[str, Any]) -> list[Headline]:
    """Return the figures of the first screen: value, label, meaning and comparison of each; no missing figure."""
    found = [_task(summary), _detection(summary), *_bugs(summary), _prediction(summary)]
    return [headline for headline in (*found, _tokens(summary), _time(summary), _memory(summary)) if headline]


def _task(summary: Mapping[str, Any]) -> Headline | None:
    if not (task := summary.get("task")):
        return None
    sides = ("encoder", "untrained", "auxiliary")
    mean, untrained, auxiliary = (finite(look_up(task, f"{side}.mean")) for side in sides)
    return {
        "value": percent(mean),
        "label": f"{task['metric'].replace('_', ' ')} on {task['name']}",
        "meaning": " ".join(task["sentences"]),
        "beside": f"without pre-training {percent(untrained)} · its auxiliary {percent(auxiliary)}",
    }


def _detection(summary: Mapping[str, Any]) -> Headline | None:
    if (auc := finite(look_up(summary, "main.rtd_auc"))) is None:
        return None
    return {
        "value": decimal(auc),
        "label": "ROC-AUC of replaced-token detection",
        "meaning": "Over all tokens of held-out text: of a replaced and an original token, the model gives the "
        f"replaced one the higher logit {100 * auc:.0f} times in 100.",
        "beside": f"chance 0.500 · masked positions only {decimal(look_up(summary, 'main.rtd_auc_masked'))}",
    }


def _bugs(summary: Mapping[str, Any]) -> Iterator[Headline]:
    for kind in ("operator", "variable"):
        rows = {row.name: row for row in bug_rows(summary, kind)}
        if not rows:
            continue
        model = rows.get(BUG_ROWS["model"])
        beside = [f"{name} {percent(row.pair)}" for name, row in rows.items() if row is not model]
        yield {
            "value": percent(model.pair if model else None),
            "label": f"wrong {kind}s found",
            "meaning": f"How often the model gives the copy of a function with one wrong {kind} the higher logit "
            "at the change. It was never trained to find bugs.",
            "beside": " · ".join(beside) or MISSING,
        }


def _prediction(summary: Mapping[str, Any]) -> Headline | None:
    masked, unigram = (finite(look_up(summary, f"auxiliary.{name}_accuracy")) for name in ("masked", "unigram"))
    if masked is None:
        return None
    ratio = f" ({masked / unigram:.1f}\u00a0× that)" if unigram else ""
    return {
        "value": percent(masked),
        "label": "masked tokens predicted",
        "meaning": "Accuracy of the masked language model on held-out text. Frozen, it makes the replacements that a "
        "main model detects.",
        "beside": f"always the most frequent token {percent(unigram)}{ratio}",
    }


def _tokens(summary: Mapping[str, Any]) -> Headline | None:
    if (tokens := finite(look_up(summary, "run.tokens"))) is None:
        return None
    return {
        "value": decimal(tokens, 0) if tokens < 1e6 else f"{tokens / 1e6:,.1f}\u00a0M",
        "label": "tokens seen",
        "meaning": f"In {decimal(look_up(summary, 'run.updates'), 0)} updates.",
        "beside": f"{power(look_up(summary, 'run.flops'))} FLOPs, without the training of other models",
    }


def _time(summary: Mapping[str, Any]) -> Headline | None:
    if (seconds := total_seconds(summary)) is None:
        return None
    is_run = "run" in summary
    return {
        "value": duration(seconds),
        "label": "of training" if is_run else "from text to this page",
        "meaning": "Wall-clock time of the updates on this machine, without validation and checkpoints."
        if is_run
        else "Wall-clock time of all stages on this machine, with the training of the auxiliary.",
        "beside": f"{'' if is_run else 'main model '}{decimal(tokens_per_second(summary), 0)} tokens/s",
    }


def _memory(summary: Mapping[str, Any]) -> Headline | None:
    """What the memory of a process goes to: counted, and on a GPU measured, too."""
    if not (parts := look_up(summary, "run.memory_bytes")):
        return None
    counted = sum(parts.values())
    peak = look_up(summary, "run.peak_memory_bytes") or 0
    if peak:
        parts = {**parts, "activations and all else": max(0, peak - counted)}
    return {
        "value": _gigabytes(peak or counted),
        "label": "of GPU memory at most" if peak else "of memory, without activations",
        "meaning": "Weights and gradients of the trained models, and the optimizer's state with float32 masters, in "
        "one process. A smaller training.micro_batch_size lowers the activations alone.",
        "beside": " · ".join(f"{name} {_gigabytes(size)}" for name, size in parts.items()),
    }


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f}\u00a0GB"


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
