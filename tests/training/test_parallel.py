"""Several processes train as one does: the same rows, masks, losses and weights."""

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from fast_electra import distributed
from fast_electra.config.tree import Config, ExecutionConfig
from fast_electra.corruption import counted
from fast_electra.corruption.augmentations import Difficulty
from fast_electra.corruption.counted import NGram
from fast_electra.data.batches import BatchSchedule
from fast_electra.data.shards import open_shards
from fast_electra.data.tokenizer import load_tokenizer
from fast_electra.errors import ConfigError, DataError, OtherProcessError, UserError
from fast_electra.evaluation.probe_observers import ProbeObserver
from fast_electra.models.loading import tensors_digest
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.runs.checkpoints import checkpoint_at
from fast_electra.runs.folder import load_run
from fast_electra.stopping import Interrupted
from fast_electra.training import loss_scale, outlook
from fast_electra.training.assembly import Assembled, assemble, read_inputs
from fast_electra.training.auxiliary import excluded_tokens
from fast_electra.training.checkpoint_models import read_model
from fast_electra.training.precision import choose_execution
from fast_electra.training.setup import refuse_uneven
from fast_electra.training.telemetry import Observer
from fast_electra.training.validation_rows import differing_replacements, validation_batches
from tests import processes, tiny
from tests.evaluation.test_probing import words_task

pytestmark = pytest.mark.timeout(500)
UPDATES = 20
GENERATOR = {"layers": 1, "hidden_size": 32, "heads": 2, "intermediate_size": 32}
JOINT = {"kind": "electra", "objective__generator": GENERATOR}
SETTINGS: dict[str, dict] = {
    "mlm": {"kind": "mlm"},
    "frozen": {"kind": "fast_electra"},
    "muon": {"kind": "fast_electra", "optimizer__kind": "muon"},
    "delta": {"kind": "fast_electra", "main__embeddings": "auxiliary_plus_delta"},
    "corrective": {"kind": "fast_electra", "objective__corrective_weight": 0.2},
    "adaptive": {"kind": "fast_electra", "corruption__schedule": {"kind": "adaptive"}},
    "tied": JOINT | {"objective__sharing": "tied"},
    "disentangled": JOINT | {"objective__sharing": "disentangled"},
    "low": {"kind": "fast_electra", "execution__precision": "bfloat16"},
    "low, added low": {
        "kind": "fast_electra",
        "execution__precision": "bfloat16",
        "execution__reduction": "weights",
    },
    "low, float16": {"kind": "mlm", "execution__precision": "float16_autocast"},
    "recomputed": {"kind": "fast_electra", "training__activation_checkpointing": True},
    "phases": {
        "kind": "fast_electra",
        "phases": [{"start": 9, "data": {"length": 24}, "corruption": {"masking": {"rate": 0.3}}}],
    },
    "uneven": {"kind": "fast_electra", "training__batch_size": 7, "training__micro_batch_size": None},
}
# With FSDP2 a batch must be divided evenly.
ALL = [
    (name, by, size)
    for size in (2, 4)
    for name in SETTINGS
    for by in ("ddp", "fsdp")
    if (name, by) != ("uneven", "fsdp")
]
QUICK = [
    *(("mlm", "ddp", 2), ("frozen", "fsdp", 2), ("delta", "ddp", 2), ("corrective", "fsdp", 2), ("adaptive", "ddp", 2)),
    *(("disentangled", "fsdp", 2), ("tied", "ddp", 2), ("low", "fsdp", 2), ("low, added low", "ddp", 2)),
    *(("muon", "fsdp", 4), ("uneven", "ddp", 4), ("phases", "ddp", 2), ("low, float16", "ddp", 2)),
    *(("recomputed", "ddp", 2), ("recomputed", "fsdp", 2)),
]
"""each setting once, and layers that are recomputed by both; the other cases are slow tests"""
CASES = [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in ALL]
HIGH = 2.0**24
"""a factor of the loss with which the first updates in float16 overflow"""
PARTS = {1: 5, 2: 10, 4: 15}
"""the number of processes, and the update at which they stop; at the end one process continues"""


def config_of(name: str, folder: Path, parallel: str) -> Config:
    changes = {"training__batch_size": 8, "training__micro_batch_size": 2} | SETTINGS[name]
    kind, phases = changes.pop("kind"), changes.pop("phases", [])
    config = tiny.settings(
        folder / "shards",
        kind,
        folder / "auxiliary" if kind == "fast_electra" else None,
        training__updates=UPDATES,
        training__log_every=1,
        training__checkpoint_every=UPDATES,
        execution__parallel=parallel,
        **changes,
    )
    return Config.model_validate(config.model_dump() | {"phases": phases})


