"""What is known of a task without an encoder: labels of the dev sets, and baselines; kept in a file of each task."""

from pathlib import Path

import numpy as np

from fast_electra.data.files import read_sealed_json, write_sealed_json
from fast_electra.evaluation.baselines import bag_of_words, majority, word_crf
from fast_electra.evaluation.cells import CellRecord
from fast_electra.evaluation.evaluations import task_file
from fast_electra.evaluation.results import Scores
from fast_electra.evaluation.scores import flatten
from fast_electra.evaluation.tasks import Task

_FACTS = 4
"""version of a task's file; it grows when a baseline changes"""


def facts_of(task: Task, out: Path) -> CellRecord:
    """Labels of the dev sets, and baselines without an encoder: kept in a file, made where it is not there."""
    path = task_file(out, task.name, task.digest)
    facts = read_sealed_json(path)
    if facts is not None and (facts.get("digest"), facts.get("version")) == (task.digest, _FACTS):
        return facts
    baselines: dict[str, Scores | None] = {"majority": majority(task)}
    if not task.has_entities:  # nobody finds entities by guessing
        baselines["chance"] = chance(task)
    if task.kind == "tokens":
        baselines["word_crf"] = word_crf(task)
    else:
        try:
            baselines["bag_of_words"] = bag_of_words(task)
        except ValueError:  # no text has a word
            baselines["bag_of_words"] = None
    facts = {
        "version": _FACTS,
        "task": task.name,
        "digest": task.digest,
        "kind": task.kind,
        "labels": list(task.labels),
        "metrics": list(task.metrics),
        "dev": {name: dev.labels for name, dev in task.dev.items()},
        "baselines": baselines,
    }
    write_sealed_json(path, facts)
    return facts


def chance(task: Task) -> Scores:
    """Scores {dev split: {metric: score}} to be expected of guessing every class equally often, whatever the text."""
    guessed = 1 / max(1, len(task.labels))
    found: Scores = {}
    for name, dev in task.dev.items():
        labels = flatten(dev.labels)
        true = float(np.mean(labels == 1))
        scores = {"accuracy": guessed, "token_accuracy": guessed, "f1": 2 * true * guessed / (true + guessed)}
        found[name] = {metric: scores.get(metric, 0.0) for metric in task.metrics}
    return found
