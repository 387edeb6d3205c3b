"""Runs checks, each in a forked process with a time limit; writes what they find as it comes.

Checks that are timed run alone. Neighbours that are not timed run side by side.
"""

import faulthandler
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

Figures = dict[str, Any]
_LEAST = 5.0
"""seconds that must be left to start a check"""
_UNFINISHED = "not done when this was written"
_PATIENCE = 4
"""factor of a tiny check's time limit: it may run on a busy CPU"""


class Skipped(Exception):
    """A check cannot run here; the message says why."""


class Failed(Exception):
    """A check found something wrong; the message says what."""


@dataclass(frozen=True)
class Trial:
    """What a check is given."""

    folder: Path
    """for its files; the folder exists"""
    tiny: bool
    """small models and few updates"""
    seconds: float
    """after which it is ended"""
    report: Callable[[Figures], None]
    """adds figures to the results at once"""

    def require(self, condition: bool, otherwise: str) -> None:
        """Raise `Failed` with the sentence `otherwise` unless the condition holds."""
        if not condition:
            raise Failed(otherwise)


@dataclass(frozen=True)
class Check:
    """A check."""

    name: str
    function: Callable[[Trial], None]
    seconds: float
    """after which it is ended"""
    timed: bool = True
    """whether another check would disturb what it measures"""


def run_checks(checks: list[Check], out: Path, seconds: float, tiny: bool) -> int:
    """Run checks until the seconds are over.

    Args:
        checks: in order of value.
        out: folder of gpu_check.json, gpu_check.md and a folder and a log for each check.
        seconds: for all of them.
        tiny: small models and few updates.

    Returns:
        1 if a check failed, else 0.
    """
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    rows: list[Figures] = []

    def write() -> None:
        found = {"command": " ".join(sys.argv), "seconds": round(time.monotonic() - began, 1), "checks": rows}
        _replace(out / "gpu_check.json", json.dumps(found, indent=1) + "\n")
        _replace(out / "gpu_check.md", _markdown(found))

    numbers = iter(range(len(checks)))
    for _, together in groupby(checks, key=lambda check: (next(numbers),) if check.timed else ()):
        left = seconds - (time.monotonic() - began)
        started: list[_Started] = []
        for check in together:
            row: Figures = {"name": check.name, "status": "skipped", "seconds": 0.0, "figures": {}}
            rows.append(row)
            if left < _LEAST:
                row["reason"] = "no time was left"
                _print(row)
            else:
                limit = min(check.seconds * (_PATIENCE if tiny else 1), left)
                started.append(_Started(check, row, out, limit, tiny))
        while started:
            wait([one.receiver for one in started], timeout=0.5)
            for one in [one for one in started if one.goes_on() is False]:
                started.remove(one)
                _print(one.row)
            write()
        write()
    return int(any(row["status"] == "failed" for row in rows))


def _print(row: Figures) -> None:
    print(f"{row['name']}: {row['status']}, {row['seconds']:.1f} s  {row.get('reason', '')}", flush=True)


class _Started:
    """A check in a process of its own."""

    def __init__(self, check: Check, row: Figures, out: Path, limit: float, tiny: bool) -> None:
        """Start it; `row` gets its results."""
        context = multiprocessing.get_context("fork")
        self.row, self._name, self._limit = row, check.name, limit
        self.receiver, sender = context.Pipe(duplex=False)
        folder = out / check.name
        folder.mkdir(exist_ok=True)
        self._began = time.monotonic()
        self._process = context.Process(target=_child, args=(check, folder, limit, tiny, sender))
        self._process.start()
        sender.close()
        row |= {"status": "failed", "reason": _UNFINISHED}

    def goes_on(self) -> bool:
        """Read what it has found; once it has ended, or at its time limit, complete its row and return False."""
        row, has_ended = self.row, False
        while self.receiver.poll():
            try:
                found = json.loads(self.receiver.recv_bytes())
            except EOFError:  # its process ended
                has_ended = True
                break
            row["figures"] |= found.pop("figures", {})
            row |= found
        row["seconds"] = round(time.monotonic() - self._began, 3)
        at_limit = row["seconds"] > self._limit
        if not has_ended and self._process.is_alive() and not at_limit:
            return True
        _end(self._process, seconds=0.0 if at_limit else 2.0)
        if row["status"] == "passed":
            del row["reason"]
        elif row["reason"] == _UNFINISHED:
            late = f"not done after {self._limit:.0f} s; {self._name}.log says where it was"
            row["reason"] = late if at_limit else f"its process ended with status {self._process.exitcode}"
        return False


def _child(check: Check, folder: Path, limit: float, tiny: bool, sender: Connection) -> None:
    """Run a check, and send its figures and its status."""
    os.setsid()  # so that the processes that it starts end with it
    log = (folder.parent / f"{check.name}.log").open("w", buffering=1)
    for number in (1, 2):  # also what C++ prints
        os.dup2(log.fileno(), number)
    sys.stdout = sys.stderr = log
    faulthandler.dump_traceback_later(max(1.0, limit - 1), file=log)

    def send(**content: Any) -> None:
        sender.send_bytes(json.dumps(content).encode())

    try:
        check.function(Trial(folder, tiny, limit, lambda figures: send(figures=figures)))
    except Skipped as why:
        send(status="skipped", reason=str(why))
    except BaseException as error:
        traceback.print_exc()
        send(status="failed", reason=str(error) if isinstance(error, Failed) else _one_line(error))
    else:
        send(status="passed")


def _end(process: Any, seconds: float) -> None:
    """End a process that has not ended after some seconds, and those that it has started."""
    process.join(seconds)
    if process.is_alive():
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has not made its group yet
            process.kill()
        process.join()


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _markdown(found: Figures) -> str:
    lines = [f"`{found['command']}`, {found['seconds']:.0f} s", "", "| check | status | s | figures |"]
    lines.append("| --- | --- | ---: | --- |")
    for row in found["checks"]:
        figures = "; ".join(f"{name} {_short(value)}" for name, value in row["figures"].items())
        said = ". ".join(text for text in (row.get("reason"), figures) if text)
        status = f"**{row['status']}**" if row["status"] == "failed" else row["status"]
        cells = (row["name"], status, f"{row['seconds']:.0f}", said.replace("|", "\\|"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _short(value: Any) -> str:
    """A figure as text: three significant digits, and of an interval its median."""
    if isinstance(value, dict) and "median" in value:
        return _short(value["median"])
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_short(one)}" for name, one in value.items()) + ")"
    if isinstance(value, list):
        return ", ".join(map(_short, value))
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _replace(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
