"""A task from the user's own files.

Notable:
- the kind of the task follows from the labels of all files together (`labels.guess_kind`);
- without a dev file a tenth of train becomes dev. The seed draws it, and equal texts stay on the same side.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np

from fast_electra.errors import DataError
from fast_electra.evaluation.conll import is_conll, read_conll
from fast_electra.evaluation.labels import (
    class_numbers,
    guess_kind,
    label_names,
    reads_as_label,
    refuse_tag_strings,
    texts_of,
    token_splits,
    values_of,
    written_labels,
)
from fast_electra.evaluation.tables import column_names, read_table, require_column
from fast_electra.evaluation.tasks import TEST, Kind, Split, Task, make_task

DEV_SHARE = 0.1


def task_name(train: Path) -> str:
    """The name of a task: the stem of its training file, or the folder's name if the file is called "train"."""
    folder = train.parent.name if train.stem == "train" else ""
    return train.stem if folder in ("", "..") else folder


def load_own(
    train: Path,
    dev: Path | None,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    seed: int = 0,
    test: Path | None = None,
) -> Task:
    """Make a task from the user's own files.

    Args:
        train: examples to train on; `task_name` has the name of the task.
        dev: examples to score. None: a tenth of `train`, at least one example of each class; equal texts are on the
            same side even if their labels differ.
        text_columns: one column, or two for pairs of texts. A column of lists of words makes a task with a label for
            each word. Empty for CoNLL files, whose columns have no names.
        label_column: class names, values (see `guess_kind`), or lists of class names for words. None for CoNLL files.
        seed: of the split into train and dev.
        test: examples that are scored and reported as the test set; it comes first in the report.

    Returns:
        the task.

    Raises:
        DataError: a file cannot be read; a column, text or label is missing or of the wrong type; a split is empty;
            or classes differ between the splits.
    """
    paths = [path for path in (train, dev, test) if path is not None]
    entities = is_conll(train)
    if other := next((path for path in paths if path.is_file() and is_conll(path) != entities), None):
        words, table = (train, other) if entities else (other, train)
        raise DataError(
            f"{words} is a CoNLL file (a word and its tag on each line), and {table} is not: give files of the same "
            "kind."
        )
    if entities:
        if text_columns or label_column:
            raise DataError(
                f"{train} is a CoNLL file, whose columns have no names: leave out the columns of text and label."
            )
        tables = [read_conll(path) for path in paths]
        text_columns, label_column = ("words",), "tags"
    else:
        if (
            label_column is None
            or not 1 <= len(text_columns) <= 2
            or len({*text_columns, label_column}) != len(text_columns) + 1
        ):
            raise DataError(
                f"the text columns are {', '.join(text_columns) or '(none)'} and the label column is "
                f"{label_column or '(none)'}: give one text column, or two for pairs, and another column for the label."
            )
        tables = [read_table(path, [*text_columns, label_column]) for path in paths]
    for table in tables:
        if not table.rows:
            raise DataError(f"{table.path} has no examples; give at least one for each label.")

    def made(kind: Kind, names: tuple[str, ...], splits: list[Split], *metrics: str) -> Task:
        tested = {} if test is None else {TEST: splits.pop()}
        examples, by_split = _train_and_dev(train, splits, names, seed)
        return make_task(task_name(train), kind, names, examples, by_split | tested, {}, metrics)

    if any(isinstance(text, list) for table in tables for text in table.columns[text_columns[0]]):
        return made("tokens", *token_splits(tables, text_columns, label_column))
    texts = [texts_of(table, text_columns) for table in tables]
    written = [written_labels(table, label_column) for table in tables]
    refuse_tag_strings(tables[0], written[0], label_column)
    kind = guess_kind([label for labels in written for label in labels])
    if kind == "regression":
        values = [values_of(table, labels) for table, labels in zip(tables, written, strict=True)]
        return made(kind, (), [Split(*examples) for examples in zip(texts, values, strict=True)], "pearson", "spearman")
    names = label_names(written[0])
    numbers = [class_numbers(table, labels, names) for table, labels in zip(tables, written, strict=True)]
    splits = [Split(*examples) for examples in zip(texts, numbers, strict=True)]
    return made(kind, names, splits, *(("accuracy", "f1", "matthews") if len(names) == 2 else ("accuracy", "matthews")))


