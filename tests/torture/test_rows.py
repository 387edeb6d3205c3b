"""A small part of `make torture`."""

import pytest

from tests.torture import files, numbers, several
from tests.torture.__main__ import ROWS, write_page
from tests.torture.trial import FAILED

SHARES = {files.flips: 0.005, files.mutations: 0.002, numbers.not_finite: 0.05}
"""of the rows that take seconds; the others are marked slow, but for those of several processes, which
test_parallel.py and test_several.py test"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.name, marks=[] if row.trials in SHARES else [pytest.mark.slow])
        for row in ROWS
        if row.trials not in (numbers.change_processes, several.faults_of_processes)
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
    found = {"scale": 0.05, "outcomes": {"found": 1200, "harmless": 3}, "cpu_minutes": 2.04}
    write_page(page, {ROWS[0]: found, ROWS[1]: {"scale": 1.0, "outcomes": {FAILED: 1}, "cpu_minutes": 2.0}})
    text = page.read_text()
    assert text.startswith("above\n<!-- table:start -->\n| test | trials | result | minutes |\n")
    assert f"| **{ROWS[0].name}**: {ROWS[0].does} | 1,203 (5%) | 1,200 found, 3 harmless; none failed | 2.0 |\n" in text
    assert "| 1 | 1 FAILED | 2.0 |\n\n" in text
    assert "; minutes are those of one core, 4 in all. In brackets" in text
    assert "all trials would take about 43 minutes.\n<!-- t" in text
    assert text.endswith("table:end -->\nbelow\n")
    assert "old" not in text
