"""The nine tasks of GLUE (Wang et al., 2019, arXiv 1804.07461), from the folder of the download or from the hub.

Notable:
- both sources give identical examples: classes in the hub's order, stripped texts, the scores of STS-B with the digits
  of float32;
- the reader follows the quirks of the files. There is no quoting anywhere. CoLA has no header. MRPC is either split, or
  Microsoft's file with a list of dev pairs. A row of QQP that lacks columns is skipped and counted.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from fast_electra.errors import DataError, first_line
from fast_electra.evaluation.tables import tsv_rows
from fast_electra.evaluation.tasks import Split, Task, make_task
from fast_electra.terminal import tell

HUB_NAME = "nyu-mll/glue"
# The part of the hub's dataset object that is read: split -> column -> values.
Hub = Mapping[str, Mapping[str, Sequence[Any]]]


@dataclass(frozen=True)
class GlueTask:
    """Where the files of a task are in the download, and how the task is scored."""

    folder: str
    texts: tuple[str, ...]
    """columns of the texts in the files"""
    label: str
    labels: tuple[str, ...]
    """class names in the hub's order; () for regression"""
    metrics: tuple[str, ...]
    numbered: bool = True
    """files and server use 0 and 1 for the classes instead of their names"""
    hub_texts: tuple[str, ...] = ()
    """columns on the hub if their names are different there"""
    splits: Mapping[str, str] | None = None
    """{split: ending of its file names}; None for one dev and one test file"""
    augment_swapped: bool = False
    """whether ELECTRA doubles the training examples by swapping their sentences"""


SENTENCES = ("sentence1", "sentence2")
ENTAILMENT = ("entailment", "not_entailment")
GLUE: dict[str, GlueTask] = {
    "cola": GlueTask("CoLA", ("sentence",), "label", ("unacceptable", "acceptable"), ("matthews",)),
    "sst2": GlueTask("SST-2", ("sentence",), "label", ("negative", "positive"), ("accuracy",)),
    "mrpc": GlueTask(
        "MRPC",
        ("#1 String", "#2 String"),
        "Quality",
        ("not_equivalent", "equivalent"),
        ("f1", "accuracy"),
        hub_texts=SENTENCES,
        augment_swapped=True,
    ),
    "stsb": GlueTask("STS-B", SENTENCES, "score", (), ("pearson", "spearman"), augment_swapped=True),
    "qqp": GlueTask(
        "QQP", ("question1", "question2"), "is_duplicate", ("not_duplicate", "duplicate"), ("f1", "accuracy")
    ),
    "mnli": GlueTask(
        "MNLI",
        SENTENCES,
        "gold_label",
        ("entailment", "neutral", "contradiction"),
        ("accuracy",),
        numbered=False,
        hub_texts=("premise", "hypothesis"),
        splits={"matched": "_matched", "mismatched": "_mismatched"},
    ),
    "qnli": GlueTask("QNLI", ("question", "sentence"), "label", ENTAILMENT, ("accuracy",), numbered=False),
    "rte": GlueTask("RTE", SENTENCES, "label", ENTAILMENT, ("accuracy",), numbered=False),
    "wnli": GlueTask("WNLI", SENTENCES, "label", ("not_entailment", "entailment"), ("accuracy",)),
}


def load_glue(
    name: str,
    folder: Path | None,
    hub: Hub | None = None,
    say: Callable[[str], object] = tell,
    option: str = "--data",
) -> Task:
    """Load a task of GLUE.

    Args:
        name: a key of `GLUE`.
        folder: of the GLUE download, with a folder for each task; None for the hub.
        hub: the dataset object of the hub, if it is already loaded; None loads it with `datasets`.
        say: called with a message if rows were skipped.
        option: of the command line that gives the folder, for error messages.

    Returns:
        the task with its dev sets and, if they exist, its test sets without labels.

    Raises:
        DataError: the name is unknown, a file is missing, a row has too many or too few columns, a label is unknown,
            a split is empty or lacks a label, `datasets` is not installed, or the hub cannot be reached.
    """
    if name not in GLUE:
        close = difflib.get_close_matches(name.lower().replace("-", ""), GLUE, n=1)
        remedy = f"did you mean {close[0]}?" if close else f"the tasks are {', '.join(GLUE)}."
        raise DataError(f"{name} is not a task of GLUE; {remedy}")
    task = GLUE[name]
    if folder is not None:
        train, dev, test = _from_folder(name, task, folder, say)
    else:
        train, dev, test = _from_hub(name, task, _load_from_hub(name, option) if hub is None else hub)
    kind = "classification" if task.labels else "regression"
    return make_task(name, kind, task.labels, train, dev, test, task.metrics, augment_swapped=task.augment_swapped)


_Row = tuple[int, dict[str, str]]


def _from_folder(
    name: str, task: GlueTask, folder: Path, say: Callable[[str], object]
) -> tuple[Split, dict[str, Split], dict[str, Split]]:
    home = folder / task.folder
    skipped = 0

    def rows(file: str) -> list[_Row]:
        nonlocal skipped
        found, left_out = _read_rows(name, home / file)
        skipped += left_out
        return found

    def read(file: str, labelled: bool = True) -> Split:
        return _split(task, home / file, rows(file), labelled)

    endings = dict(task.splits or {"dev": ""})
    test: dict[str, Split] = {}
    whole, hidden = "msr_paraphrase_train.txt", "msr_paraphrase_test.txt"
    if name == "mrpc" and not (home / "train.tsv").exists() and (home / whole).exists():
        train, dev_split = (_split(task, home / whole, part) for part in _divide_mrpc(home, rows(whole)))
        dev = {"dev": dev_split}
        if (home / hidden).exists() and not (home / "test.tsv").exists():
            test["test"] = read(hidden, labelled=False)
    else:
        train = read("train.tsv")
        dev = {split: read(f"dev{ending}.tsv") for split, ending in endings.items()}
    for split, ending in endings.items():
        if (home / f"test{ending}.tsv").exists():
            test["test" if split == "dev" else split] = read(f"test{ending}.tsv", labelled=False)
    if skipped:
        say(f"{home}: {skipped:,} rows with missing columns were skipped.")
    return train, dev, test


