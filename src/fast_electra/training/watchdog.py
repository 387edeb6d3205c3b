"""Ends a run that hangs: a reader that waits for a file system, or an exchange that waits for another process."""

import faulthandler
import os
import sys
import threading
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
        self._seconds, self._updates = seconds, 0
        self._stopped = threading.Event()

    def updated(self, update: int) -> None:
        """Called after each update."""
        self._updates += 1

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
        # Steps are counted, and no clock is read: a process that was stopped, as by Ctrl-Z, did not hang meanwhile.
        step, waited, seen = min(1.0, self._seconds / 20), 0.0, self._updates
        while not self._stopped.wait(step):
            waited = waited + step if self._updates == seen else 0.0
            seen = self._updates
            if waited < self._seconds:
                continue
            print(
                f"error: no update was finished for {self._seconds / 60:.3g} minutes (training.longest_update): the "
                "run ends, and the same command continues from its newest checkpoint; all threads' stacks follow.",
                file=sys.stderr,
                flush=True,
            )
            faulthandler.dump_traceback(sys.__stderr__ or sys.stderr)
            os._exit(1)
