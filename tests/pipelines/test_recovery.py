"""A run that meets losses, gradients or weights that are not finite."""

import json
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file

from fast_electra.errors import DataError, ModelError, TrainingError
from fast_electra.objectives.base import Terms
from fast_electra.objectives.fast_electra import FastElectra
from fast_electra.objectives.mlm import MLM
from fast_electra.pipelines import pretrain as pipeline
from fast_electra.pipelines.corrupt import build_cache
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.runs.checkpoints import checkpoint_at
from fast_electra.runs.folder import load_run
from fast_electra.stopping import Interrupted
from tests import tiny


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return tiny.make_shards(tmp_path_factory.mktemp("recovery") / "shards")


@pytest.fixture
def bad_batches(monkeypatch):
    """Batch numbers whose loss, or with a minus whose gradient alone, is not finite; the test may change the set."""
    bad: set[int] = set()
    terms = MLM.terms

    def broken(self, prepared, progress, seed):
        found = terms(self, prepared, progress, seed)
        number = int(prepared.batch.samples[0]) // 8
        if number in bad:
            total, count = found.losses["mlm"]
            return Terms({"mlm": (total * float("nan"), count)}, found.metrics)
        if -number in bad:
            total, count = found.losses["mlm"]
            return Terms({"mlm": (total + _FiniteForward.apply(total), count)}, found.metrics)
        return found

    monkeypatch.setattr(MLM, "terms", broken)
    return bad


class _FiniteForward(torch.autograd.Function):
    """Zero, with an infinite gradient."""

    @staticmethod
    def forward(context, value):
        return torch.zeros_like(value)

    @staticmethod
    def backward(context, gradient):
        return gradient * float("inf")


def weights(run, update):
    return load_file(checkpoint_at(run / "checkpoints", update).folder / "models" / "fixed.safetensors"), {
        file.name: file.read_bytes() for file in sorted((run / "model").glob("*.safetensors"))
    }


@pytest.mark.parametrize("sign", [1, -1])
def test_an_update_that_is_not_finite_changes_nothing_and_is_counted(shards, tmp_path, bad_batches, sign):
    bad_batches.add(sign * 4)
    result = pretrain(tiny.settings(shards, training__log_every=1), tmp_path / "run")
    records = load_run(tmp_path / "run").metrics()
    assert [record["update"] for record in records] == [*range(1, 5), *range(6, 13)]  # the fifth has no loss
    assert [record.get("skipped") for record in records] == [None] * 4 + [1] * 7
    assert result.tokens == records[-1]["tokens"]
    bad_batches.clear()
    pretrain(tiny.settings(shards, training__log_every=1), tmp_path / "sound")
    sound = load_run(tmp_path / "sound").metrics()
    assert [record["loss"] for record in sound][:4] == [record["loss"] for record in records][:4]
    assert sound[6]["loss"] != records[5]["loss"]


def test_a_run_goes_back_and_leaves_out_the_batches_that_diverge(shards, tmp_path, bad_batches):
    bad_batches |= {5, 6, 7}
    config = tiny.settings(shards)  # checkpoints after updates 4, 8 and 12
    said = []
    pretrain(config, tmp_path / "run", say=said.append)
    sentence = next(sentence for sentence in said if "goes back" in sentence)
    assert "goes back to update 4 and leaves out 3 batches" in sentence
    checkpoint = checkpoint_at(load_run(tmp_path / "run").checkpoints, 12)
    assert checkpoint.scalars["left_out"] == [5, 6, 7]
    # A run that is stopped and resumed leaves out the same.
    updates = iter(range(1, 100))
    with pytest.raises(Interrupted):
        pretrain(config, tmp_path / "parts", stop=lambda: next(updates) >= 9)
    pretrain(config, tmp_path / "parts")
    for one, other in zip(*(load_run(tmp_path / name).metrics() for name in ("run", "parts")), strict=True):
        assert {**one, "timing": None} == {**other, "timing": None}
    assert weights(tmp_path / "run", 12) == weights(tmp_path / "parts", 12)


