"""Tables out of files, and one's own task out of two of them.

Notable:
- every row keeps its line, so that every complaint can name it;
- TSV has no quoting, as in GLUE's files; CSV has, with line breaks inside quotes, by Python's csv module;
- what kind of task it is, is read off the labels of train and dev together: `guess_kind`;
- without a dev file a tenth of train becomes one, drawn by the seed; equal texts stay on one side.
"""

import csv
import difflib
import gzip
import io
import json
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np

from fast_electra.errors import DataError
from fast_electra.evaluation.tasks import OUTSIDE, Kind, Split, Task, make_task

ENDINGS = (".tsv", ".csv", ".jsonl", ".ndjson", ".parquet")
DEV_SHARE = 0.1
LONGEST_FIELD = 2**31 - 1  # characters; the csv module's own limit is 131,072
_DECIMAL = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?")
_WHOLE = re.compile(r"[+-]?\d+")


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

    def refuse(self, row: int, problem: str) -> NoReturn:
        """DataError that says where."""
        raise DataError(f"{self.path}, {self.unit} {self.rows[row]}: {problem}")


# --- Files ------------------------------------------------------------------------------------------------------------


def read_text(path: Path) -> str:
    """A UTF-8 file, also in gzip (.gz) or xz (.xz), a byte-order mark dropped, line ends as they are.

    DataError where it isn't one.
    """
    unpack = {".gz": gzip.decompress, ".xz": lzma.decompress}.get(path.suffix.lower(), bytes)
    try:
        return unpack(path.read_bytes()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 ({error.reason}); convert the file.") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path} can't be read ({reason}); name another file.") from error


