"""Checkpoints: which are kept, which are deleted, and that what is written is durable."""

import os
import shutil

import pytest
import torch

from fast_electra.data.files import MANIFEST, verify_manifest
from fast_electra.runs import checkpoints
from fast_electra.runs.checkpoints import checkpoint_updates, newest_checkpoint, save_checkpoint
from fast_electra.stopping import Interrupted
from tests import tiny
from tests.training.test_training import run


def save(folder, *updates, keep=2):
    for update in updates:
        save_checkpoint(folder, update, {"x": torch.full((2,), float(update))}, {}, keep)


def flip(folder, update):
    file = next((folder / f"{update:08d}").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")


def test_a_damaged_later_checkpoint_does_not_push_out_the_one_just_written(tmp_path):
    save(tmp_path, 4, 8)
    flip(tmp_path, 8)
    save(tmp_path, 6, keep=1)
    assert checkpoint_updates(tmp_path) == [6]
    verify_manifest(tmp_path / "00000006")


@pytest.mark.parametrize("damage", ["cut", "missing", "no manifest"])
def test_an_incomplete_checkpoint_does_not_count(tmp_path, damage):
    save(tmp_path, 2, 4, 6, keep=3)
    middle = tmp_path / "00000006"
    file = middle / MANIFEST if damage == "no manifest" else next(middle.glob("*.safetensors"))
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.unlink()
    save(tmp_path, 8, keep=3)
    assert checkpoint_updates(tmp_path) == [2, 4, 8]


def test_a_damaged_checkpoint_is_replaced_by_one_of_the_same_update(tmp_path):
    save(tmp_path, 4, 8)
    flip(tmp_path, 8)
    save(tmp_path, 8)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.update == 8


def test_a_kill_while_old_checkpoints_are_deleted_leaves_nothing_that_looks_like_one(tmp_path, monkeypatch):
    save(tmp_path, 2)

    class Killed(BaseException):
        pass

    def killed(path, **_):
        next(path.glob("*.safetensors")).unlink()
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "prune_checkpoints", lambda *_: None)
        save(tmp_path, 4)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(Killed):
            checkpoints.prune_checkpoints(tmp_path, 4, keep=1)
    assert checkpoint_updates(tmp_path) == [4]
    assert (tmp_path / "00000002.partial").exists()
    save(tmp_path, 6, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["00000006"]


def test_other_names_are_left_alone(tmp_path):
    for name in ("4-copy-2", "notes"):
        (tmp_path / name).mkdir()
    save(tmp_path, 2, 4, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000004", "4-copy-2", "notes"]


def test_every_file_is_synced_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    happened = []
    fsync, rename = os.fsync, os.rename

    def synced(descriptor):
        happened.append(os.stat(descriptor).st_ino)
        return fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", lambda *names: (happened.append("rename"), rename(*names))[1])
    path = save_checkpoint(tmp_path / "c", 4, {"x": torch.zeros(2)}, {}, 1, lambda f: (f / "models").mkdir())
    at = happened.index("rename")
    inside = {file.stat().st_ino for file in [path, *path.rglob("*")]}
    assert inside <= set(happened[:at])
    assert (tmp_path / "c").stat().st_ino in happened[at:]


def test_a_checkpoint_that_was_skipped_for_its_damage_does_not_push_out_the_sound_one(tmp_path, shards):
    config = tiny.settings(shards, training__checkpoint_every=4, training__keep_checkpoints=2)
    with pytest.raises(Interrupted):
        run(config, tmp_path / "run", stop_after=10)
    folder = tmp_path / "run" / "checkpoints"
    flip(folder, 10)  # its size does not tell
    run(config, tmp_path / "run")
    assert checkpoint_updates(folder) == [8, 12]