def test_a_run_that_diverges_again_stops_and_says_where(shards, tmp_path, bad_batches):
    bad_batches |= set(range(5, 100))
    with pytest.raises(
        TrainingError, match=r"3 updates in a row, up to update 8: lower optimizer\.learning_rate"
    ) as error:
        pretrain(tiny.settings(shards), tmp_path / "run")
    assert error.value.status == 1
    facts = json.loads((tmp_path / "run" / "divergence.json").read_text())
    assert facts["updates"]
    assert all(len(rows) == 8 for rows in facts["rows"].values())
    bad_batches.clear()
    pretrain(tiny.settings(shards), tmp_path / "run")  # a transient fault: the same command continues


def test_weights_that_overflow_are_found_before_they_are_validated_or_saved(shards, tmp_path):
    config = tiny.settings(
        shards, training__updates=1, optimizer__learning_rate=1e30, optimizer__warmup=0.0, optimizer__clip=None
    )
    with pytest.raises(TrainingError, match="not finite"):
        pretrain(config, tmp_path / "run")
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_an_auxiliary_that_overflows_is_refused_before_a_folder_is_written(shards, tmp_path):
    pretrain(tiny.settings(shards, training__updates=1), tmp_path / "auxiliary")
    file = tmp_path / "auxiliary" / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors["head.dense.weight"] = torch.full_like(tensors["head.dense.weight"], 3e38)
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bare" / name).write_bytes((file.parent / name).read_bytes())
    save_file(tensors, tmp_path / "bare" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="not finite on rows"):
        pretrain(tiny.settings(shards, "fast_electra", tmp_path / "bare"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_spike_is_skipped_where_asked(shards, tmp_path, monkeypatch):
    monkeypatch.setattr("fast_electra.training.state._WINDOW", 4)
    terms = MLM.terms

    def spiking(self, prepared, progress, seed):
        found = terms(self, prepared, progress, seed)
        total, count = found.losses["mlm"]
        factor = 3.0 if int(prepared.batch.samples[0]) // 8 == 8 else 1.0
        return Terms({"mlm": (total * factor, count)}, found.metrics)

    monkeypatch.setattr(MLM, "terms", spiking)
    for spike, skipped in ((None, []), (5.0, [9])):
        config = tiny.settings(shards, training__log_every=1, training__spike=spike)
        run = tmp_path / f"run-{spike}"
        updates = iter(range(1, 100))
        with pytest.raises(Interrupted):  # the window is a part of the checkpoint
            pretrain(config, run, stop=lambda updates=updates: next(updates) == 7)
        pretrain(config, run)
        assert checkpoint_at(load_run(run).checkpoints, 12).scalars["skipped"] == skipped


def test_the_models_that_diverged_are_freed_before_the_run_goes_back(shards, tmp_path, bad_batches, monkeypatch):
    bad_batches |= {5, 6, 7}
    begin, go_on = pipeline._begin, pipeline._go_on
    states = []

    def beginning(*arguments):
        session = begin(*arguments)
        states.append(weakref.ref(session.parts.objective))
        return session

    def going_on(*arguments):
        assert states[0]() is None
        states.append(None)
        return go_on(*arguments)

    monkeypatch.setattr(pipeline, "_begin", beginning)
    monkeypatch.setattr(pipeline, "_go_on", going_on)
    pretrain(tiny.settings(shards), tmp_path / "run")
    assert len(states) == 2


def test_a_cache_without_the_rows_that_replace_batches_left_out_is_one_sentence(shards, tmp_path, monkeypatch):
    pretrain(tiny.settings(shards, training__updates=1), tmp_path / "auxiliary")
    cached = {"corruption__cache": tmp_path / "cache"}
    build_cache(tiny.settings(shards, "fast_electra", tmp_path / "auxiliary"), tmp_path / "cache")
    terms = FastElectra.terms

    def broken(self, prepared, progress, seed):
        found = terms(self, prepared, progress, seed)
        bad = int(prepared.batch.samples[0]) // 8 in (5, 6, 7)
        return Terms({k: (v * float("nan") if bad else v, n) for k, (v, n) in found.losses.items()}, found.metrics)

    monkeypatch.setattr(FastElectra, "terms", broken)
    config = tiny.settings(shards, "fast_electra", tmp_path / "auxiliary", **cached)
    with pytest.raises(DataError, match=r"left out batches .* corrupt` with a larger training\.updates"):
        pretrain(config, tmp_path / "run")
    longer = tiny.settings(shards, "fast_electra", tmp_path / "auxiliary", training__updates=15)
    build_cache(longer, tmp_path / "cache")
    assert pretrain(config, tmp_path / "run").updates == 12
