"""The Python corpus: whole packages held out, nothing twice, the same each time."""

import hashlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import pytest

from fast_electra.data import python_corpus
from fast_electra.data.python_corpus import HELD_OUT, collect, required_distributions
from fast_electra.errors import DataError

GOOD = "def double(x):\n    return 2 * x\n"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces what is installed by made-up distributions: files by name, requirements by name."""

    def pretend(files: dict[str, dict[str, bytes]], requires: dict[str, list[str]] | None = None) -> None:
        def distribution(name: str) -> SimpleNamespace:
            if name not in files:
                raise python_corpus.metadata.PackageNotFoundError(name)
            entries = []
            for inside, content in files[name].items():
                path = tmp_path / "site" / inside
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                entry = type("Entry", (PurePosixPath,), {"locate": lambda self: tmp_path / "site" / self})
                entries.append(entry(inside))
            return SimpleNamespace(files=entries, requires=(requires or {}).get(name, []))

        monkeypatch.setattr(python_corpus.metadata, "distribution", distribution)
        library = tmp_path / "lib"
        library.mkdir(exist_ok=True)
        (library / "one.py").write_text("one = 1\n")
        (library / "test").mkdir(exist_ok=True)
        (library / "test" / "test_one.py").write_text("assert 1\n")
        monkeypatch.setattr(python_corpus.sysconfig, "get_path", lambda name: str(library))

    return pretend


HELD_OUT_FILES = {name: {f"{name}/a.py": f"# {name}\n".encode()} for name in HELD_OUT}


def with_packages(**packages: dict[str, bytes]) -> tuple[dict[str, dict[str, bytes]], dict[str, list[str]]]:
    files = {"fast-electra": {"fast_electra/own.py": b"own = 1\n"}, **HELD_OUT_FILES, **packages}
    return files, {"fast-electra": [*HELD_OUT, *packages]}


def test_held_out_packages_share_no_file_with_training(install) -> None:
    shared = HELD_OUT_FILES["sympy"]["sympy/a.py"]
    install(*with_packages(other={"other/copy.py": shared, "other/b.py": GOOD.encode()}))
    corpus = collect()
    train = {hashlib.sha256(file.text.encode()).digest() for file in corpus.train}
    held_out = {hashlib.sha256(file.text.encode()).digest() for file in corpus.held_out}
    assert not train & held_out
    assert {file.package for file in corpus.train} == {"python", "other"}
    assert {file.source.split("/")[0] for file in corpus.held_out} == set(HELD_OUT)
    assert corpus.left_out == {"duplicate": 1}


def test_unusable_files_and_tests_are_left_out_with_a_count(install) -> None:
    files = {
        "other/good.py": GOOD.encode(),
        "other/again.py": GOOD.encode(),
        "other/latin.py": "name = 'é'\n".encode("latin-1"),
        "other/long.py": b"x = '" + b"a" * 2_001 + b"'\n",
        "other/giant.py": b"x = 1\n" * 60_000,
        "other/empty.py": b"\n",
        "other/tests/test_good.py": b"assert True\n",
        "other/data.txt": b"no source\n",
        "../bin/script.py": b"script = 1\n",
    }
    install(*with_packages(other=files))
    corpus = collect()
    assert [file.package for file in corpus.train].count("other") == 1
    assert corpus.left_out == {
        "duplicate": 1,
        "not UTF-8": 1,
        "a line over 2,000 characters": 1,
        "larger than 300 kB": 1,
        "empty": 1,
    }


def test_the_package_itself_is_never_part_of_the_corpus(install) -> None:
    install(*with_packages())
    assert all("fast_electra" not in file.source for file in collect().train)


def test_caps_hold_and_a_smaller_cap_gives_a_part_of_the_larger_corpus(install) -> None:
    files = {f"other/f{i}.py": f"number = {i:04d}\n".encode() for i in range(100)}  # 14 bytes each
    install(*with_packages(other=files))
    whole, part = collect(), collect(cap_bytes=700, validation_cap_bytes=12)
    assert 600 < part.train_bytes <= 700
    assert {file.source for file in part.train} < {file.source for file in whole.train}
    assert len(part.validation) == 1
    assert part.held_out == whole.held_out


def test_only_requirements_are_read_and_extras_are_not(install) -> None:
    files = {name: {} for name in ("fast-electra", "a", "b", "unrelated", "wanted-by-extra")}
    install(
        files, {"fast-electra": ["a>=1", 'wanted_by.extra; extra == "more"'], "a": ["B (>2)", "absent"], "b": ["a"]}
    )
    assert required_distributions() == ["a", "b"]


def test_a_missing_held_out_package_is_named(install) -> None:
    files, requires = with_packages()
    del files["networkx"]
    install(files, requires)
    with pytest.raises(DataError, match="networkx"):
        collect()


def test_this_machine_gives_the_same_corpus_twice() -> None:
    first, second = (collect(cap_bytes=2_000_000, validation_cap_bytes=300_000) for _ in range(2))
    assert first == second
    assert 1_500_000 < first.train_bytes <= 2_000_000
    assert {file.package for file in first.validation} <= set(HELD_OUT)
    packages = {file.package for file in first.train}
    assert "python" in packages
    assert len(packages) > 5
