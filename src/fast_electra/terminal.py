r"""What the program prints: every text comes out as it went in, on every terminal.

Notable:
- no text is markup: `[lr=1e-3]` in a path, `[/v1]` and `:smile:` stay as they are; our own styles are arguments;
- lines are never broken or cut, and tables only where there is a terminal with an edge;
- control characters are spelled out (`\u001b`), so that no name can send commands to the terminal;
- a character that the output's encoding lacks becomes an escape (`\xd7`), never an error; the bytes of a file name that
  is not UTF-8 come out as they are;
- when nobody reads any more (`fast-electra quickstart | head -1`), the work goes on and its output is thrown away.
"""

import codecs
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ERRORS = "fast_electra.escaped"


class Terminal(Console):
    """Standard output or standard error; the only console of this program."""

    def __init__(self, *, stderr: bool = False, file: IO[str] | None = None, width: int | None = None, **options: Any):
        """Open it as `rich.console.Console` does, without markup, emoji and highlighting."""
        super().__init__(stderr=stderr, file=file, width=width, markup=False, emoji=False, highlight=False, **options)
        if width is None and (self.width < 1 or not (self.is_terminal or os.environ.get("COLUMNS"))):
            self.width = 10_000  # a file has no edge

    def say(self, *parts: str | tuple[str, str]) -> None:
        """Print a line as it is, of texts and of (text, style)."""
        self.print(_Line([(part, "") if isinstance(part, str) else part for part in parts]), soft_wrap=True)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make a table's or a title's text from a string."""
        return super().render_str(spelled_out(text), **options)

    def on_broken_pipe(self) -> None:
        """Throw away what is printed from now on."""
        discard(self.file)


@dataclass(frozen=True)
class _Line:
    """A line that rich neither wraps nor changes."""

    parts: Sequence[tuple[str, str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, style in self.parts:
            yield Segment(spelled_out(text), Style.parse(style))
        yield Segment.line()


def spelled_out(text: str) -> str:
    """A text with its control characters as escapes, but for tabs and line feeds."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def print_json(content: Any, indent: int | None = None) -> None:
    """Print JSON in ASCII, which every encoding has, on standard output."""
    Terminal().say(json.dumps(content, indent=indent))


def command(*words: object) -> str:
    """A command of this program as a shell takes it."""
    return shlex.join(["fast-electra", *map(str, words)])


def prepare_streams() -> None:
    """Make standard input, output and error usable, whatever they are; once is enough, twice does no harm."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # Closed (`>&-`): the next file that is opened would take its number, and get what libraries print.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    codecs.register_error(_ERRORS, _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def discard(stream: IO[str]) -> None:
    """Send what is written to a stream of the process from now on to nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _escaped(error: UnicodeError) -> tuple[bytes, int]:
    """What stands for characters that can't be encoded: the byte of a file name, or an escape."""
    assert isinstance(error, UnicodeEncodeError)
    characters = error.object[error.start : error.end]
    escaped = (
        bytes([ord(one) - 0xDC00]) if "\udc80" <= one <= "\udcff" else one.encode("ascii", "backslashreplace")
        for one in characters
    )
    return b"".join(escaped), error.end
