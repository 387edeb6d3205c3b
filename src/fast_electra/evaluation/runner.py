"""Evaluate a model on tasks, cell by cell: a finished cell is never computed again, and a killed command continues.

Notable:
- a cell is one model, task, recipe and seed; its file is named after the digest of exactly these, is written whole or
  not at all, and is read instead of computed whenever it is there;
- the untrained encoder of the same shape has cells like others, and as many seeds; baselines without an encoder learn
  from the encoder's own training examples, and are kept a file a task;
- of several learning rates one is chosen for each task on a part of train, with the first seed: for the encoder and,
  likewise, for the untrained one. Nothing is chosen on dev, which is scored with the chosen rate alone.
"""

import re
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fast_electra.config.reading import yaml_value
from fast_electra.data.files import (
    MANIFEST,
    canonical_digest,
    read_manifest,
    read_sealed_json,
    sha256_of_file,
    write_sealed_json,
)
from fast_electra.data.shards import open_shards
from fast_electra.data.sources import Sources, reading_losses
from fast_electra.data.tokenizer import fingerprint, load_tokenizer
from fast_electra.errors import DataError
from fast_electra.evaluation.baselines import bag_of_words, majority, word_crf
from fast_electra.evaluation.comparison import Runs, compare
from fast_electra.evaluation.evaluations import LONGEST_NAME, task_file
from fast_electra.evaluation.fine_tuning import copies_of, fine_tune
from fast_electra.evaluation.glue_scores import write_server_predictions
from fast_electra.evaluation.overlap import count_overlap
from fast_electra.evaluation.probing import DEV_EXAMPLES, TRAIN_EXAMPLES, probe_layers, probed, similarity_layers
from fast_electra.evaluation.recipes import Recipe
from fast_electra.evaluation.results import Result, Scores
from fast_electra.evaluation.scores import flatten
from fast_electra.evaluation.settings import EvaluationConfig
from fast_electra.evaluation.tasks import Task, held_out, make_task, with_examples
from fast_electra.models.classifier import load_classifier, load_encoder, load_task_tokenizer
from fast_electra.models.layers import cast_weights
from fast_electra.models.loading import stored_config, weights_digest
from fast_electra.publishing.export import export_run
from fast_electra.runs.folder import run_of_checkpoint
from fast_electra.runs.models import resolve_model
from fast_electra.terminal import Progress, Say
from fast_electra.training.precision import Execution, apply_threads
from fast_electra.training.telemetry import QuietObserver

CellRecord = dict[str, Any]
_FACTS = 4
"""version of a task's file; it grows when a baseline changes"""


@dataclass(frozen=True)
class Subject:
    """A model that is evaluated."""

    name: str
    """as it was given"""
    source: str
    """folder or hub name that it is loaded from"""
    digest: str
    """of weights, configuration and tokenizer"""
    width: int


def setup_name(config: EvaluationConfig, recipe: Recipe | None) -> str:
    """What tells an evaluation from others of the same task, where it is learned by `recipe` (None: by a probe)."""
    if recipe is None:
        return "probe"
    words = [str(recipe.name)]
    for key, value in config.asked_recipe.given.items():
        values = value if isinstance(value, list) else [value]
        shown = [f"{one:g}" if isinstance(one, float) else yaml_value(one) for one in values]
        words.append(f"{key.replace('_', ' ')} {' or '.join(shown)}")
    if config.start is not None:
        words.append(f"started from {_start_name(config.start)}")
    return ", ".join(words)


def _start_name(start: str) -> str:
    """The name of a start without what identifies its model, so that two models can have starts of equal names.

    A model that `save` keeps has the name of its cell: task, recipe, seed, and a digest. That of a run is the run's
    folder model/.
    """
    path = Path(start).resolve()
    if not path.exists():
        return start
    return path.parent.name if path.name == "model" else re.sub(r"-[0-9a-f]{12}$", "", path.name)


