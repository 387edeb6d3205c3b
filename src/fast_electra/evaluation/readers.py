"""Tables out of files, and one's own task out of two of them.

Notable:
- every row keeps its line, so that every complaint can name it;
- TSV has no quoting, as in GLUE's files; CSV has, with line breaks inside quotes, by Python's csv module;
- CoNLL files (a word and its tag a line) are recognised by what is in them, whatever they are called: `is_conll`;
- what kind of task it is, is read off the labels of all files together: `guess_kind`;
- without a dev file a tenth of train becomes one, drawn by the seed; equal texts stay on one side.
"""

import csv
import difflib
import io
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np

from fast_electra.data.text_files import CONVERT, LOOKED_AT, flat, open_text, refuse_whole_json, shown
from fast_electra.errors import DataError
from fast_electra.evaluation.entities import class_names, classes_of, is_prefixed, read_spans
from fast_electra.evaluation.tasks import ENTITY_F1, OUTSIDE, TEST, Kind, Split, Task, make_task

CONLL_ENDINGS = (".conll", ".iob", ".iob2", ".bio", ".bioes")
ENDINGS = (".tsv", ".csv", ".jsonl", ".ndjson", ".parquet")
DEV_SHARE = 0.1
_NO_TABS = "take the tabs out of its texts, or save the table as CSV"
LONGEST_FIELD = 2**31 - 1  # characters; the csv module's own limit is 131,072
_DECIMAL = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?")
_WHOLE = re.compile(r"[+-]?\d+")
_IGNORED = "-100"
"""PyTorch's and Transformers' mark of what has no label"""


@dataclass(frozen=True)
class Table:
    """Some columns of a file."""

    path: Path
    unit: str
    """what `rows` count: "line", or "row" for Parquet"""
    rows: list[int]
    """where each row begins in the file, from 1"""
    columns: dict[str, list[Any]]
    """values by column: text in TSV and CSV, whatever JSON and Parquet hold elsewhere"""
    word_lines: list[list[int]] = field(default_factory=list)
    """line of each word of a CoNLL file, a list a sentence"""

    def refuse(self, row: int, problem: str, word: int = 0) -> NoReturn:
        """DataError that says where: the row's line, or in a CoNLL file the word's."""
        line = self.word_lines[row][word] if self.word_lines else self.rows[row]
        raise DataError(f"{self.path}, {self.unit} {line}: {problem}")


# --- Files ------------------------------------------------------------------------------------------------------------


def read_text(path: Path) -> str:
    """A UTF-8 file, also packed (text_files.py), a byte-order mark dropped, line ends as they are.

    DataError where it isn't one.
    """
    with open_text(path, "name another file") as (_, file):
        content = file.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 ({error.reason}); {CONVERT}.") from error


