"""The training loop, shared by all objectives and by fine-tuning.

Notable:
- a batch is a pure function of (seed, update), so a resumed run sees the same batches as an unbroken run;
- objectives return sums of losses; the loop divides them by the count of the whole update, whatever the micro-batches;
- metrics stay on the device as sums until they are logged, and those sums are part of a checkpoint;
- metrics files and progress bars are observers that the caller passes.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fast_electra.data.batches import Prefetcher, one_by_one
from fast_electra.errors import TrainingError
from fast_electra.objectives.base import Examples, Trainable
from fast_electra.runs.metrics import Record
from fast_electra.stopping import Interrupted
from fast_electra.training.optimizer import GroupOptimizer, learning_rate
from fast_electra.training.precision import Execution
from fast_electra.training.telemetry import Observer


@dataclass
class State:
    """Everything that changes during training. A checkpoint contains all of it but `settings`."""

    objective: Trainable[Any]
    optimizers: list[GroupOptimizer]
    update: int = 0
    """number of updates done"""
    tokens: int = 0
    """number of non-padding tokens seen"""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """metrics since the last record: (sum, count) as float64 (2,)"""
    validation: dict[str, float] = field(default_factory=dict)
    """the measures of the last validation; empty before the first"""
    settings: dict[str, float] = field(default_factory=dict)
    """the curriculum's values for the last update, for its record; an adaptive curriculum has other values by then"""

    def tensors(self) -> dict[str, Tensor]:
        """The float32 masters and optimizer states by name, not copied."""
        return {name: tensor for optimizer in self.optimizers for name, tensor in optimizer.tensors().items()}

    def scalars(self) -> dict[str, Any]:
        """Counters, metric sums and the objective's own state, ready for JSON, which keeps every float exactly."""
        return {
            "tokens": self.tokens,
            "sums": {name: value.tolist() for name, value in self.sums.items()},
            "objective": self.objective.state_dict(),
            "validation": self.validation,
        }

    def restore(self, update: int, scalars: dict[str, Any], device: torch.device) -> None:
        """Continue from a checkpoint's scalars. Its tensors must have been read into `tensors()` already."""
        self.update = update
        self.tokens = scalars["tokens"]
        self.validation = scalars.get("validation", {})  # checkpoints of earlier versions lack it
        self.sums = {
            name: torch.tensor(value, dtype=torch.float64, device=device) for name, value in scalars["sums"].items()
        }
        self.objective.load_state_dict(scalars["objective"])
        for optimizer in self.optimizers:
            optimizer.write_back()

    def add(self, name: str, total: Tensor, count: Tensor | float) -> None:
        """Add a sum and a count to a metric."""
        pair = torch.stack((total.detach().double(), torch.as_tensor(count, device=total.device).double()))
        self.sums[name] = self.sums[name] + pair if name in self.sums else pair


@dataclass(frozen=True)
class Plan:
    """The run's length and seed, and the number of updates between records, validations and checkpoints."""

    updates: int
    seed: int
    micro_batch_size: int
    log_every: int
    validate_every: int
    checkpoint_every: int


