import json
import os
import re
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from fast_electra.cli.main import main
from fast_electra.config.loading import load_config
from fast_electra.config.printing import dump_config
from fast_electra.corruption.masking import mask_random_tokens
from fast_electra.data.files import verify_manifest
from fast_electra.errors import CheckpointError, ConfigError, DataError, ModelError
from fast_electra.models.linear_maps import LinearMap
from fast_electra.models.muon import orthogonalise
from fast_electra.models.optimizers import AdamWOptimizer, MuonOptimizer
from fast_electra.objectives.base import ParameterGroup, Prepared, Terms
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.runs.checkpoints import newest_checkpoint, save_checkpoint
from fast_electra.runs.metrics import read_metrics
from fast_electra.training import precision
from fast_electra.training.assembly import assemble
from fast_electra.training.flops import count_flops
from fast_electra.training.loop import Interrupted, Plan, make_update
from fast_electra.training.optimizer import GroupOptimizer
from fast_electra.training.outlook import flops_per_update, warnings
from fast_electra.training.parallel import Alone
from fast_electra.training.precision import Execution, choose_execution, cpu_has_bfloat16
from fast_electra.training.setup import start
from fast_electra.training.state import State
from tests import tiny

CPU = Execution(torch.device("cpu"), "float32", torch.float32, 1)


def run(config, folder: Path, stop_after: int | None = None):
    """Pre-train; with `stop_after`, ask to stop after so many updates of this session."""
    asked = iter(range(10**6))
    stop = (lambda: next(asked) + 1 >= stop_after) if stop_after else (lambda: False)
    return pretrain(config, folder, stop=stop)


def without_clock(folder: Path) -> list[dict]:
    return [{k: v for k, v in r.items() if k != "timing"} for r in read_metrics(folder / "metrics.jsonl")]


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ["mlm", "fast_electra"])
@pytest.mark.parametrize(
    ("precision", "optimizer"), [("float32", "adamw"), ("bfloat16", "adamw"), ("bfloat16", "muon")]
)
def test_resuming_gives_the_same_weights_bit_for_bit(kind, precision, optimizer, tmp_path, shards, auxiliary):
    config = tiny.settings(
        shards,
        kind,
        auxiliary,
        training__updates=9,
        training__batch_size=4,
        training__checkpoint_every=100,
        execution__precision=precision,
        optimizer__kind=optimizer,
    )
    run(config, tmp_path / "whole")
    for cut in (2, 4):  # after updates 2 and 6: in the middle of a window of metrics, and twice in one epoch
        with pytest.raises(Interrupted):
            run(config, tmp_path / "parts", stop_after=cut)
    run(config, tmp_path / "parts")
    assert without_clock(tmp_path / "parts") == without_clock(tmp_path / "whole")
    assert [r["update"] for r in without_clock(tmp_path / "whole")] == [3, 6, 9]
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_a_kill_between_checkpoints_loses_no_line_and_doubles_none(tmp_path, shards):
    config = tiny.settings(shards)
    run(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(config, tmp_path / "killed", stop_after=8)
    # As a kill at update 8 would leave it: the newest checkpoint is 4's, metrics go on to 6, the last line is cut.
    import shutil

    shutil.rmtree(tmp_path / "killed" / "checkpoints" / "00000008")
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"update": 9, "lo')
    run(config, tmp_path / "killed")
    assert without_clock(tmp_path / "killed") == without_clock(tmp_path / "whole")
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["mlm", "fast_electra"])
def test_the_largest_seed_trains_and_another_one_is_refused_by_the_configuration(kind, tmp_path, shards, auxiliary):
    config = tiny.settings(shards, kind, auxiliary, training__seed=2**63 - 1, training__updates=1)
    assert run(config, tmp_path / "run").updates == 1
    with pytest.raises(ValidationError, match="less than 9223372036854775808"):
        tiny.settings(shards, kind, auxiliary, training__seed=2**63)


