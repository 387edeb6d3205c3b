"""Observers of the training loop: metrics as JSON lines, and a progress bar or plain lines.

Notable:
- `metrics.jsonl` has one object per logged update; everything that depends on the clock is under `timing`;
- resuming removes the records after the checkpoint's update, so no update appears twice; no checkpoint exists without
  the records before it;
- the loop knows only the protocol `Observer`.
"""

import os
import time
from pathlib import Path
from typing import Protocol

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from fast_electra.data.disk import writing
from fast_electra.runs.metrics import Record, cut_metrics, metrics_line
from fast_electra.terminal import Say, Terminal, TimeLeft, duration


class Observer(Protocol):
    """Methods that the training loop calls."""

    def started(self, update: int, updates: int) -> None:
        """Called before the first update: `update` of `updates` are already done."""
        ...

    def updated(self, update: int) -> None:
        """Called after each update: `update` updates are done."""
        ...

    def logged(self, record: Record) -> None:
        """Called with each record of metrics. An observer may add keys, which later observers see."""
        ...

    def finished(self) -> None:
        """Called when the loop ends, also after an error."""
        ...


class QuietObserver:
    """Base class of observers that need only some of the calls; its methods do nothing."""

    def started(self, update: int, updates: int) -> None:
        """Do nothing."""

    def updated(self, update: int) -> None:
        """Do nothing."""

    def logged(self, record: Record) -> None:
        """Do nothing."""

    def finished(self) -> None:
        """Do nothing."""


class MetricsFile(QuietObserver):
    """Appends records to `metrics.jsonl`."""

    def __init__(self, path: Path, keep_through: int, say: Say):
        """Open the file, and remove the records after update `keep_through`; `say` is called about damaged lines."""
        self._path = path
        with writing(path):
            cut_metrics(path, keep_through, say)
            self._file = path.open("a", encoding="utf-8")

    def logged(self, record: Record) -> None:
        """Write one line and flush it."""
        with writing(self._path):
            self._file.write(metrics_line(record))
            self._file.flush()

    def sync(self) -> None:
        """Make the lines durable: a checkpoint must not exist without the records before it."""
        with writing(self._path):
            os.fsync(self._file.fileno())

    def finished(self) -> None:
        """Close the file."""
        with self._file:
            self.sync()


class ProgressDisplay:
    """A progress bar with loss, temperature, speed and time left; without a terminal, a line every 30 seconds."""

    def __init__(self, console: Terminal, title: str):
        """Prepare the display; `title` is the text before the bar."""
        self._console = console
        self._title = title
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._facts = ""
        self._updates = 0
        self._first = 0
        self._began = self._last_line = time.monotonic()

    def started(self, update: int, updates: int) -> None:
        """Show the bar."""
        self._updates, self._first = updates, update
        self._began = self._last_line = time.monotonic()
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("  {task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.completed}/{task.total}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeLeft(),
                TextColumn("{task.fields[facts]}", style="dim"),
                console=self._console,
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task(self._title, total=updates, completed=update, facts="")

    def updated(self, update: int) -> None:
        """Update the bar, or print a line if 30 seconds have passed."""
        if self._progress:
            self._progress.update(self._task, completed=update, facts=self._facts)
        elif time.monotonic() - self._last_line > 30:
            self._last_line = time.monotonic()
            left = (self._last_line - self._began) / max(1, update - self._first) * (self._updates - update)
            self._console.say(f"  {self._title}: {update}/{self._updates}, {duration(left)} left, {self._facts}")

    def logged(self, record: Record) -> None:
        """Take the loss, temperature and speed to show from the record."""
        parts = [f"loss {record['loss']:.3f}"] if "loss" in record else []
        if "temperature" in record:
            parts.append(f"T {record['temperature']:.2f}")
        if "tokens_per_second" in record.get("timing", {}):
            parts.append(f"{record['timing']['tokens_per_second']:,.0f} tokens/s")
        if parts:
            self._facts = ", ".join(parts)

    def finished(self) -> None:
        """Remove the bar."""
        if self._progress:
            self._progress.stop()
