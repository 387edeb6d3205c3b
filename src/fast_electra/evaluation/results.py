"""What an evaluation found: all seeds' scores beside their baselines, where they are kept, what they say in words.

Notable:
- a result is one task under one setup (a recipe, a probe, zero-shot); its cells, a file each, hold predictions and
  everything that repeats them;
- a model that does not beat a baseline is called out, and so is one that is above it by less than its seeds can tell;
- two models are compared where task, examples and setup are the same, each pair of them by `comparison.compare`;
- nothing here needs torch, so `compare` answers at once.

    OUT/cells/      a JSON file for each model, task, recipe and seed, the untrained baseline's among them
    OUT/tasks/      a JSON file for each task: its dev labels, and the baselines that need no encoder
    OUT/results.json
    OUT/report.html
"""

import contextlib
import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from fast_electra.data.files import read_sealed_json, waiting_lock, write_sealed_json
from fast_electra.errors import DataError
from fast_electra.evaluation.comparison import Comparison, Runs, compare, minimal_detectable_difference
from fast_electra.evaluation.glue import AVERAGES, averages
from fast_electra.evaluation.metrics import clustered_interval
from fast_electra.runs.folder import RunFolder, run_of_checkpoint
from fast_electra.terminal import command

RESULTS_FILE = "results.json"
LONGEST_NAME = 100
"""characters of a task's name in the names of files, which systems limit"""
BASELINES = {
    "chance": "chance",
    "majority": "the majority class",
    "bag_of_words": "a bag of words",
    "word_crf": "a linear model over words and neighbours",
    "frequency_table": "a frequency table",
    "unigram": "the frequencies of its tokens",
    "untrained": "an untrained encoder of its shape",
    "auxiliary": "its auxiliary",
}
"""in the order in which they are shown, and what they are called in a sentence"""
PAIRS = "pair"
"""metric of the zero-shot bugs: share of pairs judged right, a half for a tie"""
ZERO_SHOT = "zero-shot"
"""how the setup of tasks without training begins: pairs of texts, one score, a prediction [place, won, set] a pair"""
_OF_CURVE = ("metric", "scores", "median", "mean", "std", "baselines", "untrained", "against_untrained", "setup")
"""what `--json` says of each number of examples"""
Scores = dict[str, dict[str, float]]
"""{dev split: {metric: score}}"""


