"""A small part of `make torture`."""

import pytest

from tests.torture import files, numbers
from tests.torture.__main__ import ROWS, write_page
from tests.torture.trial import FAILED

SHARES = {files.flips: 0.005, files.mutations: 0.002, numbers.not_finite: 0.05}
"""of the rows that take seconds; the others are marked slow, but for the processes, which test_parallel.py tests"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.name, marks=[] if row.trials in SHARES else [pytest.mark.slow])
        for row in ROWS
        if row.trials is not numbers.change_processes
    ],
)
def test_a_part_of_each_row_loses_nothing(row, home):
    trials = list(row.trials(SHARES.get(row.trials, 0.01)))
    assert trials
    for trial in trials:
        assert trial.outcome != FAILED, f"{trial.did}: {trial.said}"


def test_the_page_holds_the_table_and_the_text_around_it(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- table:start -->\nold\n<!-- table:end -->\nbelow\n")
    write_page(page, ["| a |", "| --- |"], 0.05)
    text = page.read_text()
    assert text.startswith("above\n<!-- table:start -->\n| a |\n| --- |\n\n")
    assert "5% of the trials (`make torture SCALE=0.05`).\n<!-- table:end -->\nbelow\n" in text
    assert "old" not in text
