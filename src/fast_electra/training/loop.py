"""The training loop, shared by all objectives and by fine-tuning.

Notable:
- a batch is a pure function of (seed, update), so a resumed run sees the same batches as an unbroken run;
- objectives return sums of losses; the loop divides them by the count of the whole update, whatever the micro-batches
  and the number of processes;
- metrics stay on the device as sums until they are logged, and those sums are part of a checkpoint;
- an update whose loss or gradient is not finite changes nothing, and is counted. Several of them in a row, or weights
  that are not finite, raise `Diverged`; the caller goes back to a checkpoint (pipelines/pretrain.py);
- metrics files and progress bars are observers that the caller passes.
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from fast_electra.config.phases import OwnRate
from fast_electra.data.batches import Prefetcher, one_by_one
from fast_electra.errors import TrainingError
from fast_electra.models.optimizers import Optimizer
from fast_electra.objectives.base import Examples, Trainable
from fast_electra.runs.metrics import Record
from fast_electra.stopping import Interrupted
from fast_electra.training.loss_scale import LossScale
from fast_electra.training.optimizer import GroupOptimizer, learning_rate
from fast_electra.training.parallel import Alone
from fast_electra.training.precision import Execution
from fast_electra.training.telemetry import Observer

_WINDOW = 128
"""number of losses that a spike is measured against"""


class Diverged(TrainingError):
    """Losses, gradients or weights are not finite."""

    def __init__(self, reason: str, updates: list[int]):
        """Store the reason, a clause, and the numbers of these updates; the first update is 1."""
        super().__init__(
            f"{reason}: lower optimizer.learning_rate or raise optimizer.warmup, and start in a new folder."
        )
        self.reason = reason
        self.updates = updates


@dataclass
class State:
    """Everything that changes during training. A checkpoint contains all of it but `settings`."""

    objective: Trainable[Any]
    optimizers: list[GroupOptimizer]
    parallel: Alone
    """how processes share the work"""
    update: int = 0
    """number of updates done"""
    tokens: int = 0
    """number of non-padding tokens seen, until the last look at the device"""
    skipped: list[int] = field(default_factory=list)
    """numbers of the updates that changed nothing, until the last look at the device; the first update is 1"""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """metrics since the last record, of this process: (sum, count) as float64 (2,)"""
    validation: dict[str, float] = field(default_factory=dict)
    """the measures of the last validation; empty before the first"""
    losses: Tensor | None = None
    """the losses of the last updates that were applied, float32 (128,), NaN before the first ones; None: not needed"""
    loss_scale: LossScale | None = None
    """the factor of the loss in float16, from the first update on; None in other precisions"""
    settings: dict[str, float] = field(default_factory=dict)
    """the curriculum's values for the last update, for its record; an adaptive curriculum has other values by then"""
    unread: list[Tensor] = field(default_factory=list)
    """for each update since the last look at the device: its tokens and whether it was skipped, float64 (2,)"""

    def look(self) -> None:
        """Read from the device what the updates since the last look have counted."""
        if not self.unread:
            return
        first = self.update - len(self.unread) + 1
        for update, (tokens, skipped) in enumerate(torch.stack(self.unread).tolist(), start=first):
            self.tokens += int(tokens)
            self.skipped += [update] if skipped else []
        self.unread = []

    def skipped_in_a_row(self) -> int:
        """The number of updates up to the last one that were all skipped."""
        count = 0
        while count < len(self.skipped) and self.skipped[-1 - count] == self.update - count:
            count += 1
        return count

    def is_finite(self) -> bool:
        """Whether every weight is finite, on every process."""
        norms = torch.stack([optimizer.weights_norm() for optimizer in self.optimizers])
        return not self.parallel.add((~norms.isfinite()).sum())

    def tensors(self) -> dict[str, Tensor]:
        """The float32 masters and optimizer states by name, not copied."""
        return {name: tensor for optimizer in self.optimizers for name, tensor in optimizer.tensors().items()}

    def scalars(self) -> dict[str, Any]:
        """Counters, metric sums of all processes and the objective's own state, ready for JSON, which is exact."""
        self.look()
        return {
            "tokens": self.tokens,
            "skipped": self.skipped,
            "losses": [] if self.losses is None else self.losses[~self.losses.isnan()].tolist(),
            "loss_scale": self.loss_scale and self.loss_scale.state(),
            "sums": self.whole_sums(),
            "objective": self.objective.state_dict(),
            "validation": self.validation,
        }

    def whole_sums(self) -> dict[str, list[float]]:
        """The metrics since the last record: sum and count over all processes, by name."""
        if not self.sums:
            return {}
        whole = self.parallel.add(torch.stack(list(self.sums.values())))
        return dict(zip(self.sums, whole.tolist(), strict=True))

    def restore(self, update: int, scalars: dict[str, Any], device: torch.device) -> None:
        """Continue from a checkpoint's scalars. Its tensors must have been read into `tensors()` already."""
        self.update = update
        self.unread = []
        self.tokens = scalars["tokens"]
        self.validation = scalars.get("validation", {})  # checkpoints of earlier versions lack it
        self.skipped = scalars.get("skipped", [])
        if losses := scalars.get("losses"):
            self.losses = _window(device)
            self.losses[-len(losses) :] = torch.tensor(losses)
        found = scalars.get("loss_scale")
        self.loss_scale = LossScale.of(found, device) if found else None
        self.sums = {
            name: torch.tensor(value, dtype=torch.float64, device=device) * self.parallel.counts_once
            for name, value in scalars["sums"].items()
        }
        self.objective.load_state_dict(scalars["objective"])
        for optimizer in self.optimizers:
            optimizer.write_back()

    def add(self, name: str, pair: Tensor) -> None:
        """Add a sum and a count, (2,) float64, to a metric."""
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
    objective, parallel, device = state.objective, state.parallel, execution.device
    plan.enter(plan.phase(state.update))
    if state.losses is not None and plan.ends_phase(state.update):
        state.losses = None  # the losses of another phase say nothing about those of this one
    progress = state.update / plan.updates
    state.settings = objective.settings(progress)
    # Dropout depends on (seed, update, process) only.
    torch.manual_seed((plan.seed * 1_000_003 + state.update + (parallel.rank << 40)) % 2**63)
    counts = objective.counts(prepared) | {"tokens": torch.tensor(prepared.tokens)}
    counted = torch.stack([count.double() for count in counts.values()]).to(device, non_blocking=True)
    totals = dict(zip(counts, parallel.add(counted).unbind(), strict=True))
    tokens = totals.pop("tokens")
    # A batch may have no token to predict, for example if all its tokens are [UNK]. Then its loss is 0.
    totals = {name: torch.where(count == 0, 1, count).float() for name, count in totals.items()}
    none = torch.zeros((), device=device)
    if execution.scales_loss and state.loss_scale is None:
        state.loss_scale = LossScale.start(device)
    factor = state.loss_scale and state.loss_scale.factor
    found: dict[str, Tensor] = {}
    micros = prepared.split(plan.micro_batch(state.update))
    for number, micro in enumerate(micros, start=1):
        with execution.autocast():
            terms = parallel.terms(micro.to(device), progress, plan.seed, last=number == len(micros))
        loss = torch.stack(
            [objective.weights[name] * total / totals[name] for name, (total, _) in terms.losses.items()]
        ).sum()
        (loss if factor is None else loss * factor).backward()
        for name, (total, count) in ({"loss": (loss, none)} | terms.losses | terms.metrics).items():
            pair = torch.stack((total.detach().double(), count.double()))
            found[name] = found[name] + pair if name in found else pair
    found["loss"][1] += parallel.counts_once
    norms = [optimizer.take_gradients(factor) for optimizer in state.optimizers]
    # Metrics too: an auxiliary whose logits overflow draws noise, and shows in its entropy alone.
    finite = [torch.stack(values).isfinite().all() for values in ([*found.values()], norms)]
    flags = [*((~each).float() for each in finite), found["loss"][0].float()]
    is_bad, overflowed, loss = parallel.add(torch.stack(flags)).unbind()
    skipped = is_bad + overflowed
    if plan.spike is not None:
        skipped = skipped + _is_spike(state, loss, plan.spike)
    skipped = counted = skipped.clamp(max=1.0)
    if state.loss_scale is not None:  # an update that only finds the factor says nothing against its batch
        counted = torch.where(state.loss_scale.follow(overflowed, is_bad), 0.0, skipped)
    if state.losses is not None:
        state.losses = torch.where(skipped == 0, torch.cat((state.losses[1:], loss[None])), state.losses)
    for optimizer, norm in zip(state.optimizers, norms, strict=True):
        rate = plan.learning_rate(optimizer.settings, state.update)
        clipped = optimizer.step(rate, state.update, norm, skipped)
        for name, value in (("gradient_norm", norm), ("clipped", clipped)):
            found[_of(optimizer, state, name)] = torch.stack((value, torch.ones_like(value))).double()
    for name, pair in found.items():
        state.add(name, torch.where(skipped == 0, pair, 0.0))
    if objective.observes and not skipped:
        whole = parallel.add(torch.stack(list(found.values()))).tolist()
        objective.observe({name: total / count for name, (total, count) in zip(found, whole, strict=True) if count})
    state.update += 1
    state.unread.append(torch.stack((tokens, counted.double())))


