"""From a study to its runs: configurations, the stages that they share, and names that say what is the same.

Notable:
- a name has a digest of everything that the result depends on, except paths and the machine. A stage stands in it by
  its own digest, and a value that equals the default is left out, so a new setting of a later version changes no name;
- a stage takes the seed and the section `data` of the run that uses it, unless it sets them itself;
- a budget becomes updates here: by arithmetic from updates and tokens, by the rates of rates.py from FLOPs and seconds.

This module does not need torch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fast_electra.config.reading import flat, yaml_value
from fast_electra.config.tree import BUDGETS, Config
from fast_electra.data.settings import DataConfig
from fast_electra.errors import ConfigError
from fast_electra.studies.grid.identity import (
    changed,
    configuration,
    digest_of,
    paths_of,
    put,
    source_name,
    without_pace,
)
from fast_electra.studies.grid.settings import SHARED, Budget, Settings, StudyConfig, is_stage

_MACHINE = ("log_every", "checkpoint_every", "keep_checkpoints", "longest_update", "trackers", "micro_batch_size")
"""keys of `training` that no name depends on"""
_NOT_CACHED = ("corruption.cache", "corruption.schedule", "optimizer.")


@dataclass(frozen=True)
class Rate:
    """What a kind of run costs."""

    updates_per_second: float
    flops_per_update: float


@dataclass(frozen=True)
class Node:
    """Something that is made once in the study's folder: shards, a cache or a run."""

    name: str
    """of its folder"""
    identity: str
    """digest of what it depends on"""
    label: str
    """for people"""
    stage: str = ""
    """name of its stage; empty for a run that is compared"""
    needs: "Mapping[str, Node]" = field(default_factory=dict)
    """stages by the key of the setting that names them"""


@dataclass(frozen=True)
class CorpusNode(Node):
    """Token shards."""

    python: bool = False
    """this machine's Python source instead of `data.sources`"""
    data: DataConfig = field(default_factory=DataConfig)


@dataclass(frozen=True)
class RunNode(Node):
    """A run, or the cache for one."""

    base: str = ""
    settings: Settings = field(default_factory=dict)
    """without `needs`"""
    is_cache: bool = False
    pace: str = ""
    """digest of what its speed depends on: all but seed, budget, learning rate and schedule"""

    def config(self, folder: Path) -> Config:
        """The configuration, with stages as folders below `folder`."""
        return configuration(
            self.label, self.base, self.settings | {k: str(folder / n.name) for k, n in self.needs.items()}
        )


@dataclass(frozen=True)
class Cell:
    """A run that is compared with others."""

    node: RunNode
    method: str
    point: Settings
    """values of the axes, by key"""
    seed: int
    trial: Any = None
    """the value of the setting that is tuned, if this is a trial"""

    @property
    def row(self) -> str:
        """Method and values, which all seeds share."""
        return row_name(self.method, self.point)

    @property
    def file(self) -> str:
        """The name of the file of its result."""
        return f"{self.node.name}.json"


@dataclass
class Plan:
    """The runs of a study."""

    cells: list[Cell] = field(default_factory=list)
    trials: list[Cell] = field(default_factory=list)
    """runs that choose the setting that is tuned"""
    unmeasured: dict[str, RunNode] = field(default_factory=dict)
    """runs whose rate is needed and not known, by `pace`; names and updates of the plan are then not final"""
    spent: dict[str, float] = field(default_factory=dict)
    """what the stages of each cell cost in the unit of the budget, by the name of its node"""

    @property
    def all(self) -> list[Cell]:
        """Trials first."""
        return [*self.trials, *self.cells]


def row_name(method: str, point: Mapping[str, Any]) -> str:
    """Name a method with the values of the axes."""
    words = [method, *(f"{_short(key)}={_text(value)}" for key, value in point.items())]
    return ", ".join(filter(None, words)) or "run"


def stages_of(node: Node) -> list[Node]:
    """Everything that a node needs, first what is needed first; each once."""
    found: dict[str, Node] = {}
    for below in node.needs.values():
        found |= {each.name: each for each in (*stages_of(below), below)}
    return list(found.values())


def plan(study: StudyConfig, rates: Mapping[str, Rate], chosen: Mapping[str, Any] | None = None) -> Plan:
    """List the runs of a study.

    Args:
        study: the study.
        rates: what is measured already, by `RunNode.pace`.
        chosen: the tuned value of each row; rows without one have no cells yet.

    Raises:
        ConfigError: a setting can't be, or a stage leaves nothing of the budget.
    """
    return _Planner(study, rates).plan(chosen or {})


def source_of(study: StudyConfig, rates: Mapping[str, Rate], node: RunNode, value: str) -> Node:
    """The node of a stage, given as `$NAME`, for the shards of a run; it has the study's first seed."""
    settings = node.settings | {key: f"${below.stage}" for key, below in node.needs.items()}
    use = _Use(_Planner(study, rates), flat(study.shared), {}, study.seeds[0], node.base, settings)
    return use.stage("sources", value, "sources", (), settings)


