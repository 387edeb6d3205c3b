"""Two models on one task: intervals, what is decided, and the words for it."""

import time

import numpy as np
import pytest
from scipy import stats

from fast_electra.errors import DataError
from fast_electra.evaluation import metrics
from fast_electra.evaluation.comparison import Comparison, Runs, compare, minimal_detectable_difference, weighted_scores
from fast_electra.evaluation.scores import METRICS, score


def predictions(labels: np.ndarray, accuracy: float, seed: int) -> list[int]:
    draw = np.random.default_rng(seed)
    return np.where(draw.random(len(labels)) < accuracy, labels, 1 - labels).tolist()


def model(name: str, labels: np.ndarray, accuracy: float, seeds: range, base: int = 0) -> Runs:
    return Runs(name, {seed: predictions(labels, accuracy, base + seed) for seed in seeds})


LABELS = np.random.default_rng(0).integers(2, size=500)


@pytest.mark.parametrize("metric", METRICS)
def test_weighted_scores_are_the_scores_of_the_drawn_examples(metric):
    draw = np.random.default_rng(1)
    if metric in ("pearson", "spearman"):
        labels = draw.integers(8, size=60) / 2 + 100
        answers = [(labels + draw.normal(size=60)).round(1) for _ in range(3)]
    else:
        classes = 2 if metric == "f1" else 4
        labels = draw.integers(classes, size=60)
        answers = [np.where(draw.random(60) < 0.5, labels, draw.integers(classes, size=60)) for _ in range(3)]
    drawn = draw.integers(60, size=(20, 60))
    weights = np.stack([np.bincount(row, minlength=60) for row in drawn]).astype(float)
    expected = [[score(metric, labels[row], answer[row]) for answer in answers] for row in drawn]
    np.testing.assert_allclose(weighted_scores(metric, labels, answers, weights), expected, atol=1e-10)


@pytest.mark.parametrize("metric", ["matthews", "pearson", "spearman", "f1"])
def test_weighted_scores_where_nothing_is_told_apart_are_zero(metric):
    labels, weights = np.array([0, 1, 1, 0]), np.array([[1.0, 1, 1, 1], [4, 0, 0, 0], [2, 0, 0, 2]])
    constant = np.full(4, 0.1) if metric in ("pearson", "spearman") else np.zeros(4, dtype=int)
    assert weighted_scores(metric, labels, [constant], weights).tolist() == [[0.0]] * 3
    assert weighted_scores(metric, labels, [labels], weights)[1:].tolist() == [[0.0]] * 2


def test_the_interval_of_one_seed_is_that_of_mcnemars_differences():
    first, second = predictions(LABELS, 0.9, 1), predictions(LABELS, 0.8, 2)
    found = compare(Runs("A", {0: first}), Runs("B", {0: second}), LABELS.tolist(), "accuracy")
    differences = (np.array(first) == LABELS) * 1.0 - (np.array(second) == LABELS)
    assert found.difference == pytest.approx(100 * differences.mean())
    half = 100 * 1.96 * differences.std() / np.sqrt(500)
    # 2,000 resamples fix a quantile to about 5 % of the half-width.
    assert found.low == pytest.approx(found.difference - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.difference + half, abs=0.1 * half)


def test_the_interval_of_seeds_alone_is_students():
    # All examples of a seed are right or wrong together, so that examples add nothing.
    labels = [0, 1] * 50
    right, wrong = labels, [1 - label for label in labels]
    first = Runs("A", {seed: right if seed < 2 else wrong for seed in range(4)})
    second = Runs("B", dict.fromkeys(range(4), wrong))
    low, high = stats.t.interval(0.95, 3, loc=50.0, scale=100 * np.std([1, 1, 0, 0], ddof=1) / 2)
    for other in (second, Runs("B", dict.fromkeys(range(4, 8), wrong))):  # B has no spread: paired or not is the same
        found = compare(first, other, labels, "accuracy", resamples=20_000)
        assert found.difference == 50.0
        assert (found.low, found.high) == pytest.approx((low, high), abs=5)  # 20,000 draws: 3 % of the half-width
        assert not found.decided


