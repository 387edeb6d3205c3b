"""Comparison of two models on a task: is one ahead, or can seeds and examples explain the difference.

Notable:
- both models are scored on the same dev examples, so they share the resamples of the examples (paired). If both have
  the same seeds, the differences by seed vary instead of the two scores;
- examples are resampled. There are too few seeds for that (three seeds give only ten different means), so the mean over
  seeds varies as Student's t with S - 1 degrees of freedom;
- scores of resamples are computed with weights: each metric is a function of a few weighted sums over the examples, so
  thousands of resamples are one matrix product. Spearman's ranks are computed in each resample;
- a difference is not decided if the interval includes 0, or if it is below the minimal detectable difference. That
  depends on the spread over seeds only, and pairing never lowers it, because a few differences may be similar by
  chance. With one seed the spread is unknown, and nothing is decided.

Shapes: N examples (or words), E examples (sentences whole), R resamples, S seeds, C classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fast_electra.evaluation.entities import count_entities
from fast_electra.evaluation.metrics import ENDS, parts_of
from fast_electra.evaluation.scores import entity_f1, flatten, score
from fast_electra.evaluation.tasks import ENTITY_F1

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Runs:
    """One model, fine-tuned with several seeds, on one dev split."""

    name: str
    predictions: Mapping[int, Sequence[Any]]
    """{seed: class number, value, or list of class numbers of each example}"""


@dataclass(frozen=True)
class Comparison:
    """The difference of two models on one task, with its interval."""

    first: str
    second: str
    metric: str
    difference: float
    """first - second, mean over seeds, in points (hundredths of the score)"""
    low: float
    high: float
    """ends of the 95 % interval, in points"""
    detectable: float | None
    """minimal detectable difference in points; None if a model has one seed"""
    seeds: tuple[int, int]
    """number of seeds of each model"""
    paired: bool
    """whether both have the same seeds"""
    examples: int

    @property
    def decided(self) -> bool:
        """Whether the interval excludes 0 and the difference is not below the minimal detectable one."""
        outside = self.low > 0 or self.high < 0
        return outside and self.detectable is not None and abs(self.difference) >= self.detectable

    @property
    def sentence(self) -> str:
        """The finding in words."""
        ahead, behind = (self.first, self.second) if self.difference >= 0 else (self.second, self.first)
        low, high = (self.low, self.high) if self.difference >= 0 else (-self.high, -self.low)
        seeds = f"{self.seeds[0]}" if self.seeds[0] == self.seeds[1] else f"{self.seeds[0]} and {self.seeds[1]}"
        covers = f"{seeds} seeds"
        if self.detectable is None:
            covers = "1 seed (over examples only)" if seeds == "1" else f"{seeds} seeds (one seed has no spread)"
        if self.difference == 0:
            lead = f"{ahead} and {behind} are level"
        else:
            lead = f"{ahead} is ahead of {behind} by {_points(abs(self.difference))} points"
        verdict = "decided" if self.decided else "not decided"
        return f"{lead}, interval {_points(low)} to {_points(high)}, {covers}: {verdict}"

    def record(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {**asdict(self), "decided": self.decided, "sentence": self.sentence}


def compare(
    first: Runs,
    second: Runs,
    labels: Sequence[Any],
    metric: str,
    *,
    resamples: int = 2_000,
) -> Comparison:
    """Compare two models by the paired bootstrap over examples and Student's distribution over seeds.

    Args:
        first: one model.
        second: the other model, with predictions for the same examples.
        labels: of the dev split; for labels of words a list for each sentence, and whole sentences are resampled.
        metric: one of `scores.METRICS`, or `tasks.ENTITY_F1`.
        resamples: of the bootstrap.

    Returns:
        the difference first - second, in points.

    Raises:
        DataError: a prediction is not finite.
        ValueError: the numbers of labels and predictions differ.
    """
    random = np.random.Generator(np.random.Philox(key=0))
    truth_N = flatten(labels)
    sentence_N = np.repeat(np.arange(len(labels)), [np.size(label) for label in labels])
    given = [dict(sorted(runs.predictions.items())) for runs in (first, second)]
    answers = [{s: flatten(values) for s, values in runs.items()} for runs in given]
    if metric == ENTITY_F1:
        scores = [np.asarray([entity_f1(labels, values) for values in runs.values()]) for runs in given]
        counts = [[count_entities(labels, values) for values in runs.values()] for runs in given]
    else:
        scores = [np.asarray([score(metric, truth_N, values) for values in runs.values()]) for runs in answers]
        counts = []
    seeds = (len(scores[0]), len(scores[1]))
    paired = answers[0].keys() == answers[1].keys()
    errors_R = _seed_errors(random, resamples, scores, paired)
    parts: list[Array] = []
    for rows in parts_of(resamples, len(truth_N)):
        drawn_RE = _example_weights(random, rows, len(labels))
        if metric == ENTITY_F1:
            means = [weighted_entity_f1(of_seeds, drawn_RE).mean(axis=1) for of_seeds in counts]
        else:
            drawn_RN = drawn_RE[:, sentence_N]
            means = [weighted_scores(metric, truth_N, list(runs.values()), drawn_RN).mean(axis=1) for runs in answers]
        parts.append(means[0] - means[1])
    low, high = np.quantile(errors_R + np.concatenate(parts), ENDS)
    apart = minimal_detectable_difference(scores[0], scores[1], paired=False)
    together = minimal_detectable_difference(scores[0], scores[1], paired=True) if paired else None
    return Comparison(
        first.name,
        second.name,
        metric,
        100 * float(scores[0].mean() - scores[1].mean()),
        100 * float(low),
        100 * float(high),
        None if apart is None else 100 * max(apart, together or 0.0),
        seeds,
        paired,
        len(labels),
    )


def minimal_detectable_difference(first: ArrayLike, second: ArrayLike, *, paired: bool) -> float | None:
    """Compute the smallest true difference of two means that a test with this spread over seeds can detect.

    It is (t(0.975) + t(0.8)) times the standard error of the difference, with Student's quantiles: for a two-sided test
    of 5 % significance and 80 % power.

    Args:
        first: scores of one model, one for each seed.
        second: scores of the other model; if `paired`, in the same order of seeds.
        paired: use the error of the differences by seed; else Welch's error with his degrees of freedom.

    Returns:
        the difference in the unit of the scores; None if a model has one seed, because its spread is unknown.
    """
    first_S, second_S = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if min(first_S.size, second_S.size) < 2:
        return None
    from scipy import stats  # here, since a report without such an interval need not wait for it

    if paired:
        error = float((first_S - second_S).std(ddof=1)) / math.sqrt(first_S.size)
        freedom = float(first_S.size - 1)
    else:
        parts = [float(scores.var(ddof=1)) / scores.size for scores in (first_S, second_S)]
        error = math.sqrt(sum(parts))
        below = sum(p**2 / (s.size - 1) for p, s in zip(parts, (first_S, second_S), strict=True))
        freedom = sum(parts) ** 2 / below if below else 1.0
    return float(stats.t.ppf(0.975, freedom) + stats.t.ppf(0.8, freedom)) * error


# --- Resampling -------------------------------------------------------------------------------------------------------


def _seed_errors(random: np.random.Generator, resamples: int, scores: Sequence[Array], paired: bool) -> Array:
    """Errors of the difference of two means over seeds, (R,); a single seed has no error."""
    errors_R = np.zeros(resamples)
    for scores_S in [scores[0] - scores[1]] if paired else scores:
        if scores_S.size > 1:
            error = scores_S.std(ddof=1) / math.sqrt(scores_S.size)
            errors_R += error * random.standard_t(scores_S.size - 1, resamples)
    return errors_R


def _example_weights(random: np.random.Generator, resamples: int, examples: int) -> Array:
    """How often each example is drawn, (R, N); counting draws is faster than NumPy's multinomial."""
    drawn_RN = random.integers(examples, size=(resamples, examples))
    drawn_RN += np.arange(resamples)[:, None] * examples
    counts = np.bincount(drawn_RN.ravel(), minlength=resamples * examples)
    return counts.reshape(resamples, examples).astype(np.float64)


