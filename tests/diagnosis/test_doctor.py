"""Every check of the doctor fires on a sick run and is silent on a healthy one."""

import contextlib
import importlib.util
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from fast_electra import distributed
from fast_electra.cli.main import main as command_line
from fast_electra.config.loading import load_config
from fast_electra.config.tree import Config
from fast_electra.diagnosis import curve_checks, part_checks
from fast_electra.diagnosis.curve_checks import CURVE_CHECKS, Curves, Finding
from fast_electra.diagnosis.doctor import DoctorObserver, examine
from fast_electra.diagnosis.part_checks import (
    auxiliary_is_frozen,
    labels_stay_out,
    parameter_groups,
    tensor_names,
    weights_move,
)
from fast_electra.diagnosis.references import make_reference, matching_reference, outdated, references
from fast_electra.diagnosis.run_checks import read_run, repetition
from fast_electra.errors import CheckpointError, TrainingError
from fast_electra.models.shapes import ShapeConfig
from fast_electra.objectives.base import ParameterGroup
from fast_electra.objectives.fast_electra import FastElectra
from fast_electra.objectives.mlm import MLM
from fast_electra.objectives.settings import ElectraObjective
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.runs.checkpoints import newest_checkpoint
from fast_electra.runs.folder import RunFolder
from fast_electra.runs.metrics import metrics_line, read_metrics
from fast_electra.training.assembly import assemble
from fast_electra.training.precision import choose_execution
from tests import processes, tiny


def settings(shards: Path, kind: str = "mlm", auxiliary: Path | None = None, **changes: object) -> Config:
    """A run that learns within seconds: two layers on a corpus whose every word is told by those around it."""
    chosen = {"optimizer__learning_rate": 5e-3, "training__updates": 100, "training__log_every": 2}
    chosen |= {"training__batch_size": 32, "training__checkpoint_every": 100}
    return tiny.settings(shards, kind, auxiliary, **(chosen | changes))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Shards of texts that say one word again and again."""
    return tiny.make_repetitive_shards(tmp_path_factory.mktemp("corpus") / "shards")


@pytest.fixture(scope="module")
def healthy_auxiliary(corpus, tmp_path_factory) -> Path:
    return trained(settings(corpus), tmp_path_factory.mktemp("healthy") / "auxiliary")


@pytest.fixture(scope="module")
def healthy(corpus, healthy_auxiliary, tmp_path_factory) -> Path:
    return trained(settings(corpus, "fast_electra", healthy_auxiliary), tmp_path_factory.mktemp("healthy") / "main")


@pytest.fixture
def parts(corpus, healthy_auxiliary):
    config = settings(corpus, "fast_electra", healthy_auxiliary)
    return assemble(config, choose_execution(config.execution))


def trained(config: Config, folder: Path) -> Path:
    """Pre-train, and set the clock's figures to a quiet machine's, for this one may be anything."""
    pretrain(config, folder)
    records = read_metrics(folder / "metrics.jsonl")
    quiet = {"timing": {"seconds": 1.0, "tokens_per_second": 1e4, "data_wait_share": 0.001}}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record | quiet) + "\n" for record in records))
    return folder


def sick(findings: list[Finding]) -> dict[str, str]:
    """Severity by check of what is not in order."""
    return {f.check: f.severity for f in findings if f.severity in ("warning", "problem")}


def curves_of(run: Path) -> Curves:
    """The healthy run's curves, records to be edited."""
    curves = read_run(run).curves
    return replace(curves, records=json.loads(json.dumps(curves.records)))


def by_curves(curves: Curves) -> dict[str, str]:
    return sick([finding for check in CURVE_CHECKS for finding in check(curves)])


def copied(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder)
    return folder


# Whole runs