@dataclass(frozen=True)
class Result:
    """One task under one setup: what all seeds scored, and what has to be beaten."""

    task: str
    setup: str
    """the recipe's name and what was done besides; "probe"; "zero-shot" """
    digest: str
    """the task's, test sets left out"""
    recipe: dict[str, Any]
    """its values"""
    seeds: list[int]
    scores: dict[str, dict[str, list[float | None]]]
    """{dev split: {metric: one a seed, None where it failed}}; the first split and metric are the primary ones"""
    baselines: dict[str, Scores | None]
    """by the names of `BASELINES`; None for one that failed, of the untrained encoder the mean over seeds"""
    n_train: int
    n_dev: dict[str, int]
    truncated: dict[str, int]
    """texts longer than the model takes, of train and all dev splits; those of the first seed"""
    cells: dict[str, str]
    """file of each seed under OUT/cells, and of "untrained-SEED" """
    seconds: float
    """of all its cells"""
    n_all: int = 0
    """training examples that there are, whether or not all are used"""
    curve: str | None = None
    """of a number of examples that was asked for: the setup without it, which the other numbers share"""
    untrained: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    """scores of the untrained encoder, one a seed, None where it failed"""
    against: dict[str, Any] | None = None
    """the encoder beside the untrained one: a `Comparison`, with "decided" and "sentence" """
    selection: dict[str, Any] | None = None
    """how the learning rate was chosen on a part of train: {"examples", "scores": {rate: score}, "untrained":
    {"learning_rate", "scores"}}; None where it was given"""
    failed: dict[str, str] = field(default_factory=dict)
    """seed → why it has no scores"""
    degenerate: list[int] = field(default_factory=list)
    """seeds that gave every example of a dev split one answer"""
    layers: dict[str, list[Scores]] = field(default_factory=dict)
    """of a probe: scores of the embeddings and each layer, of "model" and "untrained"; of pairs with numbers also those
    of the cosine, "model, cosine" and "untrained, cosine" """
    repeated: dict[str, int] = field(default_factory=dict)
    """{dev split: examples whose texts are also in train}"""
    drops_repeated: bool = False
    """those are left out of the scores"""
    cut_entities: dict[str, int] = field(default_factory=dict)
    """{dev split: entities beyond the end of what the model takes}, where there are some"""
    overlap: dict[str, Any] | None = None
    """texts seen in pre-training: {"corpus": …, "counts": {split: {"texts", "checked", "seen"}}}"""
    details: dict[str, Any] = field(default_factory=dict)
    """of minimal pairs: "way", "per_set", "groups" and "differences" as of `minimal_pairs`; {} of other tasks"""

    @property
    def title(self) -> str:
        """The task, and how many examples where that was asked for."""
        return f"{self.task}, {self.n_train:,} examples" if self.curve else self.task

    @property
    def split(self) -> str:
        """The dev split that is compared."""
        return next(iter(self.scores))

    @property
    def metric(self) -> str:
        """The metric that is compared."""
        return next(iter(self.scores[self.split]))

    def of(self, split: str | None = None, metric: str | None = None) -> list[float]:
        """Scores of the seeds that have one, by the primary metric where no other is named."""
        scores = self.scores[split or self.split][metric or self.metric]
        return [score for score in scores if score is not None]

    def of_untrained(self, split: str | None = None, metric: str | None = None) -> list[float]:
        """Scores of the untrained encoder's seeds that have one."""
        scores = self.untrained.get(split or self.split, {}).get(metric or self.metric, [])
        return [score for score in scores if score is not None]

    def baseline(self, name: str, split: str | None = None, metric: str | None = None) -> float | None:
        """A baseline's score, None where there is none."""
        found = self.baselines.get(name)
        return None if found is None else found[split or self.split].get(metric or self.metric)


def zero_shot_result(
    task: str,
    setup: str,
    digest: str,
    recipe: Mapping[str, Any],
    record: Mapping[str, Any],
    file: str,
    baselines: Mapping[str, Scores | None],
) -> Result:
    """What a cell without training says: one score by each metric.

    Args:
        task: its name.
        setup: `ZERO_SHOT`, or that and what tells the examples from others of the same task.
        digest: of its examples.
        recipe: that the cell is identified by.
        record: of the cell.
        file: of the cell.
        baselines: by the names of `BASELINES`.
    """
    return Result(
        task=task,
        setup=setup,
        digest=digest,
        recipe=dict(recipe),
        seeds=[0],
        scores={split: {m: [score] for m, score in scores.items()} for split, scores in record["scores"].items()},
        baselines=dict(baselines),
        n_train=0,
        n_dev={"dev": record["n_dev"]},
        truncated=record.get("truncated", {}),
        cells={"0": file},
        seconds=record["timing"]["seconds"],
        details=record.get("details", {}),
    )


class Spread(NamedTuple):
    """Scores of several seeds summed up; None where there are too few."""

    median: float | None
    mean: float | None
    deviation: float | None
    """of the sample, from two seeds on"""
    best: float | None
    detectable: float | None
    """minimal detectable difference to another model of the same spread and number of seeds"""


def spread(scores: Sequence[float]) -> Spread:
    """Sum up the scores of several seeds."""
    if not scores:
        return Spread(None, None, None, None, None)
    deviation = statistics.stdev(scores) if len(scores) > 1 else None
    detectable = minimal_detectable_difference(scores, scores, paired=False)
    return Spread(statistics.median(scores), statistics.fmean(scores), deviation, max(scores), detectable)


