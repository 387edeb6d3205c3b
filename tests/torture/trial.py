"""What a trial is, and processes to try things in."""

import contextlib
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from multiprocessing import forkserver
from pathlib import Path

from fast_electra.cli.main import main
from tests import processes
from tests.cli.test_full_disk import COMMANDS as SHORT

COMMANDS = SHORT | {
    "study": "study study.yaml --out OUT",
    "quickstart": "quickstart --text texts --run OUT main.layers=1 main.hidden_size=32 main.heads=2 "
    "main.intermediate_size=32 training.updates=4 training.checkpoint_every=2 training.validation_sequences=8 "
    "data.tokenizer.vocabulary_size=300 data.length=32 data.validation_fraction=0.1 data.workers=1",
}
"""commands that write; those that are made of others take seconds, and are not in the tests of a full disk"""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
FAILED = "FAILED"


@dataclass(frozen=True)
class Trial:
    """What was done, the outcome in a word or two, or `FAILED`, and what was said."""

    did: str
    outcome: str
    said: str = ""


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str
    does: str
    trials: Callable[[float], Iterator[Trial]]
    """called with the share of the trials to make, in (0, 1]"""


def some(count: int, scale: float, name: str = "") -> int:
    """That share of a count, at least 1; a quarter of it for a command that takes seconds."""
    return max(1, ceil(count * scale / (1 if name in SHORT or not name else 4)))


def words_of(name: str, out: Path) -> list[str]:
    """The words of a command of `COMMANDS`, which writes into `out`; those it reads are in the working folder."""
    return [word.replace("OUT", str(out)).replace("RUN", "run") for word in COMMANDS[name].split(" ")]


def judged(did: str, status: int, said: str, allowed: dict[int, str]) -> Trial:
    """A trial of a command, by its exit status: the outcome that is allowed, if it ended with one sentence."""
    lines = said.splitlines()
    if "Traceback" in said or status not in allowed:
        return Trial(did, FAILED, f"status {status}: {said}")
    if status in (1, 2) and not (lines and lines[-1].startswith("error: ")):
        return Trial(did, FAILED, f"status {status} without a sentence: {said}")
    return Trial(did, allowed[status], said)


def content(folder: Path) -> list[str]:
    """The names of all files and folders in a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def left_over(folder: Path) -> list[str]:
    """The names of files and folders that a finished command must not leave."""
    return [name for name in content(folder) if name.endswith((".partial", ".tmp"))]


class Started:
    """A command in a process of its own.

    The process is forked from one that has imported everything and computed nothing, so that what happens to it happens
    during its work. Until it listens to signals it ignores them.
    """

    def __init__(self, words: list[str], log: Path, prepare: Sequence[Callable[[], object]] = ()):
        """Start a command; functions of a module, or partial ones, are called in the process before it."""
        self._log = log
        log.unlink(missing_ok=True)
        self._process = processes.context().Process(target=_work, args=(words, os.getcwd(), str(log), prepare))
        self._process.start()
        while not log.exists() and self._process.is_alive():
            time.sleep(0.002)

    def send(self, *numbers: int) -> None:
        """Send signals to the process, unless it has ended."""
        for number in numbers:
            if self._process.is_alive():
                with contextlib.suppress(ProcessLookupError):  # it has ended since
                    os.kill(self._process.pid or 0, number)
                time.sleep(random.random() * 0.02)

    def wait(self, seconds: float) -> None:
        """Wait until this number of seconds has passed or the process has ended."""
        self._process.join(seconds)

    def end(self, seconds: float = 1800.0) -> int:
        """Wait for the end; returns the exit status, -9 if it was killed; after some seconds kills it."""
        self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
            return -1
        return self._process.exitcode or 0

    def said(self) -> str:
        """What the process wrote."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def cpu_seconds() -> float:
    """Seconds that processors have worked for this process and all that it started, which must have ended."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined] # ended, it counts with all processes that it forked
    used = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(part.ru_utime + part.ru_stime for part in used)


def _work(words: list[str], folder: str, log: str, prepare: Sequence[Callable[[], object]]) -> None:
    os.chdir(folder)
    status = 1
    try:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(file, stream)
        assert "tests.torture.imported" in sys.modules, "an error of this module is hidden"
        for function in prepare:
            function()
        status = main(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