def tsv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and fields of a tab-separated file without quoting; blank lines are left out."""
    # Not splitlines: a text may hold U+0085 or U+2028, which are no line ends here.
    for number, line in enumerate(io.StringIO(read_text(path), newline=None), 1):
        if line != "\n":
            yield number, line.removesuffix("\n").split("\t")


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """First lines and fields of the records of a comma-separated file; DataError for broken quotes."""
    limit = csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True, skipinitialspace=True)
    number = 1
    try:
        for fields in reader:
            if fields:
                yield number, fields
            number = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {number}: not CSV ({error}); double the quotes inside a quoted field, or save it as TSV."
        ) from error
    finally:
        csv.field_size_limit(limit)


def read_table(path: Path, wanted: Sequence[str]) -> Table:
    """The columns `wanted` of a TSV, CSV, JSON lines or Parquet file, by its name's ending.

    Raises:
        DataError: it can't be read or is of another kind, a column is missing, a row has too many or too few fields.
    """
    if not path.is_file():
        raise DataError(f"{path} is no file; name one ({' '.join(ENDINGS)}).")
    match path.suffix.lower():
        case ".tsv":
            return _with_header(path, tsv_rows(path), wanted)
        case ".csv":
            return _with_header(path, csv_rows(path), wanted)
        case ".jsonl" | ".ndjson":
            return json_lines(path, wanted)
        case ".parquet":
            return _parquet(path, wanted)
    raise DataError(f"{path}: the ending of its name does not say its kind; name it one of {' '.join(ENDINGS)}.")


def _with_header(path: Path, rows: Iterator[tuple[int, list[str]]], wanted: Sequence[str]) -> Table:
    header = [name.strip() for name in next(rows, (1, []))[1]]
    for name in wanted:
        _refuse_another_divider(path, name, header)
        _require(path, name, header)
        if header.count(name) > 1:
            raise DataError(f"{path}, line 1: two columns are called {name}; rename one of them.")
    places = [header.index(name) for name in wanted]
    table = Table(path, "line", [], {name: [] for name in wanted})
    for number, fields in rows:
        table.rows.append(number)
        if len(fields) != len(header):
            remedy = "put a text that holds a comma in double quotes" if path.suffix.lower() == ".csv" else _NO_TABS
            table.refuse(-1, f"{len(fields)} columns where the first line has {len(header)}; {remedy}.")
        for name, place in zip(wanted, places, strict=True):
            table.columns[name].append(fields[place])
    return table


def json_lines(path: Path, wanted: Sequence[str], optional: Sequence[str] = ()) -> Table:
    """The columns `wanted` of a file with a JSON object a line, and `optional` ones: None where a line lacks them.

    Raises:
        DataError: a line is no JSON object, or lacks a wanted column.
    """
    table = Table(path, "line", [], {name: [] for name in (*wanted, *optional)})
    for number, line in enumerate(_lines_of_json(path), 1):
        if not line.strip():
            continue
        table.rows.append(number)
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            table.refuse(-1, f"not JSON ({error}); mend or remove the line.")
        if not isinstance(content, dict):
            table.refuse(-1, "no JSON object; write one object a line, with the columns as its keys.")
        content = flat(content)
        for name in wanted:
            _require(path, name, list(content), f", line {number}")
            table.columns[name].append(content[name])
        for name in optional:
            table.columns[name].append(content.get(name))
    return table


def _lines_of_json(path: Path) -> io.StringIO:
    text = read_text(path)
    refuse_whole_json(text[:LOOKED_AT].encode(), path)
    return io.StringIO(text, newline=None)


def _parquet(path: Path, wanted: Sequence[str]) -> Table:
    with _opened_parquet(path) as file:
        for name in wanted:
            _require(path, name, file.schema_arrow.names)
        columns = file.read(columns=list(wanted)).to_pydict()
    return Table(path, "row", list(range(1, len(columns[wanted[0]]) + 1)), columns)


@contextmanager
def _opened_parquet(path: Path) -> Iterator[Any]:
    try:
        from pyarrow import ArrowException, parquet  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise DataError(f"{path}: Parquet is read by pyarrow, which isn't installed: pip install pyarrow.") from None
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"{path} can't be read as Parquet ({reason}); write it again.") from error


def is_conll(path: Path) -> bool:
    """Whether a file has a word a line, with the tag of an entity in the last of two to five columns.

    By the ending of its name (.conll, .iob, .bio, …), or by its first lines: a table begins with a header, which has no
    tag in its last column.
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
    """Number and fields of every line but comments; [] where a sentence ends."""
    width = 0
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        line = line.removesuffix("\n")
        # Spaces alone: a word may hold U+00A0 or the like.
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
    """Sentences of a CoNLL file: the columns "words" and "tags" hold a list for each.

    Raises:
        DataError: it can't be read, or a line has too few or too many columns, or others than the lines before it.
    """
    if not path.is_file():
        raise DataError(f"{path} is no file; name one with a word and its tag a line.")
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
            there = f"the lines before it have {width}" if width else "two to five are read"
            problem = f"{columns}, and {there}" if fields[-1] else "the last column is empty"
            raise DataError(
                f"{path}, line {number}: {problem}; give each word a line, with its tag in the last column."
            )
        width = len(fields)
        table.columns["words"][-1].append(fields[0])
        table.columns["tags"][-1].append(fields[-1])
        table.word_lines[-1].append(number)
    return table


def _refuse_another_divider(path: Path, name: str, header: Sequence[str]) -> None:
    """DataError for a table whose one column is a whole line, for its columns are divided by another character."""
    divider = next((one for one in (";", "\t", "|", ",") if one in header[0]), None) if len(header) == 1 else None
    if divider is not None and name not in header:
        right = "tabs" if path.suffix.lower() == ".tsv" else "commas"
        written = f"delimiter={divider!r}"
        program = f"import csv, sys; csv.writer(sys.stdout).writerows(csv.reader(sys.stdin, {written}))"
        command = f"python -c {shlex.quote(program)} < {shlex.quote(str(path))} > NEW.csv"
        raise DataError(
            f"{path}, line 1: one column, {header[0]}, and columns divided by {right} are read; write them with "
            f"commas, for example by `{command}`, and give the new file."
        )


