"""Every command that writes, on a disk that is full at different moments: one sentence, and then it works."""

import json
import re
import resource
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from fast_electra.cli.main import main
from fast_electra.config.printing import dump_config
from tests import tiny

COMMANDS = {
    "pretrain": "pretrain main.yaml --run OUT",
    "data build": "data build electra-small data.sources=[text.txt] data.tokenizer.vocabulary_size=261 data.length=32 "
    "data.validation_fraction=0.2 data.workers=1 --out OUT",
    "data merge": "data merge parts --out OUT",
    "corrupt": "corrupt main.yaml --out OUT",
    "export": "export RUN OUT",
    "export of a checkpoint": "export RUN OUT --checkpoint all",
    "report": "report RUN --out OUT/page.html",
    "config plot": "config plot quickstart --out OUT/plot.png",
    "evaluate": "evaluate RUN --tasks blimp --data pairs.jsonl --out OUT",
    "compare": "compare one two --page OUT/page.html",
}
LEVELS = [0, 20, 200, 2_000, 20_000, 60_000]
"""largest size of a file, in bytes"""


@pytest.fixture(scope="module")
def home(tmp_path_factory, auxiliary, shards):
    folder = tmp_path_factory.mktemp("full")
    few = {"training__updates": 4, "training__checkpoint_every": 2}
    (folder / "main.yaml").write_text(dump_config(tiny.settings(shards, "fast_electra", auxiliary, **few)))
    (folder / "text.txt").write_text("".join(f"a line {n}\n\n" for n in range(60)))
    tiny.make_parts(folder / "parts", folder / "text.txt")
    pairs = [{"sentence_good": f"a {n}", "sentence_bad": f"b {n}"} for n in range(6)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    shutil.copytree(auxiliary, folder / "run")
    data = str(folder / "pairs.jsonl")
    for name in ("one", "two"):
        assert main(["evaluate", str(auxiliary), "--tasks", "blimp", "--data", data, "--out", str(folder / name)]) == 0
    return folder


@contextmanager
def largest_file(size: int):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def left_over(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith((".partial", ".tmp"))]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_one_sentence_and_the_same_command_works_afterwards(name, home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(home)
    failures = 0
    for level in LEVELS:
        out = tmp_path / str(level)
        words = [word.replace("OUT", str(out)).replace("RUN", "run") for word in COMMANDS[name].split(" ")]
        with largest_file(level):
            status = main(words)
        said = capsys.readouterr().err
        assert status in (0, 1), said
        if status == 1:
            failures += 1
            last = said.splitlines()[-1]
            assert re.fullmatch(
                rf"error: {out}\S* can't be written: file too large; free space, and run the same command again\.", last
            )
        assert not left_over(tmp_path)
        assert main(words) == 0, capsys.readouterr().err
        assert not left_over(tmp_path)
        capsys.readouterr()
    assert failures >= 3


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_where_a_folder_should_be_is_wrong_use(name, home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(home)
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        words = [word.replace("OUT", str(out)).replace("RUN", "run") for word in COMMANDS[name].split(" ")]
        assert main(words) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: ")
        assert str(tmp_path / "file") in last
    assert (tmp_path / "file").read_text() == "x"


def test_an_output_that_is_full_is_one_sentence(home, monkeypatch, capsys):
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["config", "show", "quickstart", "--json"]) == 1
        monkeypatch.undo()
    assert capsys.readouterr().err == (
        "error: the output can't be written: no space left on device; free space, and run the same command again.\n"
    )
