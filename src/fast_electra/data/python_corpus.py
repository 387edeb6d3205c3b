"""The Python source on this machine as a corpus: the standard library and the packages that the project depends on.

Notable:
- it is on every machine, and nothing is redistributed;
- whole packages (`HELD_OUT`) are kept for validation and for the bug-finding benchmark, and no training file equals
  one of their files;
- files are taken in the order of a digest of their name. So a limit takes the same share of every package, and the same
  installation gives the same corpus;
- only distributions that the project requires are read, not others that are installed. They come from
  `importlib.metadata`, starting at "fast-electra" and following the requirements without extras.
"""

import hashlib
import os
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from fast_electra.data.sources import Document
from fast_electra.errors import DataError

HELD_OUT = ("sympy", "networkx")
STANDARD_LIBRARY = "python"
_PROJECT = "fast-electra"
# Used if the project is not installed as a distribution (a source tree on the path).
FALLBACK = (
    *("torch", "transformers", "tokenizers", "safetensors", "huggingface-hub", "sympy", "networkx", "mpmath", "numpy"),
    *("scipy", "scikit-learn", "pydantic", "ruamel.yaml", "cyclopts", "rich", "jinja2", "vl-convert-python"),
)
# Tests repeat statements with other constants; they are most of the bytes of the standard library.
LEFT_OUT_FOLDERS = frozenset({"test", "tests", "idle_test", "lib2to3", "site-packages", "dist-packages", "__pycache__"})
LARGEST_FILE = 300_000
LONGEST_LINE = 2_000


@dataclass(frozen=True)
class SourceFile:
    """One file; its text is read on access."""

    path: Path
    package: str
    source: str
    """top folder of the package and path inside it; the same on every machine"""

    @property
    def text(self) -> str:
        """The text of the file, with line feeds as line ends; UnicodeDecodeError if it is not UTF-8."""
        return self.path.read_text(encoding="utf-8-sig")


@dataclass(frozen=True)
class Corpus:
    """Files for training and for validation, in the order of their digests."""

    train: list[SourceFile]
    validation: list[SourceFile]
    held_out: list[SourceFile]
    """every usable file of the held-out packages; `validation` is the beginning of this list"""
    train_bytes: int
    """size of the files for training"""
    left_out: dict[str, int]
    """number of files that were not usable, by reason"""

    @property
    def documents(self) -> list[Document]:
        """The files of training and validation with their texts."""
        return [Document(file.text, file.source) for file in (*self.train, *self.validation)]

    @staticmethod
    def is_validation(document: Document) -> bool:
        """Whether a document is a file for validation."""
        return document.source.split("/")[0] in HELD_OUT