def test_healthy_runs_have_no_finding(healthy, healthy_auxiliary):
    for run in (healthy_auxiliary, healthy):
        findings = examine(run)
        assert not [f for f in findings if f.severity != "ok"]
    checked = {finding.check for finding in findings}
    assert {"auxiliary plateau", "auxiliary frozen", "parameter groups", "labels", "weights", "rtd chance"} <= checked


@pytest.mark.parametrize("sharing", ["tied", pytest.param("disentangled", marks=pytest.mark.slow)])
def test_a_healthy_joint_run_has_no_finding(sharing, corpus, tmp_path):
    config = settings(corpus)
    shape = {name: getattr(config.main, name) for name in ("layers", "hidden_size", "heads", "intermediate_size")}
    objective = ElectraObjective(generator=ShapeConfig(**shape), sharing=sharing, kept=0.15)
    run = trained(config.model_copy(update={"objective": objective}), tmp_path / "run")
    findings = examine(run)
    assert not sick(findings)
    assert {"gradient norm", "unigram plateau", "unigram entropy", "labels"} <= {f.check for f in findings}


def test_a_process_of_a_launcher_examines_a_run_without_the_others(healthy, monkeypatch):
    alone = examine(healthy)
    for name, value in processes.environment(1, 2, processes.free_port()).items():
        monkeypatch.setenv(name, value)
    assert examine(healthy) == alone
    assert distributed.size() == 2


def test_a_learning_rate_of_nothing_is_told_by_embeddings_that_do_not_move(corpus, healthy_auxiliary, tmp_path):
    config = settings(
        corpus,
        "fast_electra",
        healthy_auxiliary,
        optimizer__learning_rate=1e-9,
        training__updates=20,
    )
    pretrain(config, tmp_path / "run")
    found = sick(examine(tmp_path / "run"))
    assert found["weights"] == "problem"
    assert found["learning rate"] == "warning"
    # The loss of a model that was not trained, were there no validation to say so.
    curves = curves_of(tmp_path / "run")
    for record in curves.records:
        record.pop("validation", None)
    assert by_curves(curves)["rtd chance"] == "problem"


def test_a_huge_learning_rate_is_told(corpus, healthy_auxiliary, tmp_path):
    config = settings(corpus, "fast_electra", healthy_auxiliary, optimizer__learning_rate=10.0, training__updates=20)
    with contextlib.suppress(TrainingError):  # the run may not survive it
        pretrain(config, tmp_path / "run")
    found = sick(examine(tmp_path / "run"))
    assert found["learning rate"] == "warning"
    assert {"rtd chance", "loss spikes", "gradient norm", "progress"} & set(found)


def test_an_auxiliary_that_was_hardly_trained_is_told(corpus, tmp_path):
    pretrain(settings(corpus, training__updates=1), tmp_path / "auxiliary")
    found = sick(examine(tmp_path / "auxiliary"))
    assert found["unigram plateau"] == found["unigram entropy"] == "problem"
    pretrain(settings(corpus, "fast_electra", tmp_path / "auxiliary", training__updates=4), tmp_path / "main")
    assert sick(examine(tmp_path / "main"))["auxiliary plateau"] == "problem"


def test_an_auxiliary_whose_weights_changed_is_told(corpus, healthy_auxiliary, tmp_path):
    auxiliary = copied(healthy_auxiliary, tmp_path / "auxiliary")
    pretrain(settings(corpus, "fast_electra", auxiliary, training__updates=2), tmp_path / "main")
    assert "auxiliary unchanged" not in sick(examine(tmp_path / "main"))
    weights = load_file(auxiliary / "model" / "model.safetensors")
    name = next(iter(weights))
    weights[name][0] += 0.01
    save_file(weights, auxiliary / "model" / "model.safetensors", metadata={"format": "pt"})
    assert "its digest differs" in str(examine(tmp_path / "main"))
    tiny.unsealed(auxiliary / "model")
    assert sick(examine(tmp_path / "main"))["auxiliary unchanged"] == "problem"


