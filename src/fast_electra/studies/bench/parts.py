"""The parts of a bench: each makes whole updates, with its loader.

Notable:
- the first update of a turn is not timed, because it fills caches and compiles;
- on a GPU, the clock is read after the device has finished.
"""

import dataclasses
import time
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from fast_electra.config import Config
from fast_electra.corruption.augmentations import Difficulty
from fast_electra.corruption.masking import Masked
from fast_electra.corruption.replacement import Corrupted, CorruptionSource, replace
from fast_electra.data.batches import Batch
from fast_electra.data.tokenizer_training import SPECIAL_TOKENS
from fast_electra.objectives.base import Objective, Prepared
from fast_electra.objectives.fast_electra import FastElectra
from fast_electra.studies.bench.peer import PlainElectra, TxtaiElectra
from fast_electra.studies.bench.setup import BATCHES, Bench, generator_shape, transformers_config_of
from fast_electra.training.assembly import Assembled, assemble
from fast_electra.training.loop import loader_of, make_update
from fast_electra.training.precision import Execution, synchronize
from fast_electra.training.setup import start

PARTS = ("rtd_only", "cached", "online", "joint", "peer_best", "peer_default")


@dataclass(frozen=True)
class Timing:
    """The duration of a part's turn, and what it processed."""

    seconds: float
    updates: int
    tokens: int
    waited: float = 0.0
    """seconds that the step waited for the loader"""


class BenchPart(Protocol):
    """A way of training that makes updates."""

    def run(self, updates: int) -> Timing:
        """Make one update, then time `updates` more."""
        ...


@dataclass(frozen=True)
class Given(CorruptionSource):
    """A corruption source whose replacements are in memory, so that it only writes them into the rows."""

    tokens_RM: Tensor
    """int64 (R, M): the replacements for each row of the split"""

    def corrupt(self, batch: Batch, masked: Masked, difficulty: Difficulty, seed: int) -> Corrupted:
        """Write the replacements into the batch's rows."""
        ids_BS, replaced_BS = replace(batch, masked, self.tokens_RM[batch.indices])
        nothing = torch.zeros((), device=batch.ids.device)
        return Corrupted(ids_BS, replaced_BS, masked, expected_replaced=nothing, entropy=None)


class Trained:
    """One of this program's objectives, with the training loop's own step."""

    def __init__(self, config: Config, parts: Assembled, objective: Objective, execution: Execution) -> None:
        self._parts, self._execution = parts, execution
        self.state, self._plan = start(config, dataclasses.replace(parts, objective=objective), execution)

    def run(self, updates: int) -> Timing:
        """Make one update, then time `updates` more, with the loader that `training.loop.train` uses."""
        began, tokens, all_waited = 0.0, 0, 0.0
        first = self.state.update
        loader = loader_of(self._prepared, first, first + updates + 1, self._execution.device)
        for number, (prepared, waited) in enumerate(loader):
            make_update(self.state, self._plan, prepared, self._execution)
            if number == 0:
                synchronize(self._execution.device)
                began = time.perf_counter()
            else:
                tokens, all_waited = tokens + prepared.tokens, all_waited + waited
        synchronize(self._execution.device)
        return Timing(time.perf_counter() - began, updates, tokens, all_waited)

    def _prepared(self, update: int) -> Prepared:
        batch, plan = self._parts.schedule.at(update % BATCHES), self._plan
        return self._parts.objective.prepare(batch, plan.seed, plan.progress(update))


class Plain:
    """Times `peer.PlainElectra`."""

    def __init__(self, peer: PlainElectra) -> None:
        self._peer = peer

    def run(self, updates: int) -> Timing:
        """Make one update, then time `updates` more."""
        self._peer.update()
        synchronize(self._peer.execution.device)
        began = time.perf_counter()
        tokens = sum(self._peer.update() for _ in range(updates))
        synchronize(self._peer.execution.device)
        return Timing(time.perf_counter() - began, updates, tokens)


class Txtai:
    """Times `peer.TxtaiElectra`, whose Trainer makes its own batches."""

    def __init__(self, peer: TxtaiElectra) -> None:
        self._peer = peer

    def run(self, updates: int) -> Timing:
        """Make one update, then time `updates` more."""
        return Timing(self._peer.run(updates), updates, updates * self._peer.tokens)


def build_part(name: str, setup: Bench) -> BenchPart:
    """Build one of `PARTS`, ready to make updates."""
    execution = setup.execution
    if name in ("peer_best", "peer_default"):
        return _build_peer(name, setup)
    configs = {"joint": setup.joint, "cached": setup.cached}
    parts = assemble(configs.get(name, setup.online), execution)
    objective = given(parts, execution) if name == "rtd_only" else parts.objective
    # Not `setup.cached`: its few updates are reused in turn, and its schedules would end after them.
    return Trained(setup.online, parts, objective, execution)


def _build_peer(name: str, setup: Bench) -> BenchPart:
    parts = assemble(setup.online, setup.execution)
    rows = [parts.schedule.at(update).ids for update in range(BATCHES)]
    shapes = (setup.joint.main, generator_shape(setup.joint))
    main, generator = (transformers_config_of(shape, setup.joint, parts.shards) for shape in shapes)
    if name == "peer_default":
        return Txtai(TxtaiElectra(main, generator, parts.tokenizer, rows, setup.execution))
    compiled = bool(setup.joint.training.compile)
    return Plain(PlainElectra(main, generator, parts.tokenizer, rows, setup.execution, compiled))


def given(parts: Assembled, execution: Execution) -> FastElectra:
    """The objective with fixed replacements, drawn uniformly from the vocabulary."""
    objective = cast(FastElectra, parts.objective)
    masked = objective.prepare(parts.schedule.at(0), 0).masked
    draw = torch.Generator().manual_seed(0)
    size = (parts.schedule.rows.count, masked.positions_BM.shape[1])
    tokens_RM = torch.randint(len(SPECIAL_TOKENS), parts.shards.vocabulary_size, size, generator=draw)
    return dataclasses.replace(objective, source=Given(tokens_RM.to(execution.device)))
