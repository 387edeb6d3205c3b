"""The training loop, shared by all objectives and by fine-tuning.

Notable:
- a batch is a pure function of (seed, update), so a resumed run sees the same batches as an unbroken run;
- metrics stay on the device as sums until they are logged, and those sums are part of a checkpoint;
- an update whose loss or gradient is not finite changes nothing, and is counted. Several of them in a row, or weights
  that are not finite, raise `Diverged`; the caller goes back to a checkpoint (pipelines/pretrain.py);
- metrics files and progress bars are observers that the caller passes.
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from math import isfinite

import torch

from fast_electra.config.phases import OwnRate
from fast_electra.data.batches import Prefetcher, one_by_one
from fast_electra.errors import TrainingError
from fast_electra.models.optimizers import Optimizer
from fast_electra.objectives.base import Examples
from fast_electra.runs.metrics import Record
from fast_electra.stopping import Interrupted
from fast_electra.training.loss_scale import LossScale
from fast_electra.training.optimizer import learning_rate
from fast_electra.training.precision import Execution
from fast_electra.training.state import State, loss_window
from fast_electra.training.telemetry import Observer
from fast_electra.training.update import Given, metric_of, update_weights


class Diverged(TrainingError):
    """Losses, gradients or weights are not finite."""

    def __init__(self, reason: str, updates: list[int]):
        """Store the reason, a clause, and the numbers of these updates; the first update is 1."""
        super().__init__(
            f"{reason}: lower optimizer.learning_rate or raise optimizer.warmup, and start in a new folder."
        )
        self.reason = reason
        self.updates = updates


@dataclass(frozen=True)
class Plan:
    """The run's length and seed, and the number of updates between records, validations and checkpoints."""

    updates: int
    seed: int
    micro_batch_size: int
    log_every: int
    validate_every: int
    checkpoint_every: int
    most_skipped: int = 1
    """number of updates in a row that are skipped, when the run diverges"""
    spike: float | None = None
    """skip an update whose loss is this many standard deviations above the mean of `State.losses`"""
    phases: Sequence["PhaseOfPlan"] = ()
    """the phases, from update 0; empty: one, with `micro_batch_size`"""
    own_rates: Sequence[OwnRate] = ()
    """the stretches with a learning rate of their own"""
    enter: Callable[[int], None] = lambda phase: None
    """called with the number of the phase, from 0, before each update"""

    def phase(self, update: int) -> int:
        """The number of an update's phase; both from 0."""
        return max(0, bisect_right(self.phases, update, key=lambda phase: phase.start) - 1)

    def micro_batch(self, update: int) -> int:
        """Rows of a micro-batch of an update, the first of which is 0."""
        return self.phases[self.phase(update)].micro_batch_size if self.phases else self.micro_batch_size

    def progress(self, update: int) -> float:
        """The progress of an update, the first of which is 0: in [0, 1]."""
        return update / self.updates

    def learning_rate(self, settings: Optimizer, update: int) -> float:
        """The learning rate of an update, the first of which is 0, by the settings of its parameter group."""
        return learning_rate(settings, update, self.updates, self.own_rates)

    def ends_phase(self, done: int) -> bool:
        """Whether a phase ends after `done` updates."""
        return done == self.updates or any(phase.start == done for phase in self.phases)


