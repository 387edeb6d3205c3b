"""GLUE's averages and the files of predictions that its server takes.

Notable: published averages differ in what they average. `AVERAGES` has three of them by name; the tests compute each
one from the row of its paper.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fast_electra.data.files import read_sealed_json, write_text_atomically
from fast_electra.errors import DataError
from fast_electra.evaluation.glue import GLUE
from fast_electra.evaluation.results import Result
from fast_electra.evaluation.tasks import Task

SERVER_FILES = {"matched": "MNLI-m.tsv", "mismatched": "MNLI-mm.tsv"}


class Average(NamedTuple):
    """A convention of averaging."""

    of: str
    """which scores of which tasks are averaged, in words"""
    source: str
    terms: dict[str, tuple[tuple[str, str], ...]]
    """{task: ((dev split, metric), …)}"""
    merged: bool
    """whether the scores of each task are averaged first, so that every task counts once"""


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
    """Compute the averages of `AVERAGES` for which there are all tasks.

    Args:
        results: {task: {dev split: {metric: score}}}, of one seed or aggregated over seeds.

    Returns:
        {name of the average: value}.
    """
    found: dict[str, float] = {}
    for name, average in AVERAGES.items():
        if average.terms.keys() <= results.keys():
            scores = [[results[task][split][metric] for split, metric in of] for task, of in average.terms.items()]
            one_each = [float(np.mean(of_task)) for of_task in scores]
            found[name] = float(np.mean(one_each if average.merged else [*chain.from_iterable(scores)]))
    return found


def write_server_predictions(
    task: Task, predictions: Mapping[str, Sequence[int] | Sequence[float]], folder: Path
) -> list[Path]:
    """Write predictions for the test sets as files that gluebenchmark.com accepts in one zip archive.

    The files have the columns index and prediction: class names or 0 and 1 as in the files of the task, and values of
    STS-B limited to 0 … 5.

    Args:
        task: one of GLUE's, with its test splits.
        predictions: {test split: class number or value of each example, in order}.
        folder: is created if it is missing.

    Returns:
        the files: CoLA.tsv, …, MNLI-m.tsv and MNLI-mm.tsv.

    Raises:
        ValueError: the numbers of examples and predictions of a split differ.
    """
    glue = GLUE[task.name]
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


def write_predictions(results: Sequence[Result], tasks: Sequence[Task], out: Path, folder: Path) -> list[Path]:
    """Files for GLUE's server, by the seed whose dev score is the median (the lower of two).

    Args:
        results: of `evaluate`.
        tasks: those it was given, of GLUE and with test sets.
        out: the evaluation's folder.
        folder: for the files.

    Raises:
        DataError: all seeds of a task failed.
    """
    written: list[Path] = []
    named = {task.name: task for task in tasks}
    for result in results:
        scores = result.scores[result.split][result.metric]
        ranked = sorted((score, seed) for score, seed in zip(scores, result.seeds, strict=True) if score is not None)
        if not ranked:
            raise DataError(
                f"{result.task}: every seed failed, so there is nothing to predict with; take another recipe."
            )
        seed = ranked[(len(ranked) - 1) // 2][1]
        cell = read_sealed_json(out / "cells" / result.cells[str(seed)])
        assert cell is not None
        written += write_server_predictions(named[result.task], cell["test_predictions"], folder)
    return written
