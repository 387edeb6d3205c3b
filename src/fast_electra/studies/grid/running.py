"""Runs a study: makes what is missing, one small file for each finished run, and lets several processes share the work.

    OUT/              shards, caches and runs, each a folder named after what it depends on
    CELLS/NAME.json   the result of a run: settings, measures, curve, digests, seconds
    CELLS/rates.json  the speed of each kind of run, for a budget in seconds or FLOPs

Notable:
- a run whose file is in CELLS is done, even if its folder is gone: a study continues from the files alone;
- a process takes a run by a lock. Several processes with one folder never do the same work, and a killed one holds
  nothing up; a stage that another process makes is waited for;
- a run that diverges is a result. Other errors are reported at the end, and the same command tries again.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fast_electra import __version__
from fast_electra.data.files import MANIFEST, read_sealed_json, write_sealed_json
from fast_electra.data.locks import folder_lock
from fast_electra.data.python_corpus import collect
from fast_electra.data.shard_building import build_shards
from fast_electra.errors import ConfigError, LockedError, TrainingError, UserError
from fast_electra.pipelines.corrupt import build_cache
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.pipelines.run_page import write_page
from fast_electra.runs.folder import RunFolder, load_run
from fast_electra.stopping import Interrupted
from fast_electra.studies.grid.measures import measure_run, refuse_evaluation
from fast_electra.studies.grid.plan import Cell, CorpusNode, Node, Plan, RunNode, plan, source_of, stages_of
from fast_electra.studies.grid.rates import known_rates, measure_rates
from fast_electra.studies.grid.settings import StudyConfig, is_stage
from fast_electra.terminal import Say
from fast_electra.training.precision import choose_execution
from fast_electra.training.telemetry import Observer, QuietObserver

CellRecord = dict[str, Any]


@dataclass(frozen=True)
class Listener:
    """Functions that a study calls to report its progress and to ask whether to stop."""

    say: Say = lambda _: None
    """called with one sentence at a time"""
    display: Callable[[str], Observer] = lambda _: QuietObserver()
    """makes the progress display of a run"""
    stop: Callable[[], bool] = lambda: False
    """returns True to stop the study"""


@dataclass
class Progress:
    """What a study has."""

    plan: Plan
    records: dict[str, CellRecord]
    """the results of the cells, by the name of the run"""
    failures: dict[str, str] = field(default_factory=dict)
    """why runs have no result, by the name of the run; not those that diverged"""

    @property
    def missing(self) -> list[Cell]:
        """The runs without a result."""
        return [cell for cell in self.plan.all if cell.node.name not in self.records]


def read_progress(study: StudyConfig, cells: Path) -> Progress:
    """What a study has so far, from the files of its results; nothing is computed.

    Raises:
        ConfigError: a setting can't be.
    """
    found = plan(study, known_rates(cells))
    if study.tune is not None:
        found = plan(study, known_rates(cells), chosen_values(study, found, _records(study, found, cells)))
    return Progress(found, _records(study, found, cells))


def run_study(
    study: StudyConfig, out: Path, cells: Path, listener: Listener, share: tuple[int, int] = (1, 1)
) -> Progress:
    """Train and measure every run that has no result yet.

    Args:
        study: the study.
        out: its folder, for stages and runs.
        cells: the folder of the results.
        listener: reports the progress, and can stop the study.
        share: (i, n) with i from 1: only every n-th run, from the i-th on.

    Returns:
        what there is afterwards; runs that other processes are training are missing from it.

    Raises:
        ConfigError: a setting can't be.
        Interrupted: the listener stopped the study; the same call continues.
    """
    if read_progress(study, cells).missing:
        for name, options in study.evaluate.items():
            refuse_evaluation(name, options)
    work = _Work(study, out.resolve(), cells.resolve(), listener)
    work.measure()
    progress = read_progress(study, cells)
    work.take(progress.plan.trials[share[0] - 1 :: share[1]])
    if study.tune is not None:
        work.measure()  # a tuned setting may change the speed
        progress = read_progress(study, cells)
    work.take(progress.plan.cells[share[0] - 1 :: share[1]])
    final = read_progress(study, cells)
    final.failures.update(work.failures)
    return final


def chosen_values(study: StudyConfig, planned: Plan, records: Mapping[str, CellRecord]) -> dict[str, Any]:
    """The value of the tuned setting for each row whose trials are all done; the first of equally good ones.

    Raises:
        ConfigError: no trial of a row has one of the measures.
    """
    tune = study.tune
    assert tune is not None
    rows: dict[str, list[Cell]] = {}
    for cell in planned.trials:
        rows.setdefault(cell.row, []).append(cell)
    chosen: dict[str, Any] = {}
    for row, trials in rows.items():
        if any(trial.node.name not in records for trial in trials):
            continue
        by_value = {trial.trial: records[trial.node.name]["scores"] for trial in trials}
        measure = next((name for name in tune.by if any(name in scores for scores in by_value.values())), None)
        if measure is None:
            raise ConfigError(f"tune.by: no trial of {row} has {' or '.join(tune.by)}; give another measure.")
        found = {value: scores[measure] for value, scores in by_value.items() if measure in scores}
        chosen[row] = (min if tune.lower else max)(found, key=found.__getitem__)
    return chosen


def _records(study: StudyConfig, found: Plan, cells: Path) -> dict[str, CellRecord]:
    kept = {cell.node.name: _record(study, cell, cells) for cell in found.all}
    return {name: record for name, record in kept.items() if record is not None}


def _record(study: StudyConfig, cell: Cell, cells: Path) -> CellRecord | None:
    """The result of a cell; None if there is none, or if it was measured in another way."""
    record = read_sealed_json(cells / cell.file)
    wanted = (cell.node.identity, study.measures_digest)
    return record if record is not None and (record.get("identity"), record.get("measures")) == wanted else None


class _Work:
    """What this process makes."""

    def __init__(self, study: StudyConfig, out: Path, cells: Path, listener: Listener) -> None:
        self._study, self._out, self._cells, self._listener = study, out, cells, listener
        self.failures: dict[str, str] = {}

    def measure(self) -> None:
        """Measure the speed of the kinds of runs that a budget needs, until all are known."""
        known = -1
        while unmeasured := read_progress(self._study, self._cells).plan.unmeasured:
            if len(known_rates(self._cells)) == known:
                raise ConfigError(f"the speed of {next(iter(unmeasured.values())).label} could not be measured.")
            with folder_lock(self._out, wait=True, name=".rates.lock"):
                unmeasured = read_progress(self._study, self._cells).plan.unmeasured
                known = len(known_rates(self._cells))
                if not unmeasured:
                    return
                for node in unmeasured.values():
                    for stage in stages_of(node):
                        if isinstance(stage, CorpusNode):
                            self._make(stage)
                labels = ", ".join(node.label for node in unmeasured.values())
                self._listener.say(f"measuring the updates per second of {labels}, in turns")
                execution = choose_execution(next(iter(unmeasured.values())).config(self._out).execution)
                measure_rates(unmeasured, self._out, self._cells, _machine(execution), self._listener.stop)

    def take(self, cells: list[Cell]) -> None:
        """Make the results of the cells that no other process is making."""
        for number, cell in enumerate(cells, 1):
            if _record(self._study, cell, self._cells) is not None or cell.node.name in self.failures:
                continue
            if self._listener.stop():
                raise Interrupted(f"stopped before {cell.node.label}")
            self._listener.say(f"{number} of {len(cells)}: {cell.node.label}")
            with ExitStack() as stack:
                try:
                    stack.enter_context(folder_lock(self._out, name=f".{cell.node.name}.cell.lock"))
                except LockedError:
                    self._listener.say(f"another process trains {cell.node.label}")
                    continue
                if _record(self._study, cell, self._cells) is not None:
                    continue
                try:
                    write_sealed_json(self._cells / cell.file, self._about(cell) | self._result(cell))
                except UserError as error:
                    self.failures[cell.node.name] = str(error)
                    self._listener.say(f"{cell.node.label} failed: {error}")

    def _about(self, cell: Cell) -> CellRecord:
        """What a cell's file says about the run."""
        node = cell.node
        return {
            "identity": node.identity,
            "measures": self._study.measures_digest,
            "study": self._study.title,
            "method": cell.method,
            "point": cell.point,
            "seed": cell.seed,
            "trial": cell.trial,
            "base": node.base,
            "settings": node.settings,
            "uses": {key: below.name for key, below in node.needs.items()},
        }

    def _result(self, cell: Cell) -> CellRecord:
        """Train and measure a run; its result for the cell's file."""
        began = time.perf_counter()
        node = cell.node
        nothing = {"scores": {}, "baselines": {}, "findings": [], "remarks": [], "curve": []}
        try:
            for stage in stages_of(node):
                self._make(stage)
            self._make(node)
            run = load_run(self._out / node.name)
        except TrainingError as error:
            return nothing | {"diverged": f"{node.label}: {error}"}
        write_page([run.path], say=self._listener.say)
        measured = measure_run(
            run, self._sources(node), self._study.evaluate, self._study.thresholds, self._listener.say
        )
        return {
            **measured._asdict(),
            "updates": run.result["updates"],
            "tokens": run.result["tokens"],
            "flops": run.result["flops"],
            "flops_with_stages": run.result["flops"] + self._flops_of_stages(node),
            "inputs": {name: run.digest(name) for name in ("data", "tokenizer", "auxiliary", "main")},
            "environment": dict(run.environment),
            "version": __version__,
            "timing": {
                "training_seconds": round(sum(record["timing"]["seconds"] for record in run.metrics()), 1),
                "seconds": round(time.perf_counter() - began, 1),
            },
        }

    def _flops_of_stages(self, node: Node) -> int:
        runs = (RunFolder.find(self._out / stage.name) for stage in stages_of(node))
        return sum(run.result["flops"] for run in runs if run is not None)

    def _sources(self, node: RunNode) -> dict[str, Mapping[str, Any]]:
        """The settings of `auxiliary` of each source; stages are made, with the first seed of the study."""
        found: dict[str, Mapping[str, Any]] = {}
        for name, given in self._study.sources.items():
            settings = given if isinstance(given, Mapping) else {"model": given}
            model = settings.get("model")
            if is_stage(model):
                stage, _, part = model.partition("/")
                source = source_of(self._study, known_rates(self._cells), node, stage)
                for below in (*stages_of(source), source):
                    self._make(below)
                settings = {**settings, "model": str(self._out / source.name / part)}
            found[name] = settings
        return found

    def _make(self, node: Node) -> None:
        """Make a stage or a run, unless it exists; wait for another process that makes it."""
        folder = self._out / node.name
        if isinstance(node, CorpusNode) and (folder / MANIFEST).exists():
            return
        if isinstance(node, RunNode) and not node.is_cache and (run := RunFolder.find(folder)) and run.is_finished:
            return
        with folder_lock(self._out, wait=True, name=f".{node.name}.stage.lock"):
            if isinstance(node, CorpusNode):
                self._listener.say(f"{node.label}: tokenizer and token shards")
                _build(node, folder, self._listener.say)
            elif isinstance(node, RunNode) and node.is_cache:
                self._listener.say(f"{node.label}: a corruption cache")
                build_cache(node.config(self._out), folder)
            elif isinstance(node, RunNode):
                self._train(node, folder)

    def _train(self, node: RunNode, folder: Path) -> None:
        failure = folder.with_name(f"{folder.name}.diverged.json")
        if kept := read_sealed_json(failure):  # it would diverge again; delete the file to repeat it
            raise TrainingError(kept["said"])
        try:
            pretrain(
                node.config(self._out),
                folder,
                [self._listener.display(node.label)],
                self._listener.say,
                self._listener.stop,
            )
        except TrainingError as error:
            write_sealed_json(failure, {"said": f"{node.label}: {error}"})
            raise TrainingError(f"{node.label}: {error}") from error


def _build(node: CorpusNode, folder: Path, say: Say) -> None:
    corpus = collect() if node.python else None
    documents, is_validation = (corpus.documents, corpus.is_validation) if corpus else (None, None)
    report = build_shards(documents, None, folder, node.data, is_validation)
    for name, loss in report.losses().items():
        say(f"{node.label}: {name}: {loss}.")


def _machine(execution: Any) -> dict[str, Any]:
    return {"cpu": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__, **execution.record()}
