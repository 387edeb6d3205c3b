"""Builds the sdist and the wheel, and tries the wheel in an empty environment, as `pip install fast-electra` gives it.

Notable:
- the wheel is built from the sdist, as pip does where there is no wheel, and must hold the same files as one that is
  built from the source tree, and every file of `src/fast_electra`;
- the environment is new and holds only what the wheel declares. All modules are imported in it (what an extra brings is
  imported inside functions), and `pip check` says whether all requirements are met;
- then the program runs in an empty folder: `config show`, and a quickstart of seconds whose model Transformers loads.

    python tools/try_wheel.py [arguments for pip install, such as --extra-index-url URL]
"""

import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SETTINGS = (
    "training.updates=20",
    "training.batch_size=8",
    "main.layers=2",
    "main.hidden_size=64",
    "main.heads=2",
    "main.intermediate_size=128",
    "data.length=64",
    "data.tokenizer.vocabulary_size=1000",
)
IMPORT_ALL = """
import importlib, pathlib, pkgutil, sys, fast_electra
folder = pathlib.Path(fast_electra.__file__).parent
assert folder.is_relative_to(sys.prefix), f"{folder} is not the installed package"
names = [module.name for module in pkgutil.walk_packages([folder], "fast_electra.") if "__main__" not in module.name]
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "triton":  # which only CUDA's PyTorch brings
            raise
print(f"{len(names)} modules imported")
"""
LOAD = """
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("run/model")
model = AutoModelForTokenClassification.from_pretrained("run/model")
logits = model(**tokenizer("one text", return_tensors="pt")).logits
assert logits.isfinite().all() and logits.shape[2] == 2, logits.shape
"""


def run(*command: object, cwd: Path) -> str:
    """Run a command and return its output; what a failing one printed is shown."""
    words = [str(word) for word in command]
    print("  " + " ".join("…" if "\n" in word else word for word in words), flush=True)
    done = subprocess.run(words, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(f"{done.stdout}\n{words[0]} ended with status {done.returncode}")
    return done.stdout


def files_of(wheel: Path) -> dict[str, int]:
    """The package's files in a wheel and their checksums."""
    with zipfile.ZipFile(wheel) as archive:
        return {file.filename: file.CRC for file in archive.infolist() if file.filename.startswith("fast_electra/")}


def build(dist: Path) -> Path:
    """Write sdist and wheel to `dist` and compare the wheel with one from the tree; returns the wheel."""
    shutil.rmtree(dist, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", dist, ROOT, cwd=ROOT)
    (wheel,) = dist.glob("*.whl")
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT, cwd=ROOT)
        (from_tree,) = Path(folder).glob("*.whl")
        assert files_of(from_tree) == files_of(wheel), "the sdist gives another wheel than the tree"
    source = ROOT / "src"
    expected = {
        str(file.relative_to(source))
        for file in (source / "fast_electra").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert expected == set(files_of(wheel)), f"only in the tree or the wheel: {expected ^ set(files_of(wheel))}"
    return wheel


def try_in_empty_environment(wheel: Path, pip_arguments: list[str]) -> None:
    """Install the wheel in a new environment and use it in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        empty, environment = Path(folder, "work"), Path(folder, "environment")
        empty.mkdir()
        venv.create(environment, with_pip=True)
        python, program = environment / "bin/python", environment / "bin/fast-electra"
        constraints = ROOT / "requirements/constraints.txt"
        run(python, "-m", "pip", "install", "--quiet", "--constraint", constraints, *pip_arguments, wheel, cwd=empty)
        print(run(python, "-m", "pip", "check", cwd=empty), end="")
        print(run(python, "-c", IMPORT_ALL, cwd=empty), end="")
        print(run(program, "--version", cwd=empty), end="")
        assert "temperature" in run(program, "config", "show", "quickstart", cwd=empty)
        run(program, "quickstart", "--text", ROOT / "docs", "--run", "run", *SETTINGS, cwd=empty)
        assert "<svg" in (empty / "run/report.html").read_text(encoding="utf-8")
        run(python, "-c", LOAD, cwd=empty)


if __name__ == "__main__":
    started = time.monotonic()
    built = build(ROOT / "dist")
    try_in_empty_environment(built, sys.argv[1:])
    print(f"{built.relative_to(ROOT)} works in an empty environment ({time.monotonic() - started:.0f} s)")
