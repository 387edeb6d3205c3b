"""A run that is killed at any of its file operations continues, and ends as the unbroken run does.

A kill is an exception that no `except Exception` stops. After it every further file operation fails too, as if the
process were dead, so no clean-up runs.
"""

import builtins
import io
import os
from pathlib import Path

import pytest

from tests import tiny
from tests.training.test_training import run, weights, without_clock

OPERATIONS = ("open", "mkdir", "rename", "replace", "unlink", "rmdir", "fsync")
STRIDE = 31  # of the 221 operations; each takes a second. All of them, before and after, were tried once


class Killed(BaseException):
    pass


class Kill:
    """Counts the file operations in a folder, and dies at one of them."""

    def __init__(self, folder: Path, at: int | None, after: bool):
        self.folder, self.at, self.after = str(folder), at, after
        self.count, self.dead = 0, False

    def wrapped(self, operation):
        def wrapper(*arguments, **named):
            if not self.concerns(str(arguments[0]), named):
                return operation(*arguments, **named)
            if self.dead:
                raise Killed
            self.count += 1
            self.counted()
            if self.count != self.at:
                return operation(*arguments, **named)
            self.dead = True
            if self.after:
                operation(*arguments, **named)
            self.die()

        return wrapper

    def concerns(self, place, named):
        """Whether an operation on a place is counted."""
        return place.startswith(self.folder) or place.isdecimal() or named.get("dir_fd") is not None

    def counted(self):
        """Called when `count` has changed."""

    def die(self):
        raise Killed

    def __enter__(self):
        self.patch = pytest.MonkeyPatch()
        for name in OPERATIONS:
            self.patch.setattr(os, name, self.wrapped(getattr(os, name)))
        opened = self.wrapped(io.open)
        self.patch.setattr(io, "open", opened)
        self.patch.setattr(builtins, "open", opened)
        return self

    def __exit__(self, *_):
        self.patch.undo()


def settings(shards):
    short = {"updates": 3, "checkpoint_every": 2, "keep_checkpoints": 1, "log_every": 1, "validation_sequences": 8}
    return tiny.settings(shards, **{f"training__{key}": value for key, value in short.items()})


def content(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def killed_and_continued(folder, shards, at, after, whole):
    """Kill a run at an operation, start it again, and compare it with the unbroken run."""
    with Kill(folder, at, after), pytest.raises(Killed):
        run(settings(shards), folder)
    run(settings(shards), folder)
    assert weights(folder) == weights(whole)
    assert without_clock(folder) == without_clock(whole)
    assert content(folder) == content(whole)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, shards):
    folder = tmp_path_factory.mktemp("whole") / "run"
    with Kill(folder, None, False) as counted:
        run(settings(shards), folder)
    return folder, counted.count


@pytest.mark.parametrize("after", [False, True])
def test_a_run_that_is_killed_at_a_file_operation_ends_as_the_unbroken_run(tmp_path, shards, whole, after):
    folder, count = whole
    assert count > 50
    for at in range(1 + after * STRIDE // 2, count + 1, STRIDE):
        killed_and_continued(tmp_path / str(at), shards, at, after, folder)
