"""The charts of a run's page: losses, measures and speed of the auxiliary and the main model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from fast_electra.report.figures import finite, look_up, percent
from fast_electra.report.plots import Series, Specification, line_chart, series_of

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Chart:
    """A chart of the page."""

    key: str
    title: str
    note: str
    """what the chart shows; may be empty"""
    specification: Specification
    spoken: str
    """text for screen readers"""


def run_charts(auxiliary: Records, main: Records) -> list[tuple[str, list[Chart]]]:
    """Return the charts of the two runs by heading; a chart without data is left out."""
    both = ((auxiliary, "auxiliary"), (main, "main model"))
    of_main, of_auxiliary = phase_starts(main), phase_starts(auxiliary)
    main_chart, auxiliary_chart, speed_chart = (
        partial(make_chart, marks=marks) for marks in (of_main, of_auxiliary, of_main or of_auxiliary)
    )
    unigram = series_of(auxiliary, "validation.unigram_accuracy", "").y
    reference = {"unigram baseline": unigram[-1] or 0.0} if unigram else {}
    main_charts = [
        main_chart(
            "main-loss",
            "Loss of the main model",
            "Binary cross-entropy per token, in nats. It may rise while the corruption gets harder.",
            [series_of(main, "loss", "training"), series_of(main, "validation.loss", "held-out text")],
            y_title="nats per token",
            smoothing=0.02,
        ),
        main_chart(
            "main-auc",
            "Replaced-token detection",
            "ROC-AUC on held-out text, corrupted at temperature 1, over all tokens and over masked positions only.",
            [
                series_of(main, "validation.rtd_auc", "all tokens"),
                series_of(main, "validation.rtd_auc_masked", "masked positions"),
            ],
            y_title="ROC-AUC",
            reference={"chance": 0.5},
        ),
        main_chart(
            "temperature",
            "Temperature",
            "Of the auxiliary's output. It is high at first, so that replacements are easy to detect.",
            [series_of(main, "temperature", "temperature")],
            y_title="temperature",
        ),
        main_chart(
            "replaced",
            "Masked positions that were replaced",
            "A sample may equal the original. The expected share is known exactly, and the two lines must agree.",
            [
                series_of(main, "replaced_fraction", "counted"),
                series_of(main, "replaced_fraction_expected", "expected"),
            ],
            y_title="share of masked positions",
            percent=True,
            smoothing=0.02,
        ),
        main_chart(
            "entropy",
            "Entropy of the auxiliary",
            "Of the distribution of the replacements, at the temperature of the update.",
            [series_of(main, "auxiliary_entropy", "entropy")],
            y_title="nats",
            smoothing=0.02,
        ),
        main_chart(
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
        auxiliary_chart(
            "auxiliary-loss",
            "Loss of the auxiliary",
            "Masked language modelling: cross-entropy per masked token, in nats.",
            [series_of(auxiliary, "loss", "training"), series_of(auxiliary, "validation.loss", "held-out text")],
            y_title="nats per masked token",
            smoothing=0.02,
        ),
        auxiliary_chart(
            "auxiliary-accuracy",
            "Masked tokens predicted correctly",
            "On held-out text, compared with always predicting the most frequent token.",
            [series_of(auxiliary, "validation.masked_accuracy", "auxiliary")],
            y_title="share of masked positions",
            percent=True,
            reference=reference,
        ),
        _inside_chart("auxiliary-inside", auxiliary),
    ]
    speed_charts = [
        speed_chart(
            "throughput",
            "Throughput",
            "Original tokens per second of wall clock for the whole step, without padding.",
            [series_of(records, "timing.tokens_per_second", name) for records, name in both],
            y_title="tokens per second",
            smoothing=0.02,
        ),
        speed_chart(
            "learning-rate",
            "Learning rate",
            "",
            [series_of(records, "learning_rate", name) for records, name in both],
            y_title="learning rate",
            y_format=".1~e",
        ),
        speed_chart(
            "waiting",
            "Waiting for data",
            "Share of the time in which the training loop waits for the next batch.",
            [series_of(records, "timing.data_wait_share", name) for records, name in both],
            y_title="share of the time",
            percent=True,
            smoothing=0.02,
        ),
    ]
    groups = [("Main model", main_charts), ("Auxiliary", auxiliary_charts), ("Speed and learning rate", speed_charts)]
    shown = [(heading, [chart for chart in charts if chart]) for heading, charts in groups]
    return [(heading, charts) for heading, charts in shown if charts]


def phase_starts(records: Records) -> dict[str, float]:
    """The names of a run's phases after the first, with the update after which each starts."""
    phases = [(record["update"], record["phase"]) for record in records if "phase" in record]
    return {f"phase {after}": update for (update, before), (_, after) in pairwise(phases) if after != before}


def make_chart(key: str, title: str, note: str, lines: list[Series], **options: Any) -> Chart | None:
    """Make a chart of lines; None if no line has data.

    Args:
        key: of the chart, unique on the page.
        title: above the chart.
        note: below the title.
        lines: the series.
        options: for `line_chart`.
    """
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
    """Chart of the root mean square of hidden states by layer: early in the run, in its middle and at its end."""
    looks = [(r["update"], rms) for r in records if (rms := look_up(r, "internals.main.hidden_rms"))]
    lines = []
    for update, rms in dict(looks[number] for number in (0, len(looks) // 2, -1) if looks).items():
        values = [finite(value) for value in rms.values()]  # the embeddings first, then the layers in order
        lines.append(Series(f"after update {update:,}", range(len(values)), values))
    return make_chart(
        key,
        "Hidden states by layer",
        "Root mean square on held-out text; 0 is the input of the first layer. Above ten times layer 0 they hide it.",
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
    """Fields of a metric of each parameter group (`gradient_norm.main`), with the names of the groups.

    Args:
        records: of a run.
        metric: its name without a group.
        alone: name to return if there is one group, whose field is `metric` itself.
    """
    fields = dict.fromkeys(key for record in records for key in record if key.split(".")[0] == metric)
    return [(field, field.removeprefix(metric).lstrip(".") or alone) for field in fields]


def _share(value: Any) -> float | None:
    return float(value) if isinstance(value, bool) else finite(value)
