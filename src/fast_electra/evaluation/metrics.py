"""Intervals and ranking measures on plain arrays.

Notable:
- the bootstrap of a difference of two scorers on the same functions resamples the functions (paired bootstrap);
- SciPy's statistics and scikit-learn take seconds to import, so functions import them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Maximum number of resampled values at a time; it limits memory to some tens of MB.
CHUNK = 4_000_000
_RESAMPLES = 10_000
_CONFIDENCE = 0.95
ENDS = [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2]
"""quantiles at the ends of a 95 % interval"""


class Interval(NamedTuple):
    """A mean and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


def bootstrap_interval(values: ArrayLike, *, resamples: int = _RESAMPLES) -> Interval:
    """Return the percentile bootstrap interval of the mean of `values` (n,); NaN for no values."""
    values_N = np.asarray(values, dtype=np.float64)
    if values_N.size == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    means_R = np.concatenate([values_N[chosen].mean(axis=1) for chosen in _draws(resamples, values_N.size)])
    return _interval(values_N, means_R)


def parts_of(resamples: int, count: int) -> Iterator[int]:
    """Divide resamples of `count` values each into parts that fit into memory; yields the size of each part."""
    rows = max(1, CHUNK // count)
    for start in range(0, resamples, rows):
        yield min(rows, resamples - start)


def _draws(resamples: int, count: int) -> Iterator[NDArray[np.int32]]:
    """Yield resamples (R, N) of N = `count` rows in parts."""
    random = np.random.Generator(np.random.Philox(key=0))
    for rows in parts_of(resamples, count):
        yield random.integers(count, size=(rows, count), dtype=np.int32)


def _interval(values_N: NDArray[np.float64], means_R: NDArray[np.float64]) -> Interval:
    """The mean of values with the percentile interval of its resamples."""
    low, high = np.quantile(means_R, ENDS)
    return Interval(float(values_N.mean()), float(low), float(high))


def paired_bootstrap(first: ArrayLike, second: ArrayLike, *, resamples: int = _RESAMPLES) -> Interval:
    """Return the bootstrap interval of mean(first - second), both (n,) over the same items.

    Raises:
        ValueError: the lengths differ.
    """
    first_N, second_N = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first_N.shape != second_N.shape:
        raise ValueError(f"paired values differ in number: {first_N.shape} and {second_N.shape}")
    return bootstrap_interval(first_N - second_N, resamples=resamples)


def clustered_interval(values: ArrayLike, clusters: ArrayLike) -> Interval:
    """Return the bootstrap interval of the mean of `values` (n,) over whole clusters.

    `clusters` (n,) has the cluster of each value. If there is only one, its values are resampled as if they were
    independent.
    """
    values_N, cluster_N = np.asarray(values, dtype=np.float64), np.unique(np.asarray(clusters), return_inverse=True)[1]
    sizes_C = np.bincount(cluster_N)
    if sizes_C.size < 2:
        return bootstrap_interval(values_N)
    sums_C = np.bincount(cluster_N, weights=values_N)
    means = [sums_C[chosen].sum(axis=1) / sizes_C[chosen].sum(axis=1) for chosen in _draws(_RESAMPLES, sizes_C.size)]
    return _interval(values_N, np.concatenate(means))


def share_interval(hits: int, count: int) -> Interval:
    """Return Wilson's interval of a share of independent rows."""
    from scipy import stats

    ends = stats.binomtest(hits, count).proportion_ci(_CONFIDENCE, method="wilson")
    return Interval(hits / count, float(ends.low), float(ends.high))


def student_interval(values: ArrayLike) -> Interval:
    """Return Student's t interval of the mean of few values (n,); its ends are NaN for fewer than two values."""
    from scipy import stats

    values_N = np.asarray(values, dtype=np.float64)
    if values_N.size < 2:
        return Interval(float(values_N.mean()) if values_N.size else float("nan"), float("nan"), float("nan"))
    half = float(stats.t.ppf(ENDS[1], values_N.size - 1) * values_N.std(ddof=1) / np.sqrt(values_N.size))
    mean = float(values_N.mean())
    return Interval(mean, mean - half, mean + half)


def roc_auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the ROC-AUC of `scores` (n,) for boolean `labels` (n,); a tie counts half; NaN if a class is missing."""
    from sklearn.metrics import roc_auc_score

    labels_N = np.asarray(labels, dtype=bool)
    if labels_N.all() or not labels_N.any():
        return float("nan")
    return float(roc_auc_score(labels_N, np.asarray(scores)))


def wins(higher: ArrayLike, lower: ArrayLike) -> NDArray[np.float64]:
    """Return 1 where `higher` is above `lower`, 0.5 where they are equal, else 0."""
    first, second = np.asarray(higher), np.asarray(lower)
    return (first > second) + 0.5 * (first == second)