def _read_rows(name: str, path: Path) -> tuple[list[_Row], int]:
    """Rows as {column: field} with their line numbers, and how many rows of QQP were skipped for missing columns."""
    if not path.exists():
        raise DataError(
            f"{path} is missing; give the folder of the GLUE download, where {name} is {GLUE[name].folder}/{path.name}."
        )
    lines = tsv_rows(path)
    if name == "cola" and not path.name.startswith("test"):
        header = ["source", "label", "star", "sentence"]
    else:
        _, header = next(lines, (1, []))
        needed = GLUE[name].texts if path.stem.startswith("test") else (*GLUE[name].texts, GLUE[name].label)
        for column in needed:
            if column not in header:
                raise DataError(
                    f"{path}, line 1: there is no column {column}; it is not GLUE's file, download it again."
                )
    found: list[_Row] = []
    left_out = 0
    for number, fields in lines:
        if len(fields) == len(header):
            found.append((number, dict(zip(header, fields, strict=True))))
        elif name == "qqp" and len(fields) < len(header):
            left_out += 1
        else:
            raise DataError(
                f"{path}, line {number}: {len(fields)} columns instead of {len(header)}; correct or remove the line."
            )
    return found, left_out


def _divide_mrpc(home: Path, rows: list[_Row]) -> tuple[list[_Row], list[_Row]]:
    """Divide Microsoft's training file into train and dev by GLUE's list of dev pairs."""
    lists = [home / "dev_ids.tsv", home / "mrpc_dev_ids.tsv"]
    path = next((path for path in lists if path.exists()), None)
    if path is None:
        raise DataError(f"{lists[0]} is missing; it lists GLUE's dev pairs: add it, or train.tsv and dev.tsv.")
    chosen = {tuple(fields[:2]) for _, fields in tsv_rows(path)}
    dev = [(row["#1 ID"], row["#2 ID"]) in chosen for _, row in rows]
    parts = [[row for row, is_dev in zip(rows, dev, strict=True) if is_dev == part] for part in (False, True)]
    return parts[0], parts[1]


def _split(task: GlueTask, path: Path, rows: list[_Row], labelled: bool = True) -> Split:
    texts = [tuple(row[column].strip() for column in task.texts) for _, row in rows]
    if not labelled:
        return Split(texts, [])
    if not task.labels:
        return Split(texts, [_value(row[task.label], f"{path}, line {number}") for number, row in rows])
    written = [str(number) for number in range(len(task.labels))] if task.numbered else task.labels
    number_of = {label: number for number, label in enumerate(written)}
    labels: list[int] = []
    for number, row in rows:
        label = row[task.label].strip()
        if label not in number_of:
            raise DataError(
                f"{path}, line {number}: label {label!r} is not one of {', '.join(written)}; correct or remove the "
                "line."
            )
        labels.append(number_of[label])
    return Split(texts, labels)


def _value(written: Any, where: str) -> float:
    """The shortest decimal number of the same float32: 3.8 for "3.800" and for the hub's 3.799999952316284."""
    try:
        value = float(str(np.float32(written)))
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise DataError(f"{where}: score {written!r} is not a finite number; correct or remove the line.")
    return value


def _load_from_hub(name: str, option: str) -> Hub:
    try:
        from datasets import load_dataset  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise DataError(
            "loading GLUE from the hub needs datasets: pip install datasets, or give the folder of the GLUE download "
            f"with {option}."
        ) from None
    try:
        return cast(Hub, load_dataset(HUB_NAME, name))
    except Exception as error:  # errors of datasets, of the hub and of the HTTP client have no common base
        raise DataError(
            f"{HUB_NAME} ({name}) cannot be loaded from the hub ({first_line(error)}); give the folder of the GLUE "
            f"download with {option}."
        ) from error


def _from_hub(name: str, task: GlueTask, hub: Hub) -> tuple[Split, dict[str, Split], dict[str, Split]]:
    def split(hub_split: str, labelled: bool = True) -> Split:
        columns = hub[hub_split]
        texts = list(zip(*([text.strip() for text in columns[c]] for c in task.hub_texts or task.texts), strict=True))
        if not labelled:
            return Split(texts, [])
        if not task.labels:
            where = f"{HUB_NAME} ({name}, {hub_split})"
            return Split(texts, [_value(value, where) for value in columns["label"]])
        labels = [int(label) for label in columns["label"]]
        for row, label in enumerate(labels):
            if not 0 <= label < len(task.labels):
                raise DataError(f"{HUB_NAME} ({name}, {hub_split}), row {row + 1}: unknown label {label}.")
        return Split(texts, labels)

    endings = dict(task.splits or {"dev": ""})
    dev = {name: split(f"validation{ending}") for name, ending in endings.items()}
    test = {
        "test" if name == "dev" else name: split(f"test{ending}", labelled=False)
        for name, ending in endings.items()
        if f"test{ending}" in hub
    }
    return split("train"), dev, test
