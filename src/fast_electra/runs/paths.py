"""Finds the folders that a run's configuration names, from any working folder.

Notable:
- a run's relative paths start from the folder in which the run was started. run.json stores that folder relative to the
  run, so a run and its data can be moved together;
- a path that does not exist there is used as given, relative to the working folder;
- another path to a folder does not make another run: digests show whether the content is the same.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fast_electra.config.tree import Config
from fast_electra.runs.folder import RunFolder

PATHS = ("data.shards", "data.tokenizer.path", "main.model", "auxiliary.model", "corruption.cache")
"""keys that name folders; digests check the content of these folders"""
_OF_A_PHASE = ("data.shards", "corruption.cache")


def started_from(run: Path) -> str:
    """The current working folder, relative to a run's folder."""
    return os.path.relpath(os.path.realpath(Path.cwd()), os.path.realpath(run))


def located(config: Config, run: RunFolder, as_given: bool = False) -> Config:
    """A run's configuration with paths that are correct in the current working folder.

    Args:
        config: of the run.
        run: its record says where the run was started.
        as_given: keep a path that exists as given.
    """
    home = run.started_from
    if home is None or home == started_from(run.path):
        return config
    base = Path(os.path.normpath(os.path.join(os.path.realpath(run.path), home)))

    def place(path: str | Path, _: str) -> str | Path:
        if not (base / path).exists() or (as_given and Path(path).exists()):
            return path
        return type(path)(os.path.relpath(base / path))

    return _with_paths(config, _paths(config), place)


def as_recorded(config: Config, run: RunFolder | None) -> Config:
    """A configuration with its given paths replaced by those in the run's record; unchanged without a run."""
    if run is None:
        return config

    def stored(path: Any, key: str) -> Any:
        value: Any = run.requested
        for name in key.split("."):
            items = {str(place): item for place, item in enumerate(value)} if isinstance(value, list) else value
            value = items.get(name) or {}
        return value if isinstance(value, list) else type(path)(value) if value else path

    return _with_paths(config, (*_paths(config), "data.sources"), stored)


def _paths(config: Config) -> tuple[str, ...]:
    """`PATHS`, and those of each phase."""
    return PATHS + tuple(f"phases.{number}.{key}" for number in range(len(config.phases)) for key in _OF_A_PHASE)


def _with_paths(config: Config, keys: tuple[str, ...], change: Callable[[Any, str], Any]) -> Config:
    """A copy of the configuration, with `change` applied to every path that is given."""
    tree: dict[str, Any] = config.model_dump()
    for key in keys:
        *sections, name = key.split(".")
        section: Any = tree
        for one in sections:
            section = section[int(one) if isinstance(section, list) else one]
        if section[name]:
            section[name] = change(section[name], key)
    return Config.model_validate(tree)