def test_micro_batches_equal_one_batch(shards, auxiliary):
    rates = []
    for size in (8, 2):
        config = tiny.settings(shards, "fast_electra", auxiliary, training__micro_batch_size=size)
        parts = assemble(config, CPU)
        state, plan = start(config, parts, CPU)
        for update in range(3):
            make_update(state, plan, parts.objective.prepare(parts.schedule.at(update), plan.seed), CPU)
        rates.append(torch.cat([m.flatten() for m in state.optimizers[0].masters.values()]))
    # AdamW turns rounding in near-zero gradients into steps; after three of size 3e-3 they stay this close.
    torch.testing.assert_close(rates[0], rates[1], rtol=0, atol=2e-5)


def test_the_frozen_auxiliary_never_changes(tmp_path, shards, auxiliary):
    before = weights(auxiliary)
    config = tiny.settings(shards, "fast_electra", auxiliary)
    parts = assemble(config, CPU)
    (frozen,) = parts.objective.source.auxiliary.modules()  # type: ignore[attr-defined]
    digest = [p.clone() for p in frozen.parameters()]
    state, plan = start(config, parts, CPU)
    make_update(state, plan, parts.objective.prepare(parts.schedule.at(0), 0), CPU)
    assert all(p.grad is None and torch.equal(p, d) for p, d in zip(frozen.parameters(), digest, strict=True))
    assert not {id(p) for p in frozen.parameters()} & {id(p) for p in state.objective.models()["main"].parameters()}
    assert weights(auxiliary) == before


def test_special_tokens_are_scored_only_when_asked(shards, auxiliary):
    for asked in (False, True):
        config = tiny.settings(shards, "fast_electra", auxiliary, objective__include_special=asked)
        parts = assemble(config, CPU)
        prepared = parts.objective.prepare(parts.schedule.at(0), 0)
        expected = (~prepared.batch.padding).sum() if asked else prepared.batch.eligible.sum()
        assert parts.objective.counts(prepared)["rtd"] == expected
        assert parts.objective.terms(prepared, 0.0, 0).losses["rtd"][1] == expected


def test_training_learns(tmp_path, shards):
    masks = {"objective__random": 0.2, "objective__kept": 0.1}
    config = tiny.settings(shards, training__updates=300, training__batch_size=16, **masks)
    result = run(config, tmp_path / "run")
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert records[-1]["loss"] < records[0]["loss"] - 0.5
    assert result.validation["masked_accuracy"] > result.validation["unigram_accuracy"]


def test_another_configuration_in_the_same_folder_is_refused_with_the_keys_that_differ(tmp_path, shards):
    run(tiny.settings(shards), tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"training\.seed is 3 and was 0"):
        run(tiny.settings(shards, training__seed=3), tmp_path / "run")


def test_a_run_of_another_version_is_refused_with_a_way_out(tmp_path, shards):
    config = tiny.settings(shards)
    with pytest.raises(Interrupted):
        run(config, tmp_path / "run", stop_after=4)
    tiny.as_version_0_1(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"a run of fast-electra 0\.1\.0.*or start in a new folder\.$"):
        run(config, tmp_path / "run")
    run(config, tmp_path / "finished")
    tiny.as_version_0_1(tmp_path / "finished")
    with pytest.raises(CheckpointError, match=r"main\.model=.* continues from its weights"):
        pretrain(config, tmp_path / "finished", extend=20)
    again = tiny.settings(shards, main__model=str(tmp_path / "finished"), training__updates=2)
    assert run(again, tmp_path / "continued").updates == 2


def test_a_finished_run_says_so_and_its_resolved_configuration_is_the_same_run(tmp_path, shards):
    run(tiny.settings(shards), tmp_path / "run")
    heard: list[str] = []
    result = pretrain(load_config(tmp_path / "run" / "config.yaml"), tmp_path / "run", say=heard.append)
    assert not result.fresh
    assert "is finished" in heard[0]


def test_running_the_resolved_configuration_elsewhere_repeats_the_run(tmp_path, shards):
    run(tiny.settings(shards, training__updates=4), tmp_path / "first")
    run(load_config(tmp_path / "first" / "config.yaml"), tmp_path / "second")
    assert weights(tmp_path / "first") == weights(tmp_path / "second")


