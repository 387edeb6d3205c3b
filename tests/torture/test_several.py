"""One run of two processes that meets one fault after the other; `make torture` tries each of them at many moments."""

import random
import signal
from functools import partial

import pytest

from tests.torture.mutations import flip
from tests.torture.several import die_at, launched, lost, not_finite, send, settings, wrong_end
from tests.torture.stops import unequal


@pytest.mark.timeout(600)
def test_a_run_of_two_processes_survives_one_fault_after_the_other(tmp_path, shards):
    config, run, whole = settings(tmp_path, "ddp", shards, updates=8, every=2), tmp_path / "run", tmp_path / "whole"
    damage = partial(not_finite, "batch", 2, float("nan"))
    assert not wrong_end(launched(config, whole, {0: [damage]}), [0, 0], "the run goes back to update 0")
    # The other process has the bad batch, and is killed when it writes its share of a checkpoint.
    ends = launched(config, run, {1: [damage, partial(die_at, r"/00000006\.partial/", 1)]})
    assert not wrong_end(ends, [1, -signal.SIGKILL], lost(1))
    file = run / "checkpoints" / "00000004" / "models" / "fixed.safetensors"
    file.write_bytes(flip(file.read_bytes(), random.Random(0)))
    ends = launched(config, run, {1: [partial(send, signal.SIGTERM, 5)]})
    assert not wrong_end(ends, [75, 75], "stopped after update 5 of 8 by a request to another process")
    assert "00000004 is damaged and skipped" in ends[0][1]
    assert "continuing from update 2 of 8" in ends[0][1]
    ends = launched(config, run, {0: [partial(die_at, r"/\.?model[^/]*/", 3)]})
    assert not wrong_end(ends, [-signal.SIGKILL, 1], lost(0))
    assert not wrong_end(launched(config, run), [0, 0])
    assert not unequal(run, whole)
