"""CoNLL files: a word and its tag on each line, a blank line after each sentence.

Notable: they are recognised by their ending, or else by their content (`is_conll`).
"""

import io
from collections.abc import Iterator
from pathlib import Path

from fast_electra.data.text_files import LOOKED_AT, open_text
from fast_electra.errors import DataError
from fast_electra.evaluation.entities import is_prefixed
from fast_electra.evaluation.tables import Table, read_text
from fast_electra.evaluation.tasks import OUTSIDE

CONLL_ENDINGS = (".conll", ".iob", ".iob2", ".bio", ".bioes")


def is_conll(path: Path) -> bool:
    """Return whether a file has one word on each line, with the tag of an entity in the last of two to five columns.

    The ending of the name (.conll, .iob, .bio, …) decides, or the first lines: a table begins with a header, whose
    last column is not a tag.
    """
    ending = path.suffix.lower()
    if ending in CONLL_ENDINGS:
        return True
    if ending in {".csv", ".jsonl", ".ndjson", ".parquet"} or not path.is_file():
        return False
    with open_text(path, "name another file") as (_, file):
        text = file.read(LOOKED_AT).decode("utf-8-sig", errors="replace")
    words = [fields for _, fields in _conll_lines(text.rpartition("\n")[0] or text) if fields][:200]
    widths = {len(fields) for fields in words}
    tagged = [fields[-1] == OUTSIDE or is_prefixed(fields[-1]) for fields in words]
    return len(widths) == 1 and 2 <= widths.pop() <= 5 and tagged[0] and 2 * sum(tagged) > len(tagged)


def _conll_lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield number and fields of every line that is not a comment; [] where a sentence ends."""
    width = 0
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        line = line.removesuffix("\n")
        # Only spaces separate columns: a word may contain U+00A0 and similar characters.
        fields = [f.strip(" ") for f in line.split("\t")] if "\t" in line else [f for f in line.split(" ") if f]
        if not any(fields) or fields[0] == "-DOCSTART-":
            yield number, []
            continue
        is_tag = fields[-1] == OUTSIDE or is_prefixed(fields[-1])
        if fields[0].startswith("#") and not (len(fields) == (width or 2) and is_tag):  # the word "#" has a tag
            continue
        width = width or len(fields)
        yield number, fields


def read_conll(path: Path) -> Table:
    """Read the sentences of a CoNLL file.

    Returns:
        a table whose columns "words" and "tags" have a list for each sentence.

    Raises:
        DataError: the file cannot be read, or a line has too few or too many columns, or another number of columns
            than the lines before it.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file; give one with a word and its tag on each line.")
    table = Table(path, "line", [], {"words": [], "tags": []})
    width = 0
    is_open = False
    for number, fields in _conll_lines(read_text(path)):
        if not fields:
            is_open = False
            continue
        if not is_open:
            table.rows.append(number)
            for column in (*table.columns.values(), table.word_lines):
                column.append([])
            is_open = True
        if len(fields) != (width or len(fields)) or not 2 <= len(fields) <= 5 or not fields[-1]:
            columns = "1 column" if len(fields) == 1 else f"{len(fields)} columns"
            there = f"the lines before it have {width}" if width else "two to five are needed"
            problem = f"{columns}, but {there}" if fields[-1] else "the last column is empty"
            raise DataError(
                f"{path}, line {number}: {problem}; write one word on each line, with its tag in the last column."
            )
        width = len(fields)
        table.columns["words"][-1].append(fields[0])
        table.columns["tags"][-1].append(fields[-1])
        table.word_lines[-1].append(number)
    return table
