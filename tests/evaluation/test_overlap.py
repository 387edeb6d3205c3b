"""Texts of dev that are in train, and texts of a task that are in a corpus."""

import numpy as np
import pytest

from fast_electra.errors import DataError
from fast_electra.evaluation.glue import load_glue
from fast_electra.evaluation.overlap import Overlap, count_overlap, without_train_texts
from fast_electra.evaluation.tasks import Split, make_task
from tests.task_files import glue_folder, task_of


def test_dropping_texts_of_train_is_refused_where_too_little_is_left():
    train = Split([("a",), ("b",), ("c",)], [0, 1, 0])
    for dev, sentence in (
        (Split([("a",), (" b",)], [0, 1]), "leaves no example in dev, because train has the texts of all of them"),
        (Split([("a",), ("x",)], [0, 1]), "leaves no example of one label in dev"),
    ):
        with pytest.raises(DataError, match=f"{sentence}.*or leave out --drop-overlap"):
            without_train_texts(task_of(train, dev))
    # Nobody chooses the examples of a test set, so it may lose a label.
    task = task_of(train, Split([("y",), ("z",)], [0, 1]))
    task.dev["test"] = Split([("a",), ("x",)], [0, 1])
    assert without_train_texts(task).dev["test"] == Split([("x",)], [1])


def test_texts_that_the_corpus_holds_are_counted():
    long = "The quick brown fox jumps over the lazy dog, and then it sleeps."
    train = [(long,), ("Only seven words are in this text.",), ("one two three four five six seven ate",)]
    dev = [("the quick brown fox jumps over the lazy cat",), ("a b c d e f g h",), ("",)]
    task = task_of(Split(train, [0, 1, 0]), Split(dev, [0, 1, 0]))
    corpus = [
        "Once THE QUICK\nbrown fox — jumps over the 'lazy' dog and then it sleeps; only seven words are in this text",
        "a b c d",
        "e f g h: runs don't go from one document to the next. one two three four five six seven",
        "ate",
    ]
    found = count_overlap([task], corpus)
    assert found == {"toy": {"train": Overlap(3, 2, 1), "dev": Overlap(3, 2, 0)}}
    assert count_overlap([task], []) == {"toy": {"train": Overlap(3, 2, 0), "dev": Overlap(3, 2, 0)}}


def test_overlap_is_counted_by_split_and_for_both_texts(tmp_path):
    glue_folder(tmp_path, "mnli")
    sentence = "eight words stand here in one long row"
    task = load_glue("mnli", tmp_path)
    task.dev["matched"].texts[0] = (sentence, sentence)
    tokens = Split([tuple(sentence.split()), ("short",)], [[0, 1] * 4, [0]])
    other = make_task("words", "tokens", ("O", "X"), tokens, {"dev": tokens}, {}, ("token_accuracy",))
    found = count_overlap([task, other], [f"before {sentence} after"])
    assert list(found["mnli"]) == ["train", "dev matched", "dev mismatched", "test matched", "test mismatched"]
    assert found["mnli"]["dev matched"] == Overlap(6, 2, 2)
    assert found["mnli"]["train"] == Overlap(12, 0, 0)
    assert found["words"]["dev"] == Overlap(2, 1, 1)


def test_a_corpus_longer_than_what_is_looked_at_together_gives_the_same(monkeypatch):
    from fast_electra.evaluation import overlap

    draw = np.random.default_rng(0)
    documents = [" ".join(draw.choice(["a", "b", "c"], 40)) for _ in range(30)]
    texts = [(" ".join(draw.choice(["a", "b", "c"], 8)),) for _ in range(60)] + [(documents[3][10:40],)]
    task = task_of(Split(texts, [0, 1] * 30 + [0]), Split(texts, [0, 1] * 30 + [0]))
    # 8 words of 3 are 6,561 runs, 990 of them drawn: some texts are there, found by plain search.
    expected = sum(any(f" {text} " in f" {document} " for document in documents) for (text,) in texts[:60])
    assert expected
    found = count_overlap([task], documents)
    assert found["toy"]["train"].seen == expected + 1
    monkeypatch.setattr(overlap, "_HELD", 50)
    assert count_overlap([task], documents) == found
