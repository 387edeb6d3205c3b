"""Reference curves of the presets: what runs of a preset looked like, as bands over the tokens seen.

Notable:
- a reference belongs to a preset: a run is compared only when every setting that shapes a curve is the preset's;
- number of updates, seed, device, precision and paths don't count, so a band has room for them: from the least to the
  largest of the runs, and a tenth wider on either side;
- each has a few dozen points, in JSON files in `reference_curves`; `make references RUNS="…"` writes these from
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
"""the curves that are compared, and which way is better"""

_CORPUS = "validation.unigram_accuracy"  # another one is another corpus

_POINTS = 32
_ROOM = 0.1


@dataclass(frozen=True)
class Reference:
    """Curves of runs of one preset."""

    preset: str
    runs: int
    settings: dict[str, Any]
    """the settings that shape a curve, as they were: a test says when the preset has moved on"""
    curves: dict[str, dict[str, list[float]]]
    """field → `tokens`, and `low`, `middle` and `high` there"""

    def band(self, field: str, tokens: float) -> tuple[float, float] | None:
        """What is normal after `tokens`: lowest and highest; None outside of what the runs cover."""
        curve = self.curves.get(field)
        if curve is None or not curve["tokens"][0] <= tokens <= curve["tokens"][-1] * 1.02:
            return None
        low, middle, high = (float(np.interp(tokens, curve["tokens"], curve[k])) for k in ("low", "middle", "high"))
        return low - _ROOM * abs(middle), high + _ROOM * abs(middle)


def curve_settings(config: Config) -> dict[str, Any]:
    """The settings that shape a curve."""
    tree = config.model_dump(mode="json")
    return {
        **{name: tree[name] for name in ("main", "objective", "corruption", "optimizer")},
        "data": {name: tree["data"][name] for name in ("tokenizer", "length", "attention")},
        "batch_size": config.training.batch_size,
    }


@cache
def references() -> dict[str, Reference]:
    """All references of the package by preset."""
    folder = resources.files("fast_electra.diagnosis") / "reference_curves"
    files = [entry for entry in folder.iterdir() if entry.name.endswith(".json")]
    found = [Reference(**json.loads(file.read_text(encoding="utf-8"))) for file in files]
    return {reference.preset: reference for reference in sorted(found, key=lambda reference: reference.preset)}


def matching_reference(config: Config, unigram_accuracy: float | None = None) -> Reference | None:
    """The reference of the preset that shares every setting that shapes a curve.

    Args:
        config: the run's.
        unigram_accuracy: of the run's validation, where it is known: another one than the reference's is that of
            another corpus, and there is nothing to compare.
    """
    for reference in references().values():
        if not outdated(reference) and not differing(reference.preset, config):
            curve = reference.curves.get(_CORPUS)
            other = curve and unigram_accuracy and abs(unigram_accuracy / curve["middle"][-1] - 1) > _ROOM
            return None if other else reference
    return None


def make_reference(preset: str, runs: Sequence[Path]) -> Reference:
    """The reference of a preset from its runs, over the tokens that all of them have seen.

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
    """Sections of the settings that shape a curve in which a run is not of a preset; none: it is.

    A temperature that the preset leaves to the run (`initial: auto`) is the run's own.
    """
    asked, own = _settings_of(preset), curve_settings(config)
    if asked["corruption"]["schedule"].get("initial") == "auto" and "initial" in own["corruption"]["schedule"]:
        own["corruption"]["schedule"]["initial"] = "auto"
    return sorted(name for name in asked if asked[name] != own[name])


def outdated(reference: Reference) -> list[str]:
    """Sections of a reference's settings that the preset no longer has; keys that are new have their defaults."""
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
    """Least, middle and largest value over the tokens that every run covers; None where one has no such curve."""
    section, _, name = field.rpartition(".")
    lines = []
    for records in runs:
        places = [(r.get(section, {}) if section else r) for r in records]
        points = [(r["tokens"], place[name]) for r, place in zip(records, places, strict=True) if name in place]
        if len(points) < 2:
            return None
        lines.append(tuple(np.array(points, dtype=float).T))
    first, last = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    # No more points than the sparsest run has, or a line between two validations would pass for measurements.
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