def test_weights_with_nan_are_told(healthy, monkeypatch):

    def broken(_checkpoint, tensors):
        for tensor in tensors.values():
            tensor.fill_(float("nan"))

    monkeypatch.setattr(part_checks, "load_tensors", broken)
    assert sick(examine(healthy))["weights"] == "problem"


def test_an_auc_that_is_still_low_before_the_end_is_no_finding(healthy):
    curves = curves_of(healthy)
    records = [
        record | ({"validation": {"rtd_auc": 0.66}} if record["update"] == 30 else {}) for record in curves.records
    ]
    assert not by_curves(replace(curves, records=records[:-1]))


def test_embeddings_that_end_near_their_start_are_told_where_they_started_fresh(healthy, monkeypatch):

    run = read_run(healthy)
    parts = assemble(run.config, choose_execution(run.config.execution))
    checkpoint = newest_checkpoint(healthy / "checkpoints")
    assert checkpoint
    start = {
        f"main.master.{n}": p.detach().clone() for n, p in parts.objective.parameter_groups()[0].parameters.items()
    }

    def nearly_still(_checkpoint, tensors):
        for name, tensor in tensors.items():
            tensor.copy_(1.001 * start[name] + 1e-12)

    monkeypatch.setattr(part_checks, "load_tensors", nearly_still)
    for continued, severity in ((False, "warning"), (True, "ok")):
        (finding,) = weights_move(parts.objective, checkpoint, run.curves.updates, continued)
        assert "embeddings changed by 1.0e-03" in finding.measured
        assert finding.severity == severity


