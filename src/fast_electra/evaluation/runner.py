"""Evaluate a model on tasks, cell by cell: a finished cell is never computed again, and a killed command continues.

Notable:
- the untrained encoder of the same shape has its own cells, with the same number of seeds; baselines without an encoder
  learn from the encoder's training examples, and are stored in one file per task;
- of several learning rates one is chosen for each task on a part of train, with the first seed: one for the encoder,
  and one for the untrained encoder. Nothing is chosen on dev; only the chosen rate is scored there.
"""

import statistics
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fast_electra.data.files import canonical_digest
from fast_electra.errors import DataError
from fast_electra.evaluation.cells import Cell, CellRecord, finished_cell, keep_cell, make_cell
from fast_electra.evaluation.comparison import Runs, compare
from fast_electra.evaluation.facts import facts_of
from fast_electra.evaluation.fine_tuning import copies_of, fine_tune
from fast_electra.evaluation.probing import DEV_EXAMPLES, TRAIN_EXAMPLES, probe_record, probed
from fast_electra.evaluation.recipes import Recipe
from fast_electra.evaluation.results import Result, Scores
from fast_electra.evaluation.settings import EvaluationConfig, setup_name
from fast_electra.evaluation.subject import Subject, model_digest
from fast_electra.evaluation.tasks import TEST, Task, held_out, with_examples, without_tests
from fast_electra.models.loading import stored_config
from fast_electra.runs.models import resolve_model
from fast_electra.terminal import Progress, Say
from fast_electra.training.precision import Execution
from fast_electra.training.telemetry import QuietObserver


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
        self.start_digest = None if self.start is None else model_digest(self.start)
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
        self.sides = (False,) if config.skip_untrained else (False, True)
        """whether an encoder is untrained: the model, and the untrained encoder if it is not left out"""
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
        for untrained in self.sides:
            trials = self._absent(self.trials(untrained))
            found += trials or self._absent(self.jobs(untrained))
        return found

    def possible(self) -> list[Job]:
        """Every job that may be needed: all trials, and every seed with every learning rate."""
        jobs = [Job(recipe, seed, side) for recipe in self.recipes for seed in self.seeds for side in self.sides]
        return [*(job for side in self.sides for job in self.trials(side)), *jobs]

    def left(self) -> tuple[int, float]:
        """The number of cells to compute, with those that wait for a choice, and of their training examples."""
        missing = self.missing()
        waiting = [
            Job(self.recipes[0], seed, untrained)
            for untrained in self.sides
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
            record = probe_record(work.subject, self.task, job.seed, job.untrained, work.execution)
            work.advance(TRAIN_EXAMPLES, doing)
        else:
            saved = self.saved_to(job)
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
        facts = facts_of(probed(task) if work.config.probe else self.untested, work.out)
        trials = {untrained: [(job, self.record(job)) for job in self.trials(untrained)] for untrained in self.sides}
        jobs = self.jobs(untrained=False)
        untrained_jobs = [] if work.config.skip_untrained else self.jobs(untrained=True)
        records, untrained = ({job.seed: self.record(job) for job in of} for of in (jobs, untrained_jobs))
        seeds = list(self.seeds)
        first = records[seeds[0]]
        untrained_scores = _scores(task, untrained.values()) if untrained else {}
        setup = setup_name(work.config, jobs[0].recipe)
        tried = {untrained: {f"{_rate(job):g}": _trial_score(r) for job, r in of} for untrained, of in trials.items()}
        return Result(
            task=task.name,
            setup=f"{setup}, {len(task.train):,} examples" if self.is_part else setup,
            curve=setup if self.is_part else None,
            digest=self.digest,
            recipe=dict(first["identity"]["recipe"]),
            seeds=seeds,
            scores=_scores(task, records.values()),
            baselines=facts["baselines"] | ({"untrained": _means(untrained_scores)} if untrained else {}),
            untrained=untrained_scores,
            against=_against(task, records, untrained),
            layers={
                name: found
                for name, record in [("model", first), *(("untrained", record) for record in untrained.values())]
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
                r["timing"]["seconds"]
                for r in [*(r for of in trials.values() for _, r in of), *records.values(), *untrained.values()]
            ),
            selection=None
            if self.held is None
            else {
                "examples": len(self.held.dev["held"]),
                "scores": tried[False],
                "untrained": {"learning_rate": _rate(untrained_jobs[0]), "scores": tried[True]} if untrained else None,
            },
            failed={str(seed): r["failed"] for seed, r in records.items() if r["failed"]},
            degenerate=[seed for seed, r in records.items() if r["degenerate"]],
        )


def plans_of(tasks: Sequence[Task], work: Work) -> list[TaskCells]:
    """The cells of every task, of each number of training examples; a number beyond all of them is all, once."""
    plans: list[TaskCells] = []
    for task in tasks:
        parts = sorted({min(examples, len(task.train)) for examples in work.config.examples})
        plans += [TaskCells(task, work, part) for part in parts or [None]]
    return plans


def _scores(task: Task, records: Collection[CellRecord]) -> dict[str, dict[str, list[float | None]]]:
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
    return compare(runs[0], runs[1], task.dev[split].labels, task.metrics[0]).record()


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
    scores = record["scores"]
    split = TEST if TEST in scores else next(iter(scores))  # the first one of the tables
    found = ", ".join(f"{metric} {100 * value:.1f}" for metric, value in scores[split].items())
    return f"{split} {found}" if len(scores) > 1 else found
