"""Faults of one of two processes: it is killed, stopped or asked to stop, its disk is full, its numbers are not finite.

The processes are forked with all imports done, and their launcher's store is in this process, as it is in `torchrun`.
"""

import os
import random
import re
import resource
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, product
from pathlib import Path

import torch

from fast_electra import distributed
from fast_electra.config.printing import dump_config
from fast_electra.training import loop
from tests import processes, tiny
from tests.runs.test_kills import Kill
from tests.torture.mutations import flip
from tests.torture.numbers import VALUES, Fault
from tests.torture.stops import unequal
from tests.torture.trial import FAILED, Started, Trial, left_over, some
from tests.training.test_training import weights, without_clock

SIZE, UPDATES = 2, 12
KILLED, EXPORTS, LEVELS, DAMAGED, ASKED, STOPPED = 20, 10, 10, 20, 3, 3
"""trials of each kind; all but the exports and damaged checkpoints on each of the two processes"""
LOOKS = (3, 4, 6, 8, 9)
"""updates after which the run looks whether they were finite"""
Prepare = Sequence[Callable[[], object]]
SAVE, EXPORT = r"/checkpoints", r"/(\.?model|run\.json)[^/]*$|/\.?model[^/]*/"


def settings(folder: Path, parallel: str, shards: Path, updates: int = UPDATES, every: int = 4) -> Path:
    """A configuration of a run that goes back at once if an update is not finite."""
    few = {"updates": updates, "checkpoint_every": every, "keep_checkpoints": 2, "most_skipped": 1}
    changes = {f"training__{key}": value for key, value in few.items()}
    config = tiny.settings(shards, **changes, execution__parallel=parallel)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{parallel}.yaml").write_text(dump_config(config))
    return folder / f"{parallel}.yaml"


def launched(config: Path, run: Path, faults: dict[int, Prepare] | None = None) -> list[tuple[int, str]]:
    """Train in two processes, of which some have faults: the exit status and the messages of each.

    A process that stops itself is killed when the other has ended.
    """
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started = []
    for rank in range(SIZE):
        variables = processes.environment(rank, SIZE, store.port) | {"TORCHELASTIC_USE_AGENT_STORE": "True"}
        prepare = [partial(_as_launched, variables), *(faults or {}).get(rank, ())]
        started.append(Started(["pretrain", str(config), "--run", str(run)], run.with_name(f"log-{rank}"), prepare))
    order = sorted(range(SIZE), key=lambda rank: any(_stops(one) for one in (faults or {}).get(rank, ())))
    for rank in order:
        if rank != order[0] and any(map(_stops, (faults or {}).get(rank, ()))):
            started[rank].send(signal.SIGKILL)
        started[rank].end()
    return [(process.end(), process.said()) for process in started]


def _stops(prepare: Callable[[], object]) -> bool:
    return isinstance(prepare, partial) and signal.SIGSTOP in prepare.args


def _as_launched(variables: dict[str, str]) -> None:
    os.environ.update(variables)
    distributed._BEAT, distributed._MISSED, distributed._GRACE = 0.5, 8, 1.0


# --- Faults, which a process prepares before it begins ----------------------------------------------------------------


class DieAt(Kill):
    """Kills its process at a file operation on a path, and keeps the number of operations in a file."""

    def __init__(self, pattern: str, at: int | None, counts: Path | None = None):
        super().__init__(Path("/"), at, after=False)
        self.pattern, self.counts = pattern, counts

    def concerns(self, place, named):
        return re.search(self.pattern, place) is not None

    def counted(self):
        if self.counts:
            descriptor = os.open(self.counts, os.O_WRONLY | os.O_CREAT)
            os.write(descriptor, str(self.count).encode())
            os.close(descriptor)

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)


def die_at(pattern: str, at: int | None, counts: Path | None = None) -> None:
    """Kill this process at a file operation on a path."""
    DieAt(pattern, at, counts).__enter__()