def train_part(folder: Path, parallel: str, until: int) -> None:
    """Begin or continue a run, and stop at an update."""
    updates = iter(range(1, UPDATES))
    run = folder / f"parts-{parallel}"
    done = checkpoint_of(run)

    def stop() -> bool:
        return done + next(updates) == until

    with contextlib.suppress(Interrupted):
        pretrain(config_of("muon", folder, parallel), run, stop=stop)


def checkpoint_of(run: Path) -> int:
    return max((int(path.name) for path in run.glob("checkpoints/*")), default=0)


def count_tables(folder: Path, size: int) -> None:
    """Count the tables of an auxiliary; write whether this process has read the text, and a digest of the tables."""
    read, pairs = [], counted._pairs
    counted._pairs = lambda *arguments: read.append(1) or pairs(*arguments)
    shards = open_shards(folder / "shards")
    allowed = ~excluded_tokens(load_tokenizer(shards.folder / "tokenizer"))
    table = NGram.count(shards.split("train"), allowed, torch.device("cpu"))
    counted._pairs = pairs
    tensors = [table.unigram_V, *vars(table.after).values(), *vars(table.before).values()]
    found = [len(read), tensors_digest((str(place), tensor) for place, tensor in enumerate(tensors))]
    (folder / f"counted-{size}-{distributed.rank()}").write_text(json.dumps(found))


def train_all(folder: Path, size: int, cases: list[tuple[str, str, int]]) -> None:
    loss_scale._START = HIGH
    with distributed.connected(torch.device("cpu")):
        count_tables(folder, size)
        for parallel in ("ddp", "fsdp"):
            train_part(folder, parallel, PARTS[size])
        for name, parallel, _ in cases:
            run = folder / f"{name}-{parallel}-{size}"
            pretrain(config_of(name, folder, parallel), run, observe=probes(run) if name == "frozen" else no_probes)


def no_probes(_: Assembled) -> list[Observer]:
    return []


