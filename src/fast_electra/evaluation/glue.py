"""The nine tasks of GLUE (Wang et al., 2019, arXiv 1804.07461), out of the download's folder or off the hub.

Notable:
- both ways lead to identical examples: classes in the hub's order, texts stripped, STS-B's scores in float32's digits;
- the files' quirks are kept to: no quoting anywhere; CoLA has no header; MRPC is split already, or Microsoft's file and
  a list of dev pairs; a row of QQP may lack columns, and is skipped and counted;
- published averages differ in what they average: `AVERAGES` has three of them by name, each reproduced in the tests
  from its paper's own row;
- predictions for the test sets are written as GLUE's server takes them.
"""

import difflib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fast_electra.data.files import write_text_atomically
from fast_electra.errors import DataError
from fast_electra.evaluation.readers import tsv_rows
from fast_electra.evaluation.tasks import Split, Task, make_task

HUB_NAME = "nyu-mll/glue"
# What the hub's dataset object is, as far as it is read: split -> column -> values.
Hub = Mapping[str, Mapping[str, Sequence[Any]]]


@dataclass(frozen=True)
class GlueTask:
    """Where a task lies in the download, and how it is scored."""

    folder: str
    texts: tuple[str, ...]
    """columns of the files"""
    label: str
    labels: tuple[str, ...]
    """class names in the hub's order; () for regression"""
    metrics: tuple[str, ...]
    numbered: bool = True
    """files and server write 0 and 1 for the classes, not their names"""
    hub_texts: tuple[str, ...] = ()
    """columns on the hub where they are called otherwise"""
    splits: Mapping[str, str] | None = None
    """{split: ending of its files}; None for one dev and one test file"""
    augment_swapped: bool = False
    """ELECTRA doubles the training examples with their sentences swapped, which changes no label"""


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
SERVER_FILES = {"matched": "MNLI-m.tsv", "mismatched": "MNLI-mm.tsv"}


def load_glue(
    name: str,
    folder: Path | None,
    hub: Hub | None = None,
    say: Callable[[str], object] = warnings.warn,
    option: str = "--data",
) -> Task:
    """A task of GLUE, its dev sets and, where they are there, its test sets without labels.

    Args:
        name: a key of `GLUE`.
        folder: holds one folder a task as the GLUE download does; None for the hub.
        hub: the hub's dataset object, already loaded; None loads it through `datasets`.
        say: is told how many rows were skipped.
        option: that gives the folder, for the message when there is no way to the hub.

    Raises:
        DataError: an unknown name, a missing file (the message says which, where), a row with too many or too few
            columns, an unknown label, a split that is empty or lacks a label, no `datasets` or no way to the hub.
    """
    if name not in GLUE:
        close = difflib.get_close_matches(name.lower().replace("-", ""), GLUE, n=1)
        remedy = f"did you mean {close[0]}?" if close else f"the tasks are {', '.join(GLUE)}."
        raise DataError(f"{name} is no task of GLUE; {remedy}")
    task = GLUE[name]
    if folder is not None:
        train, dev, test = _from_folder(name, task, folder, say)
    else:
        train, dev, test = _from_hub(name, task, _load_from_hub(name, option) if hub is None else hub)
    kind = "classification" if task.labels else "regression"
    return make_task(name, kind, task.labels, train, dev, test, task.metrics, augment_swapped=task.augment_swapped)


# --- Files ------------------------------------------------------------------------------------------------------------

_Row = tuple[int, dict[str, str]]


