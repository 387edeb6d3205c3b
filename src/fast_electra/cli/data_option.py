"""An option for data that may be given twice: a folder of GLUE tasks, and a file of minimal pairs."""

from collections.abc import Sequence
from pathlib import Path


def folder_and_pairs(given: Sequence[Path] | None, option: str) -> tuple[Path | None, Path | None]:
    """The folder and the file among what was given, told apart by their names.

    Raises:
        ConfigError: two of one kind.
    """
    from fast_electra.errors import ConfigError

    endings = (".jsonl", ".jsonl.gz", ".jsonl.xz")
    files = [path for path in given or [] if path.name.lower().endswith(endings) and not path.is_dir()]
    folders = [path for path in given or [] if path not in files]
    for several, what in ((folders, "folder of GLUE tasks"), (files, "file of minimal pairs")):
        if len(several) > 1:
            raise ConfigError(f"{option} {several[1]}: {several[0]} is given already; give one {what}.")
    return next(iter(folders), None), next(iter(files), None)
