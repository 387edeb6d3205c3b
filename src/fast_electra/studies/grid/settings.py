"""The settings of a study: what is trained, how often, how long, and how it is judged. This module does not need torch.

Notable:
- settings of runs are mappings of dotted keys (`corruption.schedule.tau: 0.1`) or nested ones; they are checked when
  the runs are planned (plan.py);
- `$NAME` as a value stands for what the stage NAME makes: shards, a run or a cache.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal, Self, TypeGuard

from pydantic import Field, model_validator

from fast_electra.config.checking import validate
from fast_electra.config.reading import Layer, flat, layer_of, read_named_file, read_overrides
from fast_electra.data.files import canonical_digest
from fast_electra.errors import ConfigError
from fast_electra.parts import Section

Settings = dict[str, Any]
"""settings of a run by their dotted keys"""
SHARED = "shared."
"""prefix of the key of an axis that changes all runs, stages included"""


class Budget(Section):
    """The length of each run, in exactly one unit; that of its stages is subtracted from it."""

    updates: int | None = Field(default=None, ge=1)
    """updates"""
    tokens: int | None = Field(default=None, ge=1)
    """tokens"""
    flops: float | None = Field(default=None, gt=0)
    """floating-point operations"""
    seconds: float | None = Field(default=None, gt=0)
    """seconds; the speed of each method is measured once and kept, on a machine that should do nothing else"""
    stages: Literal["counted", "free"] = "counted"
    """whether the budget of a run includes the stages that it uses"""

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        given = [unit for unit in UNITS if getattr(self, unit) is not None]
        if len(given) != 1:
            raise ValueError(f"give the budget in exactly one of {', '.join(UNITS)}")
        return self

    @property
    def unit(self) -> str:
        """The unit that is given."""
        return next(unit for unit in UNITS if getattr(self, unit) is not None)

    @property
    def amount(self) -> float:
        """The budget in `unit`."""
        return getattr(self, self.unit)


UNITS = ("updates", "tokens", "flops", "seconds")


class Stage(Section):
    """Something that several runs share; it is made once for each setting and seed."""

    corpus: dict[str, Any] | None = None
    """token shards: `python: true` (this machine's Python source) or `sources`, and other keys of `data`"""
    base: str | None = None
    """a run: preset or YAML file; empty: the study's"""
    set: dict[str, Any] = Field(default={})
    """settings of the run, or of the cache"""
    share: float | None = Field(default=None, gt=0, lt=1)
    """length of the run as a share of the study's budget; empty: by its own settings"""
    cache: bool = False
    """a corruption cache for the settings of the runs that use it"""


class Tune(Section):
    """A setting that is chosen for each method by trials, which no result uses."""

    key: str
    """the setting"""
    values: list[Any] = Field(min_length=2)
    """what is tried"""
    seed: int = Field(ge=0)
    """of the trials; none of the study's seeds"""
    by: list[str] = Field(min_length=1)
    """measures that decide; of several, the first that the trials have"""
    lower: bool = False
    """whether a lower measure is better"""


class StudyConfig(Section):
    """A study."""

    title: str
    """of the page"""
    question: str = ""
    """what the study asks, as a sentence on the page"""
    base: str
    """preset or YAML file of the runs that are compared"""
    shared: dict[str, Any] = Field(default={})
    """settings of all runs, stages included"""
    set: dict[str, Any] = Field(default={})
    """settings of the runs that are compared"""
    stages: dict[str, dict[str, Any]] = Field(default={})
    """what several runs share, by name"""
    methods: dict[str, dict[str, Any] | None] = Field(default={})
    """settings by name of the method; `base` replaces the study's, `seeds` its seeds"""
    axes: dict[str, list[Any]] | list[dict[str, list[Any]]] = Field(default={})
    """values by key, crossed; of a list of mappings, the keys of each mapping go together"""
    seeds: list[int] = Field(default=[0], min_length=1)
    """of pre-training"""
    budget: Budget | None = None
    """length of each run; empty: by the settings"""
    tune: Tune | None = None
    """a setting that is chosen for each method first"""
    evaluate: dict[str, dict[str, Any]] = Field(default={})
    """evaluations by name, each with the options of `fast-electra evaluate`"""
    sources: dict[str, Any] = Field(default={})
    """auxiliaries whose replacements every main model has to detect, by name: `$STAGE`, `$STAGE/generator`, or settings
    of `auxiliary`"""
    thresholds: dict[str, list[float]] = Field(default={})
    """values of measures on validation rows; the updates until they are reached are measures too"""
    show: list[str] = Field(default=[])
    """measures in the tables, the most important first; empty: all"""
    reference: str | None = None
    """method or setting that the others are compared with; empty: the first"""
    cells: Path | None = None
    """folder of the results, one small file for each run; empty: cells/ in the study's folder"""
    scales: dict[str, dict[str, Any]] = Field(default={})
    """changes of this file by name, for `--scale`; axes are replaced whole"""

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError("seeds must be different whole numbers from 0")
        if self.tune is not None and self.tune.seed in self.all_seeds:
            raise ValueError(f"tune.seed must not be one of the study's seeds, and {self.tune.seed} is")
        for name in (*self.stages, *self.methods, *self.evaluate, *self.sources):
            if not re.fullmatch(r"[\w][\w ,.+=()-]*", name) or len(name) > 60:
                raise ValueError(
                    f"{name} can't be a name: give one of letters, digits, spaces and , . + = ( ) - , up to 60"
                )
        for name in self.stages:
            if not re.fullmatch(r"[A-Za-z_]\w*", name):
                raise ValueError(f"the stage {name} can't be called so: give a name of letters, digits and _")
        for zipped in self.zipped_axes:
            lengths = {key: len(values) for key, values in zipped.items()}
            if 0 in lengths.values():
                raise ValueError(f"axes: {next(key for key, n in lengths.items() if not n)} has no values")
            if len(set(lengths.values())) > 1:
                counted = ", ".join(f"{key} {count}" for key, count in lengths.items())
                raise ValueError(f"axes: keys of one mapping go together, so they need equally long lists ({counted})")
        keys = [key for zipped in self.zipped_axes for key in zipped]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise ValueError(f"axes: {twice} is there twice")
        for stage in self.checked_stages.values():
            if stage.share is not None and self.budget is None:
                raise ValueError("a stage has a share of the budget, and there is none: give budget")
        return self

    @property
    def zipped_axes(self) -> list[dict[str, list[Any]]]:
        """The axes, each a mapping of keys that go together."""
        if isinstance(self.axes, list):
            return self.axes
        return [{key: values} for key, values in self.axes.items()]

    @property
    def points(self) -> list[Settings]:
        """The points of the grid: values by key. One without axes."""
        each = [
            [dict(zip(zipped, values, strict=True)) for values in zip(*zipped.values(), strict=True)]
            for zipped in self.zipped_axes
        ]
        return [{key: value for part in parts for key, value in part.items()} for parts in product(*each)]

    @property
    def checked_stages(self) -> dict[str, Stage]:
        """The stages by name.

        Raises:
            ConfigError: a stage can't be.
        """
        found = {name: validate(layer_of(tree, f"stage {name}"), Stage) for name, tree in self.stages.items()}
        for name, stage in found.items():
            if (stage.corpus is not None) + stage.cache + (stage.base is not None) > 1:
                raise ConfigError(f"stage {name}: it is shards (corpus), a cache or a run (base): give one of them.")
        return found

    @property
    def measures_digest(self) -> str:
        """A digest of what decides how a run is measured, without the folders of files."""

        def portable(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {key: portable(inner) for key, inner in value.items()}
            if isinstance(value, list):
                return [portable(inner) for inner in value]
            return Path(value).name if isinstance(value, str) and "/" in value and value[0] != "$" else value

        stages = {
            name: self.stages[name] for given in self.sources.values() if (name := _stage_name(given)) in self.stages
        }
        return canonical_digest(portable([self.sources, stages, self.evaluate, self.thresholds]))[:12]

    @property
    def all_seeds(self) -> list[int]:
        """The seeds of all methods."""
        own = [seed for method in self.methods.values() for seed in (method or {}).get("seeds", [])]
        return list(dict.fromkeys([*self.seeds, *own]))


def read_study(source: str | Path, overrides: Sequence[str] = (), scale: str | None = None) -> StudyConfig:
    """The study of a YAML file.

    Args:
        source: the file.
        overrides: key=value for keys of the file, such as `budget.seconds=60`.
        scale: one of its `scales`.

    Raises:
        ConfigError: anything that can't be, as one sentence.
    """
    if not Path(source).exists():
        raise ConfigError(f"{source} does not exist: give the YAML file of a study (docs/studies.md).")
    layer = read_named_file(source, "no study", [])
    scales = layer.tree.get("scales") or {}
    if scale is not None:
        if scale not in scales:
            known = f"the scales are {', '.join(scales)}" if scales else "the file has none under scales"
            raise ConfigError(f"--scale {scale}: {source} has no such scale; {known}.")
        changes = dict(scales[scale])
        below = {key: value for key, value in layer.tree.items() if key != "axes" or "axes" not in changes}
        layer = Layer(layer.name, _deep(below, changes), layer.sources)
    above = read_overrides(overrides)
    if isinstance(axes := above.tree.get("axes"), dict):
        above.tree["axes"] = flat(axes)
    layer = Layer(layer.name, _deep(layer.tree, above.tree), layer.sources | above.sources)
    return validate(layer, StudyConfig)


def grid_study(config: str, settings: Settings, axes: Mapping[str, list[Any]]) -> StudyConfig:
    """The study of `pretrain CONFIG --grid …`: all settings crossed, with the measures of validation."""
    return StudyConfig(
        title=f"{', '.join(key.rpartition('.')[2] for key in axes)} of {Path(config).stem}",
        base=config,
        set={key: value for key, value in settings.items() if key != "training.seed"},
        axes=dict(axes),
        seeds=[settings.get("training.seed", 0)],
    )


def _stage_name(source: Any) -> str:
    """The stage that a source names; "" if it names none."""
    model = source.get("model") if isinstance(source, Mapping) else source
    return model[1:].partition("/")[0] if is_stage(model) else ""


def is_stage(value: Any) -> TypeGuard[str]:
    """Whether a value of a setting names a stage."""
    return isinstance(value, str) and value.startswith("$")


def _deep(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`; lists and values are replaced. A budget in another unit replaces the one below."""
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        if key == "budget" and isinstance(value, Mapping) and isinstance(inner, Mapping) and {*UNITS} & {*value}:
            inner = {name: given for name, given in inner.items() if name not in UNITS}
        is_section = isinstance(value, Mapping) and isinstance(inner, Mapping)
        merged[key] = _deep(inner, value) if is_section else value  # type: ignore[arg-type]
    return merged
