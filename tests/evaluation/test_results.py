"""Results, the sentences about them, and contests."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fast_electra.evaluation.comparison import Comparison
from fast_electra.evaluation.contests import Contest
from fast_electra.evaluation.evaluations import Evaluation, store
from fast_electra.evaluation.facts import chance
from fast_electra.evaluation.json_results import entry
from fast_electra.evaluation.remarks import averages_of, remarks
from fast_electra.evaluation.results import Result, spread
from fast_electra.evaluation.scores import score_splits
from fast_electra.evaluation.tasks import Split, make_task
from fast_electra.report.evaluation_tables import contest_table, score_tables, verdicts
from fast_electra.report.text_tables import print_table
from fast_electra.terminal import Terminal


def result(scores: list[float | None], **changes) -> Result:
    given = {
        "task": "rte",
        "setup": "fast",
        "digest": "d",
        "recipe": {"name": "fast", "learning_rate": 1e-4},
        "seeds": list(range(len(scores))),
        "scores": {"dev": {"accuracy": scores}},
        "baselines": {"majority": {"dev": {"accuracy": 0.527}}, "untrained": {"dev": {"accuracy": 0.54}}},
        "n_train": 10,
        "n_dev": {"dev": 277},
        "truncated": {"train": 3, "dev": 0},
        "cells": {},
        "seconds": 1.0,
    }
    return Result(**(given | changes))


def test_a_model_that_does_not_beat_a_baseline_is_called_out():
    assert remarks(result([0.53, 0.53, 0.55])) == [
        "rte: accuracy 53.0 does not beat an untrained encoder of its shape (54.0)."
    ]
    assert remarks(result([0.5, 0.52])) == [
        "rte: accuracy 51.0 does not beat the majority class (52.7) and an untrained encoder of its shape (54.0)."
    ]
    assert remarks(result([0.55, 0.6, 0.65])) == [
        "rte: accuracy 60.0 is above the majority class (52.7) and an untrained encoder of its shape (54.0) by less "
        "than these seeds can detect."
    ]
    assert remarks(result([0.70, 0.701, 0.702])) == []


def test_failed_and_degenerate_seeds_are_named():
    sentences = remarks(result([0.7, None, 0.7], failed={"1": "diverged"}, degenerate=[2]))
    assert sentences == [
        "rte: seed 1 has no score (diverged) and is left out of median and mean.",
        "rte: every dev example got the same answer from seed 2.",
    ]
    assert entry(result([None], failed={"0": "diverged"}))["median"] is None
    json.dumps(entry(result([None], failed={"0": "diverged"})), allow_nan=False)
    assert score_tables([result([None], failed={"0": "diverged"})])[0].rows[0][2:6] == ["–", "–", "–", "–"]


def test_the_spread_is_that_of_a_sample():
    found = spread([0.5, 0.6, 0.9])
    assert found.median == 0.6
    assert found.best == 0.9
    assert found.mean == pytest.approx(2 / 3)
    assert found.deviation == pytest.approx(np.std([0.5, 0.6, 0.9], ddof=1))
    # Welch with equal deviations: 4 degrees of freedom; Student's quantiles 0.975 and 0.8 from tables.
    assert found.detectable == pytest.approx((2.7764 + 0.9410) * found.deviation * (2 / 3) ** 0.5, rel=1e-4)
    assert spread([0.5]).detectable is None


def test_chance_is_what_guessing_scores_on_average():
    labels = [0, 1, 1, 1] * 500
    split = Split([("x",)] * len(labels), labels)
    task = make_task("x", "classification", ("a", "b"), split, {"dev": split}, {}, ("accuracy", "f1", "matthews"))
    guesses = np.random.Generator(np.random.Philox(key=0)).integers(2, size=(50, len(labels)))
    expected = [score_splits(task, {"dev": row.tolist()})["dev"] for row in guesses]
    for metric, value in chance(task)["dev"].items():
        assert value == pytest.approx(np.mean([scores[metric] for scores in expected]), abs=5e-3)  # 3 standard errors


def test_averages_are_printed_only_when_all_tasks_are_there():
    from fast_electra.evaluation.glue import GLUE

    def of(name: str) -> Result:
        task = GLUE[name]
        scores = {
            split: {metric: [0.5, 0.7] for metric in (*task.metrics, "spearman", "accuracy")}
            for split in task.splits or ("dev",)
        }
        return replace(result([0.5, 0.7]), task=name, scores=scores)

    whole = [of(name) for name in GLUE if name != "wnli"]
    assert [(a.name, round(a.value, 6)) for a in averages_of(whole)] == [("ELECTRA", 0.6), ("BERT", 0.6)]
    assert averages_of(whole[1:]) == []


def test_the_average_of_bert_is_that_of_its_own_table():
    """BERT-base, Devlin et al. (2019), table 1: test scores, and 79.6 as their average."""
    published = {
        "mnli": {"matched": {"accuracy": 84.6}, "mismatched": {"accuracy": 83.4}},
        "qqp": {"dev": {"f1": 71.2, "accuracy": 0}},
        "qnli": {"dev": {"accuracy": 90.5}},
        "sst2": {"dev": {"accuracy": 93.5}},
        "cola": {"dev": {"matthews": 52.1}},
        "stsb": {"dev": {"pearson": 0, "spearman": 85.8}},
        "mrpc": {"dev": {"f1": 88.9, "accuracy": 0}},
        "rte": {"dev": {"accuracy": 66.4}},
    }
    results = [
        replace(result([0.0]), task=task, scores={s: {m: [v / 100] for m, v in of.items()} for s, of in splits.items()})
        for task, splits in published.items()
    ]
    assert {average.name: round(100 * average.value, 1) for average in averages_of(results)}["BERT"] == 79.6


def contest(difference: float, low: float, high: float, detectable: float | None) -> Contest:
    one = Comparison("a", "b", "accuracy", difference, low, high, detectable, (3, 3), paired=True, examples=100)
    spreads = [spread([0.70, 0.71, 0.72]), spread([0.6, 0.61, 0.62])]
    return Contest("rte", "fast", "dev", "accuracy", spreads, [[0.7, 0.71, 0.72], [0.6, 0.61, 0.62]], {(0, 1): one})


@pytest.mark.parametrize(
    ("values", "leader"),
    [
        ((10.0, 8.0, 12.0, 2.0), 0),
        ((-10.0, -12.0, -8.0, 2.0), 1),
        ((10.0, 8.0, 12.0, 11.0), None),  # inside the minimal detectable difference
        ((10.0, -1.0, 21.0, 2.0), None),  # the interval holds 0
        ((10.0, 8.0, 12.0, None), None),  # one seed
    ],
)
def test_only_a_decided_lead_is_marked(values, leader, capsys):
    found = contest(*values)
    assert found.leader == leader
    table = contest_table([found], ["a", "b"])
    assert table.strong == (set() if leader is None else {(0, 2 + leader)})
    print_table(table, Terminal(width=120))
    assert "71.0\u00a0±\u00a01.0" in capsys.readouterr().out
    assert ("not decided" in verdicts([found])[0]) == (leader is None)


def test_a_result_of_other_examples_takes_the_place_of_one_and_says_so(tmp_path):
    said = []
    for digest, start in (("x", None), ("y", None), ("y", None), ("y", "s"), ("y", "t")):
        recipe = {"name": "fast"} | ({"start": start} if start else {})
        store(Evaluation("m", "w", tmp_path, [result([0.5], digest=digest, recipe=recipe)], []), said.append)
    assert [sentence.partition(",")[0] for sentence in said] == [
        "rte (fast) replaces a result of other examples",
        "rte (fast) replaces a result of other weights to start from",
        "rte (fast) replaces a result of other weights to start from",
    ]
