"""One optimizer step: the losses of a batch, their gradients, and the change of the weights.

Notable:
- objectives return sums of losses, which are divided by the counts of the whole update, whatever the micro-batches and
  the number of processes;
- an update whose loss or gradient is not finite changes nothing. The device decides that, so no update waits for it;
- what depends on the number of the update comes in `Given`, so the rest can be recorded as a CUDA graph (graphs.py).

Shapes: K metrics.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fast_electra.objectives.base import Examples
from fast_electra.training.optimizer import GroupOptimizer
from fast_electra.training.precision import Execution
from fast_electra.training.state import State


@dataclass(frozen=True)
class Given:
    """What the host gives to an update besides its rows."""

    progress: float
    """in [0, 1]"""
    seed: int
    """of masks and noise"""
    update: int
    """number of updates done before"""
    terms: Sequence[str]
    """the names of the loss terms"""
    counts: Tensor
    """float64, of the whole batch: the count of each loss term, then the tokens"""
    rates: Sequence[float | Tensor]
    """the learning rate of each optimizer"""
    spike: float | None
    """skip the update if its loss is this many standard deviations above the mean of `State.losses`"""


@dataclass(frozen=True)
class Made:
    """What an update found out, on the device."""

    names: Sequence[str]
    """of K metrics"""
    pairs_K2: Tensor
    """float64: sums and counts, 0 if the update changed nothing"""
    skipped: Tensor
    """float32 scalar: 1.0 if the update changed nothing"""
    unread: Tensor
    """float64 (2,): the update's tokens, and 1.0 if it changed nothing through the fault of its batch"""


def update_weights(state: State, micros: Sequence[Examples], given: Given, execution: Execution) -> Made:
    """Change the weights by one batch.

    Args:
        state: its tensors change, and nothing else of it.
        micros: the micro-batches of this process.
        given: counts, rates and seeds.
        execution: device and precision.
    """
    objective, parallel, device = state.objective, state.parallel, execution.device
    *counts, tokens = parallel.add(given.counts.to(device, non_blocking=True)).unbind()
    # A batch may have no token to predict, for example if all its tokens are [UNK]. Then its loss is 0.
    totals = {name: torch.where(count == 0, 1, count).float() for name, count in zip(given.terms, counts, strict=True)}
    none = torch.zeros((), device=device)
    factor = state.loss_scale and state.loss_scale.factor
    found: dict[str, Tensor] = {}
    for number, micro in enumerate(micros, start=1):
        with execution.autocast():
            terms = parallel.terms(micro.to(device), given.progress, given.seed, last=number == len(micros))
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
    if given.spike is not None and state.losses is not None:
        # The mean and deviation of a window with a NaN are NaN, and nothing is above NaN.
        skipped = skipped + (loss > state.losses.mean() + given.spike * state.losses.std()).float()
    skipped = counted = skipped.clamp(max=1.0)
    if state.loss_scale is not None:  # an update that only finds the factor says nothing against its batch
        counted = torch.where(state.loss_scale.follow(overflowed, is_bad), 0.0, skipped)
    if state.losses is not None:
        state.losses.copy_(torch.where(skipped == 0, torch.cat((state.losses[1:], loss[None])), state.losses))
    for optimizer, norm, rate in zip(state.optimizers, norms, given.rates, strict=True):
        clipped = optimizer.step(rate, given.update, norm, skipped)
        for name, value in (("gradient_norm", norm), ("clipped", clipped)):
            found[metric_of(optimizer, state, name)] = torch.stack((value, torch.ones_like(value))).double()
    pairs_K2 = torch.where(skipped == 0, torch.stack([*found.values()]), 0.0)
    return Made([*found], pairs_K2, skipped, torch.stack((tokens, counted.double())))


def metric_of(optimizer: GroupOptimizer, state: State, metric: str) -> str:
    """A metric's name, followed by the parameter group's name if there are several groups."""
    return metric if len(state.optimizers) == 1 else f"{metric}.{optimizer.name}"