def open_subject(model: str, out: Path, say: Say = lambda _: None) -> Subject:
    """Find a model and its tokenizer, and compute the digest of its weights.

    Args:
        model: a run, RUN/checkpoints/UPDATE, a folder or a hub name.
        out: the evaluation's folder; a checkpoint is exported there first.
        say: called with a sentence about the export.

    Raises:
        ModelError, DataError, CheckpointError: there is no such model, or it can't be used; it has no tokenizer.
    """
    source = model
    if run := run_of_checkpoint(Path(model)):
        # Another run in the same place has other weights under the same number.
        exported = out / f"model-{canonical_digest(read_manifest(Path(model), 'take another checkpoint'))[:12]}"
        if not exported.exists():
            export_run(run.path, exported, int(Path(model).name), auxiliary=False, say=say)
        source = str(exported)
    name = resolve_model(source)
    return Subject(model, name, _model_digest(name), stored_config(name).hidden_size)


def _model_digest(name: str) -> str:
    """The digest of everything that fine-tuning reads of a model: weights, configuration, tokenizer, longest text."""
    tokenizer = load_task_tokenizer(name)
    folder = Path(name)
    parts = [name, getattr(stored_config(name), "_commit_hash", None)]
    if folder.is_dir():
        parts = [weights_digest(folder), sha256_of_file(folder / "config.json")]
    return canonical_digest(
        [*parts, fingerprint(tokenizer), tokenizer.model_max_length, sorted(tokenizer.model_input_names)]
    )


# --- Cells ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """What is computed once and kept in a file."""

    task: str
    kind: str
    """the recipe's name, "probe" or "zero-shot" """
    identity: Mapping[str, Any]
    """everything that the result depends on"""
    seed: int
    untrained: bool

    @property
    def name(self) -> str:
        """The name of its file under OUT/cells, without the ending."""
        untrained = "-untrained" if self.untrained else ""
        task = self.task[:LONGEST_NAME]
        return f"{task}-{self.kind}-{self.seed}{untrained}-{canonical_digest(self.identity)[:12]}"

    @property
    def file(self) -> str:
        """The name of its file under OUT/cells."""
        return f"{self.name}.json"


def make_cell(task: str, digest: str, settings: Mapping[str, Any], seed: int, untrained: bool, model: str) -> Cell:
    """A cell of a task (by name and digest) and a model (by digest), with the values of a recipe."""
    identity = {"task": digest, "recipe": settings, "seed": seed, "untrained": untrained, "model": model}
    return Cell(task, settings["name"], identity, seed, untrained)


def finished_cell(out: Path, cell: Cell) -> CellRecord | None:
    """The record of a finished cell; None if the cell is not finished."""
    record = read_sealed_json(out / "cells" / cell.file)
    return record if record is not None and record.get("identity") == cell.identity else None


def keep_cell(out: Path, cell: Cell, record: CellRecord) -> CellRecord:
    """Write the record of a cell together with its identity, and return both."""
    whole = {**record, "identity": dict(cell.identity)}
    write_sealed_json(out / "cells" / cell.file, whole)
    return whole


def without_tests(task: Task) -> Task:
    """The task without its test sets: its digest is the same on machines with and without them."""
    if not task.test:
        return task
    swapped = task.augment_swapped
    return make_task(task.name, task.kind, task.labels, task.train, task.dev, {}, task.metrics, augment_swapped=swapped)


# --- Evaluating -------------------------------------------------------------------------------------------------------


class Work:
    """What the cells of one command share."""

    def __init__(
        self,
        subject: Subject,
        config: EvaluationConfig,
        execution: Execution,
        say: Say,
        progress: Progress,
    ) -> None:
        """Read what the encoder starts from.

        Args:
            subject: the model.
            config: how tasks are learned, and the folder of the results.
            execution: device, precision, threads.
            say: called with a sentence about each cell that was computed.
            progress: called with how far the cells are that have to be computed.
        """
        self.subject, self.config, self.execution, self.say, self.progress = subject, config, execution, say, progress
        self.out = config.folder
        self.start = None if config.start is None else resolve_model(config.start)
        self.start_digest = None if self.start is None else _model_digest(self.start)
        self.width = stored_config(self.start).hidden_size if self.start else subject.width
        self.total = self._done = 0.0

    def advance(self, examples: float, doing: str) -> None:
        """Count further training examples as done."""
        self._done += examples
        self.progress(self._done, self.total, doing)


