"""Tables read from TSV, CSV, JSON lines and Parquet files.

Notable:
- every row keeps its line number, so that every error message can name the line;
- TSV has no quoting, as in GLUE's files, unless the whole file agrees with quoting, as pandas writes it (`_quoted`).
  CSV has, with line breaks inside quotes, by Python's csv module.
"""

import csv
import difflib
import io
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from fast_electra.data.columns import opened_parquet
from fast_electra.data.text_files import CONVERT, LOOKED_AT, flat, open_text, refuse_whole_json
from fast_electra.errors import DataError

ENDINGS = (".tsv", ".csv", ".jsonl", ".ndjson", ".parquet")
_NO_TABS = "take the tabs out of its texts, or save the table as a .csv file"
LONGEST_FIELD = 2**31 - 1  # characters; the default limit of the csv module is 131,072


@dataclass(frozen=True)
class Table:
    """Some columns of a file."""

    path: Path
    unit: str
    """what `rows` counts: "line", or "row" for Parquet"""
    rows: list[int]
    """where each row begins in the file, from 1"""
    columns: dict[str, list[Any]]
    """values of each column: text for TSV and CSV, any value for JSON and Parquet"""
    word_lines: list[list[int]] = field(default_factory=list)
    """of a CoNLL file the line number of each word, a list for each sentence"""

    def refuse(self, row: int, problem: str, word: int = 0) -> NoReturn:
        """Raise a DataError that names the line of a row, or in a CoNLL file the line of a word."""
        line = self.word_lines[row][word] if self.word_lines else self.rows[row]
        raise DataError(f"{self.path}, {self.unit} {line}: {problem}")


def read_text(path: Path) -> str:
    """Read a UTF-8 file, which may be compressed (`data/text_files.py`).

    Returns:
        the text without a byte-order mark; line ends are unchanged.

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    with open_text(path, "name another file") as (_, file):
        content = file.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 ({error.reason}); {CONVERT}.") from error


def tsv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of each line of a tab-separated file without quoting, except blank lines."""
    # Not splitlines: a text may have U+0085 or U+2028, which do not end a line here.
    for number, line in enumerate(io.StringIO(read_text(path), newline=None), 1):
        if line != "\n":
            yield number, line.removesuffix("\n").split("\t")


def _delimited_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each record of a CSV file, or of a tab-separated file that may be quoted."""
    if path.suffix.lower() == ".csv":
        return csv_rows(path)
    plain = list(tsv_rows(path))
    return iter(_quoted(path, plain) or plain)


_QUOTED = re.compile(r'"(?:[^"]|"")*"')


def _quoted(path: Path, plain: Sequence[tuple[int, list[str]]]) -> list[tuple[int, list[str]]] | None:
    """The rows of a quoted tab-separated file; None if reading it without quoting is right.

    Where every line has all columns, the file is quoted if each field that begins with a quote is a quoted one, and if
    some quotes in it are doubled or the names of columns are quoted. Else it is quoted if all columns are there with
    quoting, which allows tabs and line breaks in texts.
    """
    if not plain:
        return None
    header = plain[0][1]
    if all(len(fields) == len(header) for _, fields in plain):
        begun = [field for _, fields in plain for field in fields if field.startswith('"')]
        sure = header[0].startswith('"') or any('""' in field[1:-1] for field in begun)
        if not sure or not all(map(_QUOTED.fullmatch, begun)):
            return None
    try:
        rows = list(csv_rows(path, "\t"))
    except DataError:
        return None
    return rows if all(len(fields) == len(header) for _, fields in rows) else None


def csv_rows(path: Path, divider: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the first line and the fields of each record of a file with quoting, separated by `divider`.

    Raises:
        DataError: quotes are not closed or not doubled.
    """
    limit = csv.field_size_limit(LONGEST_FIELD)
    text = io.StringIO(read_text(path), newline="")
    reader = csv.reader(text, delimiter=divider, strict=True, skipinitialspace=divider == ",")
    number = 1
    try:
        for fields in reader:
            if fields:
                yield number, fields
            number = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {number}: not CSV ({error}); double the quotes inside a quoted field, or save the file as "
            "TSV."
        ) from error
    finally:
        csv.field_size_limit(limit)


