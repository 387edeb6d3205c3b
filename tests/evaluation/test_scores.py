"""Scores against plain counting, and what they give where a formula gives none."""

import math

import numpy as np
import pytest

from fast_electra.errors import DataError
from fast_electra.evaluation.scores import METRICS, score, score_splits
from fast_electra.evaluation.tasks import Split, make_task


def drawn(classes: int, count: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    labels = draw.integers(classes, size=count)
    return labels, np.where(draw.random(count) < 0.6, labels, draw.integers(classes, size=count))


def test_accuracy_and_f1_agree_with_counting():
    labels, predictions = drawn(2)
    hits = sum(a == b for a, b in zip(labels, predictions, strict=True))
    assert score("accuracy", labels, predictions) == hits / 200
    both = sum((labels == 1) & (predictions == 1))
    precision, recall = both / sum(predictions == 1), both / sum(labels == 1)
    assert score("f1", labels, predictions) == pytest.approx(2 * precision * recall / (precision + recall))


def test_matthews_agrees_with_the_correlation_of_two_binary_columns():
    labels, predictions = drawn(2)
    assert score("matthews", labels, predictions) == pytest.approx(np.corrcoef(labels, predictions)[0, 1])


def test_correlations_agree_with_their_definitions():
    draw = np.random.default_rng(0)
    labels = draw.integers(6, size=100).astype(float)  # with ties, as in STS-B
    predictions = labels + draw.normal(size=100)
    a, b = labels - labels.mean(), predictions - predictions.mean()
    pearson = (a * b).sum() / math.sqrt((a**2).sum() * (b**2).sum())
    assert score("pearson", labels, predictions) == pytest.approx(pearson)

    def ranks(values):
        return np.array([(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values])

    assert score("spearman", labels, predictions) == pytest.approx(np.corrcoef(ranks(labels), ranks(predictions))[0, 1])


ONES, MIXED = np.ones(4, dtype=int), np.array([0, 1, 1, 0])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("metric", "labels", "predictions", "expected"),
    [
        ("matthews", MIXED, ONES, 0.0),
        ("matthews", ONES, MIXED, 0.0),
        ("matthews", ONES, ONES, 0.0),
        ("f1", MIXED, MIXED * 0, 0.0),
        ("f1", MIXED * 0, MIXED * 0, 0.0),
        ("f1", ONES, ONES, 1.0),
        ("accuracy", ONES, ONES, 1.0),
        ("pearson", MIXED / 2, ONES * 0.1, 0.0),
        ("spearman", MIXED / 2, ONES * 0.1, 0.0),
        ("pearson", ONES * 0.3, MIXED / 2, 0.0),
        ("spearman", ONES * 0.3, MIXED / 2, 0.0),
        ("token_accuracy", MIXED, MIXED * 0, 0.5),
        ("pearson", np.array([0.5]), np.array([0.7]), 0.0),
        ("spearman", np.array([0.5]), np.array([0.7]), 0.0),
    ],
)
def test_one_class_and_constant_predictions_have_a_score_and_no_warning(metric, labels, predictions, expected):
    assert score(metric, labels, predictions) == expected


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_predictions_that_are_not_finite_are_an_error_that_names_them(metric, value):
    predictions = np.array([0.0, 1.0, value, value])
    with pytest.raises(
        DataError, match=rf"{metric}: 2 of 4 predictions are not finite numbers, the first for example 3"
    ):
        score(metric, np.array([0, 1, 0, 1]), predictions)


def test_nothing_to_score_and_unequal_lengths_are_refused():
    for labels, predictions in ((np.array([]), np.array([])), (ONES, ONES[:3])):
        with pytest.raises(ValueError, match="to score"):
            score("accuracy", labels, predictions)
    with pytest.raises(ValueError, match="unknown metric"):
        score("bleu", ONES, ONES)


def test_splits_are_scored_by_all_metrics_of_the_task():
    words = Split([("a", "b"), ("c",)], [[1, 2], [1]])
    tags = ("O", "B-X", "I-X")
    task = make_task("toy", "tokens", tags, words, {"dev": words}, {}, ("entity_f1", "token_accuracy"))
    scores = score_splits(task, {"dev": [[1, 0], [1]]})
    assert scores == {"dev": {"entity_f1": pytest.approx(1 / 2), "token_accuracy": pytest.approx(2 / 3)}}