def probes(run: Path) -> Callable[[Assembled], list[Observer]]:
    """A probe of the main model every eight updates."""

    def observe(parts: Assembled) -> list[Observer]:
        execution = choose_execution(ExecutionConfig(precision="float32"))
        model, tokenizer = parts.objective.models()["main"], parts.tokenizer
        sizes = {"train_examples": 60, "dev_examples": 40}
        return [ProbeObserver(model, tokenizer, [words_task(60)], 8, 1, run, execution, **sizes)]  # type: ignore[arg-type]

    return observe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards, an auxiliary, and the runs of one process."""
    folder = tmp_path_factory.mktemp("parallel")
    tiny.make_shards(folder / "shards")
    pretrain(tiny.settings(folder / "shards", training__updates=2), folder / "auxiliary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_scale, "_START", HIGH)
        for name in SETTINGS:
            run = folder / f"{name}-1"
            pretrain(config_of(name, folder, "ddp"), run, observe=probes(run) if name == "frozen" else no_probes)
    return folder


@pytest.fixture(scope="module")
def trained(folder, request):
    """The same folder, with the runs of 2 and 4 processes that the chosen tests need."""
    chosen = {item.callspec.params.get("case") for item in request.session.items if hasattr(item, "callspec")}
    for parallel in ("ddp", "fsdp"):
        train_part(folder, parallel, PARTS[1])
    for size in (2, 4):
        cases = [case for case in ALL if case in chosen and case[2] == size]
        assert processes.run(size, train_all, folder, size, cases) == [0] * size
    for parallel in ("ddp", "fsdp"):
        train_part(folder, parallel, UPDATES)
    return folder


def assert_same_run(alone: Path, several: Path) -> None:
    """Losses within 1e-6, and weights within 1e-5, except for keys' biases, whose gradient is zero but for rounding."""
    runs = load_run(alone), load_run(several)
    for one, other in zip(*(run.metrics() for run in runs), strict=True):
        assert one["tokens"] == other["tokens"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)
        assert one.get("temperature", 1.0) == pytest.approx(other.get("temperature", 1.0), rel=1e-6)
    models = [read_model(checkpoint_at(run.checkpoints, UPDATES)).state_dict() for run in runs]
    for name, weight in models[0].items():
        if not name.endswith("key.bias"):
            torch.testing.assert_close(models[1][name], weight, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_several_processes_train_as_one_does(trained, case):
    name, parallel, size = case
    if not name.startswith("low"):
        assert_same_run(trained / f"{name}-1", trained / f"{name}-{parallel}-{size}")
        return
    losses = [
        [record["loss"] for record in load_run(trained / run).metrics()]
        for run in (f"{name}-1", f"{name}-{parallel}-{size}")
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=5e-3)


def test_a_sharded_model_is_probed_as_a_whole_one(trained):
    alone, sharded = (
        [(line["update"], line["scores"]) for line in map(json.loads, (trained / run / "probes.jsonl").open())]
        for run in ("frozen-1", "frozen-fsdp-2")
    )
    assert [update for update, _ in alone] == [8, 16, 20]
    assert alone == sharded


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_run_continues_with_another_number_of_processes(trained, parallel):
    assert_same_run(trained / "muon-1", trained / f"parts-{parallel}")


def test_the_shares_of_a_batch_are_its_rows_in_order(folder):
    config = config_of("mlm", folder, "ddp")
    rows = read_inputs(config, choose_execution(config.execution)).rows("train")
    for size in (1, 2, 3, 7, 8):
        whole = BatchSchedule(rows, 8, 5)
        shares = [BatchSchedule(rows, 8, 5, (rank, size)) for rank in range(size)]
        for update in (0, 3):
            parts = [share.at(update) for share in shares]
            assert torch.equal(torch.cat([part.samples for part in parts]), whole.at(update).samples)
            assert torch.equal(torch.cat([part.ids for part in parts]), whole.at(update).ids)
            assert max(len(part.ids) for part in parts) - min(len(part.ids) for part in parts) <= 1


def test_one_process_of_a_machine_counts_tables_for_all(trained):
    count_tables(trained, 1)
    alone = json.loads((trained / "counted-1-0").read_text())
    for size in (2, 4):
        found = [json.loads((trained / f"counted-{size}-{rank}").read_text()) for rank in range(size)]
        assert sum(read for read, _ in found) == 1 == alone[0]
        assert {digest for _, digest in found} == {alone[1]}


def test_replacements_that_differ_at_another_micro_batch_are_counted_and_said(folder, monkeypatch):
    execution = choose_execution(ExecutionConfig(precision="float32"))

    def told(size: int, batch: int, micro: int | None) -> list[str]:
        changes = {"training__batch_size": batch, "training__micro_batch_size": micro}
        config = tiny.settings(folder / "shards", "fast_electra", folder / "auxiliary", **changes)
        monkeypatch.setattr(distributed, "size", lambda: size)
        return [note for note in assemble(config, execution).notes if "differ from those of one process" in note]

    for size, batch, micro in ((1, 8, None), (2, 8, 4), (2, 8, 2), (4, 8, 1)):
        assert not told(size, batch, micro)
    for size, batch, micro, rows in ((2, 8, None, 4), (2, 7, None, 3), (4, 8, 4, 2), (2, 12, 4, 2)):
        (sentence,) = told(size, batch, micro)
        assert f"micro-batches of {micro or batch} rows where {size} processes have {rows} " in sentence


def test_the_share_of_replacements_that_differ_is_that_of_the_masked_positions(folder, monkeypatch):
    config = tiny.settings(folder / "shards", "fast_electra", folder / "auxiliary")
    inputs = read_inputs(config, choose_execution(ExecutionConfig(precision="float32")))

    class Rounded:
        """Draws three other tokens where a micro-batch has eight rows."""

        def corrupt(self, batch, masked, difficulty, seed):
            ids = batch.ids.clone()
            if len(ids) == 8:
                ids[0, masked.positions_BM[0, :3]] += 1
            return SimpleNamespace(ids_BS=ids)

    monkeypatch.setattr(distributed, "size", lambda: 2)
    sentence = differing_replacements(inputs, Rounded(), Difficulty(1.0))  # type: ignore[arg-type]
    count = int(validation_batches(inputs)[0].masked.valid_BM.sum())
    assert sentence.startswith(f"{3 / count:.2%} of {count:,} replacements")


# --- A process that fails, ends or stops ------------------------------------------------------------------------------


def lose_one(folder: Path, how: str) -> None:
    """Train until process 1 is lost at the fourth update."""
    distributed._BEAT, distributed._GRACE = 0.2, 1.0
    updates = iter(range(1, UPDATES))

    def stop() -> bool:
        if distributed.rank() == 1 and next(updates) == 4:
            if how == "error":
                raise DataError("shards/train-00000.bin is damaged")
            os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSTOP)
        return False

    # The command line prints the sentence of an error.
    try:
        pretrain(config_of("mlm", folder, "ddp"), folder / f"lost-{how}", stop=stop)
    except UserError as error:
        (folder / f"lost-{how}-{distributed.rank()}").write_text(str(error))
        raise SystemExit(error.status) from None


