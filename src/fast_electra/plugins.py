"""Plug-ins: parts from outside the package, in a Python file or at an entry point of an installed package.

Notable:
- a plug-in is code, so it is imported only if the user names it, by `--plugin` on the command line or by `plugins` in a
  configuration that the user gives. A run folder records its plug-ins, but never imports them;
- importing a plug-in registers its parts (parts.py); nothing else is needed;
- its digest is that of its file. The same content is imported once, whatever its path.
"""

import difflib
import hashlib
import sys
import traceback
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from fast_electra.errors import ConfigError

GROUP = "fast_electra.plugins"
"""group of the entry points"""

requested: list[str] = []
"""plug-ins named by --plugin on this command line"""

_digests: dict[str, str] = {}
"""digests of the imported plug-ins, by the names that the user gave"""


def load_plugins(names: Iterable[str]) -> None:
    """Import plug-ins that are not imported yet; each is a path that ends in .py or the name of an entry point.

    Raises:
        ConfigError: there is none, or it cannot be imported.
    """
    for name in names:
        if name in _digests:
            continue
        path = Path(name)
        if path.suffix == ".py":
            _digests[name] = _load_file(name, path)
        else:
            _digests[name] = _load_entry_point(name)


def digests(names: Iterable[str]) -> dict[str, str]:
    """The digests (SHA-256, hex) of plug-ins that `load_plugins` imported, by name."""
    return {name: _digests[name] for name in names}


def missing(recorded: Mapping[str, str]) -> str | None:
    """A sentence about a plug-in of a run folder that this process has not imported; None if there is none.

    Args:
        recorded: the digests that the run folder records, by name.
    """
    for name, digest in recorded.items():
        if digest in _digests.values():
            continue
        if name in _digests:
            return (
                f"the plug-in {name} has changed (digest {digest[:12]}, now {_digests[name][:12]}): put the old file "
                "back, or choose another folder"
            )
        return f"it was made with the plug-in {name}, which is imported only on request: add --plugin {name}"
    return None


def _load_file(name: str, path: Path) -> str:
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"the plug-in {name} can't be read ({error.strerror}); give a Python file.") from None
    if digest in _digests.values():
        return digest
    spec = spec_from_file_location(f"fast_electra_plugin_{digest[:12]}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic looks up types and docstrings there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == spec.origin]
        where = f"{name}, line {lines[-1]}" if lines else name
        raise ConfigError(f"{_broken(where, error)}") from error
    return digest


def _load_entry_point(name: str) -> str:
    points: dict[str, EntryPoint] = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        close = difflib.get_close_matches(name, points, n=1)
        remedy = f"did you mean {close[0]}?" if close else "give a path that ends in .py."
        raise ConfigError(f"no installed package has a plug-in {name} (entry points {GROUP}); {remedy}")
    try:
        points[name].load()
    except Exception as error:
        raise ConfigError(_broken(name, error)) from error
    file = sys.modules[points[name].module].__file__
    return hashlib.sha256(Path(file).read_bytes() if file else b"").hexdigest()


def _broken(where: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200].rstrip(".")
    return f"the plug-in {where} can't be imported ({type(error).__name__}: {reason}); correct it."