def _from_folder(
    name: str, task: GlueTask, folder: Path, say: Callable[[str], object]
) -> tuple[Split, dict[str, Split], dict[str, Split]]:
    home = folder / task.folder
    skipped = 0

    def rows(path: Path) -> list[_Row]:
        nonlocal skipped
        found, left_out = _read_rows(name, path)
        skipped += left_out
        return found

    endings = dict(task.splits or {"dev": ""})
    test_rows: dict[str, tuple[Path, list[_Row]]] = {}
    if name == "mrpc" and not (home / "train.tsv").exists() and (home / "msr_paraphrase_train.txt").exists():
        path = home / "msr_paraphrase_train.txt"
        train_rows, dev_rows = _divide_mrpc(home, rows(path))
        train, dev = _split(task, path, train_rows), {"dev": _split(task, path, dev_rows)}
        if (hidden := home / "msr_paraphrase_test.txt").exists() and not (home / "test.tsv").exists():
            test_rows["test"] = hidden, rows(hidden)
    else:
        train = _split(task, home / "train.tsv", rows(_expected(name, folder, "train.tsv")))
        dev = {
            split: _split(task, home / f"dev{ending}.tsv", rows(_expected(name, folder, f"dev{ending}.tsv")))
            for split, ending in endings.items()
        }
    for split, ending in endings.items():
        if (path := home / f"test{ending}.tsv").exists():
            test_rows["test" if split == "dev" else split] = path, rows(path)
    test = {split: _split(task, path, found, labelled=False) for split, (path, found) in test_rows.items()}
    if skipped:
        say(f"{home}: {skipped:,} rows with missing columns were skipped.")
    return train, dev, test


def _expected(name: str, folder: Path, file: str) -> Path:
    path = folder / GLUE[name].folder / file
    if not path.exists():
        raise DataError(
            f"{path} is missing; give the folder of the GLUE download, where {name} is {GLUE[name].folder}/{file}."
        )
    return path


def _read_rows(name: str, path: Path) -> tuple[list[_Row], int]:
    """Rows as {column: field} with their lines, and how many were left out since they lack columns (QQP alone)."""
    lines = tsv_rows(path)
    if name == "cola" and not path.name.startswith("test"):
        header = ["source", "label", "star", "sentence"]
    else:
        _, header = next(lines, (1, []))
        needed = GLUE[name].texts if path.stem.startswith("test") else (*GLUE[name].texts, GLUE[name].label)
        for column in needed:
            if column not in header:
                raise DataError(f"{path}, line 1: no column {column}; it is not GLUE's file, download it again.")
    found: list[_Row] = []
    left_out = 0
    for number, fields in lines:
        if len(fields) == len(header):
            found.append((number, dict(zip(header, fields, strict=True))))
        elif name == "qqp" and len(fields) < len(header):
            left_out += 1
        else:
            raise DataError(
                f"{path}, line {number}: {len(fields)} columns instead of {len(header)}; mend or remove the line."
            )
    return found, left_out


def _divide_mrpc(home: Path, rows: list[_Row]) -> tuple[list[_Row], list[_Row]]:
    """Train and dev of Microsoft's training file, by GLUE's list of the dev pairs."""
    lists = [home / "dev_ids.tsv", home / "mrpc_dev_ids.tsv"]
    path = next((path for path in lists if path.exists()), None)
    if path is None:
        raise DataError(f"{lists[0]} is missing; it lists GLUE's dev pairs: put it, or train.tsv and dev.tsv, there.")
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
                f"{path}, line {number}: label {label!r} is none of {', '.join(written)}; mend or remove the line."
            )
        labels.append(number_of[label])
    return Split(texts, labels)


def _value(written: Any, where: str) -> float:
    """The shortest decimal number that is the same float32: 3.8 for "3.800" and for the hub's 3.799999952316284."""
    try:
        value = float(str(np.float32(written)))
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise DataError(f"{where}: score {written!r} is no finite number; mend or remove the line.")
    return value


# --- Hub --------------------------------------------------------------------------------------------------------------


