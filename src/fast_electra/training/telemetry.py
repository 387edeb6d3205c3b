"""What a run says of itself: metrics as JSON lines, TensorBoard, a progress bar with time left, or plain lines.

Notable:
- metrics go to `metrics.jsonl`, one object a logged update; everything that depends on the clock lies under `timing`;
- resuming cuts the file after the checkpoint's update, so no update is there twice;
- the loop knows only `Observer`; these hang on it from outside.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fast_electra.runs.metrics import Record, cut_metrics
from fast_electra.terminal import Terminal


class Observer(Protocol):
    """Hangs on the training loop."""

    def started(self, update: int, updates: int) -> None:
        """The loop starts at `update` of `updates`."""
        ...

    def updated(self, update: int) -> None:
        """`update` updates are done."""
        ...

    def logged(self, record: Record) -> None:
        """A record of metrics was made; an observer may add to it for those that come after."""
        ...

    def finished(self) -> None:
        """The loop has ended, in whatever way."""
        ...


class QuietObserver:
    """Does nothing: base of observers that need only some of the calls."""

    def started(self, update: int, updates: int) -> None:
        """Nothing."""

    def updated(self, update: int) -> None:
        """Nothing."""

    def logged(self, record: Record) -> None:
        """Nothing."""

    def finished(self) -> None:
        """Nothing."""


class MetricsFile(QuietObserver):
    """Appends records to `metrics.jsonl`."""

    def __init__(self, path: Path, keep_through: int):
        """Keep the records up to update `keep_through` and cut the rest."""
        cut_metrics(path, keep_through)
        self._file = path.open("a", encoding="utf-8")

    def logged(self, record: Record) -> None:
        """Write one line, at once."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def finished(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard(QuietObserver):
    """Writes the records as TensorBoard scalars (extra `tensorboard`)."""

    def __init__(self, folder: Path):
        """Events go to `folder`."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def logged(self, record: Record) -> None:
        """Every number of the record, nested names joined by a slash."""
        for name, value in _numbers(record):
            if name != "update":
                self._writer.add_scalar(name, value, record["update"])

    def finished(self) -> None:
        """Flush and close."""
        self._writer.close()


class ProgressDisplay:
    """A bar with loss, temperature, speed and time left on a terminal; a line every 30 seconds elsewhere."""

    def __init__(self, console: Terminal, title: str):
        """`title` stands before the bar."""
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
                TimeRemainingColumn(),
                TextColumn("{task.fields[facts]}", style="dim"),
                console=self._console,
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task(self._title, total=updates, completed=update, facts="")

    def updated(self, update: int) -> None:
        """Move the bar."""
        if self._progress:
            self._progress.update(self._task, completed=update, facts=self._facts)
        elif time.monotonic() - self._last_line > 30:
            self._last_line = time.monotonic()
            left = (self._last_line - self._began) / max(1, update - self._first) * (self._updates - update)
            self._console.say(f"  {self._title}: {update}/{self._updates}, {left:.0f} s left, {self._facts}")

    def logged(self, record: Record) -> None:
        """Take the facts to show from the record."""
        parts = [f"loss {record['loss']:.3f}"] if "loss" in record else []
        if "temperature" in record:
            parts.append(f"T {record['temperature']:.2f}")
        if "tokens_per_second" in record.get("timing", {}):
            parts.append(f"{record['timing']['tokens_per_second']:,.0f} tokens/s")
        if parts:
            self._facts = ", ".join(parts)

    def finished(self) -> None:
        """Take the bar away."""
        if self._progress:
            self._progress.stop()


def _numbers(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in record.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found.append((prefix + name, float(value)))
    return found
