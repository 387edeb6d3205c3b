"""Parts of the training examples."""

import itertools

from fast_electra.evaluation.tasks import Split, held_out, held_size, sample
from tests.task_files import task_of


def test_a_part_of_train_is_held_out_by_text_and_drawn_alike():
    texts = [(f"text {i // 2}",) for i in range(400)]  # each twice
    task = task_of(Split(texts, [i % 2 for i in range(400)]), Split([("x",), ("y",)], [0, 1]))
    held = held_out(task)
    assert held == held_out(task)
    assert list(held.dev) == ["held"]
    assert len(held.train) + len(held.dev["held"]) == 400
    assert len(held.dev["held"]) == 100  # a quarter of few
    assert not {*held.train.texts} & {*held.dev["held"].texts}
    assert [held_size(n) for n in (4, 500, 1_000, 5_000, 67_349)] == [1, 125, 200, 500, 2_000]


def test_fewer_examples_are_a_part_of_more():
    split = Split([(f"text {i}",) for i in range(300)], [i % 2 for i in range(300)])
    parts = [{*sample(split, most).texts} for most in (10, 100, 300, 1_000)]
    assert [len(part) for part in parts] == [10, 100, 300, 300]
    assert all(few < more or few == more for few, more in itertools.pairwise(parts))
