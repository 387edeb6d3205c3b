"""Scores of predictions, by scikit-learn and SciPy, defined where those give NaN, an error or a warning.

Notable:
- one class only and constant predictions score 0.0 by Matthews, Pearson and Spearman: nothing was told apart;
- predictions that are not finite are an error, never a score;
- token labels are scored word by word and entity-agnostic; class 0 is "O" wherever a task has it (`tasks.OUTSIDE`).
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from fast_electra.errors import DataError
from fast_electra.evaluation.tasks import Task

METRICS = ("accuracy", "f1", "matthews", "pearson", "spearman", "token_accuracy", "token_f1")


def score(metric: str, labels: NDArray[Any], predictions: NDArray[Any]) -> float:
    """One score in [0, 1], or [-1, 1] for the correlations.

    Args:
        metric: one of `METRICS`.
            accuracy, token_accuracy: share of equal class numbers;
            f1: of class 1 against all others, 0.0 where nobody names it;
            matthews: correlation of classes, 0.0 where labels or predictions are all the same;
            pearson, spearman: correlation of values, 0.0 where either side is constant;
            token_f1: micro F1 over all classes but 0 ("O"), a word at a time: seqeval, which counts whole entities,
            gives lower values.
        labels: (N,) class numbers or values; words of all sentences for the token metrics.
        predictions: (N,) likewise.

    Raises:
        DataError: a prediction is not finite.
        ValueError: shapes differ, there is nothing to score, or the metric is unknown.
    """
    labels_N, predictions_N = np.asarray(labels), np.asarray(predictions)
    if labels_N.shape != predictions_N.shape or labels_N.ndim != 1 or not labels_N.size:
        raise ValueError(f"labels {labels_N.shape} and predictions {predictions_N.shape} to score")
    broken = ~np.isfinite(predictions_N)
    if broken.any():
        raise DataError(
            f"{metric}: {int(broken.sum()):,} of {broken.size:,} predictions are not finite numbers, the first for "
            f"example {int(broken.argmax()) + 1}: the model has diverged; fine-tune it at a lower learning rate."
        )
    constant = bool((labels_N == labels_N[0]).all() or (predictions_N == predictions_N[0]).all())
    match metric:
        case "accuracy" | "token_accuracy":
            return float(accuracy_score(labels_N, predictions_N))
        case "f1":
            return float(f1_score(labels_N == 1, predictions_N == 1, zero_division=0.0))  # pyright: ignore[reportArgumentType]
        case "token_f1":
            named = sorted({*np.unique(labels_N).tolist(), *np.unique(predictions_N).tolist()} - {0})
            if not named:
                return 0.0
            return float(f1_score(labels_N, predictions_N, labels=named, average="micro", zero_division=0.0))  # pyright: ignore[reportArgumentType]
        case "matthews":
            return 0.0 if constant else float(matthews_corrcoef(labels_N, predictions_N))
        case "pearson" | "spearman":
            if constant:
                return 0.0
            correlate = stats.pearsonr if metric == "pearson" else stats.spearmanr
            found: Any = correlate(labels_N.astype(np.float64), predictions_N.astype(np.float64))
            value = float(found.statistic)
            return value if np.isfinite(value) else 0.0  # values so near one another that their variance underflows
    raise ValueError(f"unknown metric {metric}")


def flatten(values: Sequence[Any]) -> NDArray[Any]:
    """Labels or predictions of a split as one array: of examples, or of the words of all sentences."""
    return np.asarray(list(chain.from_iterable(values)) if isinstance(values[0], list | tuple | np.ndarray) else values)


def score_splits(task: Task, predictions: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, float]]:
    """{dev split: {metric: score}} of predictions {dev split: one an example, or a list of one a word}.

    Raises:
        DataError: a prediction is not finite.
        ValueError: too many or too few predictions.
    """
    return {
        name: {metric: score(metric, flatten(task.dev[name].labels), flatten(values)) for metric in task.metrics}
        for name, values in predictions.items()
    }