def test_a_run_without_a_sound_checkpoint_is_told(healthy, tmp_path):
    run = copied(healthy, tmp_path / "run")
    for file in run.glob("checkpoints/*/*.safetensors"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    findings = examine(run)
    assert sick(findings) == {"weights": "problem"}
    assert any("every checkpoint under" in f.measured for f in findings)


def test_a_run_whose_data_are_gone_is_judged_by_its_curves(healthy, tmp_path):
    run = copied(healthy, tmp_path / "run")
    record = json.dumps(tiny.unsealed_record(run))
    (run / "run.json").write_text(record.replace(str(read_run(run).config.data.shards), str(tmp_path / "gone")))
    findings = examine(run)
    assert {f.check for f in findings if f.severity == "skipped"} == {"repetition", "parts"}
    assert "rtd chance" in {f.check for f in findings if f.severity == "ok"}


def test_a_run_that_stopped_before_its_first_record_is_told(healthy, tmp_path):
    run = copied(healthy, tmp_path / "run")
    (run / "metrics.jsonl").write_text("")
    assert sick(examine(run))["progress"] == "warning"


def test_a_folder_that_is_no_run_is_one_sentence(tmp_path, healthy):
    with pytest.raises(CheckpointError, match=r"is no run, because it has no run.json: give a folder"):
        read_run(tmp_path)
    copied(healthy, tmp_path / "main")
    with pytest.raises(CheckpointError, match=r"give .*/main\.$"):
        read_run(tmp_path)


# The parts


class Changed(FastElectra):
    """An objective whose groups a test chooses."""

    groups: list[ParameterGroup]

    def parameter_groups(self):
        return self.groups


def with_groups(objective, change) -> Changed:
    changed = Changed(**vars(objective))
    changed.groups = change(FastElectra.parameter_groups(objective)[0])
    return changed


def test_a_parameter_in_no_group_or_in_two_is_told(parts):
    assert not sick(parameter_groups(parts.objective))

    def omit(group):
        name = next(iter(group.parameters))
        return [replace(group, parameters={n: p for n, p in group.parameters.items() if n != name})]

    def double(group):
        name = next(iter(group.parameters))
        return [group, replace(group, name="again", parameters={name: group.parameters[name]})]

    for change, words in (
        (omit, "1 in no group, the first is main."),
        (double, "1 in several groups, the first is main."),
    ):
        (finding,) = parameter_groups(with_groups(parts.objective, change))
        assert finding.severity == "problem"
        assert words in finding.measured


def test_an_auxiliary_that_is_trained_is_told(parts, healthy):
    checkpoint = newest_checkpoint(healthy / "checkpoints")
    assert checkpoint
    names = tensor_names(checkpoint)
    assert len(names) > 10
    assert not sick(auxiliary_is_frozen(parts.objective, names))
    foreign = (*names, "auxiliary.exp_avg.model.embeddings.weight")
    assert "1 tensors that the run does not train" in auxiliary_is_frozen(parts.objective, foreign)[0].measured
    (module,) = parts.objective.source.auxiliary.modules()
    next(module.parameters()).requires_grad_(True)
    assert auxiliary_is_frozen(parts.objective, names)[0].severity == "problem"


class Told(FastElectra):
    """Gives the labels to the model as its attention mask."""

    def terms(self, prepared, progress, seed):
        corrupted = self.source.corrupt(prepared.batch, prepared.masked, self.curriculum.difficulty(progress), seed)
        self.main.model(input_ids=corrupted.ids_BS, attention_mask=(~corrupted.replaced_BS).long())
        return super().terms(prepared, progress, seed)


class Shown(MLM):
    """Gives the originals to the model."""

    def terms(self, prepared, progress, seed):
        self.model.masked_logits(prepared.batch, prepared.batch.ids, prepared.masked.positions_BM)
        return super().terms(prepared, progress, seed)


def test_labels_that_reach_the_model_are_told(parts, corpus):
    prepared = parts.objective.prepare(parts.schedule.at(0), 0)
    assert not sick(labels_stay_out(parts.objective, prepared))
    told = Told(**vars(parts.objective))
    assert "labels reach main: attention_mask" in labels_stay_out(told, prepared)[0].measured
    config = settings(corpus, objective__kind="mlm")
    config = config.model_copy(
        update={"objective": config.objective.model_copy(update={"random": 0.1, "kept": 0.1})}  # BERT's rule is no leak
    )
    mlm = assemble(config, choose_execution(config.execution)).objective
    assert not sick(labels_stay_out(mlm, prepared))
    shown = Shown(**vars(mlm))
    assert "labels reach main: input_ids" in labels_stay_out(shown, prepared)[0].measured


# The curves


def test_the_expected_share_of_replacements_raises_no_alarm_and_another_does(healthy):
    curves = curves_of(healthy)
    draw = random.Random(1)
    alarms = 0
    for _ in range(200):  # two hundred runs of thirty records with about 60 masked positions each
        before = 0
        for record in curves.records:
            count = round((record["tokens"] - before) * 0.15)
            before = record["tokens"]
            expected = record["replaced_fraction_expected"]
            record["replaced_fraction"] = sum(draw.random() < expected for _ in range(count)) / count
        alarms += bool(sick(curve_checks.replaced_share(curves)))
    assert alarms <= 1  # 200 runs at a probability of 1e-4 each
    # A bias too small for any record to show, over the whole run: 30 · 77 positions, standard error 0.01.
    for record in curves.records:
        record["replaced_fraction"] = record["replaced_fraction_expected"] - 0.08
    (finding,) = curve_checks.replaced_share(curves)
    assert finding.severity == "problem"
    assert "over the run" in finding.measured


@pytest.mark.parametrize(
    ("check", "severity", "edit"),
    [
        ("finite numbers", "problem", lambda r, u: {"loss": float("nan")} if u == 0.5 else {}),
        ("rtd chance", "problem", lambda r, u: {"validation": {"rtd_auc": 0.505}}),
        ("rtd chance", "warning", lambda r, u: {"validation": {"rtd_auc": 0.505}} if u == 0.2 else {"validation": {}}),
        ("rtd chance", "warning", lambda r, u: {"validation": {"rtd_auc": 0.66}}),  # the run ends too low to be well
        ("gradient norm", "warning", lambda r, u: {"gradient_norm": 0.5 * 1000**u}),
        ("gradient norm", "warning", lambda r, u: {"gradient_norm": 0.5 * 1000**-u}),
        ("clipping", "warning", lambda r, u: {"clipped": 1.0, "gradient_norm": 30.0}),
        ("loss spikes", "warning", lambda r, u: {"loss": 10 * r["loss"]} if u == 0.7 else {}),
        ("loss spikes", "problem", lambda r, u: {"loss": 10 * r["loss"]} if u >= 0.7 else {}),
        ("waiting for data", "warning", lambda r, u: {"timing": {"seconds": 1.0, "data_wait_share": 0.4}}),
    ],
)
def test_a_sick_curve_is_told_by_its_check_alone(check, severity, edit, healthy):
    curves = curves_of(healthy)
    records = [record | edit(record, record["update"] / curves.updates) for record in curves.records]
    assert by_curves(replace(curves, records=records)) == {check: severity}


def test_clipping_every_update_near_the_limit_is_in_order(healthy):
    curves = curves_of(healthy)
    records = [record | {"clipped": 1.0, "gradient_norm": 2.0} for record in curves.records]
    assert not by_curves(replace(curves, records=records))


def test_a_rise_of_the_loss_that_a_fall_of_the_temperature_brings_is_no_spike(healthy):
    curves = curves_of(healthy)
    records = [r | {"temperature": 2.0, "loss": 0.3} for r in curves.records[:20]]
    records += [r | {"temperature": 1.0, "loss": 0.5} for r in curves.records[20:]]
    assert "loss spikes" not in by_curves(replace(curves, records=records))
    records = [record | {"temperature": 1.0} for record in records]
    assert by_curves(replace(curves, records=records))["loss spikes"] == "problem"


def test_learning_rates_are_judged_by_width(corpus):
    def judged(**main: object) -> str:
        config = tiny.settings(corpus, optimizer__learning_rate=5e-3)
        return curve_checks.learning_rate_range(
            Curves(config.model_copy(update={"main": config.main.model_copy(update=main)}), 10, [])
        )[0].severity

    assert judged() == "ok"  # width 32
    assert judged(hidden_size=768) == judged(model="continued") == "warning"


def test_data_that_are_repeated_too_often_are_told(healthy):
    run = read_run(healthy)
    assert repetition(run)[0].severity == "ok"
    assert repetition(replace(run, curves=replace(run.curves, updates=100_000)))[0].severity == "warning"


# Reference curves


def test_every_reference_is_of_its_preset_as_it_is():
    assert set(references()) == {"quickstart", "quickstart-auxiliary"}
    for name, reference in references().items():
        assert not outdated(reference), f"{name} has changed: make references RUNS=… from new runs"
        stale = replace(reference, settings=reference.settings | {"batch_size": 1})
        assert outdated(stale) == ["batch_size"]
        for curve in reference.curves.values():
            assert len(curve["tokens"]) <= 40
            rows = zip(curve["low"], curve["middle"], curve["high"], strict=True)
            assert all(low <= middle <= high for low, middle, high in rows)


def test_a_run_of_a_preset_is_compared_with_its_reference_at_equal_tokens():
    config = load_config("quickstart", ["data.shards=elsewhere", "training.updates=900", "training.seed=3"])
    reference = matching_reference(config)
    assert reference
    assert matching_reference(load_config("quickstart", ["optimizer.learning_rate=3e-3"])) is None
    curve = reference.curves["loss"]
    tokens, normal = curve["tokens"][20], curve["middle"][20]
    for factor, severity in ((1.0, "ok"), (0.5, "ok"), (1.5, "warning")):  # better than normal is no finding
        record = {"update": 300, "tokens": int(tokens), "loss": factor * normal}
        (finding,) = curve_checks.reference_curve(Curves(config, 900, [record]))
        assert finding.severity == severity
    auxiliary = load_config("quickstart-auxiliary")
    assert matching_reference(auxiliary, unigram_accuracy=0.057)
    assert matching_reference(auxiliary, unigram_accuracy=0.22) is None  # another corpus
    later = {"update": 900, "tokens": int(10 * curve["tokens"][-1]), "loss": 9.0}
    assert not curve_checks.reference_curve(Curves(config, 900, [later]))


def test_a_reference_covers_its_runs_and_refuses_others(tmp_path, healthy):
    for number, level in enumerate((1.0, 0.9, 1.2)):
        config = load_config("quickstart", [f"training.seed={number}"])
        run = RunFolder.create(tmp_path / str(number), config, config, {}).path
        lines = [{"update": u, "tokens": 4096 * u, "loss": level / u, "validation": {"loss": 2.0}} for u in (1, 2, 3)]
        (run / "metrics.jsonl").write_text("".join(map(metrics_line, lines)))
    made = make_reference("quickstart", [tmp_path / "0", tmp_path / "1", tmp_path / "2"])
    assert made.runs == 3
    assert made.curves["loss"] == {
        "tokens": [4096.0, 8192.0, 12288.0],
        "low": [0.9, 0.45, 0.3],
        "middle": [1.0, 0.5, 0.3333],
        "high": [1.2, 0.6, 0.4],
    }
    assert "validation.rtd_auc" not in made.curves
    assert made.band("loss", 8192) == pytest.approx((0.4, 0.65))
    assert made.band("loss", 100_000) is None
    with pytest.raises(CheckpointError, match="no run of the preset quickstart"):
        make_reference("quickstart", [healthy])


def test_the_picture_draws_every_band():
    source = tiny.ROOT / "tools" / "references.py"
    specification = importlib.util.spec_from_file_location("references", source)
    assert specification
    assert specification.loader
    tool = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(tool)
    charts = [chart for row in tool.picture()["vconcat"] for chart in row["hconcat"]]
    assert len(charts) == 4
    assert all(len(chart["data"]["values"]) >= 3 for chart in charts)


# While a run trains, and the command


def test_the_observer_speaks_of_each_trouble_once_and_of_health_never(healthy):
    curves = curves_of(healthy)
    for edit, expected in (({}, []), ({"gradient_norm": 30.0, "clipped": 1.0}, ["clipping"])):
        said: list[str] = []
        observer = DoctorObserver(curves.config, said.append)
        observer.started(0, curves.updates)
        for record in curves.records:
            observer.logged(record | edit)
        observer.finished()
        assert [sentence.split(": ")[1] for sentence in said] == expected
        assert all(sentence.startswith("warning: ") and sentence.endswith(".") for sentence in said)


def test_the_command_says_what_it_found_and_exits_by_it(healthy, tmp_path, capsys):
    assert command_line(["doctor", str(healthy)]) == 0
    assert "0 problem(s), 0 warning(s)" in capsys.readouterr().out
    run = copied(healthy, tmp_path / "run")
    records = read_metrics(run / "metrics.jsonl")
    records[-1]["validation"]["rtd_auc"] = 0.5
    (run / "metrics.jsonl").write_text("".join(map(metrics_line, records)))
    assert command_line(["doctor", str(run), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["healthy"]
    assert [f["check"] for f in found["findings"] if f["severity"] == "problem"] == ["rtd chance"]
    assert command_line(["doctor", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_every_check_is_explained_in_the_documentation(healthy, healthy_auxiliary):
    page = (tiny.ROOT / "docs" / "is-my-curve-normal.md").read_text(encoding="utf-8")
    named = {f.check for run in (healthy, healthy_auxiliary) for f in examine(run)} | {"reference curve", "parts"}
    assert not [name for name in sorted(named) if f"| {name} |" not in page]
