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
"""in the order in which they are shown, and what they are called in a sentence"""
PAIRS = "pair"
"""metric of the zero-shot bugs: share of pairs judged right, a half for a tie"""
ZERO_SHOT = "zero-shot"
"""how the setup of tasks without training begins: pairs of texts, one score, a prediction [place, won, set] a pair"""
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


def curves(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results of several numbers of examples by task, or by task and setup where there are several; few first."""
    of = [result for result in results if result.curve]
    several = len({result.curve for result in of}) > 1
    found: dict[str, list[Result]] = {}
    for result in sorted(of, key=lambda result: result.n_train):
        found.setdefault(f"{result.task} ({result.curve})" if several else result.task, []).append(result)
    return {name: points for name, points in found.items() if len(points) > 1}
