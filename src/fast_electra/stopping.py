"""Ends the work on Ctrl-C, SIGTERM, SIGUSR1 or at a time limit: at once, or where it can be saved first.

Notable:
- by default a request raises `Stopped` at once, as Ctrl-C does in any Python program. Files are complete or absent, so
  nothing is damaged;
- inside `postponed`, which is the training loop, a request waits until the loop calls `asked`. Then the loop writes a
  checkpoint and raises `Interrupted`;
- a second Ctrl-C does not wait, except for a checkpoint that is being written (`unbroken`). A second SIGTERM or SIGUSR1
  changes nothing, because schedulers and launchers send several;
- Python ignores what a signal's handler raises while it frees an object. Such a request is made again a moment later;
- a time limit is a request that comes early enough to save: twice the longest time between two calls of `asked`, which
  includes every checkpoint and validation so far, and `_MARGIN` seconds.
"""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from fast_electra.errors import ConfigError

BY_PERSON = 130
BY_SYSTEM = 75
_MARGIN = 30.0
"""seconds before a time limit, at most a tenth of it"""
_REPEATED = 10.0
"""seconds in which a repeated signal is the same request"""
_MOMENT = 0.05
"""seconds after which an ignored request is made again"""
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class Interrupted(Exception):
    """The work was asked to stop, and is saved. The message says where it stopped."""


class Stopped(KeyboardInterrupt):
    """The work was asked to stop, and ends at once."""


@dataclass(frozen=True)
class Request:
    """Who asked to stop."""

    reason: str
    """SIGINT, SIGTERM, SIGUSR1 or "the time limit of 2h" """
    status: int
    """exit status: `BY_PERSON` or `BY_SYSTEM`"""


class _Requests:
    """The state of the process: signals belong to a process, so there is one object."""

    def __init__(self) -> None:
        self.request: Request | None = None
        self.raised: float | None = None
        self.postponed = self.unbroken = self.again = self.ignored = False
        self.number = int(signal.SIGTERM)
        self.began = time.monotonic()
        self.limit: tuple[float, str] | None = None
        self.last_asked: float | None = None
        self.longest = 0.0
        self.before: dict[str, Any] = {}
        self.hook = sys.unraisablehook
        self.timer: threading.Timer | None = None

    def listen(self, name: str) -> bool:
        """Call `on_signal` for a signal; False where the system or this thread has none."""
        if not hasattr(signal, name) or threading.current_thread() is not threading.main_thread():
            return False
        before = signal.signal(getattr(signal, name), self.on_signal)
        self.before.setdefault(name, before)
        return True

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        first, by_person = self.request is None, number == signal.SIGINT
        ignored, self.ignored, self.number = self.ignored, False, number
        if first:
            name = signal.Signals(number).name
            reason = f"the time limit of {self.limit[1]}" if self.limit and name == "SIGALRM" else name
            self.request = Request(reason, BY_PERSON if by_person else BY_SYSTEM)
        elif not (by_person or ignored) and (self.raised is None or time.monotonic() - self.raised < _REPEATED):
            return
        if self.unbroken:
            self.again = self.again or ignored or (by_person and not first)
        elif not self.postponed or (by_person and not first):
            self.stop()

    def stop(self) -> None:
        self.raised = time.monotonic()
        raise Stopped(self.request.reason if self.request else "")

    def on_ignored(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Make a request again that Python ignored: not here, where another exception would be ignored too."""
        if not isinstance(unraisable.exc_value, Stopped):
            self.hook(unraisable)
            return
        self.ignored = True
        self.timer = threading.Timer(_MOMENT, os.kill, (os.getpid(), self.number))
        self.timer.daemon = True
        self.timer.start()

    def asked(self) -> bool:
        now = time.monotonic()
        if self.postponed:
            self.longest = max(self.longest, now - (self.last_asked or now))
            self.last_asked = now
        if self.request is None and self.limit is not None:
            seconds, text = self.limit
            if now + 2 * self.longest >= self.began + seconds - _margin(seconds):
                self.request = Request(f"the time limit of {text}", BY_SYSTEM)
        return self.request is not None


_requests = _Requests()


@contextmanager
def listening() -> Iterator[None]:
    """Listen to signals, in the main thread of a process; in another thread this does nothing."""
    global _requests
    _requests = _Requests()
    try:
        for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
            _requests.listen(name)
        sys.unraisablehook = _requests.on_ignored
        yield
    finally:
        sys.unraisablehook = _requests.hook
        if _requests.timer is not None:
            _requests.timer.cancel()
        if "SIGALRM" in _requests.before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for name, handler in _requests.before.items():
            signal.signal(getattr(signal, name), handler)
        _requests = _Requests()


def limit_time(text: str | None) -> None:
    """Request a stop before a time since the start of the command has passed; None: no limit.

    Args:
        text: a number with a unit, such as 2h, 90m or 5400 (seconds).

    Raises:
        ConfigError: it is no such text, or 0.
    """
    if text is None:
        return
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhd]?)", text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not seconds:
        raise ConfigError(f"--time-limit {text} is not a duration: give hours, minutes or seconds, such as 2h or 90m.")
    _requests.limit = (seconds, text.strip())
    if _requests.listen("SIGALRM"):
        left = _requests.began + seconds - _margin(seconds) - time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3))


def requested() -> Request | None:
    """Who asked to stop the command; None: nobody did."""
    return _requests.request


def asked() -> bool:
    """Whether to save and stop now. The loop calls this between two updates."""
    return _requests.asked()


@contextmanager
def postponed() -> Iterator[None]:
    """Inside, a request waits for the next call of `asked`; one that was never answered raises `Stopped` at the end."""
    _requests.postponed, _requests.last_asked = True, None
    try:
        yield
    finally:
        _requests.postponed = False
    if _requests.request is not None:
        _requests.stop()


@contextmanager
def unbroken() -> Iterator[None]:
    """Inside, every request waits for the end, also a second Ctrl-C; within `postponed` the first waits for `asked`."""
    before, _requests.unbroken = _requests.request, True
    try:
        yield
    finally:
        _requests.unbroken = False
    if _requests.again or (_requests.request is not before and not _requests.postponed):
        _requests.stop()


def end() -> None:
    """Let further signals change nothing, because the command ends and says so."""
    _requests.unbroken = True


def _margin(seconds: float) -> float:
    return min(_MARGIN, seconds / 10)