def read_table(path: Path, wanted: Sequence[str]) -> Table:
    """Read columns of a TSV, CSV, JSON lines or Parquet file. The ending of its name says which of these it is.

    Args:
        path: the file.
        wanted: names of the columns.

    Returns:
        a table with these columns.

    Raises:
        DataError: the file cannot be read or has another ending, a column is missing, or a row has too many or too
            few fields.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file; give one ({' '.join(ENDINGS)}).")
    match path.suffix.lower():
        case ".tsv" | ".csv":
            return _with_header(path, wanted)
        case ".jsonl" | ".ndjson":
            return json_lines(path, wanted)
        case ".parquet":
            return _parquet(path, wanted)
    raise DataError(
        f"{path}: the ending of the name is not known; rename the file so that it ends with one of {' '.join(ENDINGS)}."
    )


def _header(rows: Iterator[tuple[int, list[str]]]) -> list[str]:
    return [name.strip() for name in next(rows, (1, []))[1]]


def _with_header(path: Path, wanted: Sequence[str]) -> Table:
    rows = _delimited_rows(path)
    header = _header(rows)
    for name in wanted:
        _refuse_another_divider(path, name, header)
        require_column(path, name, header)
        if header.count(name) > 1:
            raise DataError(f"{path}, line 1: two columns have the name {name}; rename one of them.")
    places = [header.index(name) for name in wanted]
    table = Table(path, "line", [], {name: [] for name in wanted})
    for number, fields in rows:
        table.rows.append(number)
        if len(fields) != len(header):
            remedy = "put a text with a comma in double quotes" if path.suffix.lower() == ".csv" else _NO_TABS
            table.refuse(-1, f"{len(fields)} columns, but the first line has {len(header)}; {remedy}.")
        for name, place in zip(wanted, places, strict=True):
            table.columns[name].append(fields[place])
    return table


def json_lines(path: Path, wanted: Sequence[str], optional: Sequence[str] = ()) -> Table:
    """Read a file with one JSON object on each line.

    Args:
        path: the file.
        wanted: keys that every line must have.
        optional: keys that a line may have.

    Returns:
        a table with a column for each key; None where a line lacks an optional key.

    Raises:
        DataError: a line is not a JSON object, or lacks a wanted key.
    """
    table = Table(path, "line", [], {name: [] for name in (*wanted, *optional)})
    for number, line in enumerate(_lines_of_json(path), 1):
        if not line.strip():
            continue
        table.rows.append(number)
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            table.refuse(-1, f"not JSON ({error}); correct or remove the line.")
        if not isinstance(content, dict):
            table.refuse(-1, "not a JSON object; write one object on each line, with the columns as its keys.")
        content = flat(content)
        for name in wanted:
            require_column(path, name, list(content), f", line {number}")
            table.columns[name].append(content[name])
        for name in optional:
            table.columns[name].append(content.get(name))
    return table


def _lines_of_json(path: Path) -> io.StringIO:
    text = read_text(path)
    refuse_whole_json(text[:LOOKED_AT].encode(), path)
    return io.StringIO(text, newline=None)


def _parquet(path: Path, wanted: Sequence[str]) -> Table:
    with opened_parquet(path, path) as file:
        for name in wanted:
            require_column(path, name, file.schema_arrow.names)
        columns = file.read(columns=list(wanted)).to_pydict()
    return Table(path, "row", list(range(1, len(columns[wanted[0]]) + 1)), columns)


def _refuse_another_divider(path: Path, name: str, header: Sequence[str]) -> None:
    """Raise a DataError for a table with one column because its columns are separated by another character."""
    divider = next((one for one in (";", "\t", "|", ",") if one in header[0]), None) if len(header) == 1 else None
    if divider is not None and name not in header:
        right = "tabs" if path.suffix.lower() == ".tsv" else "commas"
        written = f"delimiter={divider!r}"
        program = f"import csv, sys; csv.writer(sys.stdout).writerows(csv.reader(sys.stdin, {written}))"
        command = f"python -c {shlex.quote(program)} < {shlex.quote(str(path))} > NEW.csv"
        raise DataError(
            f"{path}, line 1: there is only one column, {header[0]}, because columns must be separated by {right}; "
            f"convert the file to commas, for example with `{command}`, and give the new file."
        )


def require_column(path: Path, name: str, there: Sequence[str], where: str = "") -> None:
    """Check that a column is among those of a file.

    Raises:
        DataError: it is not; the message names the most similar column.
    """
    if name not in there:
        close = difflib.get_close_matches(name, there, n=1)
        remedy = f"did you mean {close[0]}?" if close else f"the columns are {', '.join(there) or '(none)'}."
        raise DataError(f"{path}{where}: there is no column {name}; {remedy}")


def column_names(path: Path) -> list[str]:
    """Return the names of all columns of a file.

    Raises:
        DataError: the file cannot be read, or the ending of its name is not known.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file; give one ({' '.join(ENDINGS)}), or a CoNLL file.")
    match path.suffix.lower():
        case ".tsv" | ".csv":
            return _header(_delimited_rows(path))
        case ".jsonl" | ".ndjson":
            line = next((line for line in _lines_of_json(path) if line.strip()), "{}")
            try:
                content = json.loads(line)
            except (ValueError, RecursionError):
                content = None
            return list(flat(content)) if isinstance(content, dict) else []
        case ".parquet":
            with opened_parquet(path, path) as file:
                return list(file.schema_arrow.names)
    raise DataError(
        f"{path} is not a CoNLL file, and the ending of its name is not known; rename it so that it ends with one of "
        f"{' '.join(ENDINGS)}."
    )