def evaluate(tasks: Sequence[Task], work: Work) -> Iterator[Result]:
    """Every task of one model, each as soon as all its cells are there; with test sets where they are to be predicted.

    Raises:
        ModelError, DataError: the model can't be fine-tuned on a task.
    """
    plans = plans_of(tasks, work)
    _, work.total = tell_missing(plans, work.say)
    for plan in plans:
        yield plan.result()


class Job(NamedTuple):
    """What one cell computes."""

    recipe: Recipe | None
    """None for a probe"""
    seed: int
    untrained: bool
    is_trial: bool = False
    """of a learning rate, on a part of train"""


class TaskCells:
    """The cells of one task: where there is a learning rate to choose, trials on a part of train come first."""

    def __init__(self, task: Task, work: Work, examples: int | None = None) -> None:
        """Choose the recipes and the training examples of a task.

        Args:
            task: with all its training examples.
            work: what the command's cells share.
            examples: to train on; None: as the recipe says.
        """
        self.work, self.all_examples, self.is_part = work, len(task.train), examples is not None
        config, most = work.config, None
        self.recipes: list[Recipe | None] = [None]
        """one for each learning rate; None for a probe"""
        if not config.probe:
            recipe = config.asked_recipe.completed(work.width, task.kind)
            most = examples or recipe.train_examples
            self.recipes = [
                recipe.model_copy(update={"train_examples": most, "learning_rate": rate}) for rate in recipe.rates
            ]
        self.task, self.untested = with_examples(task, most), with_examples(without_tests(task), most)
        self.digest = self.untested.digest
        self.seeds = [0] if config.probe else config.seeds
        self.tests = {name: canonical_digest(split.texts) for name, split in task.test.items()}
        """digest of each test set"""
        self.held = held_out(self.untested) if len(self.recipes) > 1 else None
        """what a learning rate is chosen on"""
        if len(self.recipes) > 1 and self.held is None:
            raise DataError(
                f"{task.name}: train has too few different texts to choose a learning rate on a part of it; give one "
                "by --learning-rates."
            )

    def trials(self, untrained: bool) -> list[Job]:
        """One trial for each learning rate; none if there is only one rate."""
        recipes = self.recipes if self.held is not None else []
        return [Job(recipe, self.seeds[0], untrained, is_trial=True) for recipe in recipes]

    def jobs(self, untrained: bool) -> list[Job]:
        """One job for each seed, with the chosen learning rate; trials that are missing are computed first."""
        recipe = self.chosen(untrained)
        return [Job(recipe, seed, untrained) for seed in self.seeds]

    def chosen(self, untrained: bool) -> Recipe | None:
        """The recipe whose trial has the best score on the held-out part of train; of equal scores the first."""
        trials = self.trials(untrained)
        return max(trials, key=lambda job: _primary(self.record(job))).recipe if trials else self.recipes[0]

    def missing(self) -> list[Job]:
        """The jobs to compute that are known now: missing trials, or after them the jobs with the chosen rate."""
        found: list[Job] = []
        for untrained in (False, True):
            trials = self._absent(self.trials(untrained))
            found += trials or self._absent(self.jobs(untrained))
        return found

    def left(self) -> tuple[int, float]:
        """The number of cells to compute, with those that wait for a choice, and of their training examples."""
        missing = self.missing()
        waiting = [
            Job(self.recipes[0], seed, untrained)
            for untrained in (False, True)
            if any(job.is_trial and job.untrained == untrained for job in missing)
            for seed in self.seeds
        ]
        jobs = [*missing, *waiting]
        return len(jobs), sum(map(self.examples, jobs))

    def _absent(self, jobs: Sequence[Job]) -> list[Job]:
        return [job for job in jobs if self.finished(job) is None]

    def examples(self, job: Job) -> float:
        """Training examples of a cell, counted once for each epoch."""
        task, recipe = self._task(job), job.recipe
        if recipe is None:
            return TRAIN_EXAMPLES
        examples = copies_of(task, recipe) * len(task.train)
        return recipe.epochs_of(task.name, -(-examples // recipe.batch_size)) * examples

    def _task(self, job: Job) -> Task:
        if job.is_trial:
            assert self.held is not None
            return self.held
        return self.untested if job.untrained else self.task

    def cell(self, job: Job) -> Cell:
        """The cell of a job."""
        if job.recipe is None:
            settings: dict[str, Any] = {
                "name": "probe",
                "train_examples": TRAIN_EXAMPLES,
                "dev_examples": DEV_EXAMPLES,
                "layers": True,
            }
        else:
            settings = job.recipe.values()
        if self.work.start_digest and not job.untrained:
            settings["start"] = self.work.start_digest
        digest = self._task(job).digest if job.is_trial else self.digest
        return make_cell(self.task.name, digest, settings, job.seed, job.untrained, self.work.subject.digest)

    def saved_to(self, job: Job) -> Path | None:
        """The folder of a cell's model; None if the model is not kept."""
        is_kept = self.work.config.save and job.seed == self.seeds[0] and not (job.untrained or job.is_trial)
        return self.work.out / "models" / self.cell(job).name if is_kept else None

    def finished(self, job: Job) -> CellRecord | None:
        """The record of a finished cell; None if a test set or the saved model is missing."""
        record = finished_cell(self.work.out, self.cell(job))
        if record is None or record["failed"] or job.untrained or job.is_trial:
            return record
        saved = self.saved_to(job)
        has_tests = not self.tests or record.get("tests") == self.tests
        return record if has_tests and (saved is None or saved.exists()) else None

    def record(self, job: Job) -> CellRecord:
        """The record of a cell, computed if it is not finished."""
        if (record := self.finished(job)) is not None:
            return record
        work = self.work
        doing = f"{self.task.name}, {f'{len(self.task.train):,} examples, ' if self.is_part else ''}"
        doing += f"{'untrained, ' if job.untrained else ''}seed {job.seed}"
        if job.is_trial and job.recipe:
            doing += f", learning rate {job.recipe.rates[0]:g} on a part of train"
        work.advance(0, doing)
        if job.recipe is None:
            record = _probe(work.subject, self.task, job.seed, job.untrained, work.execution)
            work.advance(TRAIN_EXAMPLES, doing)
        else:
            saved = self.saved_to(job)
            if saved is not None:  # a command that was killed before it wrote the cell
                shutil.rmtree(saved, ignore_errors=True)
            record = fine_tune(
                work.subject.source,
                self._task(job),
                job.recipe,
                job.seed,
                work.execution,
                untrained=job.untrained,
                start=None if job.untrained else work.start,
                save=saved,
                observers=[_Steps(self.examples(job), lambda examples: work.advance(examples, doing))],
            ).record()
        work.say(f"{doing}: {_said(record)}; {record['timing']['seconds']:.0f} s")
        tests = {} if job.untrained or job.is_trial else self.tests
        return keep_cell(work.out, self.cell(job), record | {"model": work.subject.name, "tests": tests})

    def result(self) -> Result:
        """The result of the task from all its cells, which are computed if they are missing."""
        task, work = self.task, self.work
        facts = _facts(probed(task) if work.config.probe else self.untested, work.out)
        trials = {untrained: [(job, self.record(job)) for job in self.trials(untrained)] for untrained in (False, True)}
        jobs, untrained_jobs = self.jobs(untrained=False), self.jobs(untrained=True)
        records, untrained = (list(map(self.record, of)) for of in (jobs, untrained_jobs))
        first, seeds = records[0], list(self.seeds)
        untrained_scores = _scores(task, untrained)
        setup = setup_name(work.config, jobs[0].recipe)
        tried = {untrained: {f"{_rate(job):g}": _trial_score(r) for job, r in of} for untrained, of in trials.items()}
        return Result(
            task=task.name,
            setup=f"{setup}, {len(task.train):,} examples" if self.is_part else setup,
            curve=setup if self.is_part else None,
            digest=self.digest,
            recipe=dict(first["identity"]["recipe"]),
            seeds=seeds,
            scores=_scores(task, records),
            baselines={**facts["baselines"], "untrained": _means(untrained_scores)},
            untrained=untrained_scores,
            against=_against(task, dict(zip(seeds, records, strict=True)), dict(zip(seeds, untrained, strict=True))),
            layers={
                name: found
                for name, record in (("model", first), ("untrained", untrained[0]))
                for key, name in (("layers", name), ("similarity", f"{name}, cosine"))
                if (found := record.get(key))
            },
            n_train=len(probed(task).train) if work.config.probe else len(task.train),
            n_all=self.all_examples,
            n_dev={name: len(facts["dev"][name]) for name in task.reported},
            truncated={name: count for name, count in first["truncated"].items() if name != "test"},
            cut_entities={name: count for name, count in first.get("cut_entities", {}).items() if count},
            cells={str(job.seed): self.cell(job).file for job in jobs}
            | {f"untrained-{job.seed}": self.cell(job).file for job in untrained_jobs},
            seconds=sum(
                r["timing"]["seconds"] for r in [*(r for of in trials.values() for _, r in of), *records, *untrained]
            ),
            selection=None
            if self.held is None
            else {
                "examples": len(self.held.dev["held"]),
                "scores": tried[False],
                "untrained": {"learning_rate": _rate(untrained_jobs[0]), "scores": tried[True]},
            },
            failed={str(seed): r["failed"] for seed, r in zip(seeds, records, strict=True) if r["failed"]},
            degenerate=[seed for seed, r in zip(seeds, records, strict=True) if r["degenerate"]],
        )


def plans_of(tasks: Sequence[Task], work: Work) -> list[TaskCells]:
    """The cells of every task, of each number of training examples; a number beyond all of them is all, once."""
    plans: list[TaskCells] = []
    for task in tasks:
        parts = sorted({min(examples, len(task.train)) for examples in work.config.examples})
        plans += [TaskCells(task, work, part) for part in parts or [None]]
    return plans


def _scores(task: Task, records: Sequence[CellRecord]) -> dict[str, dict[str, list[float | None]]]:
    """{dev split, in the order of reports: {metric: one a seed, None where it failed}}."""
    return {
        split: {
            metric: [None if record["failed"] else record["scores"][split][metric] for record in records]
            for metric in task.metrics
        }
        for split in task.reported
    }


def _means(scores: Mapping[str, Mapping[str, Sequence[float | None]]]) -> Scores | None:
    """Of the seeds that have a score; None where none has."""
    found = {
        split: {metric: [value for value in values if value is not None] for metric, values in metrics.items()}
        for split, metrics in scores.items()
    }
    if not all(values for metrics in found.values() for values in metrics.values()):
        return None
    return {
        split: {metric: statistics.fmean(values) for metric, values in metrics.items()}
        for split, metrics in found.items()
    }


def _against(
    task: Task, records: Mapping[int, CellRecord], untrained: Mapping[int, CellRecord]
) -> dict[str, Any] | None:
    """The comparison of the encoder with the untrained one on the first reported split; None without predictions."""
    split = task.reported[0]
    sides = [
        {seed: record["predictions"][split] for seed, record in side.items() if record["predictions"]}
        for side in (records, untrained)
    ]
    if not all(sides):
        return None
    runs = [Runs(name, side) for name, side in zip(("the encoder", "an untrained one"), sides, strict=True)]
    found = compare(runs[0], runs[1], task.dev[split].labels, task.metrics[0])
    return {**asdict(found), "decided": found.decided, "sentence": found.sentence}


def tell_missing(plans: Sequence[TaskCells], say: Say) -> tuple[int, float]:
    """Say how many cells are to be computed, if any; returns their number and their training examples."""
    left = [plan.left() for plan in plans]
    count, examples = sum(cells for cells, _ in left), sum(of for _, of in left)
    if count:
        cells = f"{count} cells (a task and a seed each) are" if count > 1 else "1 cell is"
        say(f"{cells} to be computed; each is kept when it is done.")
    return count, examples


def _rate(job: Job) -> float:
    assert job.recipe is not None
    return job.recipe.rates[0]


class _Steps(QuietObserver):
    """Calls `tell` after each update with a cell's mean number of examples per update."""

    def __init__(self, examples: float, tell: Callable[[float], object]) -> None:
        self._examples, self._tell = examples, tell

    def started(self, update: int, updates: int) -> None:
        """Divide the examples among the updates."""
        self._each = self._examples / updates

    def updated(self, update: int) -> None:
        """Report one update."""
        self._tell(self._each)


def _primary(record: CellRecord) -> float:
    """The score that is compared; a run that failed is below every other."""
    score = _trial_score(record)
    return float("-inf") if score is None else score


def _trial_score(record: CellRecord) -> float | None:
    return None if record["failed"] else next(iter(next(iter(record["scores"].values())).values()))


def _said(record: CellRecord) -> str:
    if record["failed"]:
        return record["failed"]
    scores = next(iter(record["scores"].values()))
    return ", ".join(f"{metric} {100 * value:.1f}" for metric, value in scores.items())


def _facts(task: Task, out: Path) -> CellRecord:
    """Labels of the dev sets, and baselines without an encoder: kept in a file, made where it is not there."""
    path = task_file(out, task.name, task.digest)
    facts = read_sealed_json(path)
    if facts is not None and (facts.get("digest"), facts.get("version")) == (task.digest, _FACTS):
        return facts
    baselines: dict[str, Scores | None] = {"majority": majority(task)}
    if not task.has_entities:  # nobody finds entities by guessing
        baselines["chance"] = chance(task)
    if task.kind == "tokens":
        baselines["word_crf"] = word_crf(task)
    else:
        try:
            baselines["bag_of_words"] = bag_of_words(task)
        except ValueError:  # no text has a word
            baselines["bag_of_words"] = None
    facts = {
        "version": _FACTS,
        "task": task.name,
        "digest": task.digest,
        "kind": task.kind,
        "labels": list(task.labels),
        "metrics": list(task.metrics),
        "dev": {name: dev.labels for name, dev in task.dev.items()},
        "baselines": baselines,
    }
    write_sealed_json(path, facts)
    return facts


def chance(task: Task) -> Scores:
    """Scores {dev split: {metric: score}} to be expected of guessing every class equally often, whatever the text."""
    guessed = 1 / max(1, len(task.labels))
    found: Scores = {}
    for name, dev in task.dev.items():
        labels = flatten(dev.labels)
        true = float(np.mean(labels == 1))
        scores = {"accuracy": guessed, "token_accuracy": guessed, "f1": 2 * true * guessed / (true + guessed)}
        found[name] = {metric: scores.get(metric, 0.0) for metric in task.metrics}
    return found


def _probe(subject: Subject, task: Task, seed: int, untrained: bool, execution: Execution) -> CellRecord:
    """The record of a frozen encoder under a linear model."""
    began = time.perf_counter()
    apply_threads(execution)
    if untrained:
        model = load_classifier(subject.source, "sequence", task.labels, seed, 0.0, untrained=True).eval()
    else:
        model = load_encoder(subject.source)
    model.to(execution.device)  # type: ignore[arg-type]
    cast_weights(model, execution.weights_dtype)
    tokenizer = load_task_tokenizer(subject.source)
    with execution.autocast():
        layers, similarity = probe_layers(model, tokenizer, task), similarity_layers(model, tokenizer, task)
    return {
        "task": task.name,
        "untrained": untrained,
        "seed": seed,
        "scores": layers[-1],
        "layers": layers,
        "similarity": similarity,
        "predictions": {},
        "test_predictions": {},
        "truncated": {},
        "failed": None,
        "degenerate": [],
        "execution": execution.record(),
        "timing": {"seconds": time.perf_counter() - began},
        "versions": {name: version(name) for name in ("fast-electra", "torch", "transformers", "scikit-learn")},
    }


# --- Beside the scores ------------------------------------------------------------------------------------------------


def write_predictions(results: Sequence[Result], tasks: Sequence[Task], out: Path, folder: Path) -> list[Path]:
    """Files for GLUE's server, by the seed whose dev score is the median (the lower of two).

    Args:
        results: of `evaluate`.
        tasks: those it was given, of GLUE and with test sets.
        out: the evaluation's folder.
        folder: for the files.

    Raises:
        DataError: all seeds of a task failed.
    """
    written: list[Path] = []
    named = {task.name: task for task in tasks}
    for result in results:
        scores = result.scores[result.split][result.metric]
        ranked = sorted((score, seed) for score, seed in zip(scores, result.seeds, strict=True) if score is not None)
        if not ranked:
            raise DataError(
                f"{result.task}: every seed failed, so there is nothing to predict with; take another recipe."
            )
        seed = ranked[(len(ranked) - 1) // 2][1]
        cell = read_sealed_json(out / "cells" / result.cells[str(seed)])
        assert cell is not None
        written += write_server_predictions(named[result.task], cell["test_predictions"], folder)
    return written


def count_seen(tasks: Sequence[Task], corpus: Path, out: Path, say: Say = lambda _: None) -> dict[str, dict[str, Any]]:
    """Texts of each task that occur in a pre-training corpus, counted once and kept.

    Args:
        tasks: whose texts are looked for.
        corpus: token shards, or files or folders of text.
        out: the evaluation's folder.
        say: called with a sentence about text that was left out or changed while it was read.

    Returns:
        {task: {"corpus", "counts": {split: {"texts", "checked", "seen"}}}}.

    Raises:
        DataError: the corpus can't be read.
    """
    files = sorted(path for path in corpus.rglob("*") if path.is_file()) if corpus.is_dir() else [corpus]
    state = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    key = canonical_digest([state, [[task.name, task.digest] for task in tasks]])
    path = out / "tasks" / f"overlap-{key[:12]}.json"
    if (kept := read_sealed_json(path)) is None:
        sources = None if (corpus / MANIFEST).exists() else Sources([corpus])
        documents = _decoded(corpus) if sources is None else (document.text for document in sources)
        first = next(documents, None)
        if first is None:
            raise DataError(f"{corpus} holds no text; name token shards, or a file or folder of text.")
        counts = count_overlap(tasks, chain([first], documents))
        if sources is not None:
            read = sources.reading
            counted = read.left_out_files, read.replaced_files, read.replaced_characters, read.cut_documents
            for name, loss in reading_losses(*counted).items():
                say(f"{corpus}: {name}: {loss}.")
        kept = {
            task: {"corpus": str(corpus), "counts": {split: found._asdict() for split, found in splits.items()}}
            for task, splits in counts.items()
        }
        write_sealed_json(path, kept)
    return kept


def _decoded(folder: Path, together: int = 256) -> Iterator[str]:
    """The training documents of token shards as text."""
    shards = open_shards(folder, verify=False)
    backend = load_tokenizer(shards.folder / "tokenizer").backend_tokenizer
    stream = shards.split("train")
    held: list[list[int]] = []
    start = 0
    for ends in stream.ends():
        for end in ends.tolist():
            held.append(stream.read(start, end - 1).tolist())  # without its separator
            start = end
            if len(held) == together:
                yield from backend.decode_batch(held)
                held = []
    yield from backend.decode_batch(held)