def entry(result: Result) -> dict[str, Any]:
    """A result for `--json`; shares and correlations as they are, not in points."""
    found = spread(result.of())
    whole = {
        "metric": result.metric,
        "scores": result.of(),
        "median": found.median,
        "mean": found.mean,
        "std": found.deviation,
        "best": found.best,
        "detectable": found.detectable,
        "n_train": result.n_train,
        "n_dev": result.n_dev[result.split],
        "baselines": {
            name: result.baseline(name)
            for name in BASELINES
            if name in result.baselines or name in ("majority", "bag_of_words", "untrained")
        },
        "untrained": {"scores": result.of_untrained(), "std": spread(result.of_untrained()).deviation},
        "against_untrained": result.against,
        "setup": result.setup,
        "recipe": result.recipe,
        "selection": result.selection,
        "seeds": result.seeds,
        "all": result.scores,
        "truncated": result.truncated,
        "cut_entities": result.cut_entities,
        "failed": result.failed,
        "degenerate": result.degenerate,
        "repeated": result.repeated,
        "layers": result.layers,
        "overlap": result.overlap,
        "remarks": remarks(result),
        "timing": {"seconds": result.seconds},
    }
    if not result.details:
        return whole
    # Of minimal pairs there is one score by each measure: "mean" is the share by the mean of the tokens.
    return whole | {measure: scores[0] for measure, scores in result.scores[result.split].items()} | result.details


