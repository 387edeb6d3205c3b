"""Recorded updates equal others: nothing that changes from update to update is fixed in a recording.

Without a GPU a recording is its work itself, with the arguments and tensors of the time when it was recorded.
"""

import contextlib
import dataclasses
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fast_electra.pipelines.corrupt import build_cache
from fast_electra.training import graphs
from fast_electra.training.assembly import assemble
from fast_electra.training.compilation import CompilationFailed, choose_compilation
from fast_electra.training.graphs import UpdateGraphs
from fast_electra.training.loop import make_update
from fast_electra.training.optimizer import GroupOptimizer
from fast_electra.training.parallel import Alone
from fast_electra.training.precision import Execution, choose_execution
from fast_electra.training.setup import batches_of, start
from fast_electra.training.state import State, loss_window
from fast_electra.training.update import Given, update_weights
from tests import golden, tiny
from tests.training.test_phases import phased

JOINT = {"kind": "electra", "objective__generator": golden.GENERATOR}
CASES = {
    "mlm": {"kind": "mlm"},
    "BERT's rule": {"kind": "mlm", "objective__random": 0.1, "objective__kept": 0.1},
    "on the fly": {"kind": "fast_electra"},
    "cached": {"kind": "fast_electra", "corruption__cache": Path("cache")},
    "two micro-batches": {"kind": "fast_electra", "training__micro_batch_size": 4},
    "corrective": {"kind": "fast_electra", "objective__corrective_weight": 0.2},
    "tied": JOINT | {"objective__sharing": "tied"},
    "disentangled": JOINT | {"objective__sharing": "disentangled"},
    "muon": {"kind": "fast_electra", "optimizer__kind": "muon"},
    "dropout": {"kind": "fast_electra", "main__dropout": 0.1},
    "spikes": {"kind": "fast_electra", "training__spike": 6.0},
    "bfloat16": {"kind": "fast_electra", "execution__precision": "bfloat16"},
    "float16": {"kind": "mlm", "execution__precision": "float16_autocast"},
    "documents apart": {"kind": "mlm", "main__architecture": "modernbert", "data__attention": "document"},
}
UPDATES = 24  # the rows of the corpus twice, with and without padding


@pytest.fixture
def recorded(monkeypatch):
    """The list of recordings, which are made without a GPU."""
    made = []

    def record(work, pool):
        made.append(work)
        return work

    monkeypatch.setattr(graphs, "record", record)
    return made


@pytest.fixture(scope="module")
def cache(tmp_path_factory, shards, auxiliary):
    folder = tmp_path_factory.mktemp("graphs")
    build_cache(tiny.settings(shards, "fast_electra", auxiliary, training__updates=UPDATES), folder / "cache")
    return folder


@pytest.fixture(autouse=True)
def beside_the_cache(cache, monkeypatch):
    monkeypatch.chdir(cache)


def configured(case, shards, auxiliary, **more):
    settings = dict(case)
    kind = settings.pop("kind")
    return tiny.settings(shards, kind, auxiliary if kind == "fast_electra" else None, **settings, **more)


def run(config, with_graphs):
    """The losses of a run's updates, and the state after them."""
    execution = choose_execution(config.execution)
    parts = assemble(config, execution)
    state, plan = start(config, parts, execution)
    state.graphs = UpdateGraphs() if with_graphs else None
    losses = []
    for update in range(plan.updates):
        state.sums = {}
        make_update(state, plan, batches_of(parts, plan)(update), execution)
        losses.append(float(state.sums["loss"][0] / state.sums["loss"][1]))
    state.look()
    return losses, state


@pytest.mark.parametrize("name", CASES)
def test_recorded_updates_equal_others(name, shards, auxiliary, recorded):
    config = configured(CASES[name], shards, auxiliary, training__updates=UPDATES)
    expected, plain = run(config, with_graphs=False)
    losses, state = run(config, with_graphs=True)
    assert 1 <= len(recorded) <= 3  # with and without padding, which one of two micro-batches may have
    # A learning rate in float32 rounds otherwise than one in float64.
    assert losses == pytest.approx(expected, rel=1e-2 if "16" in name else 1e-5)
    assert (state.tokens, state.skipped) == (plain.tokens, plain.skipped)
    if plain.loss_scale is not None:
        assert state.loss_scale.state() == plain.loss_scale.state()
    assert state.objective.settings(0.5) == plain.objective.settings(0.5)  # the temperature is a number again


