r"""Prints text unchanged on every terminal.

Notable:
- no text is markup: `[lr=1e-3]` in a path, `[/v1]` and `:smile:` are printed unchanged; our styles are arguments;
- lines are never broken or cut; tables are, but only to the width of a terminal;
- control characters are printed as escapes (`\u001b`), so that no name can send commands to the terminal;
- a character that the output's encoding does not have becomes an escape (`\xd7`), never an error. The bytes of a file
  name that is not UTF-8 are printed unchanged;
- if the reader of the output ends (`fast-electra quickstart | head -1`), the work continues without output.
"""

import codecs
import io
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from fast_electra import distributed

Say = Callable[[str], None]
"""called with a message for the user"""
Progress = Callable[[float, float, str], object]
"""called with the finished cost, the total cost and what is computed"""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ERRORS = "fast_electra.escaped"
_SETTING = re.compile(r"[a-z]\w*(\.\w+)+=")


class Terminal(Console):
    """A console on standard output or standard error; the program prints through it only."""

    def __init__(self, *, stderr: bool = False, file: IO[str] | None = None, width: int | None = None, **options: Any):
        """Open a console with the arguments of `rich.console.Console`, without markup, emoji and highlighting.

        Of several processes only rank 0 prints, except with `quiet=False`.
        """
        options = {"markup": False, "emoji": False, "highlight": False, "quiet": not distributed.is_main()} | options
        super().__init__(stderr=stderr, file=file, width=width, **options)
        if width is None and (self.width < 1 or not (self.is_terminal or os.environ.get("COLUMNS"))):
            self.width = 10_000  # a file has no width

    def say(self, *parts: str | tuple[str, str]) -> None:
        """Print a line of parts, each a text or a (text, style), without wrapping."""
        self.print(_Line([(part, "") if isinstance(part, str) else part for part in parts]), soft_wrap=True)

    def render_str(self, text: str, **options: Any) -> Text:
        """The rich text of a table cell or a title, with control characters as escapes."""
        return super().render_str(spelled_out(text), **options)

    def on_broken_pipe(self) -> None:
        """Discard the output from now on."""
        discard(self.file)


@dataclass(frozen=True)
class _Line:
    """A line that rich neither wraps nor changes."""

    parts: Sequence[tuple[str, str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, style in self.parts:
            yield Segment(spelled_out(text), Style.parse(style))
        yield Segment.line()


def duration(seconds: float, space: str = " ") -> str:
    """A time as text: `3.4 s` under ten seconds, `8 min 12 s`, `1 h 05 min`, `3 d 04 h`."""
    if seconds < 9.95:
        return f"{seconds:.1f}{space}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}{space}d {hours:02d}{space}h"
    if hours:
        return f"{hours}{space}h {minutes:02d}{space}min"
    return f"{minutes}{space}min {rest:02d}{space}s" if minutes else f"{rest}{space}s"


class TimeLeft(ProgressColumn):
    """The column of a progress bar with the time left, in days where it is days."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """The time left, or a dash while it is not known."""
        return Text("–" if task.time_remaining is None else duration(task.time_remaining), style="progress.remaining")


class ProgressLines:
    """Tells about progress where there is no terminal: a line every 30 seconds, with the time left."""

    def __init__(self, say: Say, every: float = 30.0):
        """Start the clock.

        Args:
            say: called with each line.
            every: seconds between two lines.
        """
        self._say, self._every = say, every
        self._began = self._last = time.monotonic()
        self._first = self._done = 0.0

    def __call__(self, done: float, total: float, doing: str) -> None:
        """Say how far the work is, unless a line came a short time ago."""
        now = time.monotonic()
        if done < self._done:  # another part of the work
            self._began, self._first = now, done
        self._done = done
        if now - self._last < self._every:
            return
        self._last = now
        line = f"  {doing}: {100 * done / total:.0f} %" if total else f"  {doing}"
        if total and done > self._first:
            left = (now - self._began) / (done - self._first) * (total - done)
            line += f", {duration(left)} left"
        self._say(line)


@contextmanager
def shown_progress(console: Terminal) -> Iterator[Progress]:
    """Show the progress of a long command: a bar in a terminal, elsewhere a line every 30 seconds."""
    if not console.is_terminal:
        yield ProgressLines(console.say)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeLeft(),
    )
    with Bars(*columns, console=console, transient=True) as display:
        bar = display.add_task("", total=None, visible=False)

        def progress(done: float, total: float, doing: str) -> None:
            display.update(bar, completed=done, total=total or None, description=doing, visible=True)

        yield progress


def spelled_out(text: str) -> str:
    """A text with control characters as escapes, except tabs and line feeds."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def tell(message: str) -> None:
    """Print a message on standard error: where a caller gives no other `say`."""
    Terminal(stderr=True).say(message)


def print_json(content: Any, indent: int | None = None) -> None:
    """Print JSON on standard output, in ASCII, which every encoding has."""
    Terminal().say(json.dumps(content, indent=indent))


def command(*words: object) -> str:
    """A command of this program, quoted for a shell."""
    return shlex.join(["fast-electra", *map(str, words)])


arguments: list[str] = []
"""the words behind `fast-electra`, as they were given"""


def split_settings(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command without its settings (section.key=value), and the settings.

    The word behind an option is the option's value, and stays.
    """
    others: list[str] = []
    settings: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        is_setting = _SETTING.match(word) and not before.startswith("-")
        (settings if is_setting else others).append(word)
    return others, settings


def command_given() -> str:
    """The running command as a shell takes it, its settings last; "" in other programs.

    `--json`, which changes no result, is left out.
    """
    others, settings = split_settings([word for word in arguments if word != "--json"])
    return command(*others, *settings) if arguments else ""


def prepare_streams() -> None:
    """Make standard input, output and error usable, also if they are closed; may be called repeatedly."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # Closed (`>&-`): the next file that is opened would get its number, and the output of libraries.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    codecs.register_error(_ERRORS, _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def discard(stream: IO[str]) -> None:
    """Discard everything that is written to a stream of the process from now on."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _escaped(error: UnicodeError) -> tuple[bytes, int]:
    """The replacement for characters that cannot be encoded: the byte of a file name, or an escape."""
    assert isinstance(error, UnicodeEncodeError)
    characters = error.object[error.start : error.end]
    escaped = (
        bytes([ord(one) - 0xDC00]) if "\udc80" <= one <= "\udcff" else one.encode("ascii", "backslashreplace")
        for one in characters
    )
    return b"".join(escaped), error.end
