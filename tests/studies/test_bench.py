"""The bench: what its JSON holds, and how its ratios and intervals are made."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fast_electra import distributed
from fast_electra.cli.main import main
from fast_electra.corruption.cache import CachedCorruption
from fast_electra.errors import ConfigError
from fast_electra.objectives.settings import ElectraObjective
from fast_electra.studies.bench.bench import measured, profile, ratios, summary, updates_within
from fast_electra.studies.bench.parts import Given, Timing, build_part, given
from fast_electra.studies.bench.processes import WithoutExchange, bench_processes
from fast_electra.studies.bench.rates import data_sheet_rate, interval, rates
from fast_electra.studies.bench.setup import prepare
from fast_electra.studies.bench.tune import tune
from fast_electra.training.assembly import assemble
from fast_electra.training.precision import cpu_has_bfloat16
from tests import processes, tiny


def settings(**changes):
    changes = {"main__architecture": "electra"} | changes
    return tiny.settings(None, "fast_electra", **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return prepare(settings(), tmp_path_factory.mktemp("bench"))


def test_ratios_are_of_the_same_round():
    """A machine that is half as fast in the second round changes no ratio."""
    turns = {
        "rtd_only": [Timing(1.0, 4, 400), Timing(2.0, 4, 400), Timing(1.0, 4, 400)],
        "joint": [Timing(1.5, 4, 400), Timing(3.0, 4, 400), Timing(1.5, 4, 400)],
        "peer_default": [Timing(10.0, 2, 200), Timing(20.0, 2, 200), Timing(10.0, 2, 200)],
    }
    found = ratios(turns)
    assert found["joint"] == {"median": 1.5, "low": 1.5, "high": 1.5}
    assert found["peer_default"]["median"] == 20.0
    assert "rtd_only" not in found
    assert "joint_to_peer_best" not in found
    assert summary(turns)["rtd_only"]["tokens_per_second"]["median"] == 400.0


def test_joint_and_its_plain_rival_are_compared_in_pairs():
    turns = {
        "rtd_only": [Timing(1.0, 1, 1)] * 3,
        "joint": [Timing(2.0, 1, 1), Timing(6.0, 1, 1), Timing(2.2, 1, 1)],
        "peer_best": [Timing(1.0, 1, 1), Timing(3.0, 1, 1), Timing(2.2, 1, 1)],
    }
    assert ratios(turns)["joint_to_peer_best"]["median"] == 2.0


def test_a_part_is_timed_for_the_seconds_that_are_asked():
    class Part:
        def run(self, updates):
            return Timing(0.1 * updates, updates, updates)

    assert updates_within(Part(), 3.0) == 30
    assert updates_within(Part(), 0.01) == 1


@pytest.mark.parametrize(
    ("name", "tflops"), [("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA L4", 121), ("cpu", None)]
)
def test_a_device_is_found_in_its_data_sheet(name, tflops):
    assert data_sheet_rate(name) == (tflops and tflops * 1e12)


def test_waiting_is_a_share_of_the_time():
    found = summary({"rtd_only": [Timing(1.0, 1, 1, waited=0.25), Timing(3.0, 1, 1, waited=0.75)]})
    assert found["rtd_only"]["data_wait_share"] == 0.25


def test_the_share_of_matrix_products_is_of_the_same_round():
    found = rates([1.0, 2.0, 1.0], [0.5, 1.0, 0.5], flops=100)
    assert found["matmul_share"] == 0.5
    assert found["flops_per_second"] == 100.0
    assert found["matmul_flops_per_second"] == 200.0


def test_an_interval_holds_the_median_and_is_always_the_same():
    values = np.random.default_rng(1).normal(10, 1, 31).tolist()
    found = interval(values)
    assert found == interval(values)
    assert found["low"] < found["median"] == np.median(values) < found["high"]
    assert found["high"] - found["low"] < 2.0
    assert interval([3.0]) == {"median": 3.0, "low": 3.0, "high": 3.0}


def test_the_parts_are_of_one_shape_and_one_batch(setup):
    assert setup.online.main == setup.joint.main == setup.cached.main
    assert isinstance(setup.joint.objective, ElectraObjective)
    assert setup.joint.objective.generator.layers == 1
    assert setup.joint.objective.sharing == "tied"
    assert setup.cached.auxiliary.model is None
    online, cached, joint = (assemble(config, setup.execution) for config in (setup.online, setup.cached, setup.joint))
    assert isinstance(cached.objective.source, CachedCorruption)  # type: ignore[attr-defined]
    assert torch.equal(cached.schedule.at(3).ids, online.schedule.at(3).ids)
    assert joint.schedule.at(3).ids.shape == online.schedule.at(3).ids.shape  # other rows: another stage


def test_given_replacements_are_written_at_the_masked_positions(setup):
    parts = assemble(setup.online, setup.execution)
    objective = given(parts, setup.execution)
    assert isinstance(objective.source, Given)
    prepared = parts.objective.prepare(parts.schedule.at(0), 0)
    corrupted = objective.source.corrupt(prepared.batch, prepared.masked, objective.curriculum.difficulty(0.0), 0)
    changed = corrupted.ids_BS != prepared.batch.ids
    masked = torch.zeros_like(changed).scatter(1, prepared.masked.positions_BM, prepared.masked.valid_BM)
    assert not (changed & ~masked).any()
    assert changed.sum() > 0.9 * masked.sum()  # drawn evenly, few are the original


def test_every_part_is_timed_in_every_round_and_reported_at_once(setup):
    said, reported = [], []
    found = measured(setup, updates=2, rounds=2, say=said.append, report=reported.append)
    assert 1.0 < found["flops_ratio"]["online"] < found["flops_ratio"]["joint"]
    assert "device" in reported[0]
    assert len(reported) == 3  # what needs no round, and each round
    assert reported[1]["joint"]["tokens_per_second"]["median"] > 0
    assert "round 2 of 2, tokens/s: rtd_only " in said[-1]
    for name in ("rtd_only", "cached", "online", "joint", "peer_best"):
        assert found["updates"][name] == 2
        assert found[name]["tokens_per_second"]["median"] > 0
        assert 0 <= found[name]["data_wait_share"] < 1
        # Of tiny products only overhead remains, so the share can have any size above 0.
        assert found[name]["utilisation"]["large_product"] > 0
    assert found["ratios"]["joint_to_peer_best"]["median"] > 0


def test_a_turn_has_the_tokens_of_its_updates(setup):
    turn = build_part("online", setup).run(2)
    assert turn.updates == 2
    assert turn.tokens == pytest.approx(2 * 8 * 32, abs=64)  # 2 updates of 8 rows of 32, the last row padded
    assert 0 <= turn.waited < turn.seconds


def test_a_profile_names_the_operations_of_one_part(tmp_path):
    table = profile(settings(), tmp_path, "cached", updates=2)
    assert "aten::addmm" in table
    assert "Self CPU" in table
    with pytest.raises(ConfigError, match=r"catched is no part of the bench: give one of rtd_only, cached,"):
        profile(settings(), tmp_path / "none", "catched", updates=2)


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_the_plain_program_takes_other_architectures(architecture, tmp_path):
    setup = prepare(settings(main__architecture=architecture), tmp_path)
    assert "peer_best" not in setup.skipped
    assert build_part("peer_best", setup).run(1).tokens == 8 * 32


def test_what_can_not_run_is_skipped_with_a_word(tmp_path):
    shape = {"layers": 2, "hidden_size": 16, "heads": 2, "intermediate_size": 24}
    config = settings(objective__kind="electra", objective__generator=shape | {"architecture": "electra"})
    setup = prepare(config, tmp_path)
    assert isinstance(setup.joint.objective, ElectraObjective)
    assert setup.joint.objective.sharing == "none"
    assert "widths differ" in setup.skipped["peer_default"]


@pytest.mark.slow
def test_the_command_prints_what_the_issue_asks_for(tmp_path, capsys):
    small = ["main.layers=2", "main.hidden_size=32", "main.heads=2", "main.intermediate_size=48", "main.options={}"]
    small += ["data.tokenizer.vocabulary_size=320", "data.length=32", "training.batch_size=8", "execution.threads=1"]
    assert main(["bench", "--shape", "electra-small", *small, "--updates", "2", "--rounds", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for name in ("rtd_only", "cached", "online", "joint", "peer_best"):
        assert found[name]["tokens_per_second"].keys() == {"median", "low", "high"}
        assert found[name]["peak_memory_bytes"] > 0
        assert found[name]["first_update_seconds"] > 0
    assert found["peer_default"] is None or found["peer_default"]["peak_memory_bytes"] > 0
    assert {"ratios", "flops_ratio", "device", "dtype", "shape", "matmul_share", "skipped"} <= found.keys()
    assert {"ratios", "large_product_flops_per_second", "data_sheet_flops_per_second"} <= found.keys()
    assert found["ratios"]["cached"].keys() == {"median", "low", "high"}


def test_every_choice_of_precision_and_compilation_is_timed_beside_the_table_s(tmp_path, monkeypatch):
    def compile_fails(*_arguments, **_named):
        raise RuntimeError("no C++ compiler\nmore lines")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_fails)
    monkeypatch.setattr("fast_electra.training.compilation.missing_compiler", lambda device: None)
    rows = tune(settings(), tmp_path, updates=1, rounds=2)
    assert [row["chosen"] for row in rows] == [True] + [False] * (len(rows) - 1)
    assert rows[0]["ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert {row["precision"] for row in rows} == {"float32", *(["bfloat16", "bfloat16_autocast"] * cpu_has_bfloat16())}
    for row in rows:
        if row["compile"]:
            assert row["failed"] == "no C++ compiler"
        else:
            assert row["tokens_per_second"]["median"] > 0


def bench_of_processes(folder):
    found = bench_processes(settings(), folder / str(distributed.rank()), updates=1, rounds=2)
    if distributed.is_main():
        (folder / "found.json").write_text(json.dumps(found))


def test_several_processes_are_measured_with_and_without_exchange(tmp_path):
    assert processes.run(2, bench_of_processes, tmp_path) == [0, 0]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["processes"] == 2
    assert found["shape"]["batch_size"] == 2 * settings().training.batch_size
    for name in ("rtd_only", "cached", "online", "joint"):
        with_it, without = found[name]["tokens_per_second"]["median"], found[name]["without_exchange"]["median"]
        assert with_it > 0 < without
        assert found[name]["exchange_share"]["low"] <= 1 - with_it / without <= found[name]["exchange_share"]["high"]
    assert "one process" in found["skipped"]["peer_best"]


def test_a_step_without_exchange_leaves_the_gradients_of_the_others_out(monkeypatch):
    told = []
    several = SimpleNamespace(terms=lambda micro, progress, seed, last: told.append(last))
    step = WithoutExchange(several)  # type: ignore[arg-type]
    step.terms(None, 0.0, 0, last=True)  # type: ignore[arg-type]
    assert told == [False]
    ones = torch.ones(2)
    monkeypatch.setattr(distributed, "add", lambda _: pytest.fail("exchanged"))
    assert step.add(ones) is ones


@pytest.mark.parametrize("option", [["--tune"], ["--profile", "online"], ["execution.parallel=fsdp"]])
def test_what_several_processes_cannot_measure_is_refused(option, monkeypatch, capsys):
    for name, value in processes.environment(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    assert main(["bench", *option]) == 2
    assert "torchrun" in (said := capsys.readouterr().err) or "leave the setting out" in said
