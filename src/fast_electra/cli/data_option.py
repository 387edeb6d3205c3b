"""The data option of `evaluate` and `pretrain`: a folder of GLUE tasks, a file of minimal pairs, or both."""

from collections.abc import Sequence
from pathlib import Path


def folder_and_pairs(given: Sequence[Path] | None, option: str) -> tuple[Path | None, Path | None]:
    """Return the folder and the file among the paths of an option (None if missing), recognised by their names.

    Raises:
        ConfigError: there are two folders or two files.
    """
    from fast_electra.errors import ConfigError

    endings = (".jsonl", ".jsonl.gz", ".jsonl.xz")
    files = [path for path in given or [] if path.name.lower().endswith(endings) and not path.is_dir()]
    folders = [path for path in given or [] if path not in files]
    for several, what in ((folders, "folder of GLUE tasks"), (files, "file of minimal pairs")):
        if len(several) > 1:
            raise ConfigError(f"{option} {several[1]}: {several[0]} is also given; give only one {what}.")
    return next(iter(folders), None), next(iter(files), None)
