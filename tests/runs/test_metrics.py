"""metrics.jsonl: a damaged line is found and said, all others are kept, and a checkpoint never lacks its records."""

import json
import os
import random

import pytest

from fast_electra.pipelines import pretrain as pretrain_module
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.runs import metrics
from fast_electra.runs.folder import RunFolder
from fast_electra.runs.metrics import cut_metrics, metrics_line, read_metrics
from fast_electra.training.loop import Interrupted
from tests import tiny
from tests.training.test_training import run, weights, without_clock

RECORDS = [{"update": 5 * n, "loss": 1 / n, "note": "é", "timing": {"seconds": 1e-5 * n}} for n in range(1, 9)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(map(metrics_line, RECORDS)))
    return path


def test_every_flipped_bit_is_found_and_costs_no_other_record(file):
    whole = file.read_bytes()
    places = random.Random(0).sample(range(len(whole) * 8), 200)
    places += [8 * place + bit for place, byte in enumerate(whole) if byte == 10 for bit in range(8)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        file.write_bytes(damaged)
        heard: list[str] = []
        found = read_metrics(file, heard.append)
        hit = whole[: place // 8].count(b"\n")
        if found != RECORDS:  # a damaged line end costs no record
            assert found == [*RECORDS[:hit], *RECORDS[hit + 1 :]], place
        assert found == RECORDS or heard[0].startswith(f"line {hit + 1} of {file} is damaged"), place


def test_lines_of_earlier_versions_and_an_incomplete_last_line_are_read_without_a_word(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in RECORDS) + '{"update": 45, "lo')
    heard: list[str] = []
    assert read_metrics(file, heard.append) == RECORDS
    cut_metrics(file, 20, heard.append)
    assert read_metrics(file, heard.append) == RECORDS[:4]
    assert not heard
    assert read_metrics(tmp_path / "none") == []


def test_a_damaged_line_is_a_message_of_the_program_and_no_warning_of_python(file, capsys, recwarn):
    file.write_bytes(file.read_bytes().replace(b'"update": 10', b'"update": 11'))
    assert len(RunFolder(file.parent, {}).metrics()) == len(RECORDS) - 1
    assert capsys.readouterr().err == f"line 2 of {file} is damaged and left out; the other lines are kept.\n"
    assert not recwarn.list


def test_a_failed_cut_keeps_the_file(file, monkeypatch):
    before = file.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        cut_metrics(file, 20)
    assert file.read_bytes() == before


def test_resuming_keeps_all_lines_but_a_damaged_one_and_says_so(tmp_path, shards):
    config = tiny.settings(shards, training__log_every=1)
    run(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(config, tmp_path / "run", stop_after=8)
    file = tmp_path / "run" / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], lines[1].replace(b"update", b"upd\x01te"), *lines[2:]]))
    heard: list[str] = []
    pretrain(config, tmp_path / "run", say=heard.append)
    assert [sentence for sentence in heard if "line 2 of" in sentence and "is damaged and left out" in sentence]
    kept = without_clock(tmp_path / "whole")
    assert without_clock(tmp_path / "run") == [record for record in kept if record["update"] != 2]
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["missing", "flipped", "all missing"])
@pytest.mark.parametrize("earlier_version", [False, True])
def test_a_trained_run_is_finished_without_its_last_record(tmp_path, shards, damage, earlier_version, monkeypatch):
    config = tiny.settings(shards)
    whole = run(config, tmp_path / "whole")
    if earlier_version:  # whose checkpoints do not hold the measures
        scalars = pretrain_module.State.scalars
        monkeypatch.setattr(
            pretrain_module.State, "scalars", lambda s: {k: v for k, v in scalars(s).items() if k != "validation"}
        )
    with monkeypatch.context() as patched:

        def killed(*_):
            raise KeyboardInterrupt

        patched.setattr(pretrain_module, "export_model", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "run")
    file = tmp_path / "run" / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    last = [lines[-1].replace(b'"loss"', b'"lozs"')] if damage == "flipped" else []
    file.write_bytes(b"" if damage == "all missing" else b"".join(lines[:-1] + last))
    found = run(config, tmp_path / "run")
    assert found.validation == whole.validation
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_records_are_durable_before_the_checkpoint_behind_them(tmp_path, shards, monkeypatch):
    happened = []
    fsync, save = os.fsync, pretrain_module.save_checkpoint
    monkeypatch.setattr(os, "fsync", lambda d: (happened.append(os.fstat(d).st_ino), fsync(d))[1])

    def saved(folder, *arguments, **named):
        inode = (tmp_path / "run" / "metrics.jsonl").stat().st_ino
        assert inode in happened
        happened.clear()
        return save(folder, *arguments, **named)

    monkeypatch.setattr(pretrain_module, "save_checkpoint", saved)
    run(tiny.settings(shards), tmp_path / "run")
    assert metrics.read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["update"] == 12
