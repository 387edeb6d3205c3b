"""Several models compared on the tasks that they share.

Notable: two models are compared if task, examples and setup are the same, each pair of models by `comparison.compare`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from fast_electra.data.files import read_sealed_json
from fast_electra.errors import DataError
from fast_electra.evaluation.comparison import Comparison, Runs, compare
from fast_electra.evaluation.evaluations import Evaluation, task_file
from fast_electra.evaluation.metrics import clustered_interval
from fast_electra.evaluation.results import ZERO_SHOT, Result, Spread, spread


@dataclass(frozen=True)
class Contest:
    """Several models on one dev split of one task under one setup."""

    task: str
    setup: str
    split: str
    metric: str
    spreads: list[Spread | None]
    """one for each model in order; None for a model without the task"""
    scores: list[list[float]]
    """scores of all seeds, for each model in order"""
    comparisons: dict[tuple[int, int], Comparison]
    """of each pair of models, by their indices; empty if there are no predictions (probes)"""

    @property
    def title(self) -> str:
        """The task, and the split if it is not dev."""
        return self.task if self.split == "dev" else f"{self.task}, {self.split}"

    @property
    def detectable(self) -> float | None:
        """The largest minimal detectable difference of two models, in points; None if one of them is unknown."""
        found = [comparison.detectable for comparison in self.comparisons.values()]
        return max((d for d in found if d is not None), default=None) if None not in found else None

    @property
    def leader(self) -> int | None:
        """Index of the model whose lead over every other model is decided; None if there is none."""
        for place, one in enumerate(self.spreads):
            others = [other for other, of in enumerate(self.spreads) if other != place and of is not None]
            if one is not None and others and all(self._is_ahead(place, other) for other in others):
                return place
        return None

    def _is_ahead(self, place: int, other: int) -> bool:
        comparison = self.comparisons.get((min(place, other), max(place, other)))
        return comparison is not None and comparison.decided and (comparison.difference > 0) == (place < other)


def compare_evaluations(
    evaluations: Sequence[Evaluation], names: Sequence[str], say: Callable[[str], object]
) -> list[Contest]:
    """Compare models on every task that two or more of them share under the same setup.

    Args:
        evaluations: two or more.
        names: of the models, for sentences.
        say: called with a message for each task that cannot be compared.

    Returns:
        a contest for each task, setup and dev split.

    Raises:
        DataError: no task is shared; or files of a cell or task are missing.
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
        raise DataError(f"the models share no task under one setup: {held}; evaluate them with the same options.")
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
    """Predictions of every seed that has a score; None if there are none."""
    predictions: dict[int, Sequence[Any]] = {}
    for seed in result.seeds:
        if str(seed) in result.failed:
            continue
        cell = _kept(evaluation, evaluation.folder / "cells" / result.cells[str(seed)])
        if not cell["predictions"]:
            return None
        predictions[seed] = cell["predictions"][split]
    return Runs(name, predictions) if predictions else None


def _labels(evaluation: Evaluation, result: Result, split: str) -> Sequence[Any]:
    return _kept(evaluation, task_file(evaluation.folder, result.task, result.digest))["dev"][split]


def _kept(evaluation: Evaluation, path: Path) -> dict[str, Any]:
    if (content := read_sealed_json(path)) is None:
        raise DataError(f"{path} is missing or damaged: evaluate {evaluation.model} again, which restores it.")
    return content


def _compare_pairs(first: Runs, second: Runs, metric: str) -> Comparison | None:
    """Compare zero-shot results on the pairs that both models judged; a tokenizer or a sample may leave out pairs.

    Pairs in sets are resampled by whole sets.
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