def _require(path: Path, name: str, there: Sequence[str], where: str = "") -> None:
    if name not in there:
        close = difflib.get_close_matches(name, there, n=1)
        remedy = f"did you mean {close[0]}?" if close else f"it has {', '.join(there) or 'none'}."
        raise DataError(f"{path}{where}: no column {name}; {remedy}")


# --- One's own task ---------------------------------------------------------------------------------------------------


def load_own(
    train: Path,
    dev: Path | None,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    seed: int = 0,
    test: Path | None = None,
) -> Task:
    """A task out of one's own files.

    Args:
        train: examples to train on; its stem is the task's name.
        dev: examples to score; without it a tenth of `train`, drawn by `seed`: of each class at least one, and equal
            texts on one side, whatever their labels.
        text_columns: one column, or two for pairs. A column of lists of words makes a task of token labels. None for
            CoNLL files, which have no names for columns.
        label_column: class names, values (see `guess_kind`), or lists of class names for words. None for CoNLL files.
        seed: of the split.
        test: examples that are scored and reported as the test set's; `dev` is then for selection only.

    Raises:
        DataError: a file, column, text or label is not as said; a split is empty; classes differ between the splits.
    """
    paths = [path for path in (train, dev, test) if path is not None]
    if is_conll(train):
        if text_columns or label_column:
            raise DataError(f"{train} is a CoNLL file, which has no names for columns: name none to read or predict.")
        for path in paths:
            if path.is_file() and not is_conll(path):
                raise DataError(f"{path} is no CoNLL file (a word and its tag a line), and {train} is one.")
        tables = [read_conll(path) for path in paths]
        text_columns, label_column = ("words",), "tags"
    else:
        if (
            label_column is None
            or not 1 <= len(text_columns) <= 2
            or len({*text_columns, label_column}) != len(text_columns) + 1
        ):
            raise DataError(
                f"text columns {', '.join(text_columns) or '(none)'} and label column {label_column or '(none)'}: give "
                "one text column, or two for pairs, and another for the label."
            )
        for path in paths:
            if is_conll(path):
                raise DataError(f"{path} is a CoNLL file (a word and its tag a line), and {train} is a table.")
        tables = [read_table(path, [*text_columns, label_column]) for path in paths]
    for table in tables:
        if not table.rows:
            raise DataError(f"{table.path} has no examples; give at least one for each label.")

    def made(kind: Kind, names: tuple[str, ...], splits: list[Split], *metrics: str) -> Task:
        tested = {} if test is None else {TEST: splits.pop()}
        examples, by_split = _train_and_dev(train, splits, names, seed)
        return make_task(train.stem, kind, names, examples, by_split | tested, {}, metrics)

    if any(isinstance(text, list) for table in tables for text in table.columns[text_columns[0]]):
        return made("tokens", *_tokens(tables, text_columns, label_column))
    texts = [_texts(table, text_columns) for table in tables]
    written = [_written_labels(table, label_column) for table in tables]
    _refuse_tag_strings(tables[0], written[0], label_column)
    kind = guess_kind([label for labels in written for label in labels])
    if kind == "regression":
        values = [_values(table, labels) for table, labels in zip(tables, written, strict=True)]
        return made(kind, (), [Split(*examples) for examples in zip(texts, values, strict=True)], "pearson", "spearman")
    names = _names(written[0])
    numbers = [_numbers(table, labels, names) for table, labels in zip(tables, written, strict=True)]
    splits = [Split(*examples) for examples in zip(texts, numbers, strict=True)]
    return made(kind, names, splits, *(("accuracy", "f1", "matthews") if len(names) == 2 else ("accuracy", "matthews")))


