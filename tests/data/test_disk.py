"""A file that cannot be written is one sentence with the path and the reason, whoever found it out."""

import errno
import shutil

import pytest
from torch.distributed.checkpoint.api import CheckpointException

from fast_electra.data.disk import not_written, writing
from fast_electra.data.files import write_text_atomically
from fast_electra.errors import DataError, ResourceError

REASONS = {
    errno.ENOSPC: "no space left on device; free space,",
    errno.EDQUOT: "disk quota exceeded; free space,",
    errno.EROFS: "read-only file system; make it writable, or choose another place,",
    errno.EACCES: "permission denied; make it writable, or choose another place,",
    errno.EIO: "input/output error; choose another place,",
}


def raised(path, error) -> str:
    with pytest.raises(ResourceError) as caught, writing(path):
        raise error
    assert caught.value.status == 1
    return str(caught.value)


@pytest.mark.parametrize(("number", "reason"), REASONS.items())
def test_the_reason_of_the_system_and_a_way_out_are_said(number, reason, tmp_path):
    sentence = f"{tmp_path}/a can't be written: {reason} and run the same command again."
    assert raised(tmp_path / "a", OSError(number, "")) == sentence  # of write(2), which names no file
    assert raised(tmp_path / "a", OSError(number, "", str(tmp_path / ".a.1.tmp"))) == sentence
    assert raised(tmp_path / "a", OSError(number, "", str(tmp_path / "a" / "b"))) == sentence
    assert raised(tmp_path / "a", OSError(number, "", str(tmp_path))) == sentence


def test_the_reason_is_found_inside_of_what_libraries_raise(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    for error in (
        CheckpointException("save", {0: (full, None)}),
        Exception("I/O error: No space left on device (os error 28)"),
        shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]),
        *(type("Wrapped", (RuntimeError,), {"__cause__": full})("failed"),),
    ):
        assert raised(tmp_path, error).startswith(f"{tmp_path} can't be written: no space left on device; free")


def test_the_outermost_path_is_named(tmp_path):
    with pytest.raises(ResourceError, match=f"{tmp_path}/run can't be written"), writing(tmp_path / "run"):
        raised_inside(tmp_path / "run" / "checkpoints" / "1.partial")


def raised_inside(path):
    with writing(path):
        raise OSError(errno.ENOSPC, "")


def test_an_error_about_another_file_is_not_changed(tmp_path):
    for error in (
        PermissionError(errno.EACCES, "", "/other/file"),
        FileNotFoundError(errno.ENOENT, "", "/other/file"),
        DataError("x"),
        ValueError("[Errno 13] Permission denied"),
        KeyboardInterrupt(),
    ):
        with pytest.raises(type(error)) as caught, writing(tmp_path / "a"):
            raise error
        assert caught.value is error
    assert not_written(None, PermissionError(errno.EACCES, "", "a")) is None  # perhaps it cannot be read
    assert str(not_written(None, OSError(errno.ENOSPC, ""))).startswith("the output can't be written: no space")


def test_nothing_is_left_of_a_file_that_cannot_be_written(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResourceError, match=r"new/a\.txt can't be written: no space"):
        write_text_atomically(tmp_path / "new" / "a.txt", "text")
    assert not list((tmp_path / "new").iterdir())
