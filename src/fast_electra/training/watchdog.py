"""Ends a run that hangs: a reader that waits for a file system, or an exchange that waits for another process."""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fast_electra.training.telemetry import QuietObserver


class Watchdog(QuietObserver):
    """Prints the stacks of all threads and ends the process, if no update was finished for some time."""

    def __init__(self, seconds: float) -> None:
        """Watch from now on.

        Args:
            seconds: the longest time between two updates.
        """
        self._seconds, self._last = seconds, time.monotonic()
        self._stopped = threading.Event()

    def updated(self, update: int) -> None:
        """Called after each update."""
        self._last = time.monotonic()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch within the block."""
        thread = threading.Thread(target=self._watch, name="fast-electra-watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(max(0.01, self._last + self._seconds - time.monotonic())):
            if time.monotonic() < self._last + self._seconds:
                continue
            print(
                f"error: no update was finished for {self._seconds / 60:.3g} minutes (training.longest_update): the "
                "run ends, and the same command continues from its newest checkpoint; all threads' stacks follow.",
                file=sys.stderr,
                flush=True,
            )
            faulthandler.dump_traceback(sys.__stderr__ or sys.stderr)
            os._exit(1)