def choose_columns(path: Path, text: Sequence[str], label: str | None) -> tuple[tuple[str, ...], str | None]:
    """The columns of text and of labels: those that are named, and what only one choice is left for.

    Of two columns the one is the label whose values are numbers or repeat, or for lists are tags of entities, and the
    other is not.

    Raises:
        DataError: the file can't be read; or there are several choices.
    """
    if is_conll(path) or (text and label):
        return tuple(text), label
    columns = _columns(path)
    for name in (*text, *([label] if label else [])):
        _require(path, name, columns)
    others = [name for name in columns if name != label and name not in text]
    if label and len(others) == 1:
        return (others[0],), label
    if text and len(others) == 1:
        return tuple(text), others[0]
    if not text and not label and len(columns) == 2:
        table = read_table(path, columns)
        labels = [name for name in columns if _reads_as_label(table.columns[name])]
        if len(labels) == 1:
            return tuple(name for name in columns if name not in labels), labels[0]
    missing = " and ".join(option for option, given in (("--task-text", text), ("--task-label", label)) if not given)
    raise DataError(
        f"{path} has the columns {', '.join(columns)}: say by {missing} which to read (one, or two with a comma "
        "between) and which to predict."
    )


def _columns(path: Path) -> list[str]:
    """Names of all columns of a table."""
    if not path.is_file():
        raise DataError(f"{path} is no file; name one ({' '.join(ENDINGS)}), or a CoNLL file.")
    match path.suffix.lower():
        case ".tsv":
            return [name.strip() for name in next(tsv_rows(path), (1, []))[1]]
        case ".csv":
            return [name.strip() for name in next(csv_rows(path), (1, []))[1]]
        case ".jsonl" | ".ndjson":
            line = next((line for line in _lines_of_json(path) if line.strip()), "{}")
            try:
                content = json.loads(line)
            except (ValueError, RecursionError):
                content = None
            return list(flat(content)) if isinstance(content, dict) else []
        case ".parquet":
            with _opened_parquet(path) as file:
                return list(file.schema_arrow.names)
    raise DataError(
        f"{path} is no CoNLL file, and the ending of its name says no other kind; name it one of {' '.join(ENDINGS)}."
    )


def _reads_as_label(values: Sequence[Any]) -> bool:
    if any(isinstance(value, list) for value in values):
        words = [str(word) for value in values if isinstance(value, list) for word in value]
        return all(word == OUTSIDE or is_prefixed(word) for word in words)
    written = [str(value).strip() for value in values]
    numbers = all(_DECIMAL.fullmatch(value) or _WHOLE.fullmatch(value) for value in written)
    return numbers or 2 * len(set(written)) <= len(written)


def guess_kind(labels: Sequence[str]) -> Kind:
    """Regression where a label is written as a decimal number (1.5, 2.0, 1e3), else classification: 0 and 1 too."""
    return "regression" if any(_DECIMAL.fullmatch(label) for label in labels) else "classification"


def _tokens(
    tables: list[Table], text_columns: Sequence[str], label_column: str
) -> tuple[tuple[str, ...], list[Split], *tuple[str, ...]]:
    """Class names, a split for each table, and metrics of words with labels."""
    if len(text_columns) > 1:
        raise DataError(f"{tables[0].path}: token labels need one text column, not {', '.join(text_columns)}.")
    sentences: list[list[tuple[str, ...]]] = []
    written: list[list[list[str]]] = []
    for table in tables:
        sentences.append([])
        written.append([])
        rows = zip(table.columns[text_columns[0]], table.columns[label_column], strict=True)
        for row, (words, labels) in enumerate(rows):
            if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
                found = shown(words)
                table.refuse(row, f"{text_columns[0]} is {found}, not a list of words as in other rows; write one.")
            _refuse_half_a_pair(table, row, text_columns[0], "".join(words))
            if not isinstance(labels, list) or len(labels) != len(words):
                number = len(labels) if isinstance(labels, list) else "no list of"
                table.refuse(row, f"{number} labels for {len(words)} words; give each word one.")
            sentences[-1].append(tuple(words))
            written[-1].append([_written(table, row, label, label_column) for label in labels])
    if _are_tags(tables, written):
        names, numbers = _tags(tables, written)
        metrics = (ENTITY_F1, "token_accuracy")
    else:
        names = _names([label for labels in written[0] for label in labels])
        numbers = [
            [_numbers(table, labels, names, row) for row, labels in enumerate(by_sentence)]
            for table, by_sentence in zip(tables, written, strict=True)
        ]
        metrics = ("token_accuracy",)
    return names, [Split(*examples) for examples in zip(sentences, numbers, strict=True)], *metrics


