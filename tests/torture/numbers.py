"""Weights, gradients and batches that are not finite; runs that change their number of processes."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import torch

from fast_electra import distributed
from fast_electra.errors import TrainingError
from fast_electra.models.shares import own_share
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.runs.checkpoints import checkpoint_updates
from fast_electra.training import loop
from tests import processes, tiny
from tests.torture.trial import FAILED, Trial, some
from tests.training import test_parallel

MOMENTS = 20
VALUES = (float("nan"), float("inf"), -float("inf"))


def not_finite(scale: float) -> Iterator[Trial]:
    """Put a number that is not finite in a weight, a gradient or a batch, before an update of a run."""
    draw = random.Random(3)
    for where in ("weight", "gradient", "batch"):
        for _ in range(some(MOMENTS, scale)):
            fault = Fault(where, draw.randrange(1, 13), draw.choice(VALUES), draw.randrange(10**6))
            did, run = f"{fault.value} in a {where} in update {fault.at}", Path("not-finite")
            said: list[str] = []
            try:
                with patch.object(loop, "make_update", fault.make_update):
                    pretrain(tiny.settings(Path("shards")), run, say=said.append)
                outcome = "recovered"
            except TrainingError as error:
                outcome, said = "one sentence", [str(error)]
            except Exception as error:
                outcome, said = FAILED, [f"{type(error).__name__}: {error}"]
            if fault.applied:
                outcome, said = FAILED, [f"the update was applied: {said}"]
            if not fault.happened:
                outcome, said = FAILED, ["nothing was damaged"]
            for update in checkpoint_updates(run / "checkpoints"):
                for file in (run / "checkpoints" / f"{update:08d}").rglob("*.safetensors"):
                    if not all(t.isfinite().all() for t in _tensors(file) if t.is_floating_point()):
                        outcome, said = FAILED, [f"{file} has numbers that are not finite"]
            yield Trial(did, outcome, " ".join(said))
            shutil.rmtree(run, ignore_errors=True)


def _tensors(file: Path) -> list[torch.Tensor]:
    from safetensors.torch import load_file

    return list(load_file(file).values())


class Fault:
    """Damages one update, once, and looks whether it was applied."""

    def __init__(self, where: str, at: int, value: float, place: int):
        self.where, self.at, self.value, self.place = where, at, value, place
        self.happened = self.applied = False

    def make_update(self, state, plan, prepared, execution) -> None:
        """The update of the loop, with the fault in it."""
        if self.happened or state.update + 1 != self.at:
            return MAKE_UPDATE(state, plan, prepared, execution)
        self.happened = True
        # Of this process: under FSDP2 an operation on whole weights would wait for the others.
        masters = [share for master in state.optimizers[0].masters.values() if (share := own_share(master)).numel()]
        damaged = masters[self.place % len(masters)]
        if self.where == "weight":
            damaged.data.view(-1)[self.place % damaged.numel()] = self.value
            state.optimizers[0].write_back()
        before = [master.clone() for master in masters]
        with patch.object(state.objective, "terms", self._terms(state.objective)):
            MAKE_UPDATE(state, plan, prepared, execution)
        # A weight that the update does not use, as that of a token which is not in the batch, stays as it is.
        changed = any(not torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, masters, strict=True))
        self.applied = changed and self.where != "weight"
        return None

    def _terms(self, objective):
        plain = objective.terms

        def terms(*arguments, **named):
            found = plain(*arguments, **named)
            if self.where != "weight":
                name = next(iter(found.losses))
                total, count = found.losses[name]
                found.losses[name] = (_damage(total, self.value, self.where == "gradient"), count)
            return found

        return terms


MAKE_UPDATE = loop.make_update


def _damage(total: torch.Tensor, value: float, gradient: bool) -> torch.Tensor:
    if not gradient:
        return total * value
    total.register_hook(lambda found: found * value)
    return total


def change_processes(scale: float) -> Iterator[Trial]:
    """Train with 1, 2, 4 and again 1 process, one after the other, and compare with a run of one process."""
    del scale
    folder = Path("parallel").absolute()
    tiny.make_shards(folder / "shards")
    pretrain(tiny.settings(folder / "shards", training__updates=2), folder / "auxiliary")
    pretrain(test_parallel.config_of("muon", folder, "ddp"), folder / "muon-1")
    for parallel in ("ddp", "fsdp"):
        did = f"{parallel}, 1 → 2 → 4 → 1 processes"
        try:
            test_parallel.train_part(folder, parallel, test_parallel.PARTS[1])
            for size in (2, 4):
                statuses = processes.run(size, continue_run, folder, parallel, size)
                assert statuses == [0] * size, statuses
            test_parallel.train_part(folder, parallel, test_parallel.UPDATES)
            test_parallel.assert_same_run(folder / "muon-1", folder / f"parts-{parallel}")
            yield Trial(did, "equal except for rounding")
        except AssertionError as error:
            yield Trial(did, FAILED, str(error))


def continue_run(folder: Path, parallel: str, size: int) -> None:
    """Continue the run in one of several processes."""
    with distributed.connected(torch.device("cpu")):
        test_parallel.train_part(folder, parallel, test_parallel.PARTS[size])