class NoCopies(TorchDispatchMode):
    """Within the block, an operation that reads from the CPU fails: a recording would keep what it read."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[override]
        read = [one for one in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        assert not [one for one in read if one.device.type == "cpu"], func
        return func(*args, **(kwargs or {}))


META = torch.device("meta")


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("dropout", "bfloat16", "two micro-batches")])
def test_a_recorded_update_reads_nothing_from_the_host(name, shards, auxiliary, monkeypatch):
    monkeypatch.setattr(Execution, "autocast", lambda self: contextlib.nullcontext())  # it knows no such device
    monkeypatch.setattr(torch.optim, "AdamW", lambda *_, **__: torch.optim.SGD([torch.zeros(1)]))  # fused: nor does it
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: None)
    monkeypatch.setattr(GroupOptimizer, "_set_rates", lambda self, rate, update: None)
    config = configured(CASES[name], shards, auxiliary)
    execution = dataclasses.replace(choose_execution(config.execution), device=META)
    parts = assemble(config, choose_execution(config.execution))
    objective = parts.objective
    for model in (*objective.models().values(), *parts.frozen):
        model.to(META)
    for holder in (objective, getattr(getattr(objective, "source", None), "auxiliary", None)):
        if candidates := getattr(holder, "candidates", None):
            object.__setattr__(candidates, "excluded_E", candidates.excluded_E.to(META))
    optimizers = [GroupOptimizer(group) for group in objective.parameter_groups()]
    prepared = objective.prepare(parts.schedule.at(0), 0, progress=0.5)
    state = State(objective, optimizers, Alone(objective), losses=loss_window(META))
    scalar = torch.empty((), device=META)
    given = Given(0.5, 0, 3, [*objective.counts(prepared)], torch.empty(9, device=META), [scalar] * 3, spike=3.0)
    given = dataclasses.replace(
        given, counts=given.counts[: len(given.terms) + 1], rates=given.rates[: len(optimizers)]
    )
    objective.read_temperature(scalar)
    micro = prepared.to(META)
    with NoCopies():
        made = update_weights(state, [micro], given, execution)
    assert made.pairs_K2.shape == (len(made.names), 2)


def test_graphs_are_forgotten_where_tensors_are_replaced(shards, auxiliary, recorded):
    _, state = run(configured(CASES["spikes"], shards, auxiliary), with_graphs=True)
    assert state.graphs._recorded  # type: ignore[union-attr]
    state.restore(0, state.scalars(), torch.device("cpu"))
    assert not state.graphs._recorded  # type: ignore[union-attr]


def test_what_cannot_be_recorded_is_one_sentence(shards, monkeypatch):
    def record(work, pool):
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

    monkeypatch.setattr(graphs, "record", record)
    with pytest.raises(CompilationFailed, match=r"cannot be recorded .*\(operation not permitted.*compile=false"):
        run(configured(CASES["mlm"], shards, None), with_graphs=True)


def test_each_phase_has_graphs_of_its_own(shards, recorded):
    config = phased(shards, {"start": 0.5, "data": {"length": 16}})
    expected, _ = run(config, with_graphs=False)
    losses, _ = run(config, with_graphs=True)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert len(recorded) >= 2


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"corruption__sampler": "race"}, "corruption.sampler=race"),
        ({"corruption__schedule": {"kind": "adaptive"}}, "corruption.schedule.kind=adaptive"),
        ({"corruption__augmentation": {"kind": "dropout"}, "corruption__schedule": {"kind": "linear", "initial": 2.0}},
         "corruption.augmentation.kind=dropout"),
        ({"auxiliary__kind": "ngram"}, "auxiliary.kind=ngram"),
        ({"training__activation_checkpointing": True}, "training.activation_checkpointing"),
        ({"optimizer__bias_correction": False}, "optimizer.bias_correction=false"),
        ({"corruption__cache": Path("cache")}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_what_needs_the_host_in_every_update_is_not_recorded(settings, reason, shards, auxiliary, monkeypatch):
    monkeypatch.setattr("fast_electra.training.compilation.missing_compiler", lambda device: None)
    config = tiny.settings(shards, "fast_electra", auxiliary, training__compile="graphs", **settings)
    execution = dataclasses.replace(choose_execution(config.execution), device=torch.device("cuda"))
    said = []
    assert choose_compilation(config, execution, said.append) == ("graphs" if reason is None else True)
    assert [reason in sentence for sentence in said] == ([] if reason is None else [True])