# --- Scores of weighted examples --------------------------------------------------------------------------------------


def weighted_scores(
    metric: str, labels_N: NDArray[Any], predictions: Sequence[NDArray[Any]], weights_RN: Array
) -> Array:
    """Compute `scores.score` of weighted examples.

    Args:
        metric: one of `scores.METRICS`.
        labels_N: class numbers or values.
        predictions: S arrays (N,).
        weights_RN: weight of each example in each resample.

    Returns:
        scores (R, S), 0.0 where a correlation is not defined.
    """
    match metric:
        case "accuracy" | "token_accuracy":
            correct_NS = np.stack([p == labels_N for p in predictions], axis=1).astype(np.float64)
            return weights_RN @ correct_NS / weights_RN.sum(axis=1, keepdims=True)
        case "f1":
            hits_NS = np.stack([(p == 1) & (labels_N == 1) for p in predictions], axis=1).astype(np.float64)
            either_NS = np.stack([(p == 1) * 1.0 + (labels_N == 1) for p in predictions], axis=1)
            return _ratio(2 * (weights_RN @ hits_NS), weights_RN @ either_NS)
        case "matthews":
            columns = [_matthews(labels_N, p, weights_RN) for p in predictions]
        case "pearson":
            columns = [_correlation(labels_N[None], p[None], weights_RN) for p in predictions]
        case "spearman":
            label_ranks_RN = _ranks(labels_N, weights_RN)
            columns = [_correlation(label_ranks_RN, _ranks(p, weights_RN), weights_RN) for p in predictions]
        case _:
            raise ValueError(f"unknown metric {metric}")
    return np.stack(columns, axis=1)


