"""Compute cells in parallel: one process for each device, or several processes that share a machine's cores.

Notable:
- a worker computes a cell and writes its file, as a single process would; `runner.evaluate` then finds it there. A
  killed command loses only the cells that were being computed;
- workers end with their parent (`data/workers.py`).
"""

import os
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import replace
from typing import Any

import torch

from fast_electra.data.workers import SPAWN, worker_pool
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

    The processes share the threads, and take the CUDA devices in turn.

    Raises:
        ModelError, DataError: the model can't be fine-tuned on a task.
        ResourceError: a process ended unexpectedly.
    """
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
    with worker_pool(min(workers, len(jobs)), "fine-tunes", remedy, _start, shared) as pool:
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
