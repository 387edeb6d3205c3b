"""Scores of predictions by scikit-learn and SciPy, also defined where these give NaN, an error or a warning.

Notable:
- a single class and constant predictions score 0.0 by Matthews, Pearson and Spearman;
- predictions that are not finite are an error;
- whole entities are scored by seqeval in its default mode, which follows the script of the CoNLL tasks;
- these libraries are imported where something is scored, so that a report of a run does not wait seconds for them.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_electra.errors import DataError
from fast_electra.evaluation.entities import tags_of
from fast_electra.evaluation.tasks import ENTITY_F1, Task

METRICS = ("accuracy", "f1", "matthews", "pearson", "spearman", "token_accuracy")
"""metrics of one prediction for each example or word; `tasks.ENTITY_F1` needs whole sentences"""


def score(metric: str, labels: NDArray[Any], predictions: NDArray[Any]) -> float:
    """Compute a score.

    Args:
        metric: one of `METRICS`.
            accuracy, token_accuracy: share of equal class numbers;
            f1: of class 1 against all others, 0.0 if it is neither true nor predicted;
            matthews: correlation of classes, 0.0 if labels or predictions are all the same;
            pearson, spearman: correlation of values, 0.0 if labels or predictions are constant.
        labels: class numbers or values, (N,); for token metrics those of the words of all sentences.
        predictions: class numbers or values, (N,).

    Returns:
        a score between 0 and 1, or between -1 and 1 for correlations.

    Raises:
        DataError: a prediction is not finite.
        ValueError: shapes differ, there are no examples, or the metric is unknown.
    """
    from scipy import stats
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

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
        case "matthews":
            return 0.0 if constant else float(matthews_corrcoef(labels_N, predictions_N))
        case "pearson" | "spearman":
            if constant:
                return 0.0
            correlate = stats.pearsonr if metric == "pearson" else stats.spearmanr
            found: Any = correlate(labels_N.astype(np.float64), predictions_N.astype(np.float64))
            value = float(found.statistic)
            return value if np.isfinite(value) else 0.0  # the variance of very similar values underflows
    raise ValueError(f"unknown metric {metric}")


def entity_f1(labels: Sequence[Sequence[int]], predictions: Sequence[Sequence[int]]) -> float:
    """Return micro F1 over whole entities, 0.0 if there are none.

    Args:
        labels: class numbers of the words of each sentence, in the order of `entities.class_names`.
        predictions: class numbers in the same form.

    Raises:
        ValueError: a sentence has too many or too few predictions.
    """
    from seqeval.metrics import f1_score as seqeval_f1

    true, found = ([tags_of(sentence) for sentence in sentences] for sentences in (labels, predictions))
    if [len(sentence) for sentence in true] != [len(sentence) for sentence in found]:
        raise ValueError("labels and predictions have sentences of different lengths")
    return float(seqeval_f1(true, found, average="micro", zero_division=0))  # pyright: ignore[reportArgumentType]


def flatten(values: Sequence[Any]) -> NDArray[Any]:
    """Return labels or predictions of a split as one array: of examples, or of the words of all sentences."""
    return np.asarray(list(chain.from_iterable(values)) if isinstance(values[0], list | tuple | np.ndarray) else values)


def score_splits(task: Task, predictions: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, float]]:
    """Score predictions by all metrics of a task.

    Args:
        task: with the labels.
        predictions: {dev split: prediction of each example, or a list of predictions for its words}.

    Returns:
        {dev split: {metric: score}}.

    Raises:
        DataError: a prediction is not finite.
        ValueError: there are too many or too few predictions.
    """
    found: dict[str, dict[str, float]] = {}
    for name, values in predictions.items():
        labels: Any = task.dev[name].labels
        found[name] = {
            metric: entity_f1(labels, values)
            if metric == ENTITY_F1
            else score(metric, flatten(labels), flatten(values))
            for metric in task.metrics
        }
    return found
