"""Tables of text, which a terminal prints and a page shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.table import Table
from rich.text import Text

from fast_electra.terminal import Terminal, spelled_out


@dataclass(frozen=True)
class TextTable:
    """A table of text."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    """number of columns, the first ones, that are aligned left"""
    strong: frozenset[tuple[int, int]] = field(default_factory=frozenset)
    """(row, column) of the bold cells"""
    links: Mapping[tuple[int, int], str] = field(default_factory=dict)
    """addresses of cells on a page, by (row, column)"""


def print_table(table: TextTable, console: Terminal) -> None:
    """Print a table to a terminal; returns nothing."""
    shown = Table(
        title=table.caption, title_justify="left", box=None, pad_edge=False, collapse_padding=True, header_style="bold"
    )
    for place, name in enumerate(table.columns):
        shown.add_column(name, justify="left" if place < table.left else "right")
    for row, cells in enumerate(table.rows):
        styles = ("bold" if (row, place) in table.strong else "" for place in range(len(cells)))
        # No-break spaces keep a figure on one line.
        shown.add_row(*map(Text, (spelled_out(cell).replace(" ± ", "\u00a0±\u00a0") for cell in cells), styles))
    console.print(shown)
