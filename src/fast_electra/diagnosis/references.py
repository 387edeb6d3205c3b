"""Reference curves of the presets: bands of normal values over the tokens seen, made from runs of each preset.

Notable:
- a run is compared with a preset's reference only if every setting that changes a curve is the preset's;
- number of updates, seed, device, precision and paths may differ. To allow for them, a band goes from the smallest to
  the largest value of the runs, plus a tenth of the median on either side;
- a curve has at most 32 points, in JSON files in `reference_curves`; `make references RUNS="…"` writes these from
  finished runs.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from fast_electra.config.loading import load_config
from fast_electra.config.tree import Config
from fast_electra.errors import CheckpointError
from fast_electra.runs.folder import load_run
from fast_electra.runs.metrics import Record

FIELDS: dict[str, Literal["lower", "higher"]] = {
    "loss": "lower",
    "masked_accuracy": "higher",
    "validation.loss": "lower",
    "validation.masked_accuracy": "higher",
    "validation.rtd_auc": "higher",
}
"""the curves that are compared, and which direction is better"""

_CORPUS = "validation.unigram_accuracy"  # another value means another corpus

_POINTS = 32
_ROOM = 0.1


@dataclass(frozen=True)
class Reference:
    """Curves made from runs of one preset."""

    preset: str
    runs: int
    """number of runs"""
    settings: dict[str, Any]
    """the settings of the runs that change a curve; a test fails if the preset's settings differ from them"""
    curves: dict[str, dict[str, list[float]]]
    """for each field the lists `tokens`, `low`, `middle` and `high`"""

    def band(self, field: str, tokens: float) -> tuple[float, float] | None:
        """The lowest and highest normal value of a field after `tokens`; None outside the range of the runs."""
        curve = self.curves.get(field)
        if curve is None or not curve["tokens"][0] <= tokens <= curve["tokens"][-1] * 1.02:
            return None
        low, middle, high = (float(np.interp(tokens, curve["tokens"], curve[k])) for k in ("low", "middle", "high"))
        return low - _ROOM * abs(middle), high + _ROOM * abs(middle)


def curve_settings(config: Config) -> dict[str, Any]:
    """The settings of a configuration that change a curve."""
    tree = config.model_dump(mode="json")
    return {
        **{name: tree[name] for name in ("main", "objective", "corruption", "optimizer")},
        "data": {name: tree["data"][name] for name in ("tokenizer", "length", "attention")},
        "batch_size": config.training.batch_size,
        **({"phases": tree["phases"]} if config.phases else {}),
    }


@cache
def references() -> dict[str, Reference]:
    """All references in the package, by preset."""
    folder = resources.files("fast_electra.diagnosis") / "reference_curves"
    files = [entry for entry in folder.iterdir() if entry.name.endswith(".json")]
    found = [Reference(**json.loads(file.read_text(encoding="utf-8"))) for file in files]
    return {reference.preset: reference for reference in sorted(found, key=lambda reference: reference.preset)}


def matching_reference(config: Config, unigram_accuracy: float | None = None) -> Reference | None:
    """The reference of the preset that has the same settings as a run; None if there is none.

    Args:
        config: of the run.
        unigram_accuracy: of the run's validation, if known. If it differs from the reference's, the corpus is another
            one, and the result is None.
    """
    for reference in references().values():
        if not outdated(reference) and not differing(reference.preset, config):
            curve = reference.curves.get(_CORPUS)
            other = curve and unigram_accuracy and abs(unigram_accuracy / curve["middle"][-1] - 1) > _ROOM
            return None if other else reference
    return None


def make_reference(preset: str, runs: Sequence[Path]) -> Reference:
    """Make the reference of a preset from its runs, over the range of tokens that all runs cover.

    Raises:
        CheckpointError: a run is not of this preset.
    """
    records = []
    for path in runs:
        run = load_run(path)
        if names := differing(preset, run.config):
            raise CheckpointError(f"{path} is no run of the preset {preset}: {', '.join(names)} differ.")
        records.append(run.metrics())
    curves = {field: curve for field in (*FIELDS, _CORPUS) if (curve := _curve(field, records))}
    return Reference(preset, len(runs), _settings_of(preset), curves)


def differing(preset: str, config: Config) -> list[str]:
    """The sections of settings in which a run differs from a preset; empty if the run is of this preset.

    If the preset has `initial: auto`, the run's temperature may have any value.
    """
    asked, own = _settings_of(preset), curve_settings(config)
    if asked["corruption"]["schedule"].get("initial") == "auto" and "initial" in own["corruption"]["schedule"]:
        own["corruption"]["schedule"]["initial"] = "auto"
    return sorted(name for name in asked if asked[name] != own[name])


def outdated(reference: Reference) -> list[str]:
    """The sections in which a reference's settings differ from the preset's of today; new keys are ignored."""
    now = _settings_of(reference.preset)
    return [
        section
        for section, values in reference.settings.items()
        if values != ({key: now[section].get(key) for key in values} if isinstance(values, dict) else now[section])
    ]


@cache
def _settings_of(preset: str) -> dict[str, Any]:
    return curve_settings(load_config(preset))


def _curve(field: str, runs: Sequence[Sequence[Record]]) -> dict[str, list[float]] | None:
    """Smallest, median and largest value over the tokens that every run covers; None if a run lacks the curve."""
    section, _, name = field.rpartition(".")
    lines = []
    for records in runs:
        places = [(r.get(section, {}) if section else r) for r in records]
        points = [(r["tokens"], place[name]) for r, place in zip(records, places, strict=True) if name in place]
        if len(points) < 2:
            return None
        lines.append(tuple(np.array(points, dtype=float).T))
    first, last = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    # At most as many points as the sparsest run has, so that interpolated values do not look like measurements.
    count = min(_POINTS, min(len(x) for x, _ in lines))
    tokens = np.linspace(first, last, count)
    values = np.array([np.interp(tokens, x, y) for x, y in lines])
    rows = {
        "tokens": tokens.round(),
        "low": values.min(0),
        "middle": [median(column) for column in values.T],
        "high": values.max(0),
    }
    return {
        key: [float(f"{value:.4g}") if key != "tokens" else float(value) for value in row] for key, row in rows.items()
    }