def choose_columns(path: Path, text: Sequence[str], label: str | None) -> tuple[tuple[str, ...], str | None]:
    """Choose the columns of texts and labels that the user did not name, if there is only one possibility.

    Of two columns, the label is the one whose values are numbers or repeat, or for lists are tags of entities, if the
    other column is not like that.

    Args:
        path: the file.
        text: names that the user gave; may be empty.
        label: name that the user gave.

    Returns:
        the text columns, and the label column.

    Raises:
        DataError: the file cannot be read; or there are several possibilities.
    """
    if is_conll(path) or (text and label):
        return tuple(text), label
    columns = column_names(path)
    for name in (*text, *([label] if label else [])):
        require_column(path, name, columns)
    others = [name for name in columns if name != label and name not in text]
    if label and len(others) == 1:
        return (others[0],), label
    if text and len(others) == 1:
        return tuple(text), others[0]
    if not text and not label and len(columns) == 2:
        table = read_table(path, columns)
        labels = [name for name in columns if reads_as_label(table.columns[name])]
        if len(labels) == 1:
            return tuple(name for name in columns if name not in labels), labels[0]
    missing = " and ".join(option for option, given in (("--task-text", text), ("--task-label", label)) if not given)
    raise DataError(
        f"{path} has the columns {', '.join(columns)}: say with {missing} which column to read (or two, separated by "
        "a comma) and which one to predict."
    )


def _train_and_dev(
    path: Path, splits: list[Split], names: tuple[str, ...], seed: int
) -> tuple[Split, dict[str, Split]]:
    """Train and dev as given, or a tenth of the one split as dev."""
    if len(splits) == 2:
        return splits[0], {"dev": splits[1]}
    (split,) = splits
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, texts in enumerate(split.texts):
        groups.setdefault(texts, []).append(place)
    left: Counter[int] = Counter()
    """number of distinct texts of each label that stay in train"""
    labels_of = {texts: _labels_of(split, places) for texts, places in groups.items()}
    for labels in labels_of.values():
        left.update(labels)
    by_class = bool(names) and not isinstance(split.labels[0], list)
    rare = min((label for label in left if by_class), key=left.__getitem__, default=None)
    if len(groups) < 2 or (rare is not None and left[rare] < 2):
        whose = "there is" if rare is None else f"label {names[rare]} has"
        raise DataError(
            f"{path}: {whose} only one distinct text, which is too few to split; add examples, or give a dev file."
        )
    strata: dict[int | None, list[tuple[str, ...]]] = {}
    for texts, labels in labels_of.items():
        strata.setdefault(min(labels, key=lambda label: (left[label], label)) if by_class else None, []).append(texts)
    random = np.random.Generator(np.random.Philox(key=seed))
    held_out: set[tuple[str, ...]] = set()
    scored: set[int] = set()

    def hold_out(stratum: list[tuple[str, ...]], wanted: int) -> None:
        for texts in (stratum[chosen] for chosen in random.permutation(len(stratum))):
            if wanted and all(left[label] > 1 for label in labels_of[texts]):  # the last text of a label stays in train
                held_out.add(texts)
                left.subtract(labels_of[texts])
                scored.update(labels_of[texts])
                wanted -= 1

    for stratum in strata.values():
        hold_out(stratum, max(1, round(DEV_SHARE * len(stratum))))
    for label in left:
        if by_class and label not in scored:  # all its texts also have a rarer label, and none of them was drawn
            hold_out([texts for texts, labels in labels_of.items() if label in labels], 1)
    if not held_out or (by_class and scored != left.keys()):
        raise DataError(f"{path}: there are too few texts for some labels to make a dev set; give a dev file.")
    parts = ([i for i, texts in enumerate(split.texts) if (texts in held_out) == dev] for dev in (False, True))
    labels = cast("list[int]", split.labels)  # all labels have the same type
    train, dev = (Split([split.texts[i] for i in part], [labels[i] for i in part]) for part in parts)
    return train, {"dev": dev}


def _labels_of(split: Split, places: Sequence[int]) -> set[int]:
    """The classes of a text that occurs at some places, or of its words; empty for values."""
    found: set[int] = set()
    for place in places:
        match split.labels[place]:
            case list(labels):
                found.update(labels)
            case int(label):
                found.add(label)
    return found
