"""Runs the tests with the lowest and with the newest supported versions, each in a new environment.

Notable:
- lowest are the versions that `pyproject.toml` promises: `torch>=2.11` becomes `torch==2.11.*`, and so for every
  library that the package needs; newest are what pip chooses;
- without an index of PyTorch's CPU wheels each environment takes about 6 GB, because PyPI's torch brings CUDA.

    python tools/test_versions.py [--only lowest|newest] [--pip="ARGUMENTS"] [what pytest takes]
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHOWN = "import torch, transformers; print(f'torch {torch.__version__}, transformers {transformers.__version__}')"


def lowest() -> list[str]:
    """The lowest versions that the package promises to work with, as constraints for pip."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [re.sub(r">=([\d.]+)", r"==\1.*", requirement) for requirement in project["dependencies"]]


def tested(constraints: list[str], pip_arguments: list[str], pytest_arguments: list[str]) -> int:
    """Make an environment, run the tests in it, and return pytest's status."""
    with tempfile.TemporaryDirectory() as folder:
        environment, file = Path(folder, "environment"), Path(folder, "constraints.txt")
        file.write_text("\n".join(constraints) + "\n")
        venv.create(environment, with_pip=True)
        python = environment / "bin/python"
        install = [python, "-m", "pip", "install", "--quiet", "--constraint", file, *pip_arguments]
        subprocess.run([*install, f"{ROOT}[test,tensorboard]"], check=True)
        subprocess.run([python, "-c", SHOWN], check=True)
        variables = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        return subprocess.run([python, "-m", "pytest", *pytest_arguments], cwd=ROOT, env=variables).returncode


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=("lowest", "newest"))
    parser.add_argument("--pip", default="", help="arguments for pip install")
    given, rest = parser.parse_known_args()
    status = {}
    for name, constraints in {"lowest": lowest(), "newest": []}.items():
        if given.only in (None, name):
            print(f"{name} versions on Python {sys.version_info.major}.{sys.version_info.minor}", flush=True)
            status[name] = tested(constraints, shlex.split(given.pip), rest)
    print("; ".join(f"{name}: {'failed' if failed else 'passed'}" for name, failed in status.items()))
    sys.exit(any(status.values()))
