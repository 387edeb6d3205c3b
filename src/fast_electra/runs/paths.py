"""The folders that a run's configuration names, found from wherever one stands.

Notable:
- a run's relative paths are relative to the folder that it was started from; its record says where that is as seen from
  the run, so that a run and its data can be moved together;
- what is not there is taken as it was given, relative to the working folder;
- which path leads to a folder does not make another run: digests tell whether its content is the same.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fast_electra.config.tree import Config
from fast_electra.runs.folder import RunFolder

PATHS = ("data.shards", "data.tokenizer.path", "main.model", "auxiliary.model", "corruption.cache")
"""keys of folders; what is in them is checked by digests"""


def started_from(run: Path) -> str:
    """The working folder, as seen from a run's folder."""
    return os.path.relpath(os.path.realpath(Path.cwd()), os.path.realpath(run))


def located(config: Config, run: RunFolder, as_given: bool = False) -> Config:
    """A configuration with the folders that a run means.

    Args:
        config: the run's.
        run: whose record says where it was started.
        as_given: leave paths alone that are there as they are given.
    """
    home = run.started_from
    if home is None or home == started_from(run.path):
        return config
    base = Path(os.path.normpath(os.path.join(os.path.realpath(run.path), home)))

    def place(path: str | Path, _: str) -> str | Path:
        if not (base / path).exists() or (as_given and Path(path).exists()):
            return path
        return type(path)(os.path.relpath(base / path))

    return _with_paths(config, PATHS, place)


def as_recorded(config: Config, run: RunFolder | None) -> Config:
    """A configuration with the paths as the run's record has them, where both have one; None: no run, no change."""
    if run is None:
        return config

    def stored(path: Any, key: str) -> Any:
        value: Any = run.requested
        for name in key.split("."):
            value = value.get(name) or {}
        return [Path(one) for one in value] if isinstance(value, list) else type(path)(value) if value else path

    return _with_paths(config, (*PATHS, "data.sources"), stored)


def _with_paths(config: Config, keys: tuple[str, ...], change: Callable[[Any, str], Any]) -> Config:
    """A copy in which `change` has been applied to every path that is given."""
    tree: dict[str, Any] = config.model_dump()
    for key in keys:
        *sections, name = key.split(".")
        section = tree
        for one in sections:
            section = section[one]
        if section[name]:
            section[name] = change(section[name], key)
    return Config.model_validate(tree)