class _Planner:
    """Makes the plan of a study."""

    def __init__(self, study: StudyConfig, rates: Mapping[str, Rate]) -> None:
        self.study, self.stages, self._rates = study, study.checked_stages, rates
        self._plan = Plan()

    def plan(self, chosen: Mapping[str, Any]) -> Plan:
        study, tune = self.study, self.study.tune
        for name, method in (study.methods or {"": None}).items():
            settings = dict(method or {})
            base, seeds = settings.pop("base", study.base), settings.pop("seeds", study.seeds)
            if not isinstance(seeds, list) or not all(type(seed) is int and seed >= 0 for seed in seeds):
                raise ConfigError(f"method {name}: seeds must be a list such as [0, 1], not {_text(seeds)}.")
            for point in study.points:
                row = row_name(name, point)
                tuned: Settings = {}
                if tune:
                    for value in tune.values:
                        label = f"{row}, {_short(tune.key)}={_text(value)}"
                        node = self._cell_node(base, settings, point, tune.seed, label, {tune.key: value})
                        self._plan.trials.append(Cell(node, name, point, tune.seed, value))
                    if row not in chosen:
                        continue
                    tuned = {tune.key: chosen[row]}
                for seed in seeds:
                    node = self._cell_node(base, settings, point, seed, row, tuned)
                    self._plan.cells.append(Cell(node, name, point, seed))
        _refuse_equal(self._plan.cells)
        return self._plan

    def _cell_node(self, base: Any, method: Settings, point: Settings, seed: int, row: str, tuned: Settings) -> RunNode:
        study = self.study
        shared = flat(study.shared) | {k.removeprefix(SHARED): v for k, v in point.items() if k.startswith(SHARED)}
        own = {k: v for k, v in point.items() if not k.startswith((SHARED, "$"))}
        settings = shared | flat(study.set) | flat(method) | flat(own) | tuned | {"training.seed": seed}
        use = _Use(self, shared, point, seed, base, settings)
        name, label = f"{row}-seed{seed}", f"{row}, seed {seed}"
        node = use.run(name, label, base, settings)
        budget = study.budget
        if budget is None:
            return node
        runs = [stage for stage in stages_of(node) if isinstance(stage, RunNode) and not stage.is_cache]
        spent = sum(self._spent(stage, budget) for stage in runs) if budget.stages == "counted" else 0.0
        left = budget.amount - spent
        if left <= 0:
            raise ConfigError(
                f"{row}: its stages take {spent:,.4g} of the budget of {budget.amount:,.4g} {budget.unit}: give more."
            )
        node = use.run(name, label, base, settings, self.updates(node, budget, left))
        self._plan.spent[node.name] = spent
        return node

    def updates(self, node: RunNode, budget: Budget, amount: float) -> int:
        """An amount of the budget's unit as updates of a run."""
        if budget.unit == "updates":
            return max(1, round(amount))
        if budget.unit == "tokens":
            config = node.config(Path())
            return config.updates_within(amount, config.tokens_per_update)
        rate = self._rate(node)
        updates = amount * rate.updates_per_second if budget.unit == "seconds" else amount / rate.flops_per_update
        return max(1, round(updates))

    def _spent(self, node: RunNode, budget: Budget) -> float:
        config = node.config(Path())
        updates = config.known_updates
        if updates is None:
            raise ConfigError(f"{node.label}: give its length as share, training.updates or training.tokens.")
        if budget.unit == "updates":
            return updates
        if budget.unit == "tokens":
            planned = config.planned_phases()
            return sum(n * (p.stop - p.start) for n, p in zip(config.tokens_per_update, planned, strict=True))
        rate = self._rate(node)
        return updates / rate.updates_per_second if budget.unit == "seconds" else updates * rate.flops_per_update

    def _rate(self, node: RunNode) -> Rate:
        if node.config(Path()).phases:
            raise ConfigError(
                f"{node.label}: give a budget in updates or tokens, since its phases have speeds of their own."
            )
        if node.pace not in self._rates:
            if any(isinstance(stage, RunNode) and stage.is_cache for stage in stages_of(node)):
                raise ConfigError(f"{node.label}: give a budget in updates or tokens, since it reads a cache.")
            self._plan.unmeasured[node.pace] = node
            # A high rate leaves something of the budget, until it is measured.
            return Rate(1e6, 1.0)
        return self._rates[node.pace]


