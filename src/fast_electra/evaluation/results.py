"""The result of an evaluation: the scores of all seeds, with the baselines that they have to beat.

Notable: a result is one task under one setup (a recipe, a probe, zero-shot).
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fast_electra.evaluation.comparison import minimal_detectable_difference

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
"""baselines in the order of tables, and their names in sentences"""
PAIRS = "pair"
"""metric of the zero-shot bugs: share of pairs judged correctly, a tie counts half"""
ZERO_SHOT = "zero-shot"
"""prefix of the setup of tasks without training: pairs of texts, one score, a prediction [place, won, set] per pair"""
Scores = dict[str, dict[str, float]]
"""{dev split: {metric: score}}"""


@dataclass(frozen=True)
class Result:
    """One task under one setup: the scores of all seeds, and of the baselines."""

    task: str
    setup: str
    """name of the recipe, with what differs from it; "probe"; or "zero-shot" """
    digest: str
    """of the task without test sets"""
    recipe: dict[str, Any]
    """values of the recipe"""
    seeds: list[int]
    scores: dict[str, dict[str, list[float | None]]]
    """{dev split: {metric: score of each seed, None if it failed}}; the first split and metric are the primary ones"""
    baselines: dict[str, Scores | None]
    """by the names of `BASELINES`; None for a failed one; the mean over seeds for the untrained encoder"""
    n_train: int
    n_dev: dict[str, int]
    truncated: dict[str, int]
    """number of truncated texts of train and of all dev splits, for the first seed"""
    cells: dict[str, str]
    """file of each seed under OUT/cells, and of "untrained-SEED" """
    seconds: float
    """time of all cells"""
    n_all: int = 0
    """number of training examples, including those that are not used"""
    curve: str | None = None
    """for one of several numbers of examples: the setup without the number, equal for all of them"""
    untrained: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    """scores of the untrained encoder for each seed, None if it failed"""
    against: dict[str, Any] | None = None
    """comparison with the untrained encoder: a `Comparison`, with "decided" and "sentence" """
    selection: dict[str, Any] | None = None
    """how the learning rate was chosen on a part of train: {"examples", "scores": {rate: score}, "untrained":
    {"learning_rate", "scores"} or None}; None if it was given"""
    failed: dict[str, str] = field(default_factory=dict)
    """{seed: reason why it has no scores}"""
    degenerate: list[int] = field(default_factory=list)
    """seeds with the same answer for every example of a dev split"""
    layers: dict[str, list[Scores]] = field(default_factory=dict)
    """of a probe: scores of the embeddings and of each layer, for "model" and "untrained"; for pairs with numbers also
    those of the cosine, "model, cosine" and "untrained, cosine" """
    repeated: dict[str, int] = field(default_factory=dict)
    """{dev split: number of examples whose texts are also in train}"""
    drops_repeated: bool = False
    """whether those examples are left out of the scores"""
    cut_entities: dict[str, int] = field(default_factory=dict)
    """{dev split: number of entities in truncated parts of sentences}, if there are any"""
    overlap: dict[str, Any] | None = None
    """texts seen in pre-training: {"corpus": …, "counts": {split: {"texts", "checked", "seen"}}}"""
    details: dict[str, Any] = field(default_factory=dict)
    """of minimal pairs: "way", "per_set", "groups" and "differences", see `minimal_pairs`; {} for other tasks"""

    @property
    def title(self) -> str:
        """The task, with the number of examples if there are several numbers."""
        return f"{self.task}, {self.n_train:,} examples" if self.curve else self.task

    @property
    def split(self) -> str:
        """The primary dev split."""
        return next(iter(self.scores))

    @property
    def metric(self) -> str:
        """The primary metric."""
        return next(iter(self.scores[self.split]))

    def of(self, split: str | None = None, metric: str | None = None) -> list[float]:
        """Return the scores of the seeds that did not fail, by default of the primary split and metric."""
        scores = self.scores[split or self.split][metric or self.metric]
        return [score for score in scores if score is not None]

    def of_untrained(self, split: str | None = None, metric: str | None = None) -> list[float]:
        """Return the untrained encoder's scores of the seeds that did not fail."""
        scores = self.untrained.get(split or self.split, {}).get(metric or self.metric, [])
        return [score for score in scores if score is not None]

    def baseline(self, name: str, split: str | None = None, metric: str | None = None) -> float | None:
        """Return the score of a baseline; None if there is none."""
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
    """Return the result of a cell without training, which has one score for each metric.

    Args:
        task: name of the task.
        setup: `ZERO_SHOT`, or that with a name for the examples.
        digest: of the examples.
        recipe: settings that identify the cell.
        record: content of the cell.
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
    """Statistics of the scores of several seeds; None if there are too few."""

    median: float | None
    mean: float | None
    deviation: float | None
    """standard deviation of the sample, from two seeds on"""
    best: float | None
    detectable: float | None
    """minimal detectable difference to another model with the same spread and number of seeds"""


def spread(scores: Sequence[float]) -> Spread:
    """Return statistics of the scores of several seeds."""
    if not scores:
        return Spread(None, None, None, None, None)
    deviation = statistics.stdev(scores) if len(scores) > 1 else None
    detectable = minimal_detectable_difference(scores, scores, paired=False)
    return Spread(statistics.median(scores), statistics.fmean(scores), deviation, max(scores), detectable)


def curves(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return results of several numbers of examples, ascending, by task, or by task and setup if setups differ."""
    of = [result for result in results if result.curve]
    several = len({result.curve for result in of}) > 1
    found: dict[str, list[Result]] = {}
    for result in sorted(of, key=lambda result: result.n_train):
        found.setdefault(f"{result.task} ({result.curve})" if several else result.task, []).append(result)
    return {name: points for name, points in found.items() if len(points) > 1}
