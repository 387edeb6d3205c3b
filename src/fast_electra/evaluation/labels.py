"""Labels of the user's own files: which kind they are, and their class numbers or values."""

import difflib
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from fast_electra.data.text_files import shown
from fast_electra.errors import DataError
from fast_electra.evaluation.entities import class_names, classes_of, is_prefixed, read_spans
from fast_electra.evaluation.tables import Table
from fast_electra.evaluation.tasks import ENTITY_F1, OUTSIDE, Kind, Split

_DECIMAL = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?")
_WHOLE = re.compile(r"[+-]?\d+")
_IGNORED = "-100"
"""PyTorch and Transformers use it for positions without a label"""


def reads_as_label(values: Sequence[Any]) -> bool:
    """Return whether a column looks like labels: tags of entities, numbers, or values that repeat."""
    if any(isinstance(value, list) for value in values):
        words = [str(word) for value in values if isinstance(value, list) for word in value]
        return all(word == OUTSIDE or is_prefixed(word) for word in words)
    written = [str(value).strip() for value in values]
    numbers = all(_DECIMAL.fullmatch(value) or _WHOLE.fullmatch(value) for value in written)
    return numbers or 2 * len(set(written)) <= len(written)


def guess_kind(labels: Sequence[str]) -> Kind:
    """Return "regression" if a label is a decimal number (1.5, 2.0, 1e3), else "classification", also for 0 and 1."""
    return "regression" if any(_DECIMAL.fullmatch(label) for label in labels) else "classification"


def token_splits(
    tables: list[Table], text_columns: Sequence[str], label_column: str
) -> tuple[tuple[str, ...], list[Split], *tuple[str, ...]]:
    """Return class names, a split for each table, and the metrics, for a task with a label for each word.

    Raises:
        DataError: a row has no list of words, or not one label for each word; tags are of mixed kinds; or a dev label
            is not in train.
    """
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
        names = label_names([label for labels in written[0] for label in labels])
        numbers = [
            [class_numbers(table, labels, names, row) for row, labels in enumerate(by_sentence)]
            for table, by_sentence in zip(tables, written, strict=True)
        ]
        metrics = ("token_accuracy",)
    return names, [Split(*examples) for examples in zip(sentences, numbers, strict=True)], *metrics


def _are_tags(tables: list[Table], written: list[list[list[str]]]) -> bool:
    """Whether the labels are tags of entities: some words are outside ("O"), or all tags have a prefix.

    Raises:
        DataError: some tags have a prefix (B-, I-, …) and some do not.
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
                        f"tag {plain} has no prefix, but {min(prefixed)} has one; write all tags as O, B-… and I-…, or "
                        "none of them.",
                        labels.index(plain),
                    )
    return bool(prefixed) or any(OUTSIDE in labels for by_sentence in written for labels in by_sentence)


def _tags(tables: list[Table], written: list[list[list[str]]]) -> tuple[tuple[str, ...], list[list[list[int]]]]:
    """IOB2 class names, and the class numbers of the words of each table."""
    spans = [[read_spans(labels) for labels in by_sentence] for by_sentence in written]
    types = sorted({span.type for found in spans[0] for span in found})
    if not types:
        raise DataError(f"{tables[0].path}: all tags are {OUTSIDE}; give examples with entities.")
    numbers: list[list[list[int]]] = []
    for table, by_sentence, found in zip(tables, written, spans, strict=True):
        numbers.append([])
        for row, (labels, of_sentence) in enumerate(zip(by_sentence, found, strict=True)):
            for span in of_sentence:
                if span.type not in types:
                    table.refuse(row, _unknown(span.type, tuple(types)), span.first)
            numbers[-1].append(classes_of(of_sentence, len(labels), types))
    return class_names(types), numbers


def texts_of(table: Table, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the stripped texts of some columns, a tuple for each row.

    Raises:
        DataError: a value is not text.
    """
    for name in names:
        for row, text in enumerate(table.columns[name]):
            if not isinstance(text, str):
                table.refuse(row, f"{name} is {shown(text)}, not text; write it as a string, or remove the row.")
            _refuse_half_a_pair(table, row, name, text)
    return list(zip(*([text.strip() for text in table.columns[name]] for name in names), strict=True))


def _refuse_half_a_pair(table: Table, row: int, name: str, text: str) -> None:
    if re.search("[\ud800-\udfff]", text):
        table.refuse(row, f"{name} has half of a surrogate pair, which is not a character; write U+FFFD in its place.")


def written_labels(table: Table, name: str) -> list[str]:
    """Return the labels of a column as text.

    Raises:
        DataError: a value is neither text nor a finite number.
    """
    return [_written(table, row, label, name) for row, label in enumerate(table.columns[name])]


def _written(table: Table, row: int, label: Any, name: str) -> str:
    """Return a label as text; 1 and 1.0 stay different, and true is "true"."""
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
                f"{name} is {shown(label)}, but a text has one label: write one label, or give a list of words with "
                "one label for each word.",
            )
    table.refuse(row, f"{name} is {shown(label)}, not a label; write a name or a finite number, or remove the row.")


def refuse_tag_strings(table: Table, labels: Sequence[str], name: str) -> None:
    """Refuse labels such as "O B-PER O", which are the tags of a whole sentence and not a class.

    Raises:
        DataError: a label is a string of tags.
    """
    tags = [re.findall(r"[^\s,\[\]'\"]+", label) for label in labels]
    several = next((row for row, found in enumerate(tags) if len(found) > 1), None)
    if several is None or not all(tag == OUTSIDE or is_prefixed(tag) for found in tags for tag in found):
        return
    if any(tag == OUTSIDE or "-" in tag for found in tags for tag in found):
        table.refuse(
            several,
            f"{name} is one string of tags ({labels[several][:40]}); give words and tags as lists in JSON lines, or "
            "give a CoNLL file with one word and its tag on each line.",
        )


def values_of(table: Table, labels: Sequence[str]) -> list[float]:
    """Return labels as numbers, for regression.

    Raises:
        DataError: a label is not a finite number.
    """
    values: list[float] = []
    for row, label in enumerate(labels):
        if not (_DECIMAL.fullmatch(label) or _WHOLE.fullmatch(label)) or not np.isfinite(value := float(label)):
            table.refuse(
                row,
                f"label {label} is not a finite number, but other labels are decimal numbers; correct it, or write the "
                "labels without decimal numbers.",
            )
        values.append(value)
    return values


def class_numbers(table: Table, labels: Sequence[str], names: tuple[str, ...], row: int | None = None) -> list[int]:
    """Return the class numbers of the rows of a table, or of the words of one row.

    Args:
        table: for error messages.
        labels: of the rows, or of the words of row `row`.
        names: of the classes.
        row: None for labels of rows.

    Raises:
        DataError: a label is not among the names, or is -100.
    """
    number_of = {name: number for number, name in enumerate(names)}
    for place, label in enumerate(labels):
        if label == _IGNORED:
            table.refuse(
                place if row is None else row,
                f"label {_IGNORED} means no label in training programs; remove the "
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
    return f"label {label} is not in train; {remedy}"


def label_names(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the distinct labels in order: "O" first, and 2 before 10 if all labels are whole numbers."""
    whole = all(_WHOLE.fullmatch(label) for label in labels)
    return tuple(sorted(set(labels), key=lambda label: (label != OUTSIDE, int(label) if whole else 0, label)))