def _are_tags(tables: list[Table], written: list[list[list[str]]]) -> bool:
    """Whether words have tags of entities: some are outside ("O"), or all tags have a prefix.

    Raises:
        DataError: some tags have a prefix (B-, I-, …) and some have not.
    """
    tags = {tag for by_sentence in written for labels in by_sentence for tag in labels} - {OUTSIDE}
    prefixed = {tag for tag in tags if is_prefixed(tag)}
    plain = min(tags - prefixed, default=None)
    if prefixed and plain is not None:
        for table, by_sentence in zip(tables, written, strict=True):
            for row, labels in enumerate(by_sentence):
                if plain in labels:
                    table.refuse(
                        row,
                        f"tag {plain}, and others are like {min(prefixed)}; write all tags as O, B-… and I-…, or none.",
                        labels.index(plain),
                    )
    return bool(prefixed) or any(OUTSIDE in labels for by_sentence in written for labels in by_sentence)


def _tags(tables: list[Table], written: list[list[list[str]]]) -> tuple[tuple[str, ...], list[list[list[int]]]]:
    """IOB2 class names, and the classes of each table's words."""
    spans = [[read_spans(labels) for labels in by_sentence] for by_sentence in written]
    types = sorted({span.type for found in spans[0] for span in found})
    if not types:
        raise DataError(f"{tables[0].path}: no word has a tag but {OUTSIDE}; give examples with entities.")
    numbers: list[list[list[int]]] = []
    for table, by_sentence, found in zip(tables, written, spans, strict=True):
        numbers.append([])
        for row, (labels, of_sentence) in enumerate(zip(by_sentence, found, strict=True)):
            for span in of_sentence:
                if span.type not in types:
                    table.refuse(row, _unknown(span.type, tuple(types)), span.first)
            numbers[-1].append(classes_of(of_sentence, len(labels), types))
    return class_names(types), numbers


def _texts(table: Table, names: Sequence[str]) -> list[tuple[str, ...]]:
    for name in names:
        for row, text in enumerate(table.columns[name]):
            if not isinstance(text, str):
                table.refuse(row, f"{name} is {shown(text)}, not text; write it as a string, or remove the row.")
            _refuse_half_a_pair(table, row, name, text)
    return list(zip(*([text.strip() for text in table.columns[name]] for name in names), strict=True))


def _refuse_half_a_pair(table: Table, row: int, name: str, text: str) -> None:
    if re.search("[\ud800-\udfff]", text):
        table.refuse(row, f"{name} holds half of a surrogate pair, which is no character; write U+FFFD in its place.")


def _written_labels(table: Table, name: str) -> list[str]:
    return [_written(table, row, label, name) for row, label in enumerate(table.columns[name])]


def _written(table: Table, row: int, label: Any, name: str) -> str:
    """A label as text; 1 and 1.0 stay different, and true is "true"."""
    match label:
        case str() if label.strip():
            return label.strip()
        case bool():
            return str(label).lower()
        case int():
            return str(label)
        case float() | Decimal() if np.isfinite(float(label)):
            return str(label)
        case list():
            table.refuse(
                row,
                f"{name} is {shown(label)}, and one label a text is read: write one, or for a label a word write the "
                "text as a list of as many words.",
            )
    table.refuse(row, f"{name} is {shown(label)}, not a label: write a name or a finite number, or remove the row.")


def _refuse_tag_strings(table: Table, labels: Sequence[str], name: str) -> None:
    """A label such as "O B-PER O" holds the tags of a whole sentence: as a class, each such string would be one."""
    tags = [re.findall(r"[^\s,\[\]'\"]+", label) for label in labels]
    several = next((row for row, found in enumerate(tags) if len(found) > 1), None)
    if several is None or not all(tag == OUTSIDE or is_prefixed(tag) for found in tags for tag in found):
        return
    if any(tag == OUTSIDE or "-" in tag for found in tags for tag in found):
        table.refuse(
            several,
            f"{name} is one string of tags ({labels[several][:40]}); give words and tags as lists in JSON lines, or as "
            "a CoNLL file with a word and its tag a line.",
        )


def _values(table: Table, labels: Sequence[str]) -> list[float]:
    values: list[float] = []
    for row, label in enumerate(labels):
        if not (_DECIMAL.fullmatch(label) or _WHOLE.fullmatch(label)) or not np.isfinite(value := float(label)):
            table.refuse(
                row,
                f"label {label} is no finite number, and others are decimal numbers; mend it, or write the labels so "
                "that none reads as a decimal number.",
            )
        values.append(value)
    return values


