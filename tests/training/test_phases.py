"""A run of several phases: other rows, masks, temperature and learning rate from an update on, in one exact run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fast_electra.cli.main import main
from fast_electra.config import dump_config, load_config
from fast_electra.config.tree import Config
from fast_electra.data.settings import DataConfig
from fast_electra.data.shard_building import build_shards
from fast_electra.data.tokenizer import load_tokenizer
from fast_electra.errors import ConfigError, ModelError
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.runs.folder import load_run
from fast_electra.stopping import Interrupted
from fast_electra.training.assembly import assemble
from fast_electra.training.optimizer import learning_rate
from fast_electra.training.precision import Execution
from fast_electra.training.setup import measured_seconds
from tests import tiny

CPU = Execution(torch.device("cpu"), "float32", torch.float32, 1)
LONGER = {
    "start": 0.5,
    "data": {"length": 48},
    "corruption": {"masking": {"rate": 0.3}},
    "training": {"batch_size": 4, "micro_batch_size": 2},
}
DECAY = {"start": 9, "optimizer": {"learning_rate": 1e-3, "schedule": "linear", "warmup": 0.0}}


def phased(shards: Path, *phases: dict, kind: str = "mlm", auxiliary: Path | None = None, **changes) -> Config:
    changes = {"training__checkpoint_every": 100} | changes
    tree = tiny.settings(shards, kind, auxiliary, **changes).model_dump()
    return Config.model_validate(tree | {"phases": list(phases)})


@pytest.fixture(scope="module")
def long_auxiliary(tmp_path_factory, shards):
    """An auxiliary that reads rows of 48 tokens."""
    folder = tmp_path_factory.mktemp("runs") / "long"
    pretrain(tiny.settings(shards, training__updates=2, data__length=48), folder)
    return folder


@pytest.fixture(scope="module")
def better(tmp_path_factory, shards):
    """Shards of a mixture, with the tokenizer of `shards`."""
    folder = tmp_path_factory.mktemp("better")
    for number, name in enumerate(("web", "code")):
        texts = "\n\n".join(f"{d.text.strip()} # {name}" for d in tiny.documents(80, seed=3 + number))
        (folder / f"{name}.txt").write_text(texts.replace("\n    ", " "))
    sources: list[Any] = [
        {"path": str(folder / f"{name}.txt"), "weight": w} for name, w in (("web", 3.0), ("code", 1.0))
    ]
    settings = DataConfig(sources=sources, workers=1, validation_fraction=0.2, length=32)
    build_shards(None, load_tokenizer(shards / "tokenizer"), folder / "shards", settings)
    return folder / "shards"


def without_clock(folder: Path) -> list[dict]:
    return [{k: v for k, v in record.items() if k != "timing"} for record in load_run(folder).metrics()]


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def train_until(config: Config, folder: Path, *stops: int) -> None:
    """Train to the end, in a session of its own up to each of the updates given."""
    done = 0
    for stop in stops:
        asked = iter(range(done + 1, 10**6))
        with pytest.raises(Interrupted):
            pretrain(config, folder, stop=lambda asked=asked, stop=stop: next(asked) == stop)
        done = stop
    pretrain(config, folder)


@pytest.mark.parametrize("stops", [(6,), (3, 7, 10)], ids=str)
def test_a_run_of_phases_resumes_bit_for_bit_before_at_and_after_a_boundary(stops, tmp_path, shards, whole):
    config, folder = whole
    train_until(config, tmp_path / "run", *stops)
    assert without_clock(tmp_path / "run") == without_clock(folder)
    assert weights(tmp_path / "run") == weights(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, shards, better, long_auxiliary):
    """A run of three phases, never interrupted."""
    last = DECAY | {"data": {"shards": better}, "corruption": {"schedule": {"kind": "linear", "initial": 1.5}}}
    config = phased(shards, LONGER, last, kind="fast_electra", auxiliary=long_auxiliary, training__spike=50.0)
    folder = tmp_path_factory.mktemp("whole") / "run"
    pretrain(config, folder)
    return config, folder


def test_a_phase_has_rows_masks_temperature_and_learning_rate_of_its_own(whole, better):
    config, folder = whole
    records = {record["update"]: record for record in load_run(folder).metrics()}
    assert [records[update]["phase"] for update in (3, 6, 9, 12)] == [1, 1, 2, 3]
    rates = [records[update]["learning_rate"] for update in (6, 9, 12)]
    whole_run = [learning_rate(config.optimizer, update - 1, 12) for update in (6, 9)]
    assert rates == [*whole_run, pytest.approx(1e-3 / 3)]  # the last of three updates of a linear decay
    schedule = config.corruption.schedule
    temperatures = [records[update]["temperature"] for update in (6, 9, 12)]
    assert temperatures == [*(schedule.temperature((u - 1) / 12) for u in (6, 9)), pytest.approx(1 + 0.5 / 3)]
    parts = assemble(load_run(folder).config, CPU)
    shapes = [parts.schedule.at(update).ids.shape for update in (5, 6, 8, 9)]
    assert shapes == [(8, 32), (4, 48), (4, 48), (8, 32)]
    for update, rate in ((5, 0.15), (6, 0.3), (9, 0.15)):
        prepared = parts.objective.prepare(parts.schedule.at(update), parts.seed)
        eligible = prepared.batch.eligible.sum(1)
        assert torch.equal(prepared.masked.valid_BM.sum(1), (rate * eligible).round().long().clamp(min=1))
    assert parts.phases[2].shards.folder == better
    # Of the mixture of the last phase, and after each phase a validation on its text.
    assert sorted(u for u in records if "validation" in records[u]) == [6, 9, 12]
    last = records[12]["validation"]
    read, there = parts.schedule.read_of(2, 12), parts.schedule.phases[2].rows.counts
    assert [last["epochs.web"], last["epochs.code"]] == [read[0] / there[0], read[1] / there[1]]
    assert last["tokens.web"] / last["tokens.code"] == pytest.approx(read[0] / read[1], rel=0.01)  # whole tokens
    assert "epochs.web" not in records[9]["validation"]


def test_rotary_positions_have_the_base_of_the_phase_also_after_resuming_and_in_the_exported_model(tmp_path, shards):
    theta = {"start": 3, "main": {"rope_theta": 1e6}}
    config = phased(shards, theta, training__updates=5)
    pretrain(config, tmp_path / "whole")
    train_until(config, tmp_path / "run", 3, 4)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    pretrain(phased(shards, {"start": 3}, training__updates=5), tmp_path / "same")
    assert weights(tmp_path / "run") != weights(tmp_path / "same")
    told = json.loads((tmp_path / "run" / "model" / "config.json").read_text())["rope_parameters"]
    assert told["full_attention"]["rope_theta"] == 1e6
    assert told["sliding_attention"]["rope_theta"] != 1e6
    with pytest.raises(ConfigError, match="changes nothing in this electra, which has no rotary positions"):
        assemble(phased(shards, theta, main__architecture="electra"), CPU)


def test_the_cost_and_the_report_of_a_run_know_its_phases(whole, tmp_path):
    _, folder = whole
    run = load_run(folder)
    each = run.record["flops_by_phase"]
    assert run.result["flops"] == 6 * each[0] + 3 * each[1] + 3 * each[2] == run.flops(12)
    assert run.flops(7) == 6 * each[0] + each[1]
    assert each[1] == pytest.approx(each[0] * 4 * 48 / (8 * 32), rel=0.2)  # attention and masks differ
    assert main(["report", str(folder), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "phase 2" in page
    assert "phase 3" in page
    card = (folder / "model" / "README.md").read_text()
    assert "48 tokens, as in training" in card
    assert "from update 7 on 4 rows of 48 tokens" in card
    assert json.loads((folder / "model" / "tokenizer_config.json").read_text())["model_max_length"] == 48


def test_the_resolved_configuration_repeats_the_run(whole, tmp_path):
    _, folder = whole
    again = load_config(folder / "config.yaml")
    assert [phase.start for phase in again.phases] == [6, 9]
    assert dump_config(again) == (folder / "config.yaml").read_text()
    pretrain(again, tmp_path / "again")
    assert weights(tmp_path / "again") == weights(folder)


def test_phases_of_the_same_rows_go_on_in_one_order_and_others_have_their_own(shards):
    config = phased(shards, {"start": 4, "training": {"batch_size": 4}}, {"start": 8, "data": {"length": 48}})
    schedule = assemble(config, CPU).schedule
    places = np.concatenate([schedule.at(update).samples.numpy() for update in range(8)])
    assert places.tolist() == [*range(4 * 8 + 4 * 4)]
    _, epochs = schedule.order(8)
    assert schedule.at(8).samples.tolist() == [*range(8)]
    assert epochs.min() == 4096  # so masks and noise are not those of the first rows
    whole, shares = schedule.at(6), []
    for rank in range(2):
        part = schedule.phases[1].__class__(schedule.phases[1].rows, 4, schedule.seed, (rank, 2), first=32)
        shares += part.at(2).indices.tolist()
    assert shares == whole.indices.tolist()


def test_a_phase_that_begins_after_batches_were_left_out_reads_each_batch_once(shards):
    schedule = assemble(phased(shards, {"start": 6, "training": {"batch_size": 4}}), CPU).schedule
    schedule.left_out = [2, 7]
    read = [schedule.at(update).samples.tolist() for update in range(9)]
    assert read[2] == [*range(24, 32)]
    # One batch more of the first phase is read at its end, so the second begins with its second batch, and leaves out
    # the batch with number 7.
    assert [rows[0] for rows in read[5:]] == [48, 48 + 8, 48 + 12, 48 + 16]


def test_an_extension_makes_the_last_phase_longer(tmp_path, shards):
    config = phased(shards, {"start": 0.5, "data": {"length": 48}}, training__updates=4)
    pretrain(config, tmp_path / "run")
    told: list[str] = []
    pretrain(config, tmp_path / "run", extend=6, say=told.append)
    assert [phase.start for phase in load_run(tmp_path / "run").config.phases] == [2]
    assert [r["phase"] for r in load_run(tmp_path / "run").metrics() if r["update"] >= 4] == [2, 2]
    assert any("extended from 4 to 6" in sentence for sentence in told)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [({"tokens": 6 * 8 * 32 + 3 * 4 * 64}, 9), ({"tokens": 10}, 1)],
    ids=["exact", "less than an update"],
)
def test_a_budget_in_tokens_counts_the_rows_of_each_phase(budget, expected, shards):
    tree = tiny.settings(shards).model_dump()
    tree["training"] |= {"updates": None} | budget
    phase = {"start": 2 / 3, "data": {"length": 64}, "training": {"batch_size": 4}}
    assert Config.model_validate(tree | {"phases": [phase]}).known_updates == expected


@pytest.mark.parametrize("unit", ["flops", "hours"])
def test_a_budget_in_flops_or_hours_becomes_updates_and_starts_of_phases(unit, tmp_path, shards, monkeypatch):
    measured = []

    def seconds(*arguments):
        measured.append(measured_seconds(*arguments))
        return [0.02, 0.04]

    monkeypatch.setattr("fast_electra.pipelines.pretrain.measured_seconds", seconds)
    changes = {"training__updates": None, f"training__{unit}": 2e8 if unit == "flops" else 1e-4}
    config = phased(shards, {"start": 0.5, "data": {"length": 64}}, **changes)
    folder = tmp_path / "run"
    pretrain(config, folder)
    run = load_run(folder)
    assert run.phase_starts == [0, round(run.updates / 2)]
    if unit == "flops":
        assert run.flops(run.updates) <= 2e8
    else:
        assert run.updates == 12  # of 0.36 seconds
        assert len(measured[0]) == 2
    before = weights(folder)
    pretrain(load_config(folder / "config.yaml"), tmp_path / "again")
    assert weights(tmp_path / "again") == before


def test_a_corruption_cache_belongs_to_a_phase(tmp_path, shards, long_auxiliary):
    longer = {"start": 3, "data": {"length": 48}, "corruption": {"cache": tmp_path / "second"}}
    changes = {"training__updates": 5, "training__log_every": 1, "corruption__sampler": "race"}
    there = {"kind": "fast_electra", "auxiliary": long_auxiliary} | changes
    online = phased(shards, {"start": 3, "data": {"length": 48}}, **there)
    pretrain(online, tmp_path / "online")
    (tmp_path / "run.yaml").write_text(dump_config(online))
    for number, name in ((1, "first"), (2, "second")):
        out = str(tmp_path / name)
        assert main(["corrupt", str(tmp_path / "run.yaml"), "--out", out, "--phase", str(number)]) == 0
    cached = phased(shards, longer, **there, corruption__cache=tmp_path / "first")
    pretrain(cached, tmp_path / "cached")
    lines = [[(r["loss"], r["replaced_fraction"]) for r in without_clock(tmp_path / n)] for n in ("online", "cached")]
    assert lines[0] == lines[1]
    with pytest.raises(ConfigError, match=r"data\.length is 32 there and 48 here"):
        assemble(phased(shards, longer | {"corruption": {}}, **there, corruption__cache=tmp_path / "first"), CPU)


def test_the_first_example_of_the_documentation_trains(tmp_path, shards):
    text = (tiny.ROOT / "docs" / "phases.md").read_text().split("```yaml\n")[1].split("```")[0]
    (tmp_path / "phases.yaml").write_text(text)
    shape = {"layers": 1, "hidden_size": 32, "heads": 2, "intermediate_size": 32, "options": {}}
    small = [f"main.{name}={value}" for name, value in shape.items()]
    small += ["training.updates=4", "training.batch_size=4", "training.validation_sequences=4", "data.length=32"]
    small += [f"data.shards={shards}", "auxiliary.kind=unigram", "main.start=fresh", "corruption.schedule.initial=1.5"]
    assert main(["pretrain", str(tmp_path / "phases.yaml"), *small, "--run", str(tmp_path / "run")]) == 0
    run = load_run(tmp_path / "run")
    assert [record["phase"] for record in run.metrics()] == [1, 2]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{start: 0.5, data: {lenght: 64}}", "line 4, phase 2: unknown key data.lenght; did you mean data.length?"),
        ("{data: {length: 64}}", "line 4, phase 2: start must be given, such as start: 0.9."),
        ("{start: 1.5}", "line 3: phase 2 of phases has start=1.5: give a share of the updates below 1"),
        ("{start: 500}", "phase 2 of phases has no update: it starts after update 500, and the end of the run is at 1"),
        ("{start: 0.5, data: {length: 4}}", "line 4, phase 2: data.length must be at least 8, not 4."),
        ("{start: 0.5, training: {batch_size: 33, micro_batch_size: 2}}", "batch_size (33) must be a multiple of"),
        ("{start: 0.5, corruption: {schedule: {initial: auto}}}", "must be known before the run"),
        ("{start: 0.5, corruption: {cache: there}}", "corruption.cache needs one for the first phase"),
        ("{start: 0.5, optimizer: {kind: muon}}", "line 4, phase 2: unknown key optimizer.kind"),
        ("0.5", "line 4, phase 2: a phase is a mapping such as {start: 0.9, data: {length: 512}}."),
    ],
)
def test_a_phase_that_cannot_be_is_refused_in_a_sentence(entry, expected, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(f"preset: quickstart\ntraining: {{updates: 100}}\nphases:\n  - {entry}\n")
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert expected.removesuffix(" 1") in str(error.value)


def test_parts_that_do_not_fit_a_later_phase_are_refused_before_the_first_update(tmp_path, shards, auxiliary):
    other = tiny.make_shards(tmp_path / "other", seed=7)
    with pytest.raises(ConfigError, match=r"phase 2 has the shards .* build them with data.tokenizer.path="):
        assemble(phased(shards, {"start": 6, "data": {"shards": other}}), CPU)
    table = tmp_path / "table"
    pretrain(tiny.settings(shards, training__updates=1, main__architecture="electra"), table)
    with pytest.raises(ModelError, match=r"takes 32 tokens, fewer than data\.length=48"):
        assemble(phased(shards, LONGER, kind="fast_electra", auxiliary=table), CPU)
    joint: dict[str, Any] = {
        "objective__generator": {"layers": 1, "hidden_size": 32, "heads": 2, "intermediate_size": 32}
    }
    with pytest.raises(ValueError, match=r"objective\.kind=electra has no frozen auxiliary"):
        phased(shards, {"start": 6, "corruption": {"schedule": {}}}, kind="electra", **joint)
