"""The GPU check, on a CPU: every check passes on tiny models, and no failure stops the next one or loses figures."""

import json
import os
import subprocess
import sys
import time

import pytest

from tests import tiny
from tools.gpu.running import Check, Skipped, Trial, run_checks


def passes(trial: Trial) -> None:
    trial.report({"answer": 42})


def is_wrong(trial: Trial) -> None:
    trial.report({"half": 0.5})
    trial.require(False, "the loss is wrong")


def raises(trial: Trial) -> None:
    raise ValueError("no\nsuch thing")


def dies(trial: Trial) -> None:
    os._exit(9)


def hangs(trial: Trial) -> None:
    trial.report({"begun": True})
    time.sleep(60)


def cannot(trial: Trial) -> None:
    raise Skipped("no GPU")


def run(folder, functions, seconds=20.0, limit=10.0):
    status = run_checks([Check(one.__name__, one, limit) for one in functions], folder, seconds, tiny=False)
    return status, json.loads((folder / "gpu_check.json").read_text())["checks"]


def test_no_failure_stops_the_next_check(tmp_path):
    status, rows = run(tmp_path, [is_wrong, raises, dies, cannot, passes])
    assert status == 1
    assert [row["status"] for row in rows] == ["failed", "failed", "failed", "skipped", "passed"]
    assert [row.get("reason") for row in rows] == [
        "the loss is wrong",
        "ValueError: no such thing",
        "its process ended with status 9",
        "no GPU",
        None,
    ]
    assert rows[0]["figures"] == {"half": 0.5}
    assert rows[4]["figures"] == {"answer": 42}
    table = (tmp_path / "gpu_check.md").read_text()
    assert "| is_wrong | **failed** |" in table
    assert "answer 42" in table
    assert "ValueError" in (tmp_path / "raises.log").read_text()


def test_a_check_ends_at_its_time_limit_and_keeps_its_figures(tmp_path):
    began = time.monotonic()
    status, rows = run(tmp_path, [hangs, passes], limit=2.0)
    assert time.monotonic() - began < 20
    assert status == 1
    assert [row["status"] for row in rows] == ["failed", "passed"]
    assert rows[0]["figures"] == {"begun": True}
    assert "not done after 2 s" in rows[0]["reason"]
    assert "in hangs" in (tmp_path / "hangs.log").read_text()


def test_checks_that_are_not_timed_run_side_by_side(tmp_path):
    began = time.monotonic()
    checks = [
        Check("one", hangs, 3.0, timed=False),
        Check("other", hangs, 3.0, timed=False),
        Check("last", passes, 10.0),
    ]
    assert run_checks(checks, tmp_path, 30.0, tiny=False) == 1
    assert time.monotonic() - began < 6
    rows = json.loads((tmp_path / "gpu_check.json").read_text())["checks"]
    assert [row["status"] for row in rows] == ["failed", "failed", "passed"]
    assert rows[1]["figures"] == {"begun": True}


def test_checks_without_time_are_skipped_and_nothing_failed(tmp_path):
    status, rows = run(tmp_path, [passes], seconds=1.0)
    assert status == 0
    assert rows[0]["status"] == "skipped"
    assert rows[0]["reason"] == "no time was left"


QUICK = ["environment", "smoke", "bench-electra-small"]


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("only", [["--only", *QUICK], pytest.param([], marks=pytest.mark.slow)], ids=["quick", "all"])
def test_the_tiny_check_passes_on_a_cpu(only, tmp_path):
    program = [sys.executable, tiny.ROOT / "tools" / "gpu_check.py", "--tiny", "--minutes", "20", "--out", tmp_path]
    corpus = tmp_path / "text.jsonl"
    corpus.write_text("".join(json.dumps({"text": document.text}) + "\n" for document in tiny.documents()))
    done = subprocess.run([*program, *(only or ["--corpus", corpus])], capture_output=True, text=True)
    rows = json.loads((tmp_path / "gpu_check.json").read_text())["checks"]
    assert done.returncode == 0, [row for row in rows if row["status"] == "failed"]
    statuses = {row["status"] for row in rows}
    assert statuses <= {"passed", "skipped"} if only else statuses == {"passed", "skipped"}
    assert all(row["seconds"] > 0 for row in rows if row["status"] == "passed")
    named = {row["name"]: row for row in rows}
    assert named.keys() >= set(QUICK)
    assert named["smoke"]["figures"]["electra_resumed_differs_by"] == 0.0
    assert named["bench-electra-small"]["status"] == "passed"