def weighted_entity_f1(counts: Sequence[tuple[Array, Array]], weights_RE: Array) -> Array:
    """Return F1 over whole entities, (R, S), from the counts of each seed (`entities.count_entities`)."""
    right_ES, either_ES = (np.stack(columns, axis=1) for columns in zip(*counts, strict=True))
    return _ratio(2 * (weights_RE @ right_ES), weights_RE @ either_ES)


def _matthews(labels_N: NDArray[Any], predictions_N: NDArray[Any], weights_RN: Array) -> Array:
    """Gorodkin's R_K from the counts of each class (C) in labels, in predictions and in both."""
    classes = np.union1d(labels_N, predictions_N)
    true_RC = weights_RN @ (labels_N[:, None] == classes).astype(np.float64)
    named_RC = weights_RN @ (predictions_N[:, None] == classes).astype(np.float64)
    correct_R = weights_RN @ (labels_N == predictions_N).astype(np.float64)
    total_R = weights_RN.sum(axis=1)
    covariance_R = correct_R * total_R - (true_RC * named_RC).sum(axis=1)
    spread_R = (total_R**2 - (true_RC**2).sum(axis=1)) * (total_R**2 - (named_RC**2).sum(axis=1))
    return _ratio(covariance_R, np.sqrt(spread_R))


def _correlation(first_RN: NDArray[Any], second_RN: NDArray[Any], weights_RN: Array) -> Array:
    """Weighted Pearson correlation of values that are the same in every resample (1, N), or not (R, N)."""
    # The values are centred first: weighted moments about 0 would lose digits of values far from 0.
    first_RN = first_RN - first_RN.mean(axis=1, keepdims=True)
    second_RN = second_RN - second_RN.mean(axis=1, keepdims=True)
    total_R = weights_RN.sum(axis=1)
    first_R, second_R, both_R, firsts_R, seconds_R = (
        _sums(values, weights_RN) / total_R
        for values in (first_RN, second_RN, first_RN * second_RN, first_RN**2, second_RN**2)
    )
    spread_R = (firsts_R - first_R**2) * (seconds_R - second_R**2)
    rounding = 1e-12 * firsts_R * seconds_R  # of a constant resample, whose variance should be 0
    return _ratio(both_R - first_R * second_R, np.sqrt(np.where(spread_R > rounding, spread_R, 0.0)))


def _sums(values_RN: Array, weights_RN: Array) -> Array:
    return weights_RN @ values_RN[0] if len(values_RN) == 1 else np.einsum("rn,rn->r", weights_RN, values_RN)


def _ranks(values_N: NDArray[Any], weights_RN: Array) -> Array:
    """Ranks in each resample, (R, N), where the weight of an example is its number of copies; ties get their mean."""
    distinct, group_N = np.unique(values_N, return_inverse=True)
    ordered_RN = weights_RN[:, np.argsort(group_N, kind="stable")]
    starts = np.searchsorted(np.sort(group_N), np.arange(len(distinct)))
    sizes_RG = np.add.reduceat(ordered_RN, starts, axis=1)
    return (np.cumsum(sizes_RG, axis=1) - (sizes_RG - 1) / 2)[:, group_N]


def _ratio(above: Array, below: Array) -> Array:
    """Divide, with 0 where `below` is 0."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _points(value: float) -> str:
    return f"{value:.1f}".replace("-0.0", "0.0").replace("-", "−")