def test_other_data_is_refused_on_resuming(tmp_path):
    folder = tiny.make_shards(tmp_path / "shards", count=60)
    with pytest.raises(Interrupted):
        run(tiny.settings(folder), tmp_path / "run", stop_after=2)
    folder.rename(tmp_path / "old")
    tiny.make_shards(tmp_path / "shards", count=60, seed=1)
    with pytest.raises(CheckpointError, match=r"another (data|tokenizer)"):
        run(tiny.settings(folder), tmp_path / "run")


def test_an_auxiliary_with_another_tokenizer_is_refused(tmp_path, shards, auxiliary):
    other = tiny.make_shards(tmp_path / "other", seed=5)
    with pytest.raises(ModelError, match="another tokenizer than the shards"):
        run(tiny.settings(other, "fast_electra", auxiliary), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_auxiliary_and_no_shards_are_one_clear_sentence(tmp_path, shards):
    with pytest.raises(ConfigError, match=r"auxiliary\.model is not given"):
        run(tiny.settings(shards, "fast_electra"), tmp_path / "run")
    with pytest.raises(DataError, match="holds no token shards"):
        run(tiny.settings(tmp_path), tmp_path / "run")
    with pytest.raises(DataError, match="fewer than a batch"):
        run(tiny.settings(shards, training__batch_size=5000), tmp_path / "run")


def test_a_folder_that_is_no_run_is_left_alone(tmp_path, shards):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("…")
    with pytest.raises(CheckpointError, match="no run of this program"):
        run(tiny.settings(shards), tmp_path / "letters")


@pytest.mark.parametrize("damage", ["flip", "cut", "missing"])
def test_a_damaged_checkpoint_is_passed_over_for_the_newest_sound_one(tmp_path, damage):
    tensors = {"main.master.weight": torch.randn(40, 8)}
    save_checkpoint(tmp_path, 4, tensors, {"tokens": 1}, keep=2)
    save_checkpoint(tmp_path, 8, tensors, {"tokens": 2}, keep=2)
    file = next((tmp_path / "00000008").glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content if damage == "flip" else content[:-3])
    heard: list[str] = []
    checkpoint = newest_checkpoint(tmp_path, heard.append)
    assert checkpoint is not None
    assert checkpoint.update == 4
    assert file.name in heard[0]


def test_only_the_newest_checkpoints_are_kept_and_each_is_sound(tmp_path):
    for update in (1, 2, 3, 4):
        save_checkpoint(tmp_path, update, {"x": torch.zeros(2)}, {}, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000003", "00000004"]
    verify_manifest(tmp_path / "00000004")


@pytest.mark.parametrize("settings", [AdamWOptimizer(learning_rate=0.1), MuonOptimizer(learning_rate=0.1)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_neither_weights_nor_the_optimizer(settings, value):
    weight = nn.Parameter(torch.rand(3, 3))
    maps = {"weight": LinearMap(hidden=True)}
    optimizer = GroupOptimizer(ParameterGroup("main", {"weight": weight}, settings, maps))
    weight.grad = torch.rand(3, 3)
    tiny.step(optimizer, 0.1)
    before = {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
    weight.grad = torch.rand(3, 3)
    weight.grad[1, 2] = value
    tiny.step(optimizer, 0.1)
    assert all(torch.equal(before[name], tensor) for name, tensor in optimizer.tensors().items())
    assert torch.equal(weight, before["main.master.weight"])
    weight.grad = torch.rand(3, 3)
    tiny.step(optimizer, 0.1)
    assert not torch.equal(weight, before["main.master.weight"])


def test_clipping_is_counted_and_bounds_the_gradient():
    weight = nn.Parameter(torch.zeros(2, 2))
    optimizer = GroupOptimizer(
        ParameterGroup("main", {"weight": weight}, AdamWOptimizer(learning_rate=0.1, clip=1.0), {})
    )
    for gradient, expected in ((10.0, 1.0), (0.1, 0.0)):
        weight.grad = torch.full((2, 2), gradient)
        norm, clipped = tiny.step(optimizer, 0.1)
        assert float(norm) == pytest.approx(2 * gradient)
        assert float(clipped) == expected


def test_muon_sets_singular_values_near_one_and_keeps_the_singular_vectors():
    for shape in ((24, 48), (48, 24), (32, 32)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        found = orthogonalise(matrix, torch.float32)
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        inner = u.mT @ found @ v.mT  # diagonal where the singular vectors are the same
        assert (inner.diagonal() - 1).abs().max() < 0.4  # what the quintic leaves after five steps
        assert (inner - inner.diagonal().diag()).abs().max() < 1e-4


@pytest.mark.parametrize("shape", [(64, 64), (64, 192), (192, 64)])
def test_an_update_of_muon_is_as_large_as_one_of_adamw_whatever_the_shape(shape):
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.zeros(shape))
    settings = MuonOptimizer(learning_rate=1e-3, weight_decay=0.0, clip=None)
    group = ParameterGroup("main", {"weight": weight}, settings, {"weight": LinearMap(hidden=True)})
    optimizer = GroupOptimizer(group)
    weight.grad = torch.randn(shape, generator=generator)
    tiny.step(optimizer, 1e-3)
    # Singular values between 0.7 and 1.2: the root mean square is 0.2 of the rate, that of AdamW, within a fifth.
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.2e-3, rel=0.2)


def test_muon_steps_the_maps_of_a_fused_projection_one_by_one():
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(16, 16, generator=generator) * size for size in (1.0, 100.0, 1e-3)]
    settings = MuonOptimizer(learning_rate=1e-3, clip=None)

    def stepped(parameters, gradients, parts):
        maps = {name: LinearMap(hidden=True, parts=parts) for name in parameters}
        optimizer = GroupOptimizer(ParameterGroup("main", parameters, settings, maps))
        for parameter, gradient in zip(parameters.values(), gradients, strict=True):
            parameter.grad = gradient.clone()
        tiny.step(optimizer, 1e-3)
        return torch.cat([parameter.detach() for parameter in parameters.values()])

    apart = stepped({str(i): nn.Parameter(torch.ones(16, 16)) for i in range(3)}, gradients, 1)
    fused = stepped({"all": nn.Parameter(torch.ones(48, 16))}, [torch.cat(gradients)], 3)
    torch.testing.assert_close(fused, apart, rtol=1e-6, atol=1e-8)


def test_flops_count_the_products_of_muon(shards):
    plain, muon = (tiny.settings(shards, optimizer__kind=kind) for kind in ("adamw", "muon"))
    parts = assemble(plain, CPU)
    group = parts.objective.parameter_groups()[0]
    by_muon = {name: group.parameters[name] for name, found in group.linear_maps.items() if found.hidden}

    def step():
        for name, matrix in by_muon.items():
            orthogonalise(matrix.detach().unflatten(0, (group.linear_maps[name].parts, -1)), torch.float32)

    counted = flops_per_update(muon, assemble(muon, CPU), CPU) - flops_per_update(plain, parts, CPU)
    assert counted == count_flops(step) > 0


@dataclass
class TwoOptimizers:
    """A fake objective with two parameter groups and a state: what joint ELECTRA and adaptive curricula will need."""

    first: nn.Linear = field(default_factory=lambda: nn.Linear(1, 1))
    second: nn.Linear = field(default_factory=lambda: nn.Linear(1, 1))
    weights: dict[str, float] = field(default_factory=lambda: {"a": 1.0, "b": 50.0})
    seen: float = 0.0
    observes: bool = True

    def models(self):
        return {"main": self.first, "generator": self.second}

    def parameter_groups(self):
        return [
            ParameterGroup.of("main", self.first, AdamWOptimizer(learning_rate=0.1)),
            ParameterGroup.of("generator", self.second, AdamWOptimizer(learning_rate=0.01)),
        ]

    def prepare(self, batch, seed):
        return Prepared(batch, mask_random_tokens(batch, 0.15, seed))

    def counts(self, prepared):
        return {"a": prepared.batch.eligible.sum(), "b": prepared.masked.valid_BM.sum()}

    def terms(self, prepared, progress, seed):
        x = prepared.batch.ids.float().mean(1, keepdim=True) / 300
        counts = self.counts(prepared)
        return Terms({"a": (self.first(x).sum(), counts["a"]), "b": (self.second(x).sum(), counts["b"])})

    def settings(self, progress):
        return {}

    def validate(self, batches, seed):
        return {}

    def observe(self, metrics):
        self.seen += metrics["a"]

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def test_an_objective_may_have_two_optimizers_and_a_state():
    objective = TwoOptimizers()
    state = State(objective, [GroupOptimizer(group) for group in objective.parameter_groups()], Alone(objective))
    plan = Plan(10, 0, 2, 1, 10, 10)
    before = objective.first.weight.clone(), objective.second.weight.clone()
    make_update(state, plan, objective.prepare(tiny.batch(rows=4), 0), CPU)
    moved = [
        float((a - b).detach().abs())
        for a, b in zip(before, (objective.first.weight, objective.second.weight), strict=True)
    ]
    assert moved[0] == pytest.approx(10 * moved[1], rel=2e-2)  # each at its own learning rate
    assert {"gradient_norm.main", "gradient_norm.generator", "clipped.main"} <= set(state.sums)
    assert objective.seen != 0.0  # `observe` was called with the update's means
    again = State(TwoOptimizers(), [], Alone(TwoOptimizers()))
    again.restore(1, json.loads(json.dumps(state.scalars())), torch.device("cpu"))
    assert again.objective.state_dict() == {"seen": objective.seen}


def test_budgets_become_updates_once(tmp_path, shards):
    tokens = tiny.settings(shards, training__updates=None, training__tokens=8 * 32 * 5)
    assert run(tokens, tmp_path / "tokens").updates == 5
    parts = assemble(tokens, CPU)
    each = flops_per_update(tokens, parts, CPU)
    flops = tiny.settings(shards, training__updates=None, training__flops=float(each) * 3.5)
    assert run(flops, tmp_path / "flops").updates == 3
    hours = tiny.settings(shards, training__updates=None, training__hours=1e-5)
    with_hours = run(hours, tmp_path / "hours").updates
    assert load_config(tmp_path / "hours" / "config.yaml").training.updates == with_hours
    assert not run(hours, tmp_path / "hours").fresh  # the same request, and the number stands


def test_flops_of_a_step_are_three_times_its_forward_pass_by_formula(shards):
    config = tiny.settings(shards)
    parts = assemble(config, CPU)
    counted = flops_per_update(config, parts, CPU)
    d, f, length, rows, layers = 32, 48, 32, 8, 2
    masked = round(0.15 * length)
    layer = 2 * (4 * d * d + 3 * d * f) + 4 * length * d  # a token's matrix products and its attention
    head = 2 * (d * d + d * parts.shards.vocabulary_size)
    # Nothing flows back into ids: the first layer's input gradient is still needed for the embeddings.
    assert counted == pytest.approx(3 * rows * (length * layers * layer + masked * head), rel=0.01)


def test_a_run_out_of_proportion_says_so_before_it_starts_and_names_a_budget(tmp_path, shards):
    config = tiny.settings(shards)
    parts = assemble(config, CPU)
    assert warnings(config, config, parts, CPU) == []
    long = tiny.settings(shards, training__updates=10**9)
    repeated, slow = warnings(long, long, parts, CPU)
    updates = int(re.search(r"training\.updates=(\d+)", repeated)[1])
    assert "training.hours=24" in slow
    corpus = parts.shards.split("train").tokens
    assert 39 <= updates * 8 * 32 / corpus <= 40
    remedy = tiny.settings(shards, training__updates=updates)
    assert warnings(remedy, remedy, parts, CPU) == []
    hours = tiny.settings(shards, training__updates=None, training__hours=72.0)
    assert warnings(hours, long, parts, CPU) == [repeated]
    said: list[list[str]] = [[], []]
    for sentences in said:  # at the start, and no more when nothing can be changed
        with pytest.raises(Interrupted):
            pretrain(long, tmp_path / "run", say=sentences.append, stop=lambda: True)
    assert repeated in said[0]
    assert repeated not in said[1]


def test_bfloat16_is_chosen_only_where_the_processor_has_it(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert not cpu_has_bfloat16()
    settings = tiny.settings(Path("x"), execution__precision="auto", execution__device="cpu").execution
    execution = choose_execution(settings)
    assert execution.precision == "float32"
    assert execution.auxiliary_dtype == torch.float32


def test_a_machine_that_others_use_is_said(monkeypatch):
    assert 0.0 <= precision.busy_elsewhere(0.02) <= (os.cpu_count() or 1)
    counts = iter([(100, 1000), (100 + 5, 1000 + 10)])  # half of the time idle
    monkeypatch.setattr(precision, "_jiffies", lambda: next(counts))
    heard: list[str] = []
    precision.say_shared(heard.append)
    assert heard[0].startswith(f"other processes keep {0.5 * (os.cpu_count() or 1):.1f} of this machine's")
    monkeypatch.setattr(precision, "busy_elsewhere", lambda: 0.1)
    precision.say_shared(heard.append)
    assert len(heard) == 1


def test_the_command_line_shortens_active_waiting_unless_the_user_chose(monkeypatch, capsys):
    for name, value in (("OMP_WAIT_POLICY", None), ("GOMP_SPINCOUNT", "7"), ("GOMP_SPINCOUNT", None)):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
        if value:
            monkeypatch.setenv(name, value)
        assert main(["config", "show", "quickstart"]) == 0
        assert os.environ["GOMP_SPINCOUNT"] == (value or "2500")
    capsys.readouterr()


def test_the_run_folder_can_be_read_without_this_package(tmp_path, shards):
    config = tiny.settings(shards)
    run(config, tmp_path / "run")
    assert load_config(tmp_path / "run" / "config.yaml").training.updates == 12
    assert dump_config(load_config(tmp_path / "run" / "config.yaml")) == (tmp_path / "run" / "config.yaml").read_text()
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert {"update", "tokens", "loss", "learning_rate", "timing"} <= set(record)
    assert (tmp_path / "run" / "model" / "tokenizer.json").exists()
    assert "fast-electra" in (tmp_path / "run" / "model" / "README.md").read_text()


def test_an_auxiliary_and_a_main_model_of_one_seed_see_other_orders_and_masks_but_the_same_validation(
    shards, auxiliary
):
    generator = {"layers": 1, "hidden_size": 32, "heads": 2, "intermediate_size": 24}
    found = {
        "mlm": assemble(tiny.settings(shards), CPU),
        "fast_electra": assemble(tiny.settings(shards, "fast_electra", auxiliary), CPU),
        "electra": assemble(tiny.settings(shards, "electra", objective__generator=generator), CPU),
    }
    orders = [np.concatenate([each.schedule.order(u)[0] for u in range(8)]) for each in found.values()]
    for one, other in combinations(orders, 2):
        assert (one == other).mean() < 0.2
    row = found["mlm"].schedule.rows.rows(torch.arange(16))
    masks = [each.objective.prepare(row, each.seed).masked.positions_BM for each in found.values()]
    for one, other in combinations(masks, 2):
        assert (one == other).float().mean() < 0.6  # both ascending, so some coincide by chance
    for each in found.values():
        for one, other in zip(each.validation, found["mlm"].validation, strict=True):
            assert torch.equal(one.batch.ids, other.batch.ids)
            assert torch.equal(one.masked.positions_BM, other.masked.positions_BM)


def test_a_budget_in_hours_is_measured_on_micro_batches(tmp_path, shards, monkeypatch):
    from fast_electra.training import setup

    config = tiny.settings(shards, training__batch_size=64, training__micro_batch_size=4)
    parts = assemble(config, CPU)
    state, plan = setup.start(config, parts, CPU)
    clock, read = [0.0], []

    def takes_time(state, plan, prepared, execution):
        read.append(len(prepared.batch.ids))
        clock[0] += 0.5 + 0.25 * read[-1]

    monkeypatch.setattr(setup, "make_update", takes_time)
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    assert setup.measured_seconds(state, plan, parts, CPU) == [pytest.approx(0.5 + 0.25 * 64)]
    assert sum(read) <= 64  # six updates of 64 rows before
    assert state.update == 0
