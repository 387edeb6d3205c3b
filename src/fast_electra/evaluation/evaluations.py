"""Evaluations on disk: where the results of a model are, how they are stored and loaded.

Notable: nothing here needs torch, so `compare` answers at once.

    OUT/cells/        one JSON file for each model, task, recipe and seed, untrained baselines included
    OUT/tasks/        one JSON file for each task: its dev labels, and the baselines that need no encoder
    OUT/results.json
    OUT/report.html
"""

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fast_electra.data.files import read_sealed_json, write_sealed_json
from fast_electra.data.locks import folder_lock
from fast_electra.errors import DataError
from fast_electra.evaluation.remarks import averages_of
from fast_electra.evaluation.results import Result
from fast_electra.runs.folder import RunFolder, run_of_checkpoint
from fast_electra.terminal import command

RESULTS_FILE = "results.json"
LONGEST_NAME = 100
"""maximum number of characters of a task's name in a file name"""


@dataclass(frozen=True)
class Evaluation:
    """All results of one model."""

    model: str
    digest: str
    folder: Path
    results: list[Result]
    commands: list[str]
    """commands that computed the results"""


def results_folder(model: str) -> Path:
    """Return the folder for the results of a model.

    It is `evaluation/` in the run of the model, `evaluation/UPDATE` for a checkpoint (RUN/checkpoints/UPDATE), and
    else `evaluations/NAME` in the current folder. NAME is the whole path or hub name with "--" in place of "/", because
    many folders have a last part like `checkpoint-500`.
    """
    path = Path(model)
    if run := run_of_checkpoint(path):
        return run.path / "evaluation" / path.name
    if path.name == "model" and _is_run(path.parent):
        path = path.parent
    if _is_run(path):
        return path / "evaluation"
    if path.exists():
        path, here = path.resolve(), Path.cwd()
        model = str(path.relative_to(here) if here in path.parents else path)
    return Path("evaluations") / re.sub(r"[^\w.-]+", "--", model.strip("/"))


def run_of(model: str) -> RunFolder | None:
    """Return the run of a model: RUN, RUN/model, RUN/checkpoints/UPDATE or the folder of a quickstart; else None."""
    path = Path(model)
    return RunFolder.of_model(path) or RunFolder.find(path / "main") or RunFolder.find(path.parent / "main")


def _is_run(path: Path) -> bool:
    return RunFolder.find(path) is not None or (path / "model" / "config.json").exists()


def store(evaluation: Evaluation, say: Callable[[str], object] = lambda _: None) -> Evaluation:
    """Write results.json: the new results, and the stored results of the same weights under other setups.

    Args:
        evaluation: the new results.
        say: called with a message if a result of other examples is replaced.

    Returns:
        the evaluation with new and stored results.
    """
    with folder_lock(evaluation.folder, wait=True):  # another command may be evaluating the same model on other tasks
        return _store(evaluation, say)


def _store(evaluation: Evaluation, say: Callable[[str], object]) -> Evaluation:
    before = load(evaluation.folder)
    kept: list[Result] = []
    commands = evaluation.commands
    new = list(evaluation.results)
    if before is not None and before.digest == evaluation.digest:
        there = {(result.task, result.setup): result for result in before.results}
        for place, result in enumerate(new):
            old = there.pop((result.task, result.setup), None)
            if old is None:
                continue
            other = ""
            if old.digest != result.digest:
                other = "examples"
            elif old.recipe.get("start") != result.recipe.get("start"):
                other = "weights to start from"
            elif result.overlap is None:
                new[place] = replace(result, overlap=old.overlap)
            if other:
                say(
                    f"{result.task} ({result.setup}) replaces a result of other {other}, whose cells are kept: to have "
                    "both results, give the file or folder another name, or give another --out."
                )
        kept = list(there.values())
        commands = [*(command for command in before.commands if command not in commands), *commands]
    whole = replace(evaluation, results=[*kept, *new], commands=commands)
    cells = [read_sealed_json(path) or {} for path in sorted((whole.folder / "cells").glob("*.json"))]
    write_sealed_json(
        whole.folder / RESULTS_FILE,
        {
            "model": whole.model,
            "digest": whole.digest,
            "commands": whole.commands,
            "averages": [average._asdict() for average in averages_of(whole.results)],
            "results": [asdict(result) for result in whole.results],
            "cells": [
                {key: value for key, value in cell.items() if key not in ("predictions", "test_predictions")}
                for cell in cells
                if cell.get("identity", {}).get("model") == whole.digest
            ],
        },
    )
    return whole


class NoEvaluation(DataError):
    """A results.json that another program wrote."""


def load(folder: Path) -> Evaluation | None:
    """Load what `store` wrote.

    Returns:
        the evaluation; None if the folder has no results.json.

    Raises:
        NoEvaluation: another program wrote the file.
        DataError: the file is damaged.
    """
    path = folder / RESULTS_FILE
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not {"model", "digest", "results", "commands"} <= content.keys():
            raise NoEvaluation(f"{path} exists and was not written by evaluate: give another folder with --out.")
        if read_sealed_json(path) is None:
            raise ValueError("changed by hand")
        results = [Result(**result) for result in content["results"]]
    except (ValueError, TypeError, RecursionError) as error:  # TypeError: by another version
        raise DataError(f"{path} is damaged: delete it, and evaluate the model again; no cell is lost.") from error
    return Evaluation(content["model"], content["digest"], folder, results, content["commands"])


def task_file(folder: Path, task: str, digest: str) -> Path:
    """Return the file for the labels and baselines of a task."""
    return folder / "tasks" / f"{task[:LONGEST_NAME]}-{digest[:12]}.json"


def find_evaluation(model: str) -> Evaluation:
    """Find the results of a model.

    Args:
        model: as for `evaluate`, or the folder with the results.

    Raises:
        DataError: there are no results.
    """
    for folder in (Path(model), results_folder(model)):
        with contextlib.suppress(NoEvaluation):  # folders of models may have another results.json
            if (found := load(folder)) is not None:
                return found
    raise DataError(
        f"{model} has no results (looked for {results_folder(model) / RESULTS_FILE}): run "
        f"`{command('evaluate', model, '--tasks', 'bugs')}` first (or other tasks), or give the "
        "folder of its --out."
    )