def test_the_spread_of_paired_seeds_is_that_of_their_differences():
    # Both models are 30 points better with every other seed: a difference by pairs has no spread.
    by_seed = {seed: 0.6 + 0.3 * (seed % 2) for seed in range(6)}
    first = Runs("A", {seed: predictions(LABELS, accuracy, seed) for seed, accuracy in by_seed.items()})
    second = Runs("B", {seed: predictions(LABELS, accuracy, 50 + seed) for seed, accuracy in by_seed.items()})
    apart = Runs("B", {100 + seed: values for seed, values in second.predictions.items()})
    paired, unpaired = (compare(first, other, LABELS.tolist(), "accuracy") for other in (second, apart))
    assert (paired.paired, unpaired.paired) == (True, False)
    assert paired.difference == pytest.approx(unpaired.difference)
    assert unpaired.high - unpaired.low > 3 * (paired.high - paired.low)
    assert paired.detectable is not None
    assert unpaired.detectable is not None
    assert unpaired.detectable == paired.detectable  # two equal differences may be chance: pairing decides nothing


def test_the_minimal_detectable_difference_is_found_eight_times_of_ten():
    # Student's test on 5 paired seeds, true difference as large as the formula gives for the true spread.
    spread, seeds = 0.01, 5
    draw = np.random.default_rng(0)
    true = (stats.t.ppf(0.975, 4) + stats.t.ppf(0.8, 4)) * spread / np.sqrt(seeds)
    samples = draw.normal(true, spread, size=(20_000, seeds))
    found = stats.ttest_1samp(samples, 0.0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.03)  # adding the two quantiles is an approximation
    first = np.array([0.81, 0.80, 0.82, 0.79, 0.83])
    second = np.array([0.80, 0.80, 0.80, 0.80, 0.80])
    expected = (stats.t.ppf(0.975, 4) + stats.t.ppf(0.8, 4)) * first.std(ddof=1) / np.sqrt(5)
    assert minimal_detectable_difference(first, second, paired=True) == pytest.approx(expected)
    assert minimal_detectable_difference(first, second, paired=False) == pytest.approx(expected)  # Welch: 4 as well
    assert minimal_detectable_difference(second, second, paired=True) == 0.0
    assert minimal_detectable_difference(first[:1], second, paired=False) is None


def result(difference: float, low: float, high: float, detectable: float | None, seeds=(5, 5)) -> Comparison:
    return Comparison("A", "B", "accuracy", difference, low, high, detectable, seeds, True, 100)


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (result(1.2, -0.3, 2.6, 0.5), "A is ahead of B by 1.2 points, interval −0.3 to 2.6, 5 seeds: not decided"),
        (result(1.2, 0.3, 2.6, 1.3), "A is ahead of B by 1.2 points, interval 0.3 to 2.6, 5 seeds: not decided"),
        (result(1.2, 0.3, 2.6, 1.0), "A is ahead of B by 1.2 points, interval 0.3 to 2.6, 5 seeds: decided"),
        (result(-1.2, -2.6, -0.3, 1.0), "B is ahead of A by 1.2 points, interval 0.3 to 2.6, 5 seeds: decided"),
        (
            result(9.0, 8.0, 10.0, None, (1, 1)),
            "A is ahead of B by 9.0 points, interval 8.0 to 10.0, 1 seed (over examples only): not decided",
        ),
        (
            result(9.0, 8.0, 10.0, None, (1, 3)),
            "A is ahead of B by 9.0 points, interval 8.0 to 10.0, 1 and 3 seeds (one seed has no spread): not decided",
        ),
        (result(0.0, -0.04, 0.04, 0.0, (3, 4)), "A and B are level, interval 0.0 to 0.0, 3 and 4 seeds: not decided"),
    ],
)
def test_the_sentence_never_decides_inside_the_interval_or_the_detectable_difference(found, sentence):
    assert found.sentence == sentence


