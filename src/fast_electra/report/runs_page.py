"""Content of a page that compares several runs: their figures, the settings that differ, and their curves.

Notable:
- every measure is drawn over updates, tokens, computation and time, because runs of different speed or size look
  different over each;
- the page says which measures cannot be compared: masked accuracy with other tokenizers, detection with other
  auxiliaries.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from os.path import commonpath
from pathlib import Path
from typing import Any

from fast_electra.config.reading import flat
from fast_electra.errors import CheckpointError, ConfigError
from fast_electra.report.figures import MISSING, decimal, duration, finite, look_up, power
from fast_electra.report.plots import series_of
from fast_electra.report.run_charts import Chart, make_chart
from fast_electra.report.text_tables import TextTable
from fast_electra.runs.folder import RunFolder, load_run
from fast_electra.runs.metrics import Record

_AXES = {"update": "updates", "tokens": "tokens", "flops": "FLOPs", "minutes": "minutes of training"}
# Title, note and options of the chart of a measure.
_MEASURES: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "loss": ("Loss in training", "Of the run's own objective, so only runs with one objective can be compared.", {}),
    "validation.loss": ("Loss on held-out text", "Of the run's own objective.", {}),
    "validation.rtd_auc": ("Replaced-token detection", "ROC-AUC over all tokens; chance is 0.5.", {}),
    "validation.rtd_auc_masked": ("Detection at masked positions", "ROC-AUC over masked positions only.", {}),
    "validation.masked_accuracy": ("Masked tokens predicted", "On held-out text.", {"percent": True}),
    "temperature": ("Temperature", "Of the auxiliary's output.", {}),
    "gradient_norm": ("Gradient norm", "Before clipping.", {"logarithmic": True}),
}
_SMOOTHED = ("loss", "gradient_norm")


def runs_content(paths: Sequence[Path]) -> dict[str, Any]:
    """Return the content for `page.render_page` that compares runs.

    Args:
        paths: folders of at least two different runs.

    Raises:
        ConfigError: a run is given twice.
        CheckpointError: a folder is not a run, or has no metrics yet.
    """
    resolved = [path.resolve() for path in paths]
    for place, path in enumerate(resolved):
        if path in resolved[:place]:
            raise ConfigError(f"{paths[place]} is given twice: give each run once.")
    runs = dict(zip(_names(resolved), map(load_run, paths), strict=True))
    records = {name: _completed(run) for name, run in runs.items()}
    return {
        "title": f"{len(runs)} runs",
        "subtitle": ", ".join(runs),
        "overview": {
            "tables": [_figures(runs, records), *_differences(runs)],
            "sentences": list(_cautions(runs)),
        },
        "curves": list(_curves(records)),
    }


def shared_folder(paths: Sequence[Path]) -> Path:
    """The nearest folder that holds all runs."""
    return Path(commonpath([path.resolve().parent for path in paths]))


def _names(paths: Sequence[Path]) -> list[str]:
    """The paths without the folders that all of them share."""
    shared = commonpath([path.parent for path in paths])
    return [path.relative_to(shared).as_posix() for path in paths]


def _completed(run: RunFolder) -> list[Record]:
    """A run's records with `flops` and `minutes` up to the update.

    Raises:
        CheckpointError: there are none.
    """
    records = run.metrics()
    if not records:
        raise CheckpointError(f"{run.path} has no metrics yet: let it run for some updates.")
    seconds = accumulate(finite(look_up(record, "timing.seconds")) or 0.0 for record in records)
    return [
        {**record, "flops": run.flops(record["update"]), "minutes": spent / 60}
        for record, spent in zip(records, seconds, strict=True)
    ]


def _figures(runs: Mapping[str, RunFolder], records: Mapping[str, Sequence[Record]]) -> TextTable:
    measured = {name: _last_validation(found) for name, found in records.items()}
    measures = list(dict.fromkeys(key for values in measured.values() for key in values))
    rows = []
    for name, run in runs.items():
        last = records[name][-1]
        seconds = 60 * last["minutes"]
        rows.append(
            [
                name,
                f"{last['update']:,} of {run.updates:,}",
                f"{last['tokens']:,}",
                power(last["flops"]),
                duration(seconds),
                decimal(last["tokens"] / seconds if seconds else None, 0),
                *(decimal(measured[name].get(key), 4) for key in measures),
            ]
        )
    columns = ["run", "updates", "tokens", "FLOPs", "time of updates", "tokens/s", *measures]
    return TextTable("Runs, with the measures of their last validation", columns, rows)


def _last_validation(records: Sequence[Record]) -> Mapping[str, Any]:
    return next((record["validation"] for record in reversed(records) if "validation" in record), {})


def _differences(runs: Mapping[str, RunFolder]) -> Iterator[TextTable]:
    """A table of the settings that differ; none if no setting does."""
    settings = [flat(run.config.model_dump(mode="json")) for run in runs.values()]
    keys = dict.fromkeys(key for each in settings for key in each)
    rows = []
    for key in keys:
        values = [MISSING if each.get(key) is None else str(each[key]) for each in settings]
        if len(set(values)) > 1:
            rows.append([key, *values])
    if rows:
        yield TextTable("Settings that differ", ["setting", *runs], rows, left=1 + len(runs))


def _cautions(runs: Mapping[str, RunFolder]) -> Iterator[str]:
    def distinct(name: str) -> int:
        return len({found for run in runs.values() if (found := run.digest(name))})

    if distinct("tokenizer") > 1:
        yield "The runs have different tokenizers, so their losses and masked accuracies cannot be compared."
    if distinct("data") > 1:
        yield "The runs have different token shards, so their held-out texts differ."
    if distinct("auxiliary") > 1:
        yield (
            "The runs have different auxiliaries. A worse auxiliary makes replacements that are easier to detect, so "
            "their ROC-AUC of detection cannot be compared."
        )


def _curves(records: Mapping[str, Sequence[Record]]) -> Iterator[tuple[str, list[Chart]]]:
    for axis, title in _AXES.items():
        charts = []
        for field, (heading, note, options) in _MEASURES.items():
            smoothing = 0.02 if field in _SMOOTHED else 0.0
            lines = [series_of(found, field, name, axis) for name, found in records.items()]
            key = f"{field.replace('.', '-')}-{axis}"
            charts.append(
                make_chart(key, heading, note, lines, y_title="", x_title=title, smoothing=smoothing, **options)
            )
        yield f"Over {title}", [chart for chart in charts if chart]
