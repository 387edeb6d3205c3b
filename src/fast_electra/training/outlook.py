"""What a run will take, before it starts: operations of an update, and warnings of one that is out of proportion.

Notable:
- operations are counted on two rows of the run's own step, so that an objective needs no formula;
- the time is estimated by a few rows as well. It is for a warning alone: nothing is decided by it.
"""

import time
from collections.abc import Callable

import torch

from fast_electra.config.tree import Config
from fast_electra.training.assembly import Assembled
from fast_electra.training.flops import count_flops
from fast_electra.training.optimizer import optimizer_flops
from fast_electra.training.precision import Execution, synchronize

MOST_EPOCHS = 40
"""passes over a corpus that still teach: BERT saw its corpus about so often (arXiv 1810.04805, appendix A.2)"""
_MOST_DAYS = 2.0


def flops_per_update(config: Config, parts: Assembled, execution: Execution) -> int:
    """Matrix-product FLOPs of one update: forward and backward of every part, counted on two rows, and Muon's."""
    step, rows = _step(config, parts, execution, 2)
    flops = count_flops(step)
    _clear(parts)
    stepping = sum(map(optimizer_flops, parts.objective.parameter_groups()))
    return flops * config.training.batch_size // rows + stepping


def warnings(asked: Config, config: Config, parts: Assembled, execution: Execution) -> list[str]:
    """What is out of proportion in a new run, a sentence each, with a budget that is not.

    Args:
        asked: as the user gave it: who asked for days gets them.
        config: with the number of updates.
        parts: of the run, in float32; their gradients are cleared.
        execution: where it computes.
    """
    updates, found = config.training.updates, []
    assert updates is not None
    per_update = config.training.batch_size * config.data.length
    corpus = parts.shards.split("train").tokens
    epochs = updates * per_update / corpus
    if epochs > MOST_EPOCHS:
        budget = f"training.updates={max(1, MOST_EPOCHS * corpus // per_update)}"
        found.append(
            f"the run reads its {corpus:,} tokens {epochs:,.0f} times, and more than {MOST_EPOCHS} times teach little: "
            f"give more text, or start in a new folder with {budget} as its budget."
        )
    days = updates * _seconds_per_update(config, parts, execution) / 86_400
    if days > _MOST_DAYS and asked.training.hours is None:
        found.append(
            f"the run takes roughly {days:,.0f} days on this machine: with training.hours=24 as its budget, in a new "
            "folder, its schedules end after a day."
        )
    return found


def _seconds_per_update(config: Config, parts: Assembled, execution: Execution) -> float:
    """Estimated by the second of two steps: of two rows on a CPU, elsewhere of a micro-batch that fills the device."""
    training = config.training
    most = 2 if execution.device.type == "cpu" else training.micro_batch_size or training.batch_size
    step, rows = _step(config, parts, execution, most)
    step()
    synchronize(execution.device)
    began = time.perf_counter()
    step()
    synchronize(execution.device)
    seconds = time.perf_counter() - began
    _clear(parts)
    return seconds * training.batch_size / rows


def _step(config: Config, parts: Assembled, execution: Execution, most: int) -> tuple[Callable[[], None], int]:
    """Forward and backward on the first rows of the run, `most` of them, and how many there are."""
    batch = parts.schedule.at(0).split(min(most, config.training.batch_size))[0]
    prepared = parts.objective.prepare(batch, seed=0).to(execution.device)

    def step() -> None:
        with execution.autocast():
            terms = parts.objective.terms(prepared, 0.0, seed=0)
        torch.stack([total for total, _ in terms.losses.values()]).sum().backward()

    return step, batch.ids.shape[0]


def _clear(parts: Assembled) -> None:
    for model in parts.objective.models().values():
        model.zero_grad(set_to_none=True)