def _window(device: torch.device) -> Tensor:
    return torch.full((_WINDOW,), float("nan"), device=device)


def _is_spike(state: State, loss: Tensor, deviations: float) -> Tensor:
    """Scalar: 1.0 if the loss is far above those of the last updates; 0.0 as long as there are too few of them."""
    if state.losses is None:
        state.losses = _window(loss.device)
    # The mean and deviation of a window with a NaN are NaN, and nothing is above NaN.
    return (loss > state.losses.mean() + deviations * state.losses.std()).float()


def _refuse_divergence(state: State, plan: Plan, validating: bool, saving: bool) -> None:
    """Raise `Diverged` if too many updates in a row were skipped, or if weights to validate or save are not finite."""
    state.look()
    count = state.skipped_in_a_row()
    done = state.update
    applied = state.sums[_of(state.optimizers[0], state, "gradient_norm")][1]
    if count >= plan.most_skipped or (validating and count and not applied):
        spike = "" if plan.spike is None else ", or the loss too large,"
        raise Diverged(
            f"the loss or a gradient was not finite{spike} in {count} updates in a row, up to update {done}",
            list(range(done - count + 1, done + 1)),
        )
    if (validating or saving) and not state.is_finite():
        raise Diverged(f"weights are not finite after update {done}", [done])


def _of(optimizer: GroupOptimizer, state: State, metric: str) -> str:
    """A metric's name, followed by the parameter group's name if there are several groups."""
    return metric if len(state.optimizers) == 1 else f"{metric}.{optimizer.name}"


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