def tsv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and fields of a tab-separated file without quoting; blank lines are left out."""
    # Not splitlines: a text may hold U+0085 or U+2028, which are no line ends here.
    for number, line in enumerate(io.StringIO(read_text(path), newline=None), 1):
        if line != "\n":
            yield number, line.removesuffix("\n").split("\t")


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """First lines and fields of the records of a comma-separated file; DataError for broken quotes."""
    limit = csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
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
    raise DataError(f"{path}: its kind is told by its name's ending; name it one of {' '.join(ENDINGS)}.")


def _with_header(path: Path, rows: Iterator[tuple[int, list[str]]], wanted: Sequence[str]) -> Table:
    _, header = next(rows, (1, []))
    for name in wanted:
        _require(path, name, header)
        if header.count(name) > 1:
            raise DataError(f"{path}, line 1: two columns are called {name}; rename one of them.")
    places = [header.index(name) for name in wanted]
    table = Table(path, "line", [], {name: [] for name in wanted})
    for number, fields in rows:
        table.rows.append(number)
        if len(fields) != len(header):
            table.refuse(-1, f"{len(fields)} columns where the first line has {len(header)}; mend or remove the line.")
        for name, place in zip(wanted, places, strict=True):
            table.columns[name].append(fields[place])
    return table


def json_lines(path: Path, wanted: Sequence[str], optional: Sequence[str] = ()) -> Table:
    """The columns `wanted` of a file with a JSON object a line, and `optional` ones: None where a line lacks them.

    Raises:
        DataError: a line is no JSON object, or lacks a wanted column.
    """
    table = Table(path, "line", [], {name: [] for name in (*wanted, *optional)})
    for number, line in enumerate(io.StringIO(read_text(path), newline=None), 1):
        if not line.strip():
            continue
        table.rows.append(number)
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            table.refuse(-1, f"not JSON ({error}); mend or remove the line.")
        if not isinstance(content, dict):
            table.refuse(-1, "no JSON object; write one object a line, with the columns as its keys.")
        for name in wanted:
            if name not in content:
                _require(path, name, list(content), f", line {number}")
            table.columns[name].append(content[name])
        for name in optional:
            table.columns[name].append(content.get(name))
    return table


def _parquet(path: Path, wanted: Sequence[str]) -> Table:
    try:
        from pyarrow import ArrowException, parquet  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise DataError(f"{path}: Parquet is read by pyarrow, which isn't installed: pip install pyarrow.") from None
    try:
        with parquet.ParquetFile(path) as file:
            for name in wanted:
                _require(path, name, file.schema_arrow.names)
            columns = file.read(columns=list(wanted)).to_pydict()
    except (ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"{path} can't be read as Parquet ({reason}); write it again.") from error
    return Table(path, "row", list(range(1, len(columns[wanted[0]]) + 1)), columns)


def _require(path: Path, name: str, there: Sequence[str], where: str = "") -> None:
    if name not in there:
        close = difflib.get_close_matches(name, there, n=1)
        remedy = f"did you mean {close[0]}?" if close else f"it has {', '.join(there) or 'none'}."
        raise DataError(f"{path}{where}: no column {name}; {remedy}")


# --- One's own task ---------------------------------------------------------------------------------------------------


def load_own(train: Path, dev: Path | None, text_columns: Sequence[str], label_column: str, seed: int = 0) -> Task:
    """A task out of one's own files.

    Args:
        train: examples to train on; its stem is the task's name.
        dev: examples to score; without it a tenth of `train`, drawn by `seed`: of each class at least one, and equal
            texts on one side, whatever their labels.
        text_columns: one column, or two for pairs. A column of lists of words makes a task of token labels.
        label_column: class names, values (see `guess_kind`), or lists of class names for words.
        seed: of the split.

    Raises:
        DataError: a file, column, text or label is not as said; a split is empty; classes differ between the splits.
    """
    if not 1 <= len(text_columns) <= 2 or len({*text_columns, label_column}) != len(text_columns) + 1:
        raise DataError(
            f"text columns {', '.join(text_columns) or '(none)'} and label column {label_column}: give one text "
            "column, or two for pairs, and another for the label."
        )
    tables = [read_table(path, [*text_columns, label_column]) for path in ([train] if dev is None else [train, dev])]
    for table in tables:
        if not table.rows:
            raise DataError(f"{table.path} has no examples; give at least one for each label.")
    if any(isinstance(text, list) for table in tables for text in table.columns[text_columns[0]]):
        return _tokens(train.stem, tables, text_columns, label_column, seed)
    texts = [_texts(table, text_columns) for table in tables]
    written = [_written_labels(table, label_column) for table in tables]
    kind = guess_kind([label for labels in written for label in labels])
    if kind == "regression":
        values = [_values(table, labels) for table, labels in zip(tables, written, strict=True)]
        splits = [Split(*examples) for examples in zip(texts, values, strict=True)]
        return make_task(train.stem, kind, (), *_train_and_dev(train, splits, (), seed), {}, ("pearson", "spearman"))
    names = _names(written[0])
    numbers = [_numbers(table, labels, names) for table, labels in zip(tables, written, strict=True)]
    splits = [Split(*examples) for examples in zip(texts, numbers, strict=True)]
    metrics = ("accuracy", "f1", "matthews") if len(names) == 2 else ("accuracy", "matthews")
    return make_task(train.stem, kind, names, *_train_and_dev(train, splits, names, seed), {}, metrics)


def guess_kind(labels: Sequence[str]) -> Kind:
    """Regression where a label is written as a decimal number (1.5, 2.0, 1e3), else classification: 0 and 1 too."""
    return "regression" if any(_DECIMAL.fullmatch(label) for label in labels) else "classification"


def _tokens(name: str, tables: list[Table], text_columns: Sequence[str], label_column: str, seed: int) -> Task:
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
                table.refuse(row, f"{text_columns[0]} is no list of words, as in other rows; mend or remove it.")
            if not isinstance(labels, list) or len(labels) != len(words):
                number = len(labels) if isinstance(labels, list) else "no list of"
                table.refuse(row, f"{number} labels for {len(words)} words; give each word one.")
            sentences[-1].append(tuple(words))
            written[-1].append([_written(table, row, label, label_column) for label in labels])
    names = _names([label for labels in written[0] for label in labels])
    number_of = {label: number for number, label in enumerate(names)}
    splits: list[Split] = []
    for table, texts, sentence_labels in zip(tables, sentences, written, strict=True):
        numbers: list[list[int]] = []
        for row, labels in enumerate(sentence_labels):
            for label in labels:
                if label not in number_of:
                    table.refuse(row, _unknown(label, names))
            numbers.append([number_of[label] for label in labels])
        splits.append(Split(texts, numbers))
    metrics = ("token_f1", "token_accuracy") if names[0] == OUTSIDE else ("token_accuracy",)
    return make_task(name, "tokens", names, *_train_and_dev(tables[0].path, splits, names, seed), {}, metrics)


def _texts(table: Table, names: Sequence[str]) -> list[tuple[str, ...]]:
    for name in names:
        for row, text in enumerate(table.columns[name]):
            if not isinstance(text, str):
                table.refuse(row, f"{name} is no text; mend or remove it.")
    return list(zip(*([text.strip() for text in table.columns[name]] for name in names), strict=True))


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
        case float() if np.isfinite(label):
            return str(label)
    table.refuse(row, f"{name} is {json.dumps(label, default=str)}, no label; mend or remove it.")


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


def _numbers(table: Table, labels: Sequence[str], names: tuple[str, ...]) -> list[int]:
    number_of = {name: number for number, name in enumerate(names)}
    for row, label in enumerate(labels):
        if label not in number_of:
            table.refuse(row, _unknown(label, names))
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
