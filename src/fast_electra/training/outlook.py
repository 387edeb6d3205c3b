"""The cost of a run before it starts: FLOPs per update, and warnings if the text or the time do not fit the budget.

Notable:
- FLOPs are counted on two rows of the run's own step, so an objective needs no formula;
- the time is estimated on a few rows too. It is used for a warning only and decides nothing.
"""

import time
from collections.abc import Callable, Sequence

import torch

from fast_electra import distributed
from fast_electra.config.reading import flat
from fast_electra.config.tree import Config
from fast_electra.models.layers import weights_in
from fast_electra.training.assembly import Assembled
from fast_electra.training.flops import count_flops
from fast_electra.training.optimizer import optimizer_flops
from fast_electra.training.precision import Execution, synchronize

MOST_EPOCHS = 40
"""largest useful number of passes over a corpus: BERT made about 40 (arXiv 1810.04805, appendix A.2)"""
_MOST_DAYS = 2.0


def flops_per_update(config: Config, parts: Assembled, execution: Execution, phase: int = 0) -> int:
    """FLOPs of the matrix products in one update of a phase, counted on two rows: forward, backward, and optimizers."""
    step, rows = forward_and_backward(parts, execution, 2, phase)
    flops = count_flops(step)
    clear_gradients(parts)
    stepping = sum(map(optimizer_flops, parts.objective.parameter_groups()))
    return flops * parts.schedule.phases[phase].batch_size // rows + stepping


def some_weights_are_unused(config: Config, parts: Assembled, execution: Execution) -> bool:
    """Whether a weight that is trained gets no gradient, as a pooler that no head reads."""
    forward_and_backward(parts, execution, 2)[0]()
    weights = (weight for model in parts.objective.models().values() for weight in model.parameters())
    unused = any(weight.requires_grad and weight.grad is None for weight in weights)
    clear_gradients(parts)
    return unused


def phases_in_words(config: Config, flops: Sequence[int]) -> list[str]:
    """A sentence about each phase: its updates, its share of the computation, and what changes in it.

    Args:
        config: with its number of updates; without phases, there is no sentence.
        flops: of an update of each phase.
    """
    planned = config.planned_phases()
    costs = [each * (phase.stop - phase.start) for each, phase in zip(flops, planned, strict=True)]
    changes = [flat(phase.model_dump(mode="json", exclude={"start"}, exclude_none=True)) for phase in config.phases]
    texts = ["the run's settings", *(", ".join(f"{k}={v}" for k, v in each.items() if v != {}) for each in changes)]
    return [
        f"phase {number}: updates {phase.start + 1:,} to {phase.stop:,}, {cost / sum(costs):.0%} of the computation, "
        f"{text}."
        for number, (phase, cost, text) in enumerate(zip(planned, costs, texts, strict=True), start=1)
        if config.phases
    ]


def warnings(asked: Config, config: Config, parts: Assembled, execution: Execution) -> list[str]:
    """Sentences that warn of too many passes over the text or too many days, each with a better budget.

    Args:
        asked: the configuration as the user gave it; if it has a budget in hours, the time is not questioned.
        config: the configuration with its number of updates.
        parts: the parts of the run in float32; their gradients are cleared.
        execution: device and precision.
    """
    updates, found = config.training.updates, []
    assert updates is not None
    epochs, tokens, name = max(_passes(parts, updates))
    if epochs > MOST_EPOCHS:
        budget = f"training.updates={max(1, int(updates * MOST_EPOCHS / epochs))}"
        found.append(
            f"the run reads its {tokens:,} tokens{name} {epochs:,.0f} times, but more than {MOST_EPOCHS} passes "
            f"teach little: give more text, or start in a new folder with {budget} as its budget."
        )
    days = 0.0
    planned = () if asked.training.hours else config.planned_phases()
    with weights_in(parts.objective.models().values() if planned else (), execution.weights_dtype):
        for number, phase in enumerate(planned):
            days += (phase.stop - phase.start) * _seconds_per_update(phase.config, parts, execution, number) / 86_400
    if days > _MOST_DAYS:
        found.append(
            f"the run takes roughly {days:,.0f} days on this machine: to finish within a day, start in a new folder "
            "with training.hours=24 as its budget."
        )
    return found


def _passes(parts: Assembled, updates: int) -> list[tuple[float, int, str]]:
    """For each source of each phase's text: how often the whole run reads it, its tokens, and ` of NAME` or nothing."""
    found: dict[tuple[str, int], tuple[float, int, str]] = {}
    for phase, (text, schedule) in enumerate(zip(parts.phases, parts.schedule.phases, strict=True)):
        names = [f" of {name}" for name in text.shards.mixture] or [""]
        read = parts.schedule.read_of(phase, updates)
        for source, (stream, rows) in enumerate(zip(text.shards.sources("train"), read, strict=True)):
            key = text.shards.fingerprint, source
            before = found[key][0] if key in found else 0.0
            passes = before + rows * schedule.rows.length / stream.tokens
            found[key] = passes, stream.tokens, names[source]
    return [*found.values()]


def _seconds_per_update(config: Config, parts: Assembled, execution: Execution, phase: int) -> float:
    """An estimate from the second of two steps: on two rows on a CPU, elsewhere on a micro-batch.

    The processes share the rows of an update.
    """
    training = config.training
    most = 2 if execution.device.type == "cpu" else training.rows_at_a_time
    step, rows = forward_and_backward(parts, execution, most, phase)
    step()
    synchronize(execution.device)
    began = time.perf_counter()
    step()
    synchronize(execution.device)
    seconds = time.perf_counter() - began
    clear_gradients(parts)
    return seconds * training.batch_size / rows / distributed.size()


def forward_and_backward(
    parts: Assembled, execution: Execution, most: int, phase: int = 0
) -> tuple[Callable[[], None], int]:
    """A function that runs forward and backward on at most `most` first rows of a phase, and the number of rows."""
    batch = parts.schedule.phases[phase].at(0).split(most)[0]
    prepared = parts.objective.prepare(batch, seed=0).to(execution.device)

    def step() -> None:
        with execution.autocast():
            terms = parts.objective.terms(prepared, 0.0, seed=0)
        torch.stack([total for total, _ in terms.losses.values()]).sum().backward()

    return step, batch.ids.shape[0]


def clear_gradients(parts: Assembled) -> None:
    """Forget the gradients of every trained model."""
    for model in parts.objective.models().values():
        model.zero_grad(set_to_none=True)
