"""What the processes of one command tell each other: without training (tests/training/test_parallel.py trains)."""

import os

import pytest
import torch
from torch.distributed import TCPStore

from fast_electra import distributed
from fast_electra.cli.main import _stopped, main
from fast_electra.errors import DataError
from fast_electra.stopping import Interrupted
from tests import processes


def as_process(rank, store, monkeypatch):
    """Give this process the variables of one of two processes under `torchrun`."""
    for name, value in processes.environment(rank, 2, store.port).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")


def test_an_error_that_all_processes_meet_is_said_once(monkeypatch, capsys):
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    words = ["pretrain", "quickstart", "training.upates=3", "--run", "run"]
    for rank in (0, 1):
        as_process(rank, store, monkeypatch)
        assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 1
    assert said.startswith("error: process 0 of 2: ")
    assert main([*words[:2], "training.sed=3", *words[3:]]) == 2  # only this process's file says so
    assert capsys.readouterr().err.startswith("error: process 1 of 2: override training.sed=3")


def test_a_process_that_fails_alone_says_so(monkeypatch, capsys):
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setattr(distributed, "_PATIENCE", 0.2)
    as_process(1, store, monkeypatch)
    assert main(["pretrain", "none.yaml", "--run", "run"]) == 2
    assert capsys.readouterr().err.startswith("error: process 1 of 2: ")


def test_tables_are_made_once_in_memory_and_a_process_without_them_makes_its_own(tmp_path, monkeypatch):
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    as_process(0, store, monkeypatch)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(distributed, "_keys", "test")
    monkeypatch.setattr(distributed, "_memory", memory := [])
    made = {"table": torch.arange(3.0)}
    first = distributed.once_per_machine("name", lambda: made)
    assert torch.equal(distributed.once_per_machine("name", fail)["table"], made["table"])
    with pytest.raises(DataError):
        distributed.once_per_machine("other name", fail)
    assert distributed.once_per_machine("other name", lambda: made) is made
    os.close(memory.pop())
    assert distributed.once_per_machine("name", lambda: made) is made
    assert torch.equal(first["table"], torch.arange(3.0))
    assert not list(tmp_path.iterdir())


def fail() -> dict[str, torch.Tensor]:
    raise DataError("the shards are damaged")


def test_a_restart_does_not_read_what_earlier_processes_left(monkeypatch):
    for name, value in processes.environment(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "3")
    assert distributed._attempt() == "3"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")  # each machine counts its own restarts
    assert distributed._attempt() == "0"


def test_a_process_that_stops_for_another_one_says_so(monkeypatch, capsys):
    monkeypatch.setattr(distributed, "size", lambda: 2)
    assert _stopped(Interrupted("stopped after update 3 of 9"), ["pretrain", "my.yaml"]) == 75
    assert "stopped after update 3 of 9 by a request to another process" in capsys.readouterr().err