def test_a_clear_difference_is_decided_and_a_model_is_level_with_itself():
    good, bad = model("good", LABELS, 0.9, range(5)), model("bad", LABELS, 0.7, range(5), base=100)
    assert compare(good, bad, LABELS.tolist(), "accuracy").decided
    itself = compare(good, good, LABELS.tolist(), "accuracy")
    assert (itself.low, itself.difference, itself.high, itself.decided) == (0.0, 0.0, 0.0, False)
    assert compare(good, bad, LABELS.tolist(), "accuracy") == compare(good, bad, LABELS.tolist(), "accuracy")


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("paired", [True, False])
def test_the_interval_of_few_seeds_covers_the_truth_as_often_as_it_says(seeds, paired):
    covered = decided = 0
    for trial in range(100):
        draw = np.random.default_rng(trial)
        labels = draw.integers(2, size=300)
        accuracies = draw.normal(0.75, 0.08, size=(2, seeds))
        runs = [
            Runs(
                name,
                {
                    s + 100 * m * (not paired): predictions(labels, accuracies[m, s], 1000 * trial + 10 * m + s)
                    for s in range(seeds)
                },
            )
            for m, name in enumerate("AB")
        ]
        found = compare(runs[0], runs[1], labels.tolist(), "accuracy", resamples=400)
        covered += found.low <= 0 <= found.high
        decided += found.decided
    assert covered >= 91  # of 95; resampling so few seeds covers 85 to 90 here
    assert decided <= 5


def test_differences_that_are_alike_by_chance_decide_nothing():
    """Two seeds, each 12 points ahead: the differences have no spread, the scores a large one."""
    right = [np.arange(300) < 300 * share for share in (0.72, 0.60, 0.48)]
    answers = [np.where(is_right, LABELS[:300], 1 - LABELS[:300]).tolist() for is_right in right]
    first, second = Runs("A", {0: answers[1], 1: answers[0]}), Runs("B", {0: answers[2], 1: answers[1]})
    found = compare(first, second, LABELS[:300].tolist(), "accuracy")
    assert found.low > 0
    assert found.detectable is not None
    assert found.detectable > 40
    assert not found.decided


def test_sentences_are_resampled_whole():
    # Words of a sentence are right or wrong together: 40 independent units, whatever their number of words.
    draw = np.random.default_rng(0)
    right = draw.random(40) < 0.7
    labels = [[1] * 25 for _ in right]
    first = Runs("A", {0: [[int(r)] * 25 for r in right]})
    second = Runs("B", {0: [[0] * 25 for _ in right]})
    found = compare(first, second, labels, "token_accuracy")
    half = 100 * 1.96 * right.std() / np.sqrt(40)
    assert found.examples == 40
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.15)  # a step of 1 / 40 is coarse


def test_a_large_dev_set_is_resampled_in_parts_with_the_same_result_as_at_once(monkeypatch):
    good, bad = model("good", LABELS, 0.9, range(3)), model("bad", LABELS, 0.8, range(3), base=10)
    at_once = compare(good, bad, LABELS.tolist(), "matthews", resamples=500)
    monkeypatch.setattr(metrics, "CHUNK", 500 * 7)
    in_parts = compare(good, bad, LABELS.tolist(), "matthews", resamples=500)
    assert in_parts.low == pytest.approx(at_once.low)
    assert in_parts.high == pytest.approx(at_once.high)


def test_predictions_that_do_not_fit_are_refused():
    labels = [0, 1, 0]
    with pytest.raises(DataError, match="pearson: 1 of 3 predictions are not finite"):
        compare(Runs("A", {0: [0.0, float("nan"), 1.0]}), Runs("B", {0: [0.0, 0.5, 1.0]}), [0.1, 0.2, 0.3], "pearson")
    with pytest.raises(ValueError, match="to score"):
        compare(Runs("A", {0: [0, 1]}), Runs("B", {0: labels}), labels, "accuracy")


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_two_thousand_resamples_of_two_thousand_examples_take_seconds_at_most(metric):
    draw = np.random.default_rng(0)
    labels = draw.random(2000) if metric in ("pearson", "spearman") else draw.integers(3, size=2000)
    values = {s: draw.permutation(labels).tolist() for s in range(5)}
    start = time.perf_counter()
    compare(Runs("A", values), Runs("B", {s: values[(s + 1) % 5] for s in values}), labels.tolist(), metric)
    assert time.perf_counter() - start < 5  # 0.1 to 0.3 on one core, 1.5 for Spearman; slack for a busy machine
