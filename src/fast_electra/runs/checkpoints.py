"""Checkpoints: PyTorch's distributed checkpoint in safetensors, scalars in JSON, and a manifest with digests.

Notable:
- a checkpoint is written to a temporary folder, its digests last, and then renamed, so it is complete or absent;
- digests are checked before a checkpoint is used, because no format detects a flipped byte; the newest undamaged
  checkpoint is used;
- a checkpoint is deleted under the name UPDATE.partial, so that a kill leaves no half of one that looks whole;
- nothing is ever unpickled: tensors are written by `HuggingFaceStorageWriter`, also with a single process.
"""

import contextlib
import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from fast_electra import distributed
from fast_electra.data.disk import writing
from fast_electra.data.files import (
    sha256_of_file,
    sync_folder,
    sync_tree,
    verify_manifest,
    write_json_atomically,
    write_manifest,
)
from fast_electra.errors import CheckpointError, DataError, OtherProcessError
from fast_electra.stopping import unbroken
from fast_electra.terminal import Say, tell

_PARTIAL = ".partial"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose digests were verified."""

    folder: Path
    update: int
    scalars: dict[str, Any]


def save_checkpoint(
    folder: Path,
    update: int,
    tensors: Mapping[str, Tensor],
    scalars: Mapping[str, Any],
    keep: int,
    write_more: Callable[[Path], object] = lambda _: None,
) -> Path:
    """Write `folder/<update>` and delete all but the newest `keep` checkpoints up to it, and what a kill left.

    Args:
        folder: the run's `checkpoints/`.
        update: number of updates done.
        tensors: tensors to save, by name, of which each process may hold a share. With several processes all of them
            must call this.
        scalars: values that JSON can store.
        keep: number of checkpoints to keep, this one included; a damaged one is deleted and does not count.
        write_more: called on every process with the temporary folder; what rank 0 writes there becomes part of the
            checkpoint.

    Returns:
        the checkpoint's folder.

    Raises:
        ResourceError: the disk is full or cannot be written; earlier checkpoints are unchanged.
    """
    target = folder / f"{update:08d}"
    staged = folder / f"{update:08d}{_PARTIAL}"
    is_main = distributed.is_main()
    with writing(target):
        try:
            with distributed.together():
                if is_main:
                    remove_partial(folder)
                    staged.mkdir(parents=True)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="torch.distributed is disabled")
                save(
                    dict(tensors),
                    storage_writer=HuggingFaceStorageWriter(str(staged), save_distributed=True),
                    no_dist=distributed.size() == 1,
                )
            with distributed.together():
                write_more(staged)
            digests = _digests(staged)
            with distributed.together():
                if is_main:
                    write_json_atomically(staged / "scalars.json", {"update": update, **scalars})
                    write_manifest(staged, digests=digests)
                    sync_tree(staged)
                    shutil.rmtree(target, ignore_errors=True)
                    staged.rename(target)
                    sync_folder(folder)
                    prune_checkpoints(folder, update, keep)
        except BaseException:
            if is_main:
                shutil.rmtree(staged, ignore_errors=True)
            raise
    return target


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the files under a folder by name; each process computes those of its share."""
    found: dict[str, str] = {}
    with distributed.together():
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        own = names[distributed.rank() :: distributed.size()]
        found = {name: sha256_of_file(folder / name) for name in own}
    return {name: digest for share in distributed.gather(found) for name, digest in share.items()}


def remove_partial(folder: Path) -> None:
    """Remove the halves of checkpoints that a killed process left in `folder`, a run's `checkpoints/`."""
    for path in folder.glob(f"*{_PARTIAL}"):
        shutil.rmtree(path, ignore_errors=True)


def prune_checkpoints(folder: Path, newest: int, keep: int) -> None:
    """Delete all checkpoints but that of update `newest`, which is known to be sound, and the `keep` - 1 before it."""
    kept = 1
    for path in reversed(_checkpoints(folder)):
        update = int(path.name)
        # A later one is damaged, since the run would have continued from it.
        if update == newest or (update < newest and kept < keep and _is_complete(path)):
            kept += update < newest
            continue
        with contextlib.suppress(OSError):
            path.rename(gone := path.with_name(path.name + _PARTIAL))
            shutil.rmtree(gone, ignore_errors=True)


def _is_complete(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint has the right size; its bytes are not read, because that takes long."""
    try:
        verify_manifest(checkpoint, digests=False)
    except DataError:
        return False
    return True


def newest_checkpoint(folder: Path, say: Say = tell) -> Checkpoint | None:
    """The newest checkpoint whose digests agree; None if there are no checkpoints.

    Args:
        folder: the run's `checkpoints/`.
        say: called with a sentence about each damaged checkpoint that is skipped.

    Raises:
        CheckpointError: there are checkpoints, and all of them are damaged.
    """
    found = _checkpoints(folder)
    for candidate in reversed(found):
        try:
            with distributed.together():
                verify_manifest(candidate, remedy="it is not used", share=(distributed.rank(), distributed.size()))
        except (DataError, OtherProcessError) as error:
            say(f"{candidate} is damaged and skipped: {error}")
            continue
        scalars = json.loads((candidate / "scalars.json").read_text())
        return Checkpoint(candidate, int(scalars["update"]), scalars)
    if found:
        raise CheckpointError(f"every checkpoint under {folder} is damaged: restore one, or start in another folder.")
    return None


def checkpoint_updates(folder: Path) -> list[int]:
    """The updates that have a checkpoint in `folder`, a run's `checkpoints/`, in ascending order."""
    return [int(path.name) for path in _checkpoints(folder)]


def checkpoint_at(folder: Path, update: int) -> Checkpoint:
    """The checkpoint of an update in a run's `checkpoints/`.

    Raises:
        CheckpointError: there is no such checkpoint.
        DataError: it is damaged.
    """
    found = checkpoint_updates(folder)
    if update not in found:
        raise CheckpointError(
            f"{folder.parent} has no checkpoint of update {update}"
            + (f": it has {', '.join(map(str, found))}." if found else ", and no other checkpoint.")
        )
    path = folder / f"{update:08d}"
    verify_manifest(path, remedy="use another checkpoint")
    return Checkpoint(path, update, json.loads((path / "scalars.json").read_text()))


def load_tensors(checkpoint: Checkpoint, tensors: Mapping[str, Tensor], alone: bool = False) -> None:
    """Read a checkpoint's tensors into `tensors`, in place; a process reads its share of those that it has a share of.

    Args:
        checkpoint: written by any number of processes.
        tensors: by name.
        alone: only this process calls; otherwise all processes must.

    Raises:
        CheckpointError: names or shapes differ.
    """
    try:
        with unbroken(), warnings.catch_warnings():  # PyTorch would make a request to stop an error of the checkpoint
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            state = dict(tensors)
            alone = alone or distributed.size() == 1
            load(state, storage_reader=HuggingFaceStorageReader(str(checkpoint.folder)), no_dist=alone)
    except (CheckpointException, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint.folder} does not fit this model: {_reason(error)}") from error


def _checkpoints(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("[0-9]*") if path.name.isdecimal()), key=lambda path: int(path.name))


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200]