def _numbers(table: Table, labels: Sequence[str], names: tuple[str, ...], row: int | None = None) -> list[int]:
    """Class numbers of a table's rows, or of one row's words."""
    number_of = {name: number for number, name in enumerate(names)}
    for place, label in enumerate(labels):
        if label == _IGNORED:
            table.refuse(
                place if row is None else row,
                f"label {_IGNORED} is what training programs write for no label; remove the "
                + (
                    "row, or write values with a decimal point (-100.0)."
                    if row is None
                    else "word, or give it a label."
                ),
            )
        if label not in number_of:
            table.refuse(place if row is None else row, _unknown(label, names))
    return [number_of[label] for label in labels]


def _unknown(label: str, names: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(label, names, n=1)
    remedy = f"did you mean {close[0]}?" if close else "add examples of it to train, or remove it."
    return f"label {label}, which train lacks; {remedy}"


def _names(labels: Sequence[str]) -> tuple[str, ...]:
    """Distinct labels in order: "O" first, 2 before 10 where all are whole numbers."""
    whole = all(_WHOLE.fullmatch(label) for label in labels)
    return tuple(sorted(set(labels), key=lambda label: (label != OUTSIDE, int(label) if whole else 0, label)))


def _train_and_dev(
    path: Path, splits: list[Split], names: tuple[str, ...], seed: int
) -> tuple[Split, dict[str, Split]]:
    """Both as given, or a tenth of the examples taken out of the one split."""
    if len(splits) == 2:
        return splits[0], {"dev": splits[1]}
    (split,) = splits
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, texts in enumerate(split.texts):
        groups.setdefault(texts, []).append(place)
    left: Counter[int] = Counter()
    """distinct texts of each label that stay in train"""
    labels_of = {texts: _labels_of(split, places) for texts, places in groups.items()}
    for labels in labels_of.values():
        left.update(labels)
    by_class = bool(names) and not isinstance(split.labels[0], list)
    rare = min((label for label in left if by_class), key=left.__getitem__, default=None)
    if len(groups) < 2 or (rare is not None and left[rare] < 2):
        whose = "there is" if rare is None else f"label {names[rare]} has"
        raise DataError(f"{path}: {whose} one distinct text, too few to split; add examples, or give a dev file.")
    strata: dict[int | None, list[tuple[str, ...]]] = {}
    for texts, labels in labels_of.items():
        strata.setdefault(min(labels, key=lambda label: (left[label], label)) if by_class else None, []).append(texts)
    random = np.random.Generator(np.random.Philox(key=seed))
    held_out: set[tuple[str, ...]] = set()
    scored: set[int] = set()

    def hold_out(stratum: list[tuple[str, ...]], wanted: int) -> None:
        for texts in (stratum[chosen] for chosen in random.permutation(len(stratum))):
            if wanted and all(left[label] > 1 for label in labels_of[texts]):  # the last one of a label is for training
                held_out.add(texts)
                left.subtract(labels_of[texts])
                scored.update(labels_of[texts])
                wanted -= 1

    for stratum in strata.values():
        hold_out(stratum, max(1, round(DEV_SHARE * len(stratum))))
    for label in left:
        if by_class and label not in scored:  # all its texts have a rarer one too, and chance has left it out
            hold_out([texts for texts, labels in labels_of.items() if label in labels], 1)
    if not held_out or (by_class and scored != left.keys()):
        raise DataError(f"{path}: the texts are too few, or too alike in label, to hold some out; give a dev file.")
    parts = ([i for i, texts in enumerate(split.texts) if (texts in held_out) == dev] for dev in (False, True))
    labels = cast("list[int]", split.labels)  # of whatever kind, all of one
    train, dev = (Split([split.texts[i] for i in part], [labels[i] for i in part]) for part in parts)
    return train, {"dev": dev}


def _labels_of(split: Split, places: Sequence[int]) -> set[int]:
    """The classes of a text that occurs at some places, of its words where these have them; none of values."""
    found: set[int] = set()
    for place in places:
        match split.labels[place]:
            case list(labels):
                found.update(labels)
            case int(label):
                found.add(label)
    return found