def _load_from_hub(name: str, option: str) -> Hub:
    try:
        from datasets import load_dataset  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise DataError(
            "GLUE off the hub is read by datasets, which isn't installed: pip install datasets, or give the folder of "
            f"the GLUE download by {option}."
        ) from None
    try:
        return load_dataset(HUB_NAME, name)
    except Exception as error:  # its own, the hub's, and its HTTP client's: no common base
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(
            f"{HUB_NAME} ({name}) can't be read off the hub ({reason}); give the folder of the GLUE download by "
            f"{option}."
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


# --- Averages ---------------------------------------------------------------------------------------------------------


class Average(NamedTuple):
    """A convention of averaging: which scores of which tasks."""

    of: str
    """what is averaged, in words"""
    source: str
    terms: dict[str, tuple[tuple[str, str], ...]]
    """{task: ((dev split, metric), …)}"""
    merged: bool
    """the scores of a task are averaged first, so that it counts once"""


_PLAIN = {task: (("dev", "accuracy"),) for task in ("sst2", "qnli", "rte")}
_MNLI = (("matched", "accuracy"), ("mismatched", "accuracy"))
AVERAGES: dict[str, Average] = {
    "ELECTRA": Average(
        "eight tasks without WNLI, one number each: CoLA Matthews, STS-B Spearman, MNLI matched, accuracy elsewhere",
        "Clark et al., 2020, section 3.1, and the results in github.com/google-research/electra",
        {
            "cola": (("dev", "matthews"),),
            "stsb": (("dev", "spearman"),),
            "mnli": (("matched", "accuracy"),),
            **{task: (("dev", "accuracy"),) for task in ("mrpc", "qqp")},
            **_PLAIN,
        },
        merged=False,
    ),
    "BERT": Average(
        "nine numbers of eight tasks without WNLI: MNLI matched and mismatched each count, MRPC and QQP F1, "
        "CoLA Matthews, STS-B Spearman, accuracy elsewhere",
        "Devlin et al., 2019, table 1",
        {
            "cola": (("dev", "matthews"),),
            "stsb": (("dev", "spearman"),),
            "mnli": _MNLI,
            **{task: (("dev", "f1"),) for task in ("mrpc", "qqp")},
            **_PLAIN,
        },
        merged=False,
    ),
    "GLUE": Average(
        "nine tasks with WNLI, each the mean of all its official scores, MNLI of matched and mismatched",
        "Wang et al., 2019, and the leaderboard of gluebenchmark.com",
        {
            name: _MNLI if name == "mnli" else tuple(("dev", metric) for metric in task.metrics)
            for name, task in GLUE.items()
        },
        merged=True,
    ),
}


def averages(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """The averages of `AVERAGES` whose tasks are all there, by name.

    Args:
        results: {task: {dev split: {metric: score}}}, of one seed or summed up over seeds.
    """
    found: dict[str, float] = {}
    for name, average in AVERAGES.items():
        if average.terms.keys() <= results.keys():
            scores = [[results[task][split][metric] for split, metric in of] for task, of in average.terms.items()]
            one_each = [float(np.mean(of_task)) for of_task in scores]
            found[name] = float(np.mean(one_each if average.merged else [*chain.from_iterable(scores)]))
    return found


# --- Server -----------------------------------------------------------------------------------------------------------


def write_server_predictions(
    task: Task, predictions: Mapping[str, Sequence[int] | Sequence[float]], folder: Path
) -> list[Path]:
    """Predictions for the test sets as files that gluebenchmark.com takes, to be zipped together.

    Args:
        task: one of GLUE's, with its test splits.
        predictions: {test split: a class number or value an example, in the order of the examples}.
        folder: is made where missing.

    Returns:
        the files: CoLA.tsv, …, MNLI-m.tsv and MNLI-mm.tsv; columns index and prediction, class names or 0 and 1 as in
        the task's own files, STS-B's values cut to 0 … 5.

    Raises:
        ValueError: a split has another number of examples than predictions.
    """
    glue = GLUE[task.name]
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for split, values in predictions.items():
        if len(values) != len(task.test[split]):
            raise ValueError(f"{len(values)} predictions for {len(task.test[split])} examples of {task.name} {split}")
        if not glue.labels:
            names = [f"{min(max(float(value), 0.0), 5.0):.3f}" for value in values]
        else:
            names = [str(int(value)) if glue.numbered else glue.labels[int(value)] for value in values]
        path = folder / SERVER_FILES.get(split, f"{glue.folder}.tsv")
        rows = "".join(f"{index}\t{name}\n" for index, name in enumerate(names))
        write_text_atomically(path, f"index\tprediction\n{rows}")
        written.append(path)
    return written
