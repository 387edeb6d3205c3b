"""A part of `python -m tests.torture.inputs` in seconds: every kind of file, damaged a few times."""

import pytest

from tests.torture.inputs import INPUTS, Input, trials
from tests.torture.mutations import MUTATIONS, mutated

FEW = ("pretrain ", "evaluate ", "export ", "report ", "inspect ", "build ")
"""commands that take longer than the others"""


@pytest.mark.parametrize("one", INPUTS, ids=[one.name for one in INPUTS])
def test_a_damaged_input_is_one_sentence_or_a_right_result(one: Input, home):
    for did, outcome, said in trials(one, 3 if one.reads.startswith(FEW) else 9):
        assert outcome != "FAILED", f"{one.name}: {did}\n{said}"


def test_the_mutations_depend_on_their_seed_alone_and_change_most_files():
    content = b'{"a": 1, "b": [2.5, "x"]}\nx\ny\nx\n' * 3
    once = [mutated(content, seed) for seed in range(90)]
    assert once == [mutated(content, seed) for seed in range(90)]
    assert {name for name, _ in once} == set(MUTATIONS)
    assert sum(damaged != content for _, damaged in once) > 80