@dataclass(frozen=True)
class PhaseOfPlan:
    """Where a phase starts, and the rows of a micro-batch in it."""

    start: int
    micro_batch_size: int


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
        Diverged: too many updates in a row were skipped, or the weights are not finite.
        Interrupted: `stop` returned True.
    """
    for observer in observers:
        observer.started(state.update, plan.updates)
    clock = _Clock(state, execution.device)
    loader = loader_of(batches, state.update, plan.updates, execution.device)
    try:
        for prepared, waited in loader:
            make_update(state, plan, prepared, execution)
            clock.waited += waited
            done = state.update
            last, ends = done == plan.updates, plan.ends_phase(done)
            validating = ends or done % plan.validate_every == 0
            saving = ends or done % plan.checkpoint_every == 0
            logging = validating or done % plan.log_every == 0
            if logging or saving:
                _refuse_divergence(state, plan, validating, saving)
            if validating:
                state.validation = {}  # none of other weights is left where there is no record
            if logging and (record := _record(state, plan, clock)):
                with state.parallel.whole_weights():
                    if validating:
                        record["validation"] = state.validation = validate()
                        if not all(map(isfinite, state.validation.values())):
                            raise Diverged(f"the validation after update {done} is not finite", [done])
                    for observer in observers:
                        observer.logged(record)
                clock = _Clock(state, execution.device)
            for observer in observers:
                observer.updated(done)
            stopping = not last and state.parallel.agrees(stop(), done)
            if saving or stopping:
                save(state)
            if stopping:
                raise Interrupted(f"stopped after update {done} of {plan.updates}")
    finally:
        loader.close()
        for observer in observers:
            observer.finished()


def loader_of(
    batches: Callable[[int], Examples], start: int, stop: int, device: torch.device
) -> Prefetcher[Examples] | Generator[tuple[Examples, float], None, None]:
    """Gives the batches of the updates from `start` to `stop`, each with the seconds that the reader waited for it.

    For a GPU they are made ahead in a background thread, in page-locked memory.
    """
    if device.type == "cpu":
        return one_by_one(batches, start, stop)
    if device.type != "cuda":
        return Prefetcher(batches, start, stop)
    return Prefetcher(lambda update: batches(update).pinned(), start, stop)


def make_update(state: State, plan: Plan, prepared: Examples, execution: Execution) -> None:
    """Make one optimizer step on this process's share of one batch.

    Nothing here waits for a GPU, except for a curriculum that follows the metrics, and the sampler `race`, whose number
    of draws depends on the logits.
    """
    objective, device = state.objective, execution.device
    plan.enter(plan.phase(state.update))
    if state.losses is not None and plan.ends_phase(state.update):
        state.losses.fill_(float("nan"))  # the losses of another phase say nothing about those of this one
    if plan.spike is not None and state.losses is None:
        state.losses = loss_window(device)
    if execution.scales_loss and state.loss_scale is None:
        state.loss_scale = LossScale.start(device)
    progress = plan.progress(state.update)
    state.settings = objective.settings(progress)
    # Dropout depends on (seed, update, process) only.
    torch.manual_seed((plan.seed * 1_000_003 + state.update + (state.parallel.rank << 40)) % 2**63)
    counts = objective.counts(prepared)
    given = Given(
        progress=progress,
        seed=plan.seed,
        update=state.update,
        terms=[*counts],
        counts=torch.stack([count.double() for count in (*counts.values(), torch.tensor(prepared.tokens))]),
        rates=[plan.learning_rate(optimizer.settings, state.update) for optimizer in state.optimizers],
        spike=plan.spike,
    )
    update = state.graphs or update_weights
    made = update(state, prepared.split(plan.micro_batch(state.update)), given, execution)
    state.add(made.names, made.pairs_K2)
    if objective.observes and not made.skipped:
        whole = zip(made.names, state.parallel.add(made.pairs_K2).tolist(), strict=True)
        objective.observe({name: total / count for name, (total, count) in whole if count})
    state.update += 1
    state.unread.append(made.unread)


def _refuse_divergence(state: State, plan: Plan, validating: bool, saving: bool) -> None:
    """Raise `Diverged` if too many updates in a row were skipped, or if weights to validate or save are not finite."""
    state.look()
    count = state.skipped_in_a_row()
    done = state.update
    applied = state.sums[metric_of(state.optimizers[0], state, "gradient_norm")][1]
    if count >= plan.most_skipped or (validating and count and not applied):
        spike = "" if plan.spike is None else ", or the loss too large,"
        raise Diverged(
            f"the loss or a gradient was not finite{spike} in {count} updates in a row, up to update {done}",
            list(range(done - count + 1, done + 1)),
        )
    if (validating or saving) and not state.is_finite():
        raise Diverged(f"weights are not finite after update {done}", [done])


class _Clock:
    """Start time, and since then tokens, seconds spent waiting for data, and the most memory of a GPU."""

    def __init__(self, state: State, device: torch.device) -> None:
        self.began = time.perf_counter()
        self.waited = 0.0
        self._tokens = state.tokens
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def timing(self, state: State) -> dict[str, float]:
        """The record's figures that depend on the clock or the machine."""
        seconds = time.perf_counter() - self.began
        on_gpu = self._device.type == "cuda"
        return {
            "seconds": seconds,
            "tokens_per_second": (state.tokens - self._tokens) / seconds,
            "data_wait_share": self.waited / seconds,
            **({"peak_memory_bytes": torch.cuda.max_memory_allocated(self._device)} if on_gpu else {}),
        }


def _record(state: State, plan: Plan, clock: _Clock) -> Record | None:
    """Make a record of the metrics since the last one, and clear their sums; None if every update was skipped."""
    means = {}
    for name, (total, count) in state.whole_sums().items():
        if count:  # no position in the whole interval: there is nothing to record
            means[name] = total / count
    if "loss" not in means:
        return None
    state.sums = {}
    before = state.update - 1
    rates = {  # the first group is the main model's, so every record of every objective has `learning_rate`
        f"learning_rate.{optimizer.name}" if number else "learning_rate": plan.learning_rate(optimizer.settings, before)
        for number, optimizer in enumerate(state.optimizers)
    }
    record: Record = {"update": state.update, "tokens": state.tokens, "loss": means.pop("loss"), **means}
    if state.skipped:
        record["skipped"] = len(state.skipped)
    if state.loss_scale is not None:
        record["loss_scale"] = float(state.loss_scale.factor)
    if plan.phases:
        record["phase"] = plan.phase(before) + 1
    return record | state.settings | rates | {"timing": clock.timing(state)}
