"""The bench of several processes: steps with DDP, and what the exchange between the processes costs.

Notable:
- each process trains on a micro-batch of its own, so N processes do N times the work of one;
- a part takes turns with and without exchange, in one model. Without it, a process adds neither counts nor gradients
  and does not wait for the others, so its share of the time includes this waiting;
- peers, memory, and what the parts of a step cost alone are measured by the bench of one process.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fast_electra import distributed
from fast_electra.config import Config
from fast_electra.errors import ConfigError
from fast_electra.objectives.base import Examples, Terms
from fast_electra.studies.bench.bench import described
from fast_electra.studies.bench.parts import PARTS, Trained, build_part
from fast_electra.studies.bench.rates import interval
from fast_electra.studies.bench.setup import prepare
from fast_electra.terminal import Say
from fast_electra.training.parallel import Alone
from fast_electra.training.precision import apply_threads, choose_execution

_PEERS = ("peer_best", "peer_default")


class WithoutExchange(Alone):
    """The same forward and backward pass, of this process alone."""

    def __init__(self, several: Alone) -> None:
        self._several = several

    def terms(self, micro: Examples, progress: float, seed: int, last: bool) -> Terms:
        """The terms, after whose backward pass no gradient is exchanged."""
        return self._several.terms(micro, progress, seed, last=False)


def bench_processes(
    config: Config, folder: Path, updates: int, rounds: int, say: Say = lambda _: None
) -> dict[str, Any]:
    """Measure the speed of the parts with DDP on all processes of the launcher.

    Args:
        config: see `bench.bench`.
        folder: folder of this process for temporary files.
        updates: number of timed updates in a turn.
        rounds: number of turns of each part, with and without exchange.
        say: called with one sentence at a time.

    Returns:
        the object that `fast-electra bench --json` prints (docs/speed.md), the same on every process.

    Raises:
        ConfigError, DataError, ModelError: the shape cannot be trained.
    """
    execution = choose_execution(config.execution)
    if execution.parallel != "ddp":
        raise ConfigError(
            f"bench measures execution.parallel=ddp, and not {execution.parallel}, whose steps cannot run without "
            "exchange: leave the setting out."
        )
    with distributed.connected(execution.device):
        say("making data, an auxiliary and a cache")
        with distributed.together():
            setup = prepare(config, folder)
            apply_threads(setup.execution)
        skipped = {**setup.skipped, **dict.fromkeys(_PEERS, "it runs in one process: start bench without torchrun")}
        parts = {name: build_part(name, setup) for name in PARTS if name not in skipped}
        say(f"timing {rounds} rounds of {updates} updates, with and without exchange")
        speeds: dict[str, dict[bool, list[float]]] = {name: {True: [], False: []} for name in parts}
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            for name, part in parts.items():
                assert isinstance(part, Trained)
                for exchanging in (True, False) if number % 2 else (False, True):
                    speeds[name][exchanging].append(_speed(part, exchanging, updates))
        return {
            "processes": distributed.size(),
            **described(setup),
            "updates": updates,
            "rounds": rounds,
            **{name: _measures(speeds[name]) if name in speeds else None for name in PARTS},
            "skipped": skipped,
        }


def _speed(part: Trained, exchanging: bool, updates: int) -> float:
    """Tokens per second of all processes together in one turn of a part."""
    distributed.barrier()
    if exchanging:
        timing = part.run(updates)
    else:
        with _alone(part):
            timing = part.run(updates)
    return sum(distributed.gather(timing.tokens / timing.seconds))


@contextmanager
def _alone(part: Trained) -> Iterator[None]:
    several = part.state.parallel
    part.state.parallel = WithoutExchange(several)
    try:
        yield
    finally:
        part.state.parallel = several


def _measures(speeds: dict[bool, list[float]]) -> dict[str, Any]:
    return {
        "tokens_per_second": interval(speeds[True]),
        "without_exchange": interval(speeds[False]),
        "exchange_share": interval([1 - one / other for one, other in zip(speeds[True], speeds[False], strict=True)]),
    }