@dataclass(frozen=True)
class _Use:
    """Makes the nodes that one run uses."""

    planner: _Planner
    shared: Settings
    """settings of all runs"""
    point: Settings
    seed: int
    base: Any
    settings: Settings
    """of the run"""

    def run(
        self,
        name: str,
        label: str,
        base: Any,
        settings: Settings,
        updates: int | None = None,
        is_cache: bool = False,
        above: tuple[str, ...] = (),
    ) -> RunNode:
        """The node of a run, whose settings may name stages; `above` are the stages that it is made for."""
        if not isinstance(base, str):
            raise ConfigError(f"{label}: base must be a preset or a YAML file, not {_text(base)}.")
        if updates is not None:
            settings = {k: v for k, v in settings.items() if k not in [f"training.{unit}" for unit in BUDGETS]}
            settings |= {"training.updates": updates}
        needs = {k: self.stage(k, v, label, above, settings) for k, v in settings.items() if is_stage(v)}
        plain = {key: value for key, value in settings.items() if key not in needs}
        config = configuration(label, base, plain | {key: node.name for key, node in needs.items()})
        tree = changed(config)
        tree["training"] = {k: v for k, v in tree["training"].items() if k not in _MACHINE}
        for key, value in paths_of(tree):
            if key not in needs:
                put(tree, key, Path(value).name)
        paced = {stage: node.pace if isinstance(node, RunNode) else node.identity for stage, node in needs.items()}
        identity = digest_of(tree, {key: node.identity for key, node in needs.items()}, is_cache)
        pace = digest_of(without_pace(tree), paced, is_cache)
        stage = above[-1] if above else ""
        return RunNode(f"{_file_name(name)}-{identity}", identity, label, stage, needs, base, plain, is_cache, pace)

    def stage(self, key: str, value: str, label: str, above: tuple[str, ...], settings: Settings) -> Node:
        """The node of a stage that the setting `key` names, for a run with these settings."""
        name, planner = value[1:], self.planner
        if name not in planner.stages:
            known = f"the stages are {', '.join(planner.stages)}" if planner.stages else "the study has no stages"
            raise ConfigError(f"{label}: {key} is {value}, and there is no such stage; {known}.")
        if name in above:
            raise ConfigError(f"stage {name} uses itself ({' → '.join((*above, name))}): leave one of these out.")
        stage = planner.stages[name]
        prefix = f"{value}."
        own = flat(stage.set) | {k.removeprefix(prefix): v for k, v in self.point.items() if k.startswith(prefix)}
        where = (*above, name)
        if stage.corpus is not None:
            return self._corpus(name, stage.corpus)
        if stage.cache:  # it serves every schedule and optimizer
            kept = {k: v for k, v in settings.items() if not k.startswith(_NOT_CACHED)}
            return self.run(name, f"stage {name}, seed {self.seed}", self.base, kept | own, is_cache=True, above=where)
        data = {k: v for k, v in settings.items() if k.startswith("data.")}
        settings = self.shared | data | {"training.seed": self.seed} | own
        base = stage.base or planner.study.base
        seed = settings["training.seed"]
        folder, title = f"{name}-seed{seed}", f"stage {name}, seed {seed}"
        node = self.run(folder, title, base, settings, above=where)
        if stage.share is None:
            return node
        budget = planner.study.budget
        assert budget is not None
        updates = planner.updates(node, budget, stage.share * budget.amount)
        return self.run(folder, title, base, settings, updates, above=where)

    def _corpus(self, name: str, given: Mapping[str, Any]) -> CorpusNode:
        own = dict(given)
        python = own.pop("python", False)
        if not python and not own.get("sources"):
            raise ConfigError(f"stage {name}: a corpus needs sources, a list of files and folders, or python: true.")
        data = {k: v for k, v in self.settings.items() if k.startswith("data.") and not is_stage(v)}
        if python:
            data |= {"data.format": "code", "data.tokenizer.kind": "code"}
        data |= {f"data.{key}": value for key, value in flat(own).items()}
        main = {k: v for k, v in self.settings.items() if k.startswith("main.") and not is_stage(v)}
        config = configuration(f"stage {name}", self.base, main | data)
        tree = {k: v for k, v in changed(config.data).items() if k not in ("workers", "shards", "length", "attention")}
        tree["sources"] = [source_name(source) for source in tree.get("sources", [])]
        identity = digest_of(tree, {}, bool(python))
        return CorpusNode(f"{name}-{identity}", identity, f"stage {name}", name, {}, bool(python), config.data)


def _refuse_equal(cells: list[Cell]) -> None:
    by_identity: dict[str, str] = {}
    for cell in cells:
        other = by_identity.setdefault(cell.node.identity, cell.row)
        if other != cell.row:
            raise ConfigError(f"{other} and {cell.row} have equal settings: leave one out.")


def _short(key: str) -> str:
    """The last word of a key, with the stage that it belongs to."""
    stage = key.split(".")[0] if key.startswith("$") else ""
    return f"{stage[1:]} {key.rpartition('.')[2]}".strip()


def _text(value: Any) -> str:
    return value[1:] if is_stage(value) else yaml_value(value, inside=True).strip('"')


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.=+-]+", "-", name).strip("-")[:80]