def collect(cap_bytes: int = 40_000_000, validation_cap_bytes: int = 3_000_000) -> Corpus:
    """The corpus of this machine, at most `cap_bytes` for training and `validation_cap_bytes` for validation.

    The standard library is taken first, up to half of the limit; the packages fill the rest in proportion. These are
    left out: test folders, files that are not UTF-8, files over 300 kB or with a line over 2,000 characters, which are
    generated, and files equal to one already taken.

    Raises:
        DataError: a held-out package is not installed.
    """
    packages = {name: _distribution_files(name) for name in required_distributions()}
    missing = [name for name in HELD_OUT if not packages.get(name)]
    if missing:
        raise DataError(
            f"the packages held out for validation are not installed with their source: {', '.join(missing)};"
            f" install them with: pip install {' '.join(missing)}."
        )
    kept = _Kept()
    # Only files in the package's own folder, so that the first part of `source` says the split.
    inside = (file for name in HELD_OUT for file in packages[name] if file.source.startswith(f"{name}/"))
    held_out = kept.take(inside, None)
    validation = _capped(held_out, validation_cap_bytes)
    library = kept.take(_standard_library_files(), cap_bytes // 2)
    others = (file for name, files in packages.items() if name not in HELD_OUT for file in files)
    rest = kept.take(others, cap_bytes - sum(size for _, size in library))
    train = sorted(library + rest, key=lambda pair: _order(pair[0]))
    return Corpus(
        train=[file for file, _ in train],
        validation=[file for file, _ in validation],
        held_out=[file for file, _ in held_out],
        train_bytes=sum(size for _, size in train),
        left_out=dict(kept.left_out),
    )


def required_distributions() -> list[str]:
    """Installed distributions that the project requires, also indirectly, without extras and itself; sorted."""
    try:
        waiting = _requirements(_PROJECT)
    except metadata.PackageNotFoundError:
        waiting = [_canonical(name) for name in FALLBACK]
    found: set[str] = set()
    seen = {_PROJECT}
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            waiting.extend(_requirements(name))
        except metadata.PackageNotFoundError:
            continue  # required only on another system or Python version
        found.add(name)
    return sorted(found)


class _Kept:
    """Takes usable files one by one and remembers their digests, so that no text is taken twice."""

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        self._seen: set[bytes] = set()

    def take(self, files: Iterable[SourceFile], cap_bytes: int | None) -> list[tuple[SourceFile, int]]:
        """Usable files in the order of their digests, with their sizes in bytes, as many as fit into the limit."""
        taken: list[tuple[SourceFile, int]] = []
        total = 0
        for file in sorted(files, key=_order):
            size, reason = self._look(file)
            if reason:
                self.left_out[reason] += 1
                continue
            if cap_bytes is not None and total + size > cap_bytes:
                break
            total += size
            taken.append((file, size))
        return taken

    def _look(self, file: SourceFile) -> tuple[int, str]:
        """The size in bytes, and why the file cannot be used ("" if it can)."""
        try:
            content = file.path.read_bytes() if file.path.stat().st_size <= LARGEST_FILE else None
        except OSError:
            return 0, "unreadable"
        if content is None:
            return 0, "larger than 300 kB"
        if not content.strip():
            return 0, "empty"
        digest = hashlib.sha256(content).digest()
        if digest in self._seen:
            return 0, "duplicate"
        try:
            text = content.decode()
        except UnicodeDecodeError:
            return 0, "not UTF-8"
        if max(map(len, text.splitlines())) > LONGEST_LINE:
            return 0, "a line over 2,000 characters"
        self._seen.add(digest)
        return len(content), ""


def _capped(files: list[tuple[SourceFile, int]], cap_bytes: int) -> list[tuple[SourceFile, int]]:
    total = 0
    for index, (_, size) in enumerate(files):
        total += size
        if total > cap_bytes:
            return files[:index]
    return files


def _order(file: SourceFile) -> bytes:
    return hashlib.sha256(file.source.encode()).digest()


def _standard_library_files() -> Iterator[SourceFile]:
    root = Path(sysconfig.get_path("stdlib"))
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT_FOLDERS)
        for name in sorted(names):
            if name.endswith(".py"):
                path = Path(folder, name)
                yield SourceFile(path, STANDARD_LIBRARY, f"{STANDARD_LIBRARY}/{path.relative_to(root).as_posix()}")


def _distribution_files(name: str) -> list[SourceFile]:
    """Python files of an installed distribution; none if its installer kept no record."""
    files = []
    for entry in metadata.distribution(name).files or ():
        inside = PurePosixPath(entry)
        if inside.suffix == ".py" and LEFT_OUT_FOLDERS.isdisjoint(inside.parts) and ".." not in inside.parts:
            files.append(SourceFile(Path(str(entry.locate())), name, inside.as_posix()))
    return files


def _requirements(name: str) -> list[str]:
    """Names that a distribution requires, without extras; PackageNotFoundError if it is not installed."""
    names = []
    for requirement in metadata.distribution(name).requires or ():
        specifier, _, marker = requirement.partition(";")
        match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", specifier)
        if match and not re.search(r"\bextra\b", marker):
            names.append(_canonical(match[1]))
    return names


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
