"""Baselines that need no encoder."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score, matthews_corrcoef

from fast_electra.evaluation import baselines
from fast_electra.evaluation.baselines import bag_of_words, majority
from fast_electra.evaluation.own_files import load_own
from fast_electra.evaluation.tasks import Split
from tests.task_files import own, sentiment, task_of


def test_the_majority_is_scored_as_a_model_is():
    dev = Split([("x",)] * 4, [0, 1, 1, 1])
    task = task_of(Split([("x",)] * 5, [1, 0, 1, 0, 1]), dev, metrics=("accuracy", "f1", "matthews"))
    assert majority(task) == {
        "dev": {"accuracy": 0.75, "f1": f1_score([0, 1, 1, 1], [1] * 4), "matthews": matthews_corrcoef([0, 1], [1, 1])}
    }
    values = task_of(Split([("x",)] * 2, [1.0, 4.0]), Split([("x",)] * 2, [0.5, 3.0]), "regression", (), ("pearson",))
    assert majority(values) == {"dev": {"pearson": 0.0}}
    words = Split([("a", "b", "c")], [[0, 0, 1]])
    tokens = task_of(words, words, "tokens", ("O", "B-X", "I-X"), ("entity_f1", "token_accuracy"))
    assert majority(tokens) == {"dev": {"entity_f1": 0.0, "token_accuracy": pytest.approx(2 / 3)}}


def test_a_bag_of_words_finds_what_words_tell(tmp_path):
    path = own(tmp_path, "train.csv", sentiment(80))
    assert bag_of_words(load_own(path, None, ["text"], "label"))["dev"]["accuracy"] == 1.0
    draw = np.random.default_rng(0)
    words = [f"w{i}" for i in range(30)]
    pairs, labels, values = [], [], []
    for _ in range(300):
        first = draw.choice(words, 5, replace=False)
        same = bool(draw.integers(2))
        second = draw.permutation(first) if same else draw.choice(words, 5, replace=False)
        pairs.append((" ".join(first), " ".join(second)))
        labels.append(int(same))
        values.append(len(set(first) & set(second)) / 5)
    paired = task_of(Split(pairs[:200], labels[:200]), Split(pairs[200:], labels[200:]))
    assert bag_of_words(paired)["dev"]["accuracy"] > 0.8  # either text without the other gives 0.5
    similar = task_of(
        Split(pairs[:200], values[:200]), Split(pairs[200:], values[200:]), "regression", (), ("pearson",)
    )
    assert bag_of_words(similar)["dev"]["pearson"] > 0.8
    assert bag_of_words(similar) == bag_of_words(similar)


def test_a_bag_of_words_of_one_class_says_that_class():
    """A curve over examples begins with so few that all may be of one class: no point of it is missing."""
    task = task_of(Split([("a b",), ("c d",)], [0, 1]), Split([("a",), ("b",), ("c",)], [0, 1, 1]))
    task = replace(task, train=task.train.at([1]))
    assert bag_of_words(task)["dev"]["accuracy"] == pytest.approx(2 / 3)


def test_the_bag_of_words_takes_neighbours_where_a_part_of_train_says_so():
    """Here the order of two words decides, which words alone do not tell."""
    order = [(("left right",), 0) if i % 2 else (("right left",), 1) for i in range(60)]
    ordered = [((f"{text} {i}",), label) for i, ((text,), label) in enumerate(order)]
    split = Split([texts for texts, _ in ordered], [label for _, label in ordered])
    assert bag_of_words(task_of(split, split))["dev"]["accuracy"] == 1.0
    chosen = []
    linear = baselines._linear

    def spied(task, neighbours):
        chosen.append((list(task.dev), neighbours))
        return linear(task, neighbours)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "_linear", spied)
        bag_of_words(task_of(split, split))
    assert chosen == [(["held"], 1), (["held"], 2), (["dev"], 2)]