@pytest.mark.slow  # tests/torture/test_several.py kills each of two processes
@pytest.mark.parametrize("how", ["kill", "error", "stop"])
def test_the_others_end_and_say_which_process_is_lost(folder, how):
    began = time.monotonic()
    statuses = processes.run(2, lose_one, folder, how, kill_after_first=True)
    assert statuses[0] == 1
    assert time.monotonic() - began < 60
    said = folder / f"lost-{how}-0"
    if how == "stop":  # the main thread waits for the exchange, so the process ends from another thread
        assert not said.exists()
    else:
        reason = {"error": "shards/train-00000.bin is damaged", "kill": "ended or does not answer"}[how]
        assert f"process 1 of 2{': ' if how == 'error' else ' '}{reason}" in said.read_text()
    pretrain(config_of("mlm", folder, "ddp"), folder / f"lost-{how}")
    assert_same_run(folder / "mlm-1", folder / f"lost-{how}")


def fail_and_look_for_models(folder: Path) -> None:
    """Train until an error, and keep how many models DDP holds when the group is destroyed."""
    destroy = torch.distributed.destroy_process_group

    def look() -> None:
        held = sum(isinstance(thing, DistributedDataParallel) for thing in gc.get_objects())
        (folder / f"held-{distributed.rank()}").write_text(str(held))
        destroy()

    def stop() -> bool:
        raise DataError("it fails on every process")

    torch.distributed.destroy_process_group = look
    with pytest.raises(DataError):
        pretrain(config_of("mlm", folder, "ddp"), folder / "failed", stop=stop)


def test_no_model_outlives_its_group_of_processes_if_the_run_fails(folder):
    assert processes.run(2, fail_and_look_for_models, folder) == [0, 0]
    assert [(folder / f"held-{rank}").read_text() for rank in range(2)] == ["0", "0"]


def stop_one_after_the_other() -> None:
    distributed._BEAT, distributed._MISSED, distributed._GRACE = 0.1, 100, 0.2

    def stop() -> None:
        time.sleep(1.5 * (1 - distributed.rank()))
        raise Interrupted("stopped after update 3 of 9")

    with pytest.raises(Interrupted), distributed.connected(torch.device("cpu")):
        stop()


def test_a_process_that_stops_later_than_another_is_not_ended_for_it():
    assert processes.run(2, stop_one_after_the_other) == [0, 0]


def test_a_batch_that_cannot_be_divided_is_refused(folder, monkeypatch):
    config = config_of("mlm", folder, "fsdp")
    for size, message in ((9, "less than the 9 processes"), (3, "cannot be divided evenly among 3 processes")):
        monkeypatch.setattr(distributed, "size", lambda size=size: size)
        with pytest.raises(ConfigError, match=message):
            refuse_uneven(config, sharding=True)


def test_a_process_that_was_stopped_did_not_hang_meanwhile():
    program = (
        "import time\nfrom fast_electra.training.watchdog import Watchdog\n"
        "with Watchdog(1.0).watching():\n"
        "    print('watches', flush=True)\n"
        "    time.sleep(0.3)\n"
        "    time.sleep(0.3)\n"  # the first one is over when the process goes on
        "print('ends')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "watches\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=60) == ("ends\n", None)
    assert process.returncode == 0


def test_a_run_that_hangs_ends_with_the_stacks_of_its_threads():
    program = (
        "import time\nfrom fast_electra.training.watchdog import Watchdog\n"
        "dog = Watchdog(1.0)\n"
        "with dog.watching():\n    time.sleep(0.6)\n    dog.updated(1)\n    time.sleep(0.6)\n    time.sleep(60)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert found.returncode == 1
    assert "no update was finished for 0.0167 minutes" in found.stderr
    assert 'File "<string>", line 8' in found.stderr


def test_only_the_process_with_the_lock_lets_the_others_remove_what_a_killed_command_left(
    folder, tmp_path, monkeypatch
):
    @contextlib.contextmanager
    def refused():
        yield
        raise OtherProcessError("process 0 of 2: the folder is being written", 2)

    half = tmp_path / "run" / "checkpoints" / "00000004.partial"
    half.mkdir(parents=True)
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    monkeypatch.setattr(distributed, "together", refused)
    with pytest.raises(OtherProcessError):
        pretrain(tiny.settings(tmp_path / "shards"), tmp_path / "run")
    assert half.exists()


def test_the_processes_share_the_estimated_time(monkeypatch):
    monkeypatch.setattr(outlook, "forward_and_backward", lambda *_: (lambda: None, 2))
    monkeypatch.setattr(outlook, "clear_gradients", lambda _: None)
    times = []
    for size in (1, 4):
        clock = iter((0.0, 10.0))
        monkeypatch.setattr(outlook.time, "perf_counter", lambda clock=clock: next(clock))
        monkeypatch.setattr(distributed, "size", lambda size=size: size)
        config = tiny.settings(Path("shards"))
        times.append(outlook._seconds_per_update(config, None, choose_execution(config.execution), 0))
    assert times == [40.0, 10.0]