def entries(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Results by task for `--json`; of several numbers of examples the largest, and all of them as its "curve"."""
    found = {result.task: entry(result) for result in results}
    for task, points in curves(results).items():
        found[task] = entry(points[-1]) | {
            "curve": [
                {
                    "examples": point.n_train,
                    **{key: value for key, value in entry(point).items() if key in _OF_CURVE},
                }
                for point in points
            ]
        }
    return found


def curves(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results of several numbers of examples by task, or by task and setup where there are several; few first."""
    of = [result for result in results if result.curve]
    several = len({result.curve for result in of}) > 1
    found: dict[str, list[Result]] = {}
    for result in sorted(of, key=lambda result: result.n_train):
        found.setdefault(f"{result.task} ({result.curve})" if several else result.task, []).append(result)
    return {name: points for name, points in found.items() if len(points) > 1}


def remarks(result: Result) -> list[str]:
    """Sentences on what a table of scores does not say by itself."""
    found: list[str] = []
    if result.n_train < result.n_all and not result.curve:
        found.append(
            f"{result.task}: {result.n_train:,} of {result.n_all:,} training examples were used, by the encoder and "
            "every baseline."
        )
    for seed, reason in result.failed.items():
        found.append(f"{result.title}: seed {seed} has no score ({reason}) and is left out of median and mean.")
    if result.degenerate:
        seeds = ", ".join(map(str, result.degenerate))
        found.append(f"{result.title}: every dev example got the same answer from seed {seeds}.")
    if weak := _not_beaten(result):
        found.append(weak)
    found += _pair_remarks(result)
    if result.against is not None:
        found.append(f"{result.title}: {result.against['sentence']}.")
    if result.selection is not None:
        own, other = result.selection, result.selection["untrained"]
        found.append(
            f"{result.title}: the learning rate {result.recipe['learning_rate']:g} was chosen on {own['examples']:,} "
            f"training examples held out ({_tried(own['scores'])}), the untrained encoder's {other['learning_rate']:g} "
            f"likewise ({_tried(other['scores'])})."
        )
    for split, count in result.repeated.items():
        examples = f"1 {split} example is" if count == 1 else f"{count:,} {split} examples are"
        end = (
            "left out of the scores, since equal texts are in train."
            if result.drops_repeated
            else "also in train, which makes the scores too good: --drop-overlap leaves out such examples."
        )
        found.append(f"{result.title}: {examples} {end}")
    for split, count in result.cut_entities.items():
        entities = "1 entity is" if count == 1 else f"{count:,} entities are"
        found.append(
            f"{result.title}: {entities} beyond the end of what the model takes in {split}, and counted as missed."
        )
    for split, counts in (result.overlap or {}).get("counts", {}).items():
        if counts["checked"]:
            found.append(
                f"{result.title}: {counts['seen']:,} of {counts['checked']:,} {split} texts of eight words or more "
                f"occur in {result.overlap['corpus'] if result.overlap else ''}; "
                f"{counts['texts'] - counts['checked']:,} shorter ones are not checked."
            )
    return found


def _tried(scores: Mapping[str, float | None]) -> str:
    return ", ".join(f"{rate}: {'failed' if score is None else f'{100 * score:.1f}'}" for rate, score in scores.items())


def _pair_remarks(result: Result) -> list[str]:
    """Sentences on a task of minimal pairs: how it was judged, and its baselines on the same pairs."""
    if not (details := result.details):
        return []
    whole = details["groups"]["all"]["all"]
    metric = result.metric
    how = "whole sets resampled" if whole["sets"] > 1 else "Wilson's"
    per_set = "all" if details["per_set"] is None else f"at most {details['per_set']:,} of each set, by their digests"
    found = [
        f"{result.task}: {whole['n']:,} pairs in {whole['sets']} set{'s' * (whole['sets'] > 1)} ({per_set}), judged by "
        f"{details['way']}: {metric} {100 * whole[metric][0]:.1f}, 95 % interval {100 * whole[metric][1]:.1f} to "
        f"{100 * whole[metric][2]:.1f} ({how})."
    ]
    for name, of in details["differences"].items():
        difference, low, high = (100 * value for value in of[metric])
        if difference < 0:
            difference, low, high = -difference, -high, -low
            side = "behind"
        else:
            side = "ahead of"
        found.append(
            f"{result.task}: by the {metric} {side} {BASELINES[name]} by {difference:.1f} points on the same "
            f"{of['n']:,} pairs, interval {low:.1f} to {high:.1f}."
        )
    return [sentence.replace(" -", " −") for sentence in found]


def _not_beaten(result: Result) -> str | None:
    """A sentence where the median is not above every baseline, or not clearly; other than those compared by pairs."""
    found = spread(result.of())
    if found.median is None:
        return None
    by_pairs = result.details.get("differences", {})
    names = [name for name in BASELINES if name not in by_pairs]
    scores = {name: score for name in names if (score := result.baseline(name)) is not None}
    if result.against is not None:  # says more of it
        scores.pop("untrained", None)
    score = f"{result.title}: {result.metric} {100 * found.median:.1f}"
    if worse := [name for name, score in scores.items() if found.median <= score]:
        names = [f"{BASELINES[name]} ({100 * scores[name]:.1f})" for name in worse]
        return f"{score} does not beat {listed(names)}."
    near = [name for name, score in scores.items() if found.detectable and found.median - score < found.detectable]
    if near:
        names = [f"{BASELINES[name]} ({100 * scores[name]:.1f})" for name in near]
        return f"{score} is above {listed(names)} by less than these seeds can tell."
    return None


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


class Averaged(NamedTuple):
    """One of the published ways to average GLUE."""

    name: str
    setup: str
    value: float
    of: str
    """what is averaged"""


def averages_of(results: Sequence[Result]) -> list[Averaged]:
    """The averages of medians over seeds whose tasks are all there under one setup."""
    found: list[Averaged] = []
    for setup in dict.fromkeys(result.setup for result in results):
        medians: dict[str, Scores] = {}
        for result in results:
            if result.setup == setup and result.of():
                medians[result.task] = {
                    split: {metric: statistics.median(result.of(split, metric)) for metric in metrics}
                    for split, metrics in result.scores.items()
                }
        found += [Averaged(name, setup, value, AVERAGES[name].of) for name, value in averages(medians).items()]
    return found


# --- On disk ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluation:
    """All that was found of one model."""

    model: str
    digest: str
    folder: Path
    results: list[Result]
    commands: list[str]
    """that made them"""


def results_folder(model: str) -> Path:
    """Where the results of a model go: `evaluation/` in its run, else `evaluations/NAME` here.

    A checkpoint's (RUN/checkpoints/UPDATE) go to the run's `evaluation/UPDATE`; RUN/model is its run. NAME is the whole
    path or hub name, "--" in place of "/", since many folders have a last part like `checkpoint-500`.
    """
    path = Path(model)
    if run := run_of_checkpoint(path):
        return run.path / "evaluation" / path.name
    if path.name == "model" and _is_run(path.parent):
        path = path.parent
    if _is_run(path):
        return path / "evaluation"
    if path.exists():
        path, here = path.resolve(), Path.cwd()
        model = str(path.relative_to(here) if here in path.parents else path)
    return Path("evaluations") / re.sub(r"[^\w.-]+", "--", model.strip("/"))


def run_of(model: str) -> RunFolder | None:
    """The run that a model is from: given as RUN, RUN/model, RUN/checkpoints/UPDATE or a quickstart's folder."""
    path = Path(model)
    return RunFolder.of_model(path) or RunFolder.find(path / "main") or RunFolder.find(path.parent / "main")


def _is_run(path: Path) -> bool:
    return RunFolder.find(path) is not None or (path / "model" / "config.json").exists()


def store(evaluation: Evaluation, say: Callable[[str], object] = lambda _: None) -> Evaluation:
    """Write results.json: the results given, and those of the same weights that are there under other setups.

    Args:
        evaluation: what was found.
        say: is told of a result whose place is taken by one of other examples.

    Returns:
        all of them.
    """
    with waiting_lock(evaluation.folder):  # another command may be evaluating the same model on other tasks
        return _store(evaluation, say)


def _store(evaluation: Evaluation, say: Callable[[str], object]) -> Evaluation:
    before = load(evaluation.folder)
    kept: list[Result] = []
    commands = evaluation.commands
    new = list(evaluation.results)
    if before is not None and before.digest == evaluation.digest:
        there = {(result.task, result.setup): result for result in before.results}
        for place, result in enumerate(new):
            old = there.pop((result.task, result.setup), None)
            if old is None:
                continue
            other = ""
            if old.digest != result.digest:
                other = "examples"
            elif old.recipe.get("start") != result.recipe.get("start"):
                other = "weights to start from"
            elif result.overlap is None:
                new[place] = replace(result, overlap=old.overlap)
            if other:
                say(
                    f"{result.task} ({result.setup}) takes the place of a result of other {other}, whose cells are "
                    "kept: to have both, give the file or folder another name, or another --out."
                )
        kept = list(there.values())
        commands = [*(command for command in before.commands if command not in commands), *commands]
    whole = Evaluation(evaluation.model, evaluation.digest, evaluation.folder, [*kept, *new], commands)
    cells = [read_sealed_json(path) or {} for path in sorted((whole.folder / "cells").glob("*.json"))]
    write_sealed_json(
        whole.folder / RESULTS_FILE,
        {
            "model": whole.model,
            "digest": whole.digest,
            "commands": whole.commands,
            "averages": [average._asdict() for average in averages_of(whole.results)],
            "results": [asdict(result) for result in whole.results],
            "cells": [
                {key: value for key, value in cell.items() if key not in ("predictions", "test_predictions")}
                for cell in cells
                if cell.get("identity", {}).get("model") == whole.digest
            ],
        },
    )
    return whole


class NoEvaluation(DataError):
    """A results.json that something else has written."""


def load(folder: Path) -> Evaluation | None:
    """What `store` wrote, None where there is nothing.

    Raises:
        NoEvaluation: the file is somebody else's.
        DataError: it can't be read.
    """
    path = folder / RESULTS_FILE
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not {"model", "digest", "results", "commands"} <= content.keys():
            raise NoEvaluation(f"{path} is there and was not written by evaluate: give another folder by --out.")
        if read_sealed_json(path) is None:
            raise ValueError("changed by hand")
        results = [Result(**result) for result in content["results"]]
    except (ValueError, TypeError) as error:  # TypeError: by another version
        raise DataError(f"{path} is damaged: delete it, and evaluate the model again; no cell is lost.") from error
    return Evaluation(content["model"], content["digest"], folder, results, content["commands"])


def task_file(folder: Path, task: str, digest: str) -> Path:
    """Where labels and baselines of a task are kept."""
    return folder / "tasks" / f"{task[:LONGEST_NAME]}-{digest[:12]}.json"


# --- Comparing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contest:
    """Several models on one dev split of one task under one setup."""

    task: str
    setup: str
    split: str
    metric: str
    spreads: list[Spread | None]
    """one a model, in their order; None for one that lacks the task"""
    scores: list[list[float]]
    """of all seeds, likewise"""
    comparisons: dict[tuple[int, int], Comparison]
    """of each two models, by their places; empty where no predictions are kept (probes)"""

    @property
    def detectable(self) -> float | None:
        """The largest minimal detectable difference of two models, in points; None where one is unknown."""
        found = [comparison.detectable for comparison in self.comparisons.values()]
        return max((d for d in found if d is not None), default=None) if None not in found else None

    @property
    def leader(self) -> int | None:
        """The model that is ahead of every other one, each time decided; None where there is none."""
        for place, one in enumerate(self.spreads):
            others = [other for other, of in enumerate(self.spreads) if other != place and of is not None]
            if one is not None and others and all(self._is_ahead(place, other) for other in others):
                return place
        return None

    def _is_ahead(self, place: int, other: int) -> bool:
        comparison = self.comparisons.get((min(place, other), max(place, other)))
        return comparison is not None and comparison.decided and (comparison.difference > 0) == (place < other)


def find_evaluation(model: str) -> Evaluation:
    """The results of a model: given as to `evaluate`, or as the folder that they were written to.

    Raises:
        DataError: there are none.
    """
    for folder in (Path(model), results_folder(model)):
        with contextlib.suppress(NoEvaluation):  # many a model's folder has a results.json of its own
            if (found := load(folder)) is not None:
                return found
    raise DataError(
        f"{model} has no results (looked for {results_folder(model) / RESULTS_FILE}): run "
        f"`{command('evaluate', model, '--tasks', 'bugs')}` first (or other tasks), or name the "
        "folder that its --out gave."
    )


def compare_evaluations(
    evaluations: Sequence[Evaluation], names: Sequence[str], say: Callable[[str], object]
) -> list[Contest]:
    """Every task that two or more models share, under the same setup.

    Args:
        evaluations: two or more.
        names: of the models, as sentences call them.
        say: is told what can't be compared.

    Raises:
        DataError: nothing is shared; or the files of a cell or task are missing.
    """
    contests: list[Contest] = []
    keys = dict.fromkeys((result.task, result.setup) for one in evaluations for result in one.results)
    for task, setup in keys:
        found = [next((r for r in one.results if (r.task, r.setup) == (task, setup)), None) for one in evaluations]
        there = [result for result in found if result is not None]
        if len(there) < 2:
            continue
        if len({result.digest for result in there}) > 1:
            say(f"{task} ({setup}) is not compared: the models were trained or scored on different examples.")
            continue
        contests += [_contest(evaluations, names, found, split) for split in there[0].scores]
    if not contests:
        held = "; ".join(
            f"{name} has {', '.join(f'{r.task} ({r.setup})' for r in one.results) or 'none'}"
            for name, one in zip(names, evaluations, strict=True)
        )
        raise DataError(f"no task is there twice under one setup: {held}; evaluate them with the same options.")
    return contests


def _contest(
    evaluations: Sequence[Evaluation], names: Sequence[str], found: Sequence[Result | None], split: str
) -> Contest:
    one = next(result for result in found if result is not None)
    metric = next(iter(one.scores[split]))
    scores = [[] if result is None else result.of(split, metric) for result in found]
    runs = [
        None if result is None else _runs(evaluations[place], names[place], result, split)
        for place, result in enumerate(found)
    ]
    comparisons: dict[tuple[int, int], Comparison] = {}
    for first, second in combinations(range(len(found)), 2):
        one_runs, other_runs = runs[first], runs[second]
        if one_runs is None or other_runs is None:
            continue
        if one.setup.startswith(ZERO_SHOT):
            if (compared := _compare_pairs(one_runs, other_runs, metric)) is not None:
                comparisons[first, second] = compared
        else:
            labels = _labels(evaluations[first], one, split)
            comparisons[first, second] = compare(one_runs, other_runs, labels, metric)
    spreads = [None if result is None else spread(scores[place]) for place, result in enumerate(found)]
    return Contest(one.task, one.setup, split, metric, spreads, scores, comparisons)


def _runs(evaluation: Evaluation, name: str, result: Result, split: str) -> Runs | None:
    """Predictions of every seed that has a score; None where there is none, or cells keep none."""
    predictions: dict[int, Sequence[Any]] = {}
    for seed in result.seeds:
        if str(seed) in result.failed:
            continue
        path = evaluation.folder / "cells" / result.cells[str(seed)]
        cell = read_sealed_json(path)
        if cell is None:
            raise DataError(f"{path} is missing or damaged: evaluate {evaluation.model} again, which restores it.")
        if not cell["predictions"]:
            return None
        predictions[seed] = cell["predictions"][split]
    return Runs(name, predictions) if predictions else None


def _labels(evaluation: Evaluation, result: Result, split: str) -> Sequence[Any]:
    path = task_file(evaluation.folder, result.task, result.digest)
    facts = read_sealed_json(path)
    if facts is None:
        raise DataError(f"{path} is missing or damaged: evaluate {evaluation.model} again, which restores it.")
    return facts["dev"][split]


def _compare_pairs(first: Runs, second: Runs, metric: str) -> Comparison | None:
    """Of zero-shot results, on the pairs that both judged: some are left out, by a tokenizer or for a sample.

    Pairs that come in sets are resampled by whole sets.
    """
    one, other = (
        {place: (won, *of) for place, won, *of in next(iter(runs.predictions.values()))} for runs in (first, second)
    )
    both = sorted(one.keys() & other.keys())
    if not both:
        return None
    sets = [one[place][1] if len(one[place]) > 1 else 0 for place in both]
    interval = clustered_interval([one[place][0] - other[place][0] for place in both], sets)
    difference, low, high = (100 * value for value in interval)
    return Comparison(
        first.name, second.name, metric, difference, low, high, None, (1, 1), paired=True, examples=len(both)
    )


def comparison_entry(contest: Contest, names: Sequence[str]) -> Mapping[str, Any]:
    """A contest for `--json`; models' scores as they are, differences in points."""
    return {
        "task": contest.task,
        "setup": contest.setup,
        "split": contest.split,
        "metric": contest.metric,
        "models": {
            name: {"scores": scores, **one._asdict()}
            for name, scores, one in zip(names, contest.scores, contest.spreads, strict=True)
            if one is not None
        },
        "detectable": contest.detectable,
        "leader": None if contest.leader is None else names[contest.leader],
        "comparisons": [
            {**asdict(comparison), "decided": comparison.decided, "sentence": comparison.sentence}
            for comparison in contest.comparisons.values()
        ],
    }
