"""What a command may do with the folder of a run: start a run, resume it, extend it, or nothing if it is finished.

Notable:
- this is decided before anything is built, by a command that holds the folder's lock;
- what a killed command left in the folder (files under temporary names, halves of checkpoints) is removed.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import fast_electra
from fast_electra.config.loading import load_config
from fast_electra.config.printing import dump_config
from fast_electra.config.reading import flat
from fast_electra.config.tree import Config
from fast_electra.data.locks import LOCK
from fast_electra.errors import CheckpointError, ConfigError
from fast_electra.plugins import missing
from fast_electra.runs.checkpoints import remove_partial
from fast_electra.runs.folder import CHECKPOINTS, CONFIG, CONFIGS, METRICS, RUN, RunFolder
from fast_electra.terminal import Say

# A file that was being written when its process was killed: `write_bytes_atomically` names it so.
_TEMPORARY = re.compile(rf"\.({'|'.join(map(re.escape, (RUN, CONFIG, METRICS)))})\.\d+\.tmp")


@dataclass(frozen=True)
class New:
    """An empty folder, or one that does not exist yet."""


@dataclass(frozen=True)
class Resume:
    """A run that has not finished."""

    run: RunFolder


@dataclass(frozen=True)
class Extend:
    """A finished run to continue to a larger number of updates."""

    run: RunFolder
    updates: int
    """new total number of updates"""


@dataclass(frozen=True)
class Finished:
    """A finished run with nothing left to do."""

    run: RunFolder


Opened = New | Resume | Extend | Finished


def open_run(path: Path, asked: Config, extend: int | None = None, say: Say = lambda _: None) -> Opened:
    """Decide what a configuration does in a folder.

    Args:
        path: the folder; it may not exist yet.
        asked: the configuration as the user gives it.
        extend: the new total number of updates of a finished run; None: do not extend.
        say: called with a sentence if config.yaml was changed and is written again.

    Raises:
        CheckpointError: run.json is damaged, or the folder holds something else, another run, a run of another version,
            or no run that can be extended.
    """
    run = RunFolder.find(path)
    if run is None:
        if path.exists() and (not path.is_dir() or not all(map(_is_left_over, path.iterdir()))):
            raise CheckpointError(
                f"{path} holds something that is no run of this program: choose a new or empty folder."
            )
        if extend is not None:
            raise CheckpointError(f"{path} holds no run to extend: run it without --extend first.")
        _remove_left_over(path)
        return New()
    _refuse_another_version(run)
    _refuse_another(run, asked)
    _remove_left_over(path)
    if extend is None or (extend == run.updates and run.first_update > 0):
        run = run.with_sound_config(say)  # a kill may have come between run.json and config.yaml
        return Finished(run) if run.is_finished else Resume(run)
    if not run.is_finished:
        raise CheckpointError(
            f"{path} has not finished its {run.updates} updates, and only a finished run can be extended: run the same "
            "command without --extend first."
        )
    if extend <= run.updates:
        raise CheckpointError(
            f"{path} has {run.updates} updates already: give --extend a larger total number of updates."
        )
    return Extend(run, extend)


def _is_left_over(path: Path) -> bool:
    """Whether a file without a run.json was left by a command that was killed while it began a run."""
    if path.name != CONFIG:
        return path.name == LOCK or bool(_TEMPORARY.fullmatch(path.name))
    try:  # earlier versions wrote this file first; a file of the user's is left alone
        return dump_config(load_config(path)) == path.read_text(encoding="utf-8")
    except (ConfigError, OSError, ValueError):
        return False


def _remove_left_over(path: Path) -> None:
    for file in path.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(file.name):
            file.unlink(missing_ok=True)
    remove_partial(path / CHECKPOINTS)


def _refuse_another_version(run: RunFolder) -> None:
    """Refuse a run of another minor version, which may draw other batches and have other settings."""
    began = run.environment["fast_electra"]
    if began.split(".")[:2] != fast_electra.__version__.split(".")[:2]:
        raise CheckpointError(
            f"{run.path} is a run of fast-electra {began}, and this is {fast_electra.__version__}, whose batches and "
            f"settings differ: continue with fast-electra {began}, or start in a new folder"
            + (f"; main.model={run.path} continues from its weights." if run.is_finished else ".")
        )


def _refuse_another(run: RunFolder, asked: Config) -> None:
    if sentence := missing(run.plugins):
        raise CheckpointError(f"{run.path}: {sentence}.")
    now = flat(_compared(asked))
    stored = [flat(_completed(run.record[name])) for name in CONFIGS]
    if now in stored:
        return
    differing = [
        f"{key} is {now.get(key)} and was {stored[0].get(key)}"
        for key in sorted(now | stored[0])
        if now.get(key) != stored[0].get(key)
    ]
    raise CheckpointError(
        f"{run.path} holds another run: {'; '.join(differing[:5])}"
        + (f"; and {len(differing) - 5} more" if len(differing) > 5 else "")
        + "; choose another folder"
        + (", or continue a finished run with --extend." if differing[0].startswith("training.updates") else ".")
    )


def _completed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """What `_compared` gives of a stored configuration, with the defaults of settings that its version did not have."""
    stored = {key: value for key, value in tree.items() if key != "plugins"}
    try:
        return _compared(Config.model_validate_json(json.dumps(stored)))
    except ValidationError:
        return stored


def _compared(config: Config) -> dict[str, Any]:
    """The settings that make a run another one.

    Left out are trackers, compilation, which changes rounding alone, and plug-ins, whose digests are compared instead.
    """
    return config.model_dump(mode="json", exclude={"plugins": True, "training": {"trackers", "compile"}})
