"""Float16 with a scaled loss: the factor's rule, updates that overflow, resuming, and the same curve as in float32."""

from itertools import pairwise

import pytest
import torch

from fast_electra.pipelines.pretrain import pretrain
from fast_electra.runs.folder import load_run
from fast_electra.stopping import Interrupted
from fast_electra.training import loss_scale, precision
from fast_electra.training.assembly import assemble
from fast_electra.training.loop import make_update
from fast_electra.training.loss_scale import LossScale
from fast_electra.training.precision import choose_execution
from fast_electra.training.setup import start
from tests import tiny

CPU = torch.device("cpu")


@pytest.fixture
def starts_too_high(monkeypatch):
    """The first updates overflow: the loss is a mean over some 36 masked tokens, and 2^24 / 36 > 65,504."""
    monkeypatch.setattr(loss_scale, "_START", 2.0**24)
    monkeypatch.setattr(loss_scale, "GROWS_AFTER", 3)


def settings(shards, **changes):
    changes = {"training__log_every": 1, "execution__precision": "float16_autocast"} | changes
    return tiny.settings(shards, changes.pop("kind", "mlm"), changes.pop("auxiliary", None), **changes)


def without_clock(folder):
    return [{**record, "timing": None} for record in load_run(folder).metrics()]


def test_the_factor_follows_the_rule_of_pytorchs_scaler(monkeypatch):
    monkeypatch.setattr(loss_scale, "GROWS_AFTER", 3)
    scale = LossScale.start(CPU)
    factor, since = torch.tensor(2.0**16), torch.tensor(0, dtype=torch.int32)
    for overflowed in (0, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0):
        found = torch.tensor(float(overflowed))
        assert bool(scale.follow(2 * found, torch.zeros(()))) == bool(overflowed)  # two processes with it are as one
        torch._amp_update_scale_(factor, since, found, 2.0, 0.5, 3)
        assert scale.state() == [factor, since]
        assert LossScale.of(scale.state(), CPU).state() == scale.state()


def test_the_factor_is_not_blamed_for_what_it_cannot_cause():
    one, none = torch.tensor(1.0), torch.zeros(())
    scale = LossScale.start(CPU)
    assert not scale.follow(one, one)  # the loss itself is not finite
    assert scale.state() == [2.0**16, 0.0]
    scale = LossScale.of([1.0, 0.0], CPU)
    assert not scale.follow(one, none)
    assert scale.state() == [1.0, 0.0]
    scale = LossScale.of([2.0**24, loss_scale.GROWS_AFTER - 1.0], CPU)
    assert not scale.follow(none, none)
    assert scale.state() == [2.0**24, 0.0]


def test_an_update_that_overflows_changes_nothing_and_halves_the_factor(shards, starts_too_high):
    config = settings(shards)
    execution = choose_execution(config.execution)
    parts = assemble(config, execution)
    state, plan = start(config, parts, execution)
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    make_update(state, plan, parts.objective.prepare(parts.schedule.at(0), plan.seed), execution)
    assert state.loss_scale is not None
    assert state.loss_scale.state() == [2.0**23, 0.0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.tensors().items())
    state.look()
    assert (state.update, state.skipped) == (1, [])


@pytest.mark.parametrize("kind", ["mlm", "fast_electra"])
def test_resuming_gives_the_same_weights_bit_for_bit(kind, shards, auxiliary, tmp_path, starts_too_high):
    source = auxiliary if kind == "fast_electra" else None
    # One update that is not finite would end the run: those that only find the factor do not count.
    config = settings(shards, kind=kind, auxiliary=source, training__updates=16, training__most_skipped=1)
    pretrain(config, tmp_path / "whole")
    for cut in (2, 9):  # while the factor falls, and while it grows
        updates = iter(range(1, 100))
        with pytest.raises(Interrupted):
            pretrain(config, tmp_path / "parts", stop=lambda cut=cut, updates=updates: next(updates) == cut)
    pretrain(config, tmp_path / "parts")
    assert without_clock(tmp_path / "parts") == without_clock(tmp_path / "whole")
    files = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("parts", "whole")]
    assert files[0] == files[1]
    records = without_clock(tmp_path / "whole")
    assert records[0]["update"] > 1
    assert not any("skipped" in record for record in records)
    factors = [record["loss_scale"] for record in records]
    assert any(later > before for before, later in pairwise(factors))


@pytest.mark.parametrize("clip", [1.0, None])
def test_the_curve_is_that_of_float32(clip, shards, tmp_path):
    for name in ("float32", "float16_autocast"):
        pretrain(settings(shards, execution__precision=name, optimizer__clip=clip), tmp_path / name)
    pairs = zip(*(without_clock(tmp_path / name) for name in ("float32", "float16_autocast")), strict=True)
    for exact, found in pairs:
        # Float16 rounds to 11 bits, 0.05 %, in each of some ten operations; AdamW then makes steps of rounding.
        assert found["loss"] == pytest.approx(exact["loss"], rel=5e-3)
        assert found["gradient_norm"] == pytest.approx(exact["gradient_norm"], rel=5e-2)
        assert found["loss_scale"] == 2.0**16
        assert "loss_scale" not in exact


@pytest.mark.parametrize(
    ("capability", "chosen", "auxiliary"),
    [
        ((6, 1), "float32", torch.float32),
        ((7, 5), "float16_autocast", torch.float32),
        ((8, 0), "bfloat16", torch.bfloat16),
    ],
)
def test_float16_is_chosen_where_a_gpu_has_no_bfloat16(capability, chosen, auxiliary, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    execution = precision.choose_execution()
    assert (execution.device.type, execution.precision, execution.auxiliary_dtype) == ("cuda", chosen, auxiliary)
    assert execution.weights_dtype == (torch.bfloat16 if chosen == "bfloat16" else torch.float32)
