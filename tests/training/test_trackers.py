"""A run reports to trackers; a tracker that fails or is missing never costs a run."""

import importlib.util
import json
import struct

import pytest

from fast_electra.config import load_config
from fast_electra.errors import ConfigError
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.runs.folder import load_run
from fast_electra.training import trackers
from tests import tiny


class Recorder:
    """A tracker in memory, which can fail at an update or at its end."""

    def __init__(self, opened, fails_at=None):
        self.opened, self.fails_at, self.logged, self.closed = opened, fails_at, [], False

    def log(self, values, update):
        if update == self.fails_at:
            raise RuntimeError("no\nnetwork")
        self.logged.append((update, dict(values)))

    def close(self):
        self.closed = True
        if self.fails_at == "end":
            raise RuntimeError("no network")


@pytest.fixture
def recorders(monkeypatch):
    """Makes every tracker a `Recorder`; returns the list of those that were opened, and takes where the next fails."""
    opened = []

    def use(fails_at=None, refuses=False):
        def make(run, config, name, update):
            if refuses:
                raise RuntimeError("api_key not configured")
            opened.append(Recorder((name, update), fails_at))
            return opened[-1]

        monkeypatch.setattr(trackers, "_KINDS", dict.fromkeys(trackers._KINDS, make))
        return opened

    monkeypatch.setattr(trackers, "find_spec", lambda name: name)
    return use


def config(shards, *kinds, **changes):
    return tiny.settings(shards, training__trackers=list(kinds), **changes)


def test_a_tracker_gets_every_number_of_every_record(tmp_path, shards, recorders):
    opened = recorders()
    pretrain(config(shards, "wandb"), tmp_path / "run")
    records = load_run(tmp_path / "run").metrics()
    assert [update for update, _ in opened[0].logged] == [record["update"] for record in records]
    for (_, values), record in zip(opened[0].logged, records, strict=True):
        assert values["loss"] == record["loss"]
        assert values["timing/seconds"] == record["timing"]["seconds"]
        assert "update" not in values
    assert opened[0].closed


@pytest.mark.parametrize("fails_at", [6, "end"])
def test_a_tracker_that_fails_is_said_once_and_changes_nothing(tmp_path, shards, recorders, fails_at):
    plain = pretrain(tiny.settings(shards), tmp_path / "plain")
    recorders(fails_at)
    said = []
    result = pretrain(config(shards, "mlflow"), tmp_path / "run", say=said.append)
    assert result.validation == plain.validation
    assert len(load_run(tmp_path / "run").metrics()) == len(load_run(tmp_path / "plain").metrics())
    (sentence,) = [each for each in said if each.startswith("mlflow failed")]
    assert "no network" in sentence
    assert "metrics.jsonl has every record" in sentence


def test_a_tracker_that_cannot_be_opened_is_said_and_the_run_goes_on(tmp_path, shards, recorders):
    recorders(refuses=True)
    said = []
    pretrain(config(shards, "wandb", "trackio"), tmp_path / "run", say=said.append)
    assert load_run(tmp_path / "run").is_finished
    assert [each.split()[0] for each in said if "api_key" in each] == ["wandb", "trackio"]


def test_a_resumed_run_continues_the_trackers_run_and_may_get_another_tracker(tmp_path, shards, recorders):
    opened = recorders()
    for extend, kinds in ((None, ["wandb"]), (16, ["wandb", "mlflow"])):
        pretrain(config(shards, *kinds), tmp_path / "run", extend=extend)
    assert [recorder.opened for recorder in opened] == [(opened[0].opened[0], update) for update in (0, 12, 12)]
    assert opened[0].opened[0].startswith("run-")
    pretrain(config(shards, "wandb"), tmp_path / "other" / "run")
    assert opened[-1].opened[0] != opened[0].opened[0]


def test_a_package_that_is_missing_is_refused_before_anything_is_written(tmp_path, shards, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"wandb, which is not installed: run `pip install 'fast-electra\[wandb\]'`"):
        pretrain(config(shards, "wandb"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_earlier_key_for_tensorboard_is_read(tmp_path):
    assert load_config("quickstart", ["training.tensorboard=true"]).training.trackers == ["tensorboard"]
    assert load_config("quickstart", ["training.tensorboard=false"]).training.trackers == []
    file = tmp_path / "run.yaml"
    file.write_text("preset: quickstart\ntraining: {tensorboard: true}\n")
    assert load_config(file).training.trackers == ["tensorboard"]
    with pytest.raises(ConfigError, match=r"training\.tensorboard"):
        load_config("quickstart", ["training.tensorboard=true", "training.trackers=[wandb]"])
    with pytest.raises(ConfigError, match="wandb"):
        load_config("quickstart", ["training.trackers=[wand]"])


@pytest.mark.parametrize("kind", trackers._KINDS)
def test_the_real_tracker_has_the_losses_of_the_run(kind, tmp_path, shards, monkeypatch):
    """Without a network; also after the run was continued."""
    if importlib.util.find_spec(kind) is None:
        pytest.skip(f"{kind} is not installed")
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
    }.items():
        monkeypatch.setenv(name, value)
    said = []
    for extend in (None, 16):
        pretrain(config(shards, kind), tmp_path / "run", extend=extend, say=said.append)
    assert not [each for each in said if "failed" in each], said
    run = load_run(tmp_path / "run")
    losses = {record["update"]: record["loss"] for record in run.metrics()}
    name = f"run-{run.tracker_identifier()}"
    assert READERS[kind](tmp_path, name) == pytest.approx(losses, rel=1e-6)  # TensorBoard keeps float32


def from_tensorboard(folder, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "run" / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars("loss")}


def from_wandb(folder, name):
    from wandb.proto.wandb_internal_pb2 import Record

    found = {}
    for file in sorted((folder / "run" / "wandb").glob("offline-run-*/*.wandb")):
        for content in leveldb_records(file.read_bytes()[7:]):
            record = Record()
            record.ParseFromString(content)
            items = {"".join([item.key, *item.nested_key]): json.loads(item.value_json) for item in record.history.item}
            if "loss" in items:
                found[items["update"]] = items["loss"]
    return found


def leveldb_records(log):
    """The records of a log in LevelDB's format: blocks of 32 KiB, chunks with checksum, length and kind."""
    place, parts = 0, b""
    while place + 7 <= len(log):
        if (left := 32768 - (place + 7) % 32768) < 7:  # W&B's header of 7 bytes is part of the first block
            place += left
            continue
        length, kind = struct.unpack("<HB", log[place + 4 : place + 7])
        parts += log[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def from_trackio(folder, name):
    from trackio.sqlite_storage import SQLiteStorage

    return {row["step"]: row["loss"] for row in SQLiteStorage.get_logs(trackers.PROJECT, name)}


def from_mlflow(folder, name):
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name(trackers.PROJECT)
    (run,) = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
    assert run.info.status == "FINISHED"
    assert run.data.params["objective.kind"] == "mlm"
    return {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "loss")}


READERS = {"tensorboard": from_tensorboard, "wandb": from_wandb, "trackio": from_trackio, "mlflow": from_mlflow}