def send(number: signal.Signals, at: int) -> None:
    """Send this process a signal before an update, once."""
    make_update = loop.make_update

    def signalled(state, plan, prepared, execution) -> None:
        if state.update + 1 == at:
            os.kill(os.getpid(), number)
        make_update(state, plan, prepared, execution)

    loop.make_update = signalled


def not_finite(where: str, at: int, value: float) -> None:
    """Damage a weight, a gradient or a batch of this process before an update, once."""
    loop.make_update = Fault(where, at, value, place=3).make_update


def limit_files(size: int) -> None:
    """Let no file of this process become larger, its messages included."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


# --- What a fault may lead to -----------------------------------------------------------------------------------------


def wrong_end(ends: list[tuple[int, str]], statuses: Sequence[int], says: str = "") -> str:
    """What is wrong with the ends of two processes: statuses, a traceback, a sentence that nobody says; or nothing."""
    said = "\n".join(text for _, text in ends)
    if "Traceback" in said or [status for status, _ in ends] != list(statuses):
        return f"statuses {[status for status, _ in ends]}: {said}"
    return "" if says in said else f"nobody says {says!r}: {said}"


def ended_alike(
    config: Path,
    run: Path,
    whole: Path,
    faults: dict[int, Prepare],
    statuses: Sequence[int],
    says: str,
    outcome: str = "continued, equal bit for bit",
) -> Trial:
    """Train with faults, give the same command again, and compare with a run without them."""
    ends = launched(config, run, faults)
    wrong = wrong_end(ends, statuses, says)
    if not wrong and -signal.SIGKILL not in statuses and (left := left_over(run)):
        wrong = f"left {left}"
    wrong = wrong or wrong_end(launched(config, run), [0] * SIZE) or unequal(run, whole)
    shutil.rmtree(run, ignore_errors=True)
    return Trial(f"{config.stem}: {faults}", FAILED if wrong else outcome, wrong)


def lost(rank: int) -> str:
    """What the other process says."""
    return f"process {rank} of {SIZE} ended or does not answer"


def ends_of(rank: int, own: int, others: int) -> list[int]:
    """The statuses of the processes, of which one has its own."""
    return [own if other == rank else others for other in range(SIZE)]


def faults_of_processes(scale: float) -> Iterator[Trial]:
    """Every fault on each of two processes, with DDP and FSDP2."""
    place, draw = Path("several").absolute(), random.Random(4)
    configs = {parallel: settings(place, parallel, Path("shards").absolute()) for parallel in ("ddp", "fsdp")}
    counts: dict[tuple[str, str, int], int] = {}
    for parallel, config in configs.items():
        for name, pattern in (("save", SAVE), ("export", EXPORT)):
            whole, files = place / f"whole-{parallel}", [place / f"count-{rank}" for rank in range(SIZE)]
            shutil.rmtree(whole, ignore_errors=True)
            faults = {rank: [partial(die_at, pattern, None, files[rank])] for rank in range(SIZE)}
            assert not (wrong := wrong_end(launched(config, whole, faults), [0] * SIZE)), wrong
            for rank, file in enumerate(files):
                counts[parallel, name, rank] = int(file.read_text()) if file.exists() else 0
                file.unlink(missing_ok=True)
    number = 0

    def trial(*rest, rank: int, own: int, others: int, says: str, at: Callable[[str], Prepare]) -> Trial:
        nonlocal number
        number += 1
        parallel = ("ddp", "fsdp")[number % 2]
        whole = place / f"whole-{parallel}"
        return ended_alike(
            configs[parallel], place / "run", whole, {rank: at(parallel)}, ends_of(rank, own, others), says, *rest
        )

    def killed(kind: str, pattern: str, rank: int) -> Callable[[str], Prepare]:
        return lambda parallel: [partial(die_at, pattern, draw.randint(1, counts[parallel, kind, rank]))]

    kill, size = -signal.SIGKILL, (place / "whole-ddp" / "model" / "model.safetensors").stat().st_size
    for rank in chain.from_iterable([range(SIZE)] * some(KILLED, scale)):
        yield trial(rank=rank, own=kill, others=1, says=lost(rank), at=killed("save", SAVE, rank))
    for _ in range(some(EXPORTS, scale)):
        yield trial(rank=0, own=kill, others=1, says=lost(0), at=killed("export", EXPORT, 0))
    for rank, number_of_level in product(range(SIZE), range(levels := some(LEVELS, scale))):
        limit = partial(limit_files, 3000 + size // 2 * number_of_level // levels)
        yield trial(
            "one sentence, then equal bit for bit",
            rank=rank,
            own=1,
            others=1,
            says="can't be written: file too large",
            at=lambda _, limit=limit: [limit],
        )
    for rank, _ in product(range(SIZE), range(some(STOPPED, scale))):
        stop = partial(send, signal.SIGSTOP, draw.randint(2, UPDATES))
        yield trial(rank=rank, own=kill, others=1, says=lost(rank), at=lambda _, stop=stop: [stop])
    for name, own in (("SIGTERM", 75), ("SIGUSR1", 75), ("SIGINT", 130)):
        for rank, _ in product(range(SIZE), range(some(ASKED, scale))):
            ask = partial(send, signal.Signals[name], draw.randint(1, UPDATES - 1))
            yield trial(rank=rank, own=own, others=75, says="stopped after update", at=lambda _, ask=ask: [ask])
    yield from damaged_checkpoints(configs["ddp"], place, draw, some(DAMAGED, scale))
    for parallel, where in product(configs, ("weight", "gradient", "batch")):
        for at in draw.sample(LOOKS, some(len(LOOKS), scale)):
            yield recovered(configs[parallel], place, where, at, draw.choice(VALUES))


def damaged_checkpoints(config: Path, place: Path, draw: random.Random, count: int) -> Iterator[Trial]:
    """Damage a file of the newest checkpoint of a run that was stopped: both processes use the older one."""
    stopped = place / "stopped"
    assert not wrong_end(launched(config, stopped, {1: [partial(send, signal.SIGTERM, 10)]}), [75, 75])
    for _ in range(count):
        run = place / "run"
        shutil.copytree(stopped, run)
        file = draw.choice(sorted(path for path in (run / "checkpoints" / "00000010").rglob("*") if path.is_file()))
        file.write_bytes(flip(file.read_bytes(), draw))
        ends = launched(config, run)
        wrong = wrong_end(ends, [0] * SIZE, "00000010 is damaged and skipped")
        wrong = wrong or wrong_end(ends, [0] * SIZE, "continuing from update 8") or unequal(run, place / "whole-ddp")
        yield Trial(f"a flip in {file}", FAILED if wrong else "the older one used, equal bit for bit", wrong)
        shutil.rmtree(run)


def recovered(config: Path, place: Path, where: str, at: int, value: float) -> Trial:
    """Damage one process, then the other in a second run that is also stopped and continued: both runs are equal."""
    runs = [place / "run", place / "run-of-the-other"]
    wrong = wrong_end(launched(config, runs[0], {0: [partial(not_finite, where, at, value)]}), [0] * SIZE)
    damage = [partial(not_finite, where, at, value), partial(send, signal.SIGTERM, max(at, UPDATES - 2))]
    if (ends := launched(config, runs[1], {1: damage}))[0][0] == 75:
        ends = launched(config, runs[1])
    wrong = wrong or wrong_end(ends, [0] * SIZE)
    if not wrong and (weights(runs[0]) != weights(runs[1]) or without_clock(runs[0]) != without_clock(runs[1])):
        wrong = "the two runs differ"
    for run in runs:
        shutil.rmtree(run, ignore_errors=True)
    return Trial(
        f"{config.stem}: {value} in a {where} before update {at}", FAILED if wrong else "recovered alike", wrong
    )
