"""`training.micro_batch_size=auto`: the largest that fits is found, recorded, and made smaller when memory runs out.

No GPU is needed: objectives here say that memory ran out above a number of rows.
"""

from pathlib import Path

import pytest
import torch

from fast_electra import distributed
from fast_electra.config.loading import load_config
from fast_electra.config.tree import Config
from fast_electra.errors import ConfigError, ResourceError
from fast_electra.objectives.mlm import MLM
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.runs.folder import load_run
from fast_electra.stopping import Interrupted
from fast_electra.training import micro_batches
from tests import processes, tiny

TERMS = MLM.terms


class Memory:
    """Runs out above a number of tokens in a micro-batch; `real` is another number for real updates."""

    def __init__(self, tokens: int, real: int | None = None) -> None:
        self.tokens, self.real = tokens, tokens if real is None else real
        self.tried: list[int] = []
        self.trying = False

    def terms(self, objective, prepared, progress, seed):
        rows, length = prepared.batch.ids.shape
        if torch.is_grad_enabled() and rows > 2:  # two rows count operations
            if self.trying:
                self.tried.append(rows)
            if rows * length > (self.tokens if self.trying else self.real):
                raise torch.OutOfMemoryError("CUDA out of memory.")
        return TERMS(objective, prepared, progress, seed)


def install(memory: Memory, patch: pytest.MonkeyPatch) -> Memory:
    attempt = micro_batches._try

    def trying(*arguments):
        memory.trying = True
        try:
            attempt(*arguments)
        finally:
            memory.trying = False

    patch.setattr(micro_batches, "_try", trying)
    patch.setattr(micro_batches, "can_be_tried", lambda device: True)
    patch.setattr(MLM, "terms", lambda *arguments, **named: memory.terms(*arguments, **named))
    return memory


def settings(shards: Path, size: int | str | None = "auto", **changes) -> Config:
    changes = {"training__batch_size": 12, "main__dropout": 0.1} | changes
    phases = changes.pop("phases", [])
    config = tiny.settings(shards, training__micro_batch_size=size, **changes)
    return Config.model_validate(config.model_dump() | {"phases": phases})


def outcome(run: Path):
    records = [{**record, "timing": None} for record in load_run(run).metrics()]
    return records, (run / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_largest_that_fits_is_found_once_and_leaves_no_trace(precision, shards, tmp_path, monkeypatch):
    memory = install(Memory(32 * 5), monkeypatch)
    config = settings(shards, execution__precision=precision)
    updates, said = iter(range(1, 100)), []
    with pytest.raises(Interrupted):
        pretrain(config, tmp_path / "run", say=said.append, stop=lambda: next(updates) == 6)
    assert memory.tried == [12, 6, 4, 4]  # the second time beside the gradients of the first
    assert "training.micro_batch_size=auto: 4 rows go through the model at a time." in said
    assert load_config(tmp_path / "run" / "config.yaml").training.micro_batch_size == 4
    pretrain(config, tmp_path / "run")
    assert len(memory.tried) == 4  # not tried again
    # Dropout shows that the random state is the same, too.
    pretrain(settings(shards, 4, execution__precision=precision), tmp_path / "given")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "given")
    pretrain(load_config(tmp_path / "run" / "config.yaml"), tmp_path / "again")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "again")


def test_each_phase_has_its_own(shards, tmp_path, monkeypatch):
    install(Memory(24 * 6), monkeypatch)
    phases = [
        {"start": 4, "data": {"length": 24}},
        {"start": 8, "training": {"batch_size": 6, "micro_batch_size": 3}},
    ]
    config = settings(shards, phases=phases)
    pretrain(config, tmp_path / "run")
    found = load_run(tmp_path / "run").config
    assert [each.training.micro_batch_size for each in found.each_phase] == [4, 6, 3]
    assert pretrain(config, tmp_path / "run").fresh is False


def test_memory_that_runs_out_in_an_update_halves_the_micro_batch(shards, tmp_path, monkeypatch):
    install(Memory(32 * 12, real=32 * 3), monkeypatch)
    said = []
    pretrain(settings(shards), tmp_path / "run", say=said.append)
    assert [sentence for sentence in said if sentence.startswith("memory ran out")] == [
        "memory ran out: the run goes back to update 0 and has 6 rows at a time in place of 12.",
        "memory ran out: the run goes back to update 0 and has 3 rows at a time in place of 6.",
    ]
    assert load_config(tmp_path / "run" / "config.yaml").training.micro_batch_size == 3
    pretrain(settings(shards, 3), tmp_path / "given")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "given")


def test_a_number_that_a_user_gave_stays(shards, tmp_path, monkeypatch):
    install(Memory(0, real=32 * 3), monkeypatch)
    with pytest.raises(torch.OutOfMemoryError):
        pretrain(settings(shards, 4), tmp_path / "run")
    assert load_config(tmp_path / "run" / "config.yaml").training.micro_batch_size == 4


def test_where_not_one_row_fits_one_sentence_says_what_helps(shards, tmp_path, monkeypatch):
    def never(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(micro_batches, "can_be_tried", lambda device: True)
    monkeypatch.setattr(micro_batches, "_try", never)
    with pytest.raises(ResourceError, match=r"memory ran out with training\.micro_batch_size=1.*checkpointing=true"):
        pretrain(settings(shards), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ResourceError, match=r"training\.micro_batch_size=1"):
        micro_batches.smaller(12, 1)
    assert [micro_batches.smaller(12, rows) for rows in (12, 6, 4, 3, 2)] == [6, 3, 2, 1, 1]


def test_on_a_cpu_auto_is_the_whole_batch(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(micro_batches, "_try", None)
    pretrain(settings(shards, training__updates=1), tmp_path / "run")
    assert load_config(tmp_path / "run" / "config.yaml").training.micro_batch_size == 12


def test_what_else_it_may_be_is_said():
    with pytest.raises(ConfigError, match=r"training\.micro_batch_size must be a whole number or auto, not most"):
        load_config("quickstart", ["training.micro_batch_size=most"])


def train_together(folder: Path, real: int) -> None:
    """Train with a memory of process 1 that is smaller than that of process 0."""
    memory = Memory(32 * (6 if distributed.rank() == 0 else 3), real if distributed.rank() else 32 * 12)
    with pytest.MonkeyPatch.context() as patch:
        install(memory, patch)
        said = []
        try:
            pretrain(settings(folder / "shards"), folder / "run", say=said.append)
        except ResourceError as error:
            (folder / f"error-{distributed.rank()}").write_text(str(error))
            raise SystemExit(1) from error


@pytest.mark.timeout(300)
def test_a_process_whose_memory_runs_out_leaves_no_other_waiting(shards, tmp_path):
    (tmp_path / "shards").symlink_to(shards)
    # A trial fails on process 1 alone; then an update does, while process 0 waits in the exchange.
    assert 0 not in processes.run(2, train_together, tmp_path, 32 * 2, timeout=120.0)
    assert (tmp_path / "error-1").read_text() == (
        f"memory ran out with 3 rows at a time, and 1 are now in {tmp_path / 'run'}: start the same command again, "
        "and it continues."
    )
    assert load_run(tmp_path / "run").config.training.micro_batch_size == 1
    assert processes.run(2, train_together, tmp_path, 32 * 2, timeout=120.0) == [0, 0]
    assert load_run(tmp_path / "run").is_finished
