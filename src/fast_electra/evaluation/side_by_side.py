"""Compute cells in parallel: by the processes of a launcher, or by worker processes of this machine.

Notable:
- a process computes a cell and writes its file, as a single process would; `runner.evaluate` then finds it there. A
  killed command loses only the cells that were being computed;
- under a launcher rank 0 alone writes everything that the cells share: results, baselines, the page;
- workers, one for each CUDA device or as many as asked for, end with their parent (`data/workers.py`).
"""

import os
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch

from fast_electra import distributed
from fast_electra.data.workers import SPAWN, worker_pool
from fast_electra.errors import DataError
from fast_electra.evaluation.cells import keep_cell
from fast_electra.evaluation.runner import Job, TaskCells, Work, plans_of, tell_missing
from fast_electra.evaluation.settings import EvaluationConfig
from fast_electra.evaluation.subject import Subject
from fast_electra.evaluation.tasks import Task
from fast_electra.training.precision import Execution

_POLL = 0.5
"""seconds between two looks at how far the workers are"""


_Numbered = tuple[int, Job]
"""the number of a task, and a job of it"""


def workers_for(execution: Execution) -> int:
    """One for each CUDA device that is visible, otherwise one."""
    return torch.cuda.device_count() if execution.device.type == "cuda" else 1


def compute_side_by_side(tasks: Sequence[Task], work: Work) -> None:
    """Compute the missing cells in several processes; do nothing if one process is enough.

    Workers share the threads, and take the CUDA devices in turn.

    Raises:
        ModelError, DataError: the model can't be fine-tuned on a task.
        ResourceError: a process ended unexpectedly.
    """
    if distributed.size() > 1:
        _compute_shares(plans_of(tasks, work), work)
        return
    workers = work.config.workers or workers_for(work.execution)
    plans = plans_of(tasks, work)
    jobs = _jobs(plans)
    if workers == 1 or len(jobs) < 2:
        return
    count, total = tell_missing(plans, work.say)
    done, begun = 0, list[_Numbered]()
    places, examples = SPAWN.SimpleQueue(), SPAWN.Value("d", 0.0)
    for place in range(workers):
        places.put(place)
    shares = replace(work.execution, threads=max(1, work.execution.threads // workers))
    shared = (work.subject, tasks, work.config, shares, places, examples)
    remedy = "the same command continues: give it fewer of them by --workers"
    # Whether a task or a part is defined in the script that runs.
    of_script = b"__main__" in bytes(ForkingPickler.dumps((work.subject, tasks, work.config)))
    with worker_pool(min(workers, len(jobs)), "fine-tunes", remedy, _start, shared, of_script) as pool:
        while jobs:
            begun += jobs
            waiting = {pool.submit(_compute, job) for job in jobs}
            while waiting:
                finished, waiting = wait(waiting, _POLL, FIRST_COMPLETED)
                for future in finished:
                    for sentence in future.result():
                        work.say(sentence)
                done += len(finished)
                work.progress(examples.value, total, f"{done} of {count} done")
            jobs = [numbered for numbered in _jobs(plans) if numbered not in begun]  # what trials have chosen


def _jobs(plans: Sequence[TaskCells]) -> list[_Numbered]:
    return [(number, job) for number, plan in enumerate(plans) for job in plan.missing()]


def _compute_shares(plans: Sequence[TaskCells], work: Work) -> None:
    """Compute the missing cells in the processes of the launcher; rank 0 then has all of them.

    Rank 0 says which cells are missing, and gets the records of the others as messages: a network file system may show
    it their files only later.
    """
    _, total = tell_missing(plans, work.say)
    work.total = total / distributed.size()
    said: list[str] = []
    if not distributed.is_main():
        work.say = said.append  # rank 0 prints it
    cells = {plan.cell(job).name: (plan, job) for plan in plans for job in plan.possible()}
    begun: set[str] = set()
    while names := distributed.from_main([name for name in _longest_first(plans) if name not in begun]):
        begun.update(names)
        if other := set(names) - cells.keys():
            raise DataError(
                f"{min(other)} is no result that this process would compute: all processes must read the same tasks "
                "and the same weights; copy them to every machine."
            )
        records = {}
        for name in names[distributed.rank() :: distributed.size()]:
            plan, job = cells[name]
            records[name] = plan.record(job)
        shares = distributed.gather([records, said])
        said.clear()
        for found, sentences in shares if distributed.is_main() else ():
            for sentence in sentences:
                work.say(sentence)
            for name, record in found.items():
                plan, job = cells[name]
                keep_cell(work.out, plan.cell(job), record)


def _longest_first(plans: Sequence[TaskCells]) -> list[str]:
    """The names of the missing cells, the longest first, so that shares of every n-th cell take about equally long."""
    missing = [(plan, job) for plan in plans for job in plan.missing()]
    missing.sort(key=lambda pair: pair[0].examples(pair[1]), reverse=True)
    return [plan.cell(job).name for plan, job in missing]


# --- In a worker ------------------------------------------------------------------------------------------------------

_plans: list[TaskCells] = []
_said: list[str] = []


def _start(
    subject: Subject,
    tasks: Sequence[Task],
    config: EvaluationConfig,
    execution: Execution,
    places: Any,
    examples: Any,
) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if execution.device.type == "cuda":
        device = torch.device("cuda", places.get() % torch.cuda.device_count())
        execution = replace(execution, device=device)
    told = 0.0

    def progress(done: float, total: float, doing: str) -> None:
        nonlocal told
        with examples.get_lock():
            examples.value += done - told
        told = done

    work = Work(subject, config, execution, _said.append, progress)
    _plans[:] = plans_of(tasks, work)


def _compute(numbered: _Numbered) -> list[str]:
    """Compute a cell and keep it; returns what is said of it: nothing where another command has kept it meanwhile."""
    _said.clear()
    number, job = numbered
    _plans[number].record(job)
    return list(_said)
