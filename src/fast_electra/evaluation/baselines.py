"""Baselines that a score has to beat: the majority class, a bag of words, and a CRF for labels of words.

Notable:
- all are fitted on train and scored on dev exactly like a model (`scores.score_splits`); the caller gives them the
  training examples of the encoder;
- the bag of words is scikit-learn's TF-IDF with a linear model on top, over words, or over words and pairs of
  neighbours, whichever scores better on a held-out part of train. A pair of texts has the features of each text and
  their element-wise minimum, which is what the texts share;
- its size is limited, so that it takes seconds for any task (8 s for 364,000 pairs on one thread): `MOST_EXAMPLES`
  training examples and `MOST_FEATURES` n-grams;
- the conditional random field (crfsuite) is a linear model over each word, its spelling and its neighbours up to two
  words away; it finds the best labels of a whole sentence.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
from pycrfsuite import ItemSequence, Tagger, Trainer  # pyright: ignore[reportAttributeAccessIssue]
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from fast_electra.evaluation.scores import score_splits
from fast_electra.evaluation.tasks import Task, held_out, sample

MOST_EXAMPLES = 100_000
MOST_FEATURES = 100_000
CRF = {"c1": 0.1, "c2": 0.1, "max_iterations": 100}
"""L1 and L2 penalties and steps of L-BFGS, chosen on a part of the training examples of NCBI-disease"""


def majority(task: Task) -> dict[str, dict[str, float]]:
    """Score one answer for all examples: the most frequent class of train, or the mean of its values.

    Of equally frequent classes the first one counts. A constant answer scores 0.0 by Matthews and the correlations.

    Returns:
        {dev split: {metric: score}}.
    """
    if task.kind == "tokens":
        common = _commonest(Counter(chain.from_iterable(cast("list[list[int]]", task.train.labels))))
        return score_splits(task, {name: [[common] * len(s) for s in dev.texts] for name, dev in task.dev.items()})
    answer = float(np.mean(task.train.labels)) if task.kind == "regression" else _commonest(Counter(task.train.labels))
    return score_splits(task, {name: [answer] * len(dev) for name, dev in task.dev.items()})


def bag_of_words(task: Task) -> dict[str, dict[str, float]]:
    """Score a linear model on lower-case words, or on words and pairs of neighbours.

    A part of train (`tasks.held_out`) decides which of the two, never dev. It is a logistic regression for classes and
    a ridge regression for values.

    Args:
        task: trained on at most `MOST_EXAMPLES` examples.

    Returns:
        {dev split: {metric: score}}.
    """
    task = replace(task, train=sample(task.train, MOST_EXAMPLES))
    if task.kind == "classification" and len(set(task.train.labels)) == 1:  # pyright: ignore[reportArgumentType]
        return majority(task)  # scikit-learn refuses a single class
    held = held_out(task)
    if held is None or len(set(held.train.labels)) == 1:  # pyright: ignore[reportArgumentType]
        return _linear(task, neighbours=1)
    by_neighbours = {neighbours: _linear(held, neighbours)["held"][task.metrics[0]] for neighbours in (1, 2)}
    return _linear(task, max(by_neighbours, key=by_neighbours.__getitem__))


def _linear(task: Task, neighbours: int) -> dict[str, dict[str, float]]:
    """Scores of a linear model on words and runs of neighbouring words up to a given length."""
    # The default pattern drops punctuation and words of one letter such as "I" and "a".
    vectors = TfidfVectorizer(ngram_range=(1, neighbours), max_features=MOST_FEATURES, token_pattern=r"\w+|[^\w\s]")
    vectors.fit(text for texts in task.train.texts for text in texts)
    model = Ridge(solver="lsqr") if task.kind == "regression" else LogisticRegression(C=4.0, tol=1e-3, max_iter=200)
    model.fit(_features(vectors, task.train.texts), np.asarray(task.train.labels))
    answers = {name: np.asarray(model.predict(_features(vectors, dev.texts))) for name, dev in task.dev.items()}
    return score_splits(task, {name: values.tolist() for name, values in answers.items()})


def _features(vectors: TfidfVectorizer, texts: Sequence[tuple[str, ...]]) -> Any:
    """Sparse features, one row for each example."""
    sides = [vectors.transform(side) for side in zip(*texts, strict=True)]
    return sparse.hstack([*sides, sides[0].minimum(sides[1])], format="csr") if len(sides) == 2 else sides[0]


def word_crf(task: Task) -> dict[str, dict[str, float]]:
    """Score a conditional random field over words and their neighbours; returns {dev split: {metric: score}}."""
    trainer = Trainer(algorithm="lbfgs", params=CRF, verbose=False)
    labels = cast("list[list[int]]", task.train.labels)
    for words, classes in zip(task.train.texts, labels, strict=True):
        trainer.append(ItemSequence(_word_features(words)), [str(number) for number in classes])
    with TemporaryDirectory() as folder:
        file = str(Path(folder) / "model.crfsuite")
        trainer.train(file)
        with Tagger().open(file) as tagger:
            answers = {
                name: [
                    [int(number) for number in tagger.tag(ItemSequence(_word_features(words)))] for words in dev.texts
                ]
                for name, dev in task.dev.items()
            }
    return score_splits(task, answers)


def _word_features(words: Sequence[str]) -> list[list[str]]:
    """Features of each word: the word, its prefixes and suffixes, its shape, and its neighbours with their shapes."""
    lower, shapes = [word.lower() for word in words], [_shape(word) for word in words]
    rows: list[list[str]] = []
    for place, word in enumerate(lower):
        row = ["any", f"w={word}", f"s={shapes[place]}"]
        row += [f"{end}{size}={part}" for size in (2, 3, 4) for end, part in (("<", word[:size]), (">", word[-size:]))]
        for step in (-2, -1, 1, 2):
            there = place + step
            if 0 <= there < len(words):
                row += [f"w{step}={lower[there]}", f"s{step}={shapes[there]}"]
            else:
                row.append(f"edge{step}")
        rows.append(row)
    return rows


def _shape(word: str) -> str:
    """Shape of a word: A for capitals, a for small letters, 0 for digits, once for each run: "Xx-12" is "Aa-0"."""
    kinds = ("A" if c.isupper() else "a" if c.isalpha() else "0" if c.isdigit() else c for c in word)
    return "".join(kind for kind, _ in groupby(kinds))


def _commonest(counts: Counter[Any]) -> int:
    return min(counts, key=lambda label: (-counts[label], label))