def train(
    state: State,
    plan: Plan,
    batches: Callable[[int], Examples],
    validate: Callable[[], dict[str, float]],
    save: Callable[[State], None],
    execution: Execution,
    observers: Sequence[Observer],
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train from `state.update` to `plan.updates`. This changes `state` in place.

    Args:
        state: objective, optimizers and counters.
        plan: number of updates, and how often to log, validate and save.
        batches: pure function from an update to its prepared batch; on a GPU it is called in a background thread.
        validate: returns the measures for the record of a validation.
        save: writes a checkpoint.
        execution: device and precision.
        observers: called after each update and with each record.
        stop: called after each update; if it returns True, a checkpoint is written and `Interrupted` raised.

    Raises:
        TrainingError: a loss or gradient is not finite; this update has changed no weight.
        Interrupted: `stop` returned True.
    """
    for observer in observers:
        observer.started(state.update, plan.updates)
    clock = _Clock()
    load = one_by_one if execution.device.type == "cpu" else Prefetcher
    loader = load(batches, state.update, plan.updates)
    try:
        for prepared, waited in loader:
            tokens = make_update(state, plan, prepared, execution)
            clock.add(tokens, waited)
            done = state.update
            last = done == plan.updates
            validating = last or done % plan.validate_every == 0
            if validating or done % plan.log_every == 0:
                record = _record(state, plan, clock)
                if validating:
                    record["validation"] = state.validation = validate()
                for observer in observers:
                    observer.logged(record)
                clock = _Clock()
            for observer in observers:
                observer.updated(done)
            stopping = stop() and not last
            if last or stopping or done % plan.checkpoint_every == 0:
                save(state)
            if stopping:
                raise Interrupted(f"stopped after update {done} of {plan.updates}")
    finally:
        loader.close()
        for observer in observers:
            observer.finished()


def make_update(state: State, plan: Plan, prepared: Examples, execution: Execution) -> int:
    """Make one optimizer step on one global batch.

    Returns:
        the number of non-padding tokens in the batch.

    Raises:
        TrainingError: a loss or gradient is not finite; no weight has changed.
    """
    objective = state.objective
    progress = state.update / plan.updates
    state.settings = objective.settings(progress)
    tokens = prepared.tokens
    # Dropout depends on (seed, update) only.
    torch.manual_seed((plan.seed * 1_000_003 + state.update) % 2**63)
    totals = {name: count.to(execution.device) for name, count in objective.counts(prepared).items()}
    # A batch may have no token to predict, for example if all its tokens are [UNK]. Then its loss is 0.
    totals = {name: torch.where(count == 0, 1, count) for name, count in totals.items()}
    observed: dict[str, tuple[float, float]] = {}
    for micro in prepared.split(plan.micro_batch_size):
        with execution.autocast():
            terms = objective.terms(micro.to(execution.device), progress, plan.seed)
        loss = torch.stack(
            [objective.weights[name] * total / totals[name] for name, (total, _) in terms.losses.items()]
        ).sum()
        if not loss.isfinite():
            raise TrainingError(
                f"the loss of update {state.update + 1} is {loss.item()}: lower optimizer.learning_rate, "
                "and start in a new folder."
            )
        loss.backward()
        state.add("loss", loss, 0.0)
        for name, (total, count) in (terms.losses | terms.metrics).items():
            state.add(name, total, count)
            if objective.observes:
                total_before, count_before = observed.get(name, (0.0, 0.0))
                observed[name] = (total_before + float(total.detach()), count_before + float(count))
    state.sums["loss"][1] += 1
    for optimizer in state.optimizers:
        norm, clipped = optimizer.step(learning_rate(optimizer.settings, state.update, plan.updates), state.update)
        state.add(_of(optimizer, state, "gradient_norm"), norm, 1.0)
        state.add(_of(optimizer, state, "clipped"), clipped, 1.0)
    if objective.observes:
        objective.observe({name: total / count for name, (total, count) in observed.items() if count})
    state.update += 1
    state.tokens += tokens
    return tokens


def _of(optimizer: GroupOptimizer, state: State, metric: str) -> str:
    """A metric's name, followed by the parameter group's name if there are several groups."""
    return metric if len(state.optimizers) == 1 else f"{metric}.{optimizer.name}"


class _Clock:
    """Start time, tokens, and seconds spent waiting for data since the last record."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.tokens = 0
        self.waited = 0.0

    def add(self, tokens: int, waited: float) -> None:
        self.tokens += tokens
        self.waited += waited


def _record(state: State, plan: Plan, clock: _Clock) -> Record:
    """Make a record of the metrics since the last one, and clear their sums."""
    means = {}
    for name, pair in state.sums.items():
        total, count = pair.tolist()
        if count:  # no position in the whole interval: there is nothing to record
            means[name] = total / count
    state.sums = {}
    before = state.update - 1
    rates = {  # the first group is the main model's, so every record of every objective has `learning_rate`
        f"learning_rate.{optimizer.name}" if number else "learning_rate": learning_rate(
            optimizer.settings, before, plan.updates
        )
        for number, optimizer in enumerate(state.optimizers)
    }
    seconds = time.perf_counter() - clock.began
    record: Record = {"update": state.update, "tokens": state.tokens, "loss": means.pop("loss"), **means}
    record |= state.settings | rates
    record["timing"] = {
        "seconds": seconds,
        "tokens_per_second": clock.tokens / seconds,
        "data_wait_share": clock.waited / seconds,
    }
    return record
