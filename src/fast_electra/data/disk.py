"""Files that cannot be written: a full disk, no permission. This module alone words the error.

Notable:
- libraries wrap what the system says: safetensors and Tokenizers, written in Rust, raise a text with `os error 28`,
  PyTorch's checkpoints an exception that holds others, `shutil.copytree` a list. The reason is found in each of them.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fast_electra.errors import ResourceError, UserError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""numbers of the system's errors that always concern a file that is written"""
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_MISUSED = frozenset({errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP})
"""numbers that say that the path itself is wrong, for example a file where a folder should be"""
_NUMBER = re.compile(r"(?:os error |\[Errno )(\d+)\b")


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Raise ResourceError, with the path and the reason, where a file or folder at `path` cannot be written."""
    try:
        yield
    except UserError as error:
        # What was written is a part of `path`, which is the name that the user knows.
        if isinstance(error, ResourceError) and error.__cause__ is not None:
            raise (not_written(path, error.__cause__) or error) from error.__cause__
        raise
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # PyTorch's CheckpointException is no Exception
        if (found := not_written(path, error)) is None:
            raise
        raise found from error


def not_written(path: str | Path | None, error: BaseException) -> ResourceError | None:
    """The error about a path that cannot be written; None if `error` has another cause.

    Without a path only a full disk is found: `error` may be about a file that cannot be read.
    """
    for number, name in _found(error):
        if number in FULL or (path is not None and (name is None or _concerns(path, name))):
            said = f"{path or name or 'the output'} can't be written: {_reason(number, path)}"
            if number in _MISUSED:
                return ResourceError(f"{said}; give another path.", status=2)
            remedy = "free space" if number in FULL else "choose another place"
            if number in _FORBIDDEN:
                remedy = f"make it writable, or {remedy}"
            return ResourceError(f"{said}; {remedy}, and run the same command again.")
    return None


def _reason(number: int, path: str | Path | None) -> str:
    """What the system's number of an error says; it also names the file where a folder should be."""
    if number in (errno.ENOTDIR, errno.EEXIST) and path is not None:
        for place in (Path(path), *Path(path).parents):
            if place.is_file():
                return f"{place} is a file and no folder"
    reason = os.strerror(number)
    return f"{reason[:1].lower()}{reason[1:]}"


def _found(error: BaseException | None) -> Iterator[tuple[int, str | None]]:
    """The numbers of the system's errors in an exception and in those that it holds, with the names of files."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            for name in dict.fromkeys((error.filename, error.filename2 or error.filename)):
                yield error.errno, None if name is None else str(name)
        else:
            yield from ((int(number), None) for number in _NUMBER.findall(str(error)) if int(number) in FULL)
        for inner, *_ in getattr(error, "failures", {}).values():
            yield from _found(inner)
        error = error.__cause__ or error.__context__


def _concerns(path: str | Path, name: str) -> bool:
    """Whether a file is `path`, is in it, above it, or is its temporary file."""
    wanted, given = os.path.abspath(path), os.path.abspath(name)
    folder, last = os.path.split(wanted)
    return wanted.startswith(given) or given.startswith((wanted, os.path.join(folder, f".{last}")))
