import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from fast_electra.data.files import (
    MANIFEST,
    canonical_digest,
    read_kept_json,
    read_sealed_json,
    staged_folder,
    verify_manifest,
    write_json_atomically,
    write_manifest,
    write_sealed_json,
)
from fast_electra.errors import DataError, ResourceError
from fast_electra.stopping import Stopped, listening


@pytest.fixture
def folder(tmp_path):
    target = tmp_path / "made"
    with staged_folder(target) as staged:
        (staged / "inner").mkdir()
        (staged / "a.bin").write_bytes(bytes(range(256)))
        (staged / "inner" / "b.txt").write_text("text")
        write_manifest(staged, {"kind": "test"})
    return target


def test_a_sound_folder_verifies_and_gives_its_content(folder):
    manifest = verify_manifest(folder)
    assert manifest["kind"] == "test"
    assert list(manifest["files"]) == ["a.bin", "inner/b.txt"]


def test_every_flipped_bit_is_found(folder):
    for name in ("a.bin", "inner/b.txt", MANIFEST):
        path = folder / name
        sound = path.read_bytes()
        for place in range(0, len(sound), max(1, len(sound) // 40)):
            path.write_bytes(sound[:place] + bytes([sound[place] ^ 4]) + sound[place + 1 :])
            with pytest.raises(DataError, match=name.replace(".", r"\.")):
                verify_manifest(folder)
        path.write_bytes(sound)
    verify_manifest(folder)


def test_a_file_cut_short_is_found_without_reading_it(folder):
    (folder / "a.bin").write_bytes(b"short")
    with pytest.raises(DataError, match=r"a\.bin has 5 bytes instead of 256: build it again\."):
        verify_manifest(folder, digests=False, remedy="build it again")


def test_a_missing_file_is_named(folder):
    (folder / "inner" / "b.txt").unlink()
    with pytest.raises(DataError, match=r"b\.txt is missing"):
        verify_manifest(folder)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "inner/../../x", "a\\..\\b", "", "link"])
def test_names_that_leave_the_folder_are_refused(folder, name):
    (folder / "link").symlink_to("/etc/hostname")
    manifest = {"files": {name: {"bytes": 1, "sha256": "0"}}}
    write_json_atomically(folder / MANIFEST, {**manifest, "digest": canonical_digest(manifest)})
    with pytest.raises(DataError, match="not a file inside"):
        verify_manifest(folder)


def test_a_manifest_that_is_not_ours_is_refused(folder):
    for text in ("", "[]", "{}", '{"digest": 1}', "[" * 100_000):
        (folder / MANIFEST).write_text(text)
        with pytest.raises(DataError, match="damaged"):
            verify_manifest(folder)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "x.json"
    write_json_atomically(path, {"a": 1})
    with pytest.raises(ValueError):
        write_json_atomically(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left"), OSError(errno.EFBIG, "too large"), Exception("failed (os error 28)")],
)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, error):
    def write(folder):
        with staged_folder(folder) as staged:
            (staged / "a").write_text("a")
            raise error

    with pytest.raises(ResourceError, match=rf"{tmp_path}/made can't be written: .*; free space, and run the same"):
        write(tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_cleared(tmp_path):
    (tmp_path / "made.partial" / "old").mkdir(parents=True)
    with staged_folder(tmp_path / "made") as staged:
        assert list(staged.iterdir()) == []
        (staged / "new").write_text("new")
    assert [path.name for path in tmp_path.rglob("*")] == ["made", "new"]


def test_two_processes_do_not_write_the_same_folder(tmp_path):
    other = "import sys; from fast_electra.data.files import staged_folder; from pathlib import Path\n"
    other += "with staged_folder(Path(sys.argv[1])): pass"
    with staged_folder(tmp_path / "made") as staged:
        (staged / "a").write_text("a")
        ran = subprocess.run([sys.executable, "-c", other, tmp_path / "made"], capture_output=True, text=True)
    assert "being written by another process" in ran.stderr
    assert (tmp_path / "made" / "a").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ResourceError, match=r"file/made can't be written: .*file is a file and no folder"),
        staged_folder(tmp_path / "file" / "made"),
    ):
        pass


def test_every_flipped_bit_of_a_kept_file_is_found_and_one_of_an_earlier_version_is_read(tmp_path):
    path, content = (
        tmp_path / "report.json",
        {"title": "é", "curve": [1.5, 1e-05], "stages": {"main": {"seconds": 3.0}}},
    )
    assert read_kept_json(path, "write it again") == {}
    write_json_atomically(path, content)
    assert read_kept_json(path, "write it again") == content
    write_sealed_json(path, content)
    sound = path.read_bytes()
    for place in range(len(sound) * 8):
        damaged = bytearray(sound)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert read_kept_json(path, "write it again") == content  # 1e-05 as 1E-05
        except DataError as error:
            said = str(error)
    assert said == f"{path} is damaged: write it again."


@pytest.mark.parametrize("damage", [b"", b"{", b"[" * 9999, b"9" * 9999, b"\xff", b'{"a": NaN, "sha256": "0"}'])
def test_a_kept_file_that_is_no_json_is_named_and_a_list_of_an_earlier_version_is_read(tmp_path, damage):
    path = tmp_path / "a.json"
    path.write_bytes(damage)
    assert read_sealed_json(path) is None
    with pytest.raises(DataError, match=r"a\.json is damaged: delete it\."):
        read_kept_json(path, "delete it")
    write_json_atomically(path, [1])
    assert read_kept_json(path, "x") == [1]


def test_a_folder_that_another_process_has_just_written_is_not_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("x")
    with pytest.raises(DataError, match="another process has just written it"), staged_folder(tmp_path / "out"):
        pytest.fail("the block ran")
    assert (tmp_path / "out" / "file").read_text() == "x"


def test_a_second_interrupt_waits_until_the_unfinished_folder_is_removed(tmp_path, monkeypatch):
    remove = shutil.rmtree

    def interrupted(path, **named):
        os.kill(os.getpid(), signal.SIGINT)
        remove(path, **named)

    def write() -> None:
        with listening(), staged_folder(tmp_path / "out") as staged:
            (staged / "file").write_text("x")
            monkeypatch.setattr(shutil, "rmtree", interrupted)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped):
        write()
    assert not list(tmp_path.iterdir())
