"""Writes our own files so that each is complete or absent, and manifests by which they are checked.

`text_files.py` opens the files of users.

Notable:
- a file is written under a temporary name in its folder and renamed; a folder is staged as NAME.partial and renamed;
- a manifest lists the size and SHA-256 of every file and has a digest of itself, so one flipped bit anywhere is found.
  It is written last;
- names in a manifest are checked before they are used: none is outside the folder, and none is a symbolic link.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fast_electra.data.disk import writing
from fast_electra.data.locks import name_lock
from fast_electra.errors import DataError
from fast_electra.stopping import unbroken

MANIFEST = "manifest.json"


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text as in `write_bytes_atomically`; half of a surrogate pair becomes an escape, as in JSON."""
    write_bytes_atomically(path, text.encode("utf-8", "backslashreplace"))


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write bytes so that `path` always holds either the old content or the new; its folder is created if missing.

    Raises:
        ResourceError: the disk is full or cannot be written.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(staged, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(staged, path)
        except BaseException:
            with contextlib.suppress(OSError):
                staged.unlink()
            raise
    sync_folder(path.parent)


def write_json_atomically(path: Path, content: Any) -> None:
    """Write `content` as indented JSON; NaN and infinity are refused with ValueError."""
    write_text_atomically(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_sealed_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object with a digest of its content under "sha256"."""
    plain = json.loads(json.dumps(content, allow_nan=False))  # so that keys are as they will be read
    write_json_atomically(path, content | {"sha256": canonical_digest(plain)})


def read_sealed_json(path: Path) -> dict[str, Any] | None:
    """What `write_sealed_json` wrote, without the digest; None if the file is missing or was changed."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if content.pop("sha256") == canonical_digest(content) else None  # ValueError: NaN
    except (FileNotFoundError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None


def read_kept_json(path: Path, remedy: str) -> Any:
    """What `write_sealed_json` wrote, or what an earlier version wrote without a digest; {} if missing.

    Args:
        path: of the file.
        remedy: the end of the error's sentence.

    Raises:
        DataError: the file is damaged.
    """
    if not path.exists():
        return {}
    if (content := read_sealed_json(path)) is None:
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, list):
            return content
        # A damaged seal has another key or another value, not both.
        if not isinstance(content, dict) or "sha256" in content or any(map(_is_digest, content.values())):
            raise DataError(f"{path} is damaged: {remedy}.")
    return content


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def canonical_digest(content: Any) -> str:
    """SHA-256 (hex) of JSON content in its canonical form, which is the same for equal contents."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # A vocabulary may have lone surrogates, which plain UTF-8 refuses.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def differing_parts(there: str | None, here: str | None) -> tuple[str, str] | None:
    """The beginnings of the first parts of two digests that differ; None if they agree.

    A digest of a model has two parts, WEIGHTS+CONFIGURATION. Earlier versions stored the first one only, so a part that
    one side lacks is not compared.
    """
    parts = zip(str(there).split("+"), str(here).split("+"), strict=False)
    return next(((one[:12], other[:12]) for one, other in parts if one != other), None)


def sha256_of_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def staged_folder(folder: Path, replace: bool = False) -> Iterator[Path]:
    """Give NAME.partial to write in. When the block ends, it is renamed to `folder`; if the block fails, it is removed.

    Files that a killed process left under NAME.partial are removed first. With `replace`, a folder or a link of this
    name is removed before the renaming; the folder that a link leads to stays as it is.

    Raises:
        ResourceError: the disk is full or cannot be written.
        DataError: another process is writing the same folder.
    """
    staged = folder.with_name(folder.name + ".partial")
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with name_lock(folder):
            if not replace and folder.is_dir() and any(folder.iterdir()):
                raise DataError(f"{folder} exists: another process has just written it; run the same command again.")
            shutil.rmtree(staged, ignore_errors=True)
            try:
                staged.mkdir()  # here, since a request to stop may come before it returns
                yield staged
                sync_tree(staged)
                if replace and folder.is_symlink():
                    folder.unlink()
                elif replace and folder.exists():
                    shutil.rmtree(folder)
                staged.rename(folder)
            except BaseException:
                with unbroken():  # a second Ctrl-C waits
                    shutil.rmtree(staged, ignore_errors=True)
                raise
        sync_folder(folder.parent)


def copy_folder_atomically(source: Path, target: Path) -> None:
    """Copy a folder so that `target` appears complete; errors as in `staged_folder`."""
    with staged_folder(target) as staged:
        shutil.copytree(source, staged, dirs_exist_ok=True)


def write_manifest(
    folder: Path,
    content: Mapping[str, Any] | None = None,
    digests: Mapping[str, str] | None = None,
    names: Iterable[str] | None = None,
) -> dict[str, Any]:
    """Write `manifest.json` over files under `folder`.

    Args:
        folder: holds the files.
        content: further keys, JSON.
        digests: SHA-256 by name, of files that need not be read again.
        names: of the files; None: all.

    Returns:
        the manifest: `content`, `files` ({name: {bytes, sha256}}) and `digest`.
    """
    digests = digests or {}
    if names is None:
        names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {
        name: {
            "bytes": (folder / name).stat().st_size,
            "sha256": digests.get(name) or sha256_of_file(folder / name),
        }
        for name in sorted(names)
        if name != MANIFEST
    }
    manifest = {**(content or {}), "files": files}
    manifest["digest"] = canonical_digest(manifest)
    write_json_atomically(folder / MANIFEST, manifest)
    return manifest


def read_manifest(folder: Path, remedy: str = "write the folder again", links: bool = False) -> dict[str, Any]:
    """Read the manifest of `folder`, and check its own digest and that every name in it is inside the folder.

    Args:
        folder: holds `manifest.json`.
        remedy: the end of the error's sentence.
        links: files may be symbolic links, as in the cache of the Hugging Face hub.

    Raises:
        DataError: it is missing, damaged, or names a file outside the folder.
    """
    path = folder / MANIFEST
    manifest: dict[str, Any] = {}
    try:
        manifest = json.loads(path.read_bytes())
        digest = manifest.pop("digest")
        sound = digest == canonical_digest(manifest)
        files: dict[str, dict[str, Any]] = manifest["files"]
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: {remedy}.") from None
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror}): {remedy}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound, files = False, {}
    if not sound:
        raise DataError(f"{path} is damaged: {remedy}.")
    for name in files:
        _refuse_outside(folder, name, links)
    return manifest


def verify_manifest(
    folder: Path, digests: bool = True, remedy: str = "write the folder again", share: tuple[int, int] = (0, 1)
) -> dict[str, Any]:
    """Check every file that the manifest of `folder` names, and return the manifest.

    Args:
        folder: holds `manifest.json`.
        digests: also read every byte and compare SHA-256; otherwise only sizes.
        remedy: the end of the error's sentence.
        share: (i, n): check only the i-th of n shares of the files, from 0; other processes check the others.

    Raises:
        DataError: names the first file that is missing, cut short or changed.
    """
    manifest = read_manifest(folder, remedy)
    for name, expected in list(manifest["files"].items())[share[0] :: share[1]]:
        verify_file(folder / name, expected, digests, remedy)
    return manifest


def verify_file(path: Path, expected: Mapping[str, Any], digest: bool, remedy: str) -> None:
    """Check one file against its entry in a manifest; arguments and DataError as in `verify_manifest`."""
    try:
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise DataError(f"{path} has {size:,} bytes instead of {expected['bytes']:,}: {remedy}.")
        if digest and sha256_of_file(path) != expected["sha256"]:
            raise DataError(f"{path} is damaged (its digest differs from the manifest's): {remedy}.")
    except FileNotFoundError:
        raise DataError(f"{path} is missing: {remedy}.") from None
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror}): {remedy}.") from error


def _refuse_outside(folder: Path, name: str, links: bool) -> None:
    parts = PurePosixPath(name).parts
    inside = bool(parts) and not name.startswith("/") and ".." not in parts and "\\" not in name and ":" not in name
    if inside and not links:
        inside = not any((folder / PurePosixPath(*parts[:depth])).is_symlink() for depth in range(1, len(parts) + 1))
    if not inside:
        raise DataError(
            f"{folder / MANIFEST} names {name!r}, which is not a file inside {folder}: do not use this folder."
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable, so that a rename in it survives a power failure."""
    # Some systems cannot open or sync a folder; the rename is atomic without it.
    with contextlib.suppress(OSError):
        _sync(path)


def sync_tree(folder: Path) -> None:
    """Make every file and folder below `folder`, and the folder itself, durable."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            _sync(path)
    sync_folder(folder)
