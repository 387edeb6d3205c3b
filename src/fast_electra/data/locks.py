"""Locks on folders, so that two commands never write in the same one.

Notable:
- the operating system holds a lock and releases it when the process ends, in whatever way it ends;
- the lock file says which process holds it, for the message that refuses a second one;
- the file is opened for writing, so the lock also works on NFS. A file system that has no locks (some mounts of Lustre)
  is written without one.
"""

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from fast_electra.data.disk import writing
from fast_electra.errors import LockedError

LOCK = ".lock"
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


@contextlib.contextmanager
def folder_lock(folder: Path, wait: bool = False, name: str = LOCK) -> Iterator[None]:
    """Lock a folder, which is created if missing, and removed at the end if it is empty.

    Args:
        folder: to lock.
        wait: wait for a process that holds the lock; otherwise it is refused.
        name: of the lock file; locks of different names do not exclude each other.

    Raises:
        LockedError: another process holds the lock.
        ResourceError: the folder can't be written.
    """
    if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK)):
        yield  # nothing can be written there, and the caller says so
        return
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    with contextlib.ExitStack() as stack:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_held(folder / name, folder, wait))
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                (folder / name).unlink()  # while it is held, as in `name_lock`
                for path in created:
                    path.rmdir()


@contextlib.contextmanager
def name_lock(folder: Path) -> Iterator[None]:
    """Lock the name of a folder that is staged and renamed. The lock file lies beside it, and is removed at the end.

    Raises:
        LockedError: another process holds the lock.
        OSError: the lock file can't be written; its file name is the folder's.
    """
    file = folder.with_name(f".{folder.name}{LOCK}")
    with _held(file, folder, wait=False):
        try:
            yield
        finally:
            file.unlink(missing_ok=True)  # while it is held: a waiting process sees that its file is gone


@contextlib.contextmanager
def _held(file: Path, folder: Path, wait: bool) -> Iterator[None]:
    lock = FileLock(file, fallback_to_soft=False, on_acquired=_sign)
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        raise LockedError(
            f"{folder} is being written by another process{_holder(file)}: wait for it to end, or end it."
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise OSError(error.errno, error.strerror, str(folder)) from error
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _sign(descriptor: int) -> None:
    """Write into the lock file which process holds it."""
    about = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with contextlib.suppress(OSError):  # on a full disk, the lock holds without a name
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{json.dumps(about)}\n".encode())


def _holder(file: Path) -> str:
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        return f" ({about['pid']} on {about['host']}, since {about['since']})"
    except (OSError, ValueError, TypeError, KeyError):
        return ""
