"""Studies: from a file to runs that are shared and made once, to measures, statistics and a page."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

import fast_electra
from fast_electra.cli.main import main
from fast_electra.config.reading import flat
from fast_electra.data.files import read_sealed_json, write_sealed_json
from fast_electra.data.locks import folder_lock
from fast_electra.errors import ConfigError, DataError, ResourceError, TrainingError
from fast_electra.report.page import render_page
from fast_electra.report.study_page import as_text, sentences_of, study_content, tables_of
from fast_electra.studies.grid import running
from fast_electra.studies.grid.cost import planned_costs
from fast_electra.studies.grid.findings import differences, holm, results_of, summary
from fast_electra.studies.grid.measures import reached, stability
from fast_electra.studies.grid.plan import Rate, plan, stages_of
from fast_electra.studies.grid.rates import FILE, known_rates
from fast_electra.studies.grid.running import Listener, read_progress, run_study
from fast_electra.studies.grid.settings import StudyConfig, grid_study, read_study
from tests import tiny

SHARED = {
    "data.shards": "$text",
    "data.length": 32,
    "main": {"layers": 2, "hidden_size": 32, "heads": 2, "intermediate_size": 48},
    "main.options": {"layer_types": ["sliding_attention", "full_attention"], "local_attention": 8},
    "training": {"batch_size": 8, "log_every": 2, "validate_every": 4, "validation_sequences": 8},
    "execution": {"precision": "float32", "threads": 1},
}
JOINT = {"main.start": "fresh", "objective": {"kind": "electra", "sharing": "tied", "generator.model": "$auxiliary"}}


def study(folder="text", **changes) -> StudyConfig:
    """Fast-ELECTRA and joint ELECTRA from one auxiliary."""
    corpus = {"sources": [str(folder)], "format": "code", "tokenizer.vocabulary_size": 320, "workers": 1}
    tree = {
        "title": "a study",
        "base": "text-hour",
        "shared": SHARED,
        "stages": {
            "text": {"corpus": corpus | {"validation_fraction": 0.1}},
            "auxiliary": {"base": "text-hour-auxiliary", "share": 0.25},
        },
        "methods": {"joint": JOINT, "fast": {"auxiliary.model": "$auxiliary"}},
        "seeds": [0, 1],
        "budget": {"updates": 16},
        **changes,
    }
    return StudyConfig.model_validate(tree)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for document in tiny.documents(100):
        (folder / document.source).write_text(document.text)
    return folder


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory):
    """A study that is done, and its folder; no test changes it."""
    folder = tmp_path_factory.mktemp("study")
    pairs = folder / "pairs.jsonl"
    pairs.write_text(
        "".join(json.dumps({"sentence_good": f"a = {n}", "sentence_bad": f"= a {n}"}) + "\n" for n in range(9))
    )
    found = study(
        text,
        sources={"unigram": {"kind": "unigram"}},
        evaluate={"pairs": {"tasks": ["blimp"], "data": [str(pairs)]}},
        thresholds={"rtd_auc": [1.0]},
    )
    progress = run_study(found, folder / "out", folder / "cells", Listener())
    return found, progress, folder


# --- The file ---------------------------------------------------------------------------------------------------------


def test_axes_are_crossed_and_keys_of_one_mapping_go_together():
    crossed = study(axes={"optimizer.weight_decay": [0.1, 0.01], "corruption.masking.rate": [0.15, 0.3]})
    assert len(crossed.points) == 4
    zipped = study(axes=[{"main.layers": [1, 2], "main.hidden_size": [32, 64]}, {"optimizer.weight_decay": [0.1, 0.2]}])
    assert {(p["main.layers"], p["main.hidden_size"]) for p in zipped.points} == {(1, 32), (2, 64)}
    assert len(zipped.points) == 4


def test_nested_and_dotted_settings_mean_the_same():
    assert flat({"a": {"b": {"c": 1}}, "d.e": 2}) == {"a.b.c": 1, "d.e": 2}


def test_a_scale_and_settings_on_the_command_line_change_the_file(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text(
        "title: t\nbase: text-hour\nset: {main.layers: 2}\nbudget: {seconds: 60}\nseeds: [0, 1]\n"
        "scales:\n  large: {base: paper-base, set: {main.layers: 12}, budget: {updates: 9}}\n"
    )
    found = read_study(file, ["seeds=[3]", "set.optimizer.weight_decay=0.2"], "large")
    assert (found.base, found.seeds, found.budget and found.budget.unit) == ("paper-base", [3], "updates")
    assert flat(found.set) == {"main.layers": 12, "optimizer.weight_decay": 0.2}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seeds": [1, 1]}, "different whole numbers"),
        ({"budget": {"updates": 5, "tokens": 7}}, "exactly one of"),
        ({"axes": [{"main.layers": [1, 2], "main.hidden_size": [32]}]}, "equally long lists"),
        ({"axes": {"main.layers": []}}, "has no values"),
        ({"stages": {"a b": {"base": "quickstart"}}}, "can't be called so"),
        ({"methods": {"a/b": {}}}, "can't be a name"),
        ({"budget": None}, "share of the budget"),
        ({"tune": {"key": "optimizer.learning_rate", "values": [1, 2], "seed": 0, "by": ["loss"]}}, "tune.seed"),
        ({"stages": {"x": {"base": "quickstart", "cache": True}}}, "give one of them"),
    ],
)
def test_what_can_not_be_is_refused_with_a_reason(changes, says):
    with pytest.raises((ConfigError, ValueError), match=says):
        study(**changes)


# --- The plan ---------------------------------------------------------------------------------------------------------


def test_a_stage_is_made_once_for_each_seed_and_counts_towards_the_budget():
    found = plan(study(), {})
    assert [cell.row for cell in found.cells] == ["joint", "joint", "fast", "fast"]
    stages = {cell.node.name: [node.name for node in stages_of(cell.node)] for cell in found.cells}
    assert len({name for names in stages.values() for name in names}) == 3  # the text, and an auxiliary of each seed
    assert {cell.node.settings["training.updates"] for cell in found.cells} == {12}
    free = plan(study(budget={"updates": 16, "stages": "free"}), {})
    assert {cell.node.settings["training.updates"] for cell in free.cells} == {16}


def test_a_name_does_not_depend_on_paths_and_the_machine_but_on_everything_that_changes_the_result():
    def names(**changes):
        return [cell.node.name for cell in plan(study(**changes), {}).cells]

    shared = SHARED | {"execution": {"precision": "float32", "threads": 2}, "training.checkpoint_every": 7}
    assert names() == names(folder="/elsewhere/text") == names(shared=shared)
    assert names() == names(shared=SHARED | {"optimizer.beta1": 0.9})  # the default
    for other in (
        {"folder": "other"},
        {"shared": SHARED | {"optimizer.weight_decay": 0.3}},
        {"budget": {"updates": 17}},
        {"shared": SHARED | {"optimizer.kind": "muon"}},
        {"shared": SHARED | {"corruption.masking.kind": "span"}},
        {"stages": study().stages | {"auxiliary": {"base": "text-hour-auxiliary", "share": 0.5}}},
    ):
        assert not {*names()} & {*names(**other)}, other


def test_parts_of_different_kinds_without_other_settings_are_different_runs():
    kinds = {kind: {"auxiliary.kind": kind, "main.start": "fresh"} for kind in ("unigram", "ngram", "uniform")}
    assert len({cell.node.identity for cell in plan(study(methods=kinds, seeds=[0]), {}).cells}) == 3


def test_axes_reach_a_stage_all_runs_or_only_the_runs_that_are_compared():
    axes = {
        "$auxiliary.main.intermediate_size": [32, 48],
        "shared.corruption.masking.rate": [0.15, 0.3],
        "optimizer.weight_decay": [0.1, 0.2],
    }
    found = plan(study(axes=axes, seeds=[0], methods={"fast": {"auxiliary.model": "$auxiliary"}}), {}).cells
    auxiliaries = {node.name: node for cell in found for node in stages_of(cell.node) if node.stage == "auxiliary"}
    assert len(found) == 8
    assert len(auxiliaries) == 4  # by its width and the mask rate of all runs, not by the weight decay


def test_one_cache_serves_every_schedule():
    stages = study().stages | {"cache": {"cache": True}}
    methods = {"fast": {"auxiliary.model": "$auxiliary", "corruption.cache": "$cache"}}
    found = plan(study(stages=stages, methods=methods, axes={"corruption.schedule.tau": [0.1, 0.2]}, seeds=[0]), {})
    caches = {node.name: node for cell in found.cells for node in stages_of(cell.node) if node.stage == "cache"}
    assert len(caches) == 1
    assert next(iter(caches.values())).settings["training.updates"] == 12  # type: ignore[attr-defined]


def test_tokens_flops_and_seconds_become_updates():
    assert {c.node.settings["training.updates"] for c in plan(study(budget={"tokens": 16 * 8 * 32}), {}).cells} == {12}
    seconds = study(budget={"seconds": 8.0})
    asked = plan(seconds, {})
    assert len(asked.unmeasured) == 3  # the auxiliary and two methods, whatever their seeds
    speed = {pace: Rate(2.0, 10.0) for pace in asked.unmeasured}
    assert {cell.node.settings["training.updates"] for cell in plan(seconds, speed).cells} == {12}
    flops = plan(study(budget={"flops": 160.0}), speed)
    assert {cell.node.settings["training.updates"] for cell in flops.cells} == {12}


def test_the_tokens_of_every_phase_count(tmp_path):
    twice = {"phases": [{"start": 0.5, "training": {"batch_size": 16}}]}
    found = study(set=twice, budget={"tokens": 24 * 8 * 32})
    # The auxiliary has a quarter of 24 batches of 8 rows, and 18 are left: 6 of 8 rows and 6 of 16.
    assert {cell.node.settings["training.updates"] for cell in plan(found, {}).cells} == {12}
    free = study(set=twice, stages={"text": study().stages["text"]}, methods={}, budget={"updates": 12})
    plain = study(stages={"text": study().stages["text"]}, methods={}, budget={"updates": 18})
    phased, without = (planned_costs(each, tmp_path)["runs"][0] for each in (free, plain))
    assert (phased["tokens"], phased["flops"]) == (without["tokens"], without["flops"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"methods": {"fast": {"auxiliary.model": "$elsewhere"}}}, "no such stage; the stages are text, auxiliary"),
        ({"methods": {"a": JOINT, "b": JOINT}}, "a and b have equal settings"),
        ({"methods": {"fast": {"auxiliary.model": "$auxiliary", "main.layer": 3}}}, "did you mean main.layers"),
        ({"methods": {"fast": {"base": "nothing"}}}, "base nothing is neither a preset"),
        ({"methods": {"fast": {"seeds": 3}}}, "a list such as"),
        ({"stages": {"text": {"corpus": {}}}, "methods": {}}, "a corpus needs sources"),
        (
            {"set": {"phases": [{"start": 0.5, "training": {"batch_size": 16}}]}, "budget": {"seconds": 9}},
            "a budget in updates or tokens, since its phases",
        ),
    ],
)
def test_what_can_not_be_planned_names_the_run(changes, says):
    with pytest.raises(ConfigError, match=says):
        plan(study(**changes), {})


def test_stages_that_leave_nothing_and_stages_that_use_themselves_are_refused():
    stages = study().stages | {"auxiliary": {"base": "text-hour-auxiliary", "set": {"training.updates": 16}}}
    with pytest.raises(ConfigError, match=r"stages take 16 of the budget of 16 updates"):
        plan(study(stages=stages), {})
    loop = study().stages | {"auxiliary": {"base": "text-hour-auxiliary", "set": {"main.model": "$auxiliary"}}}
    with pytest.raises(ConfigError, match="uses itself"):
        plan(study(stages=loop), {})


# --- Running ----------------------------------------------------------------------------------------------------------


def test_every_run_is_measured_by_its_validation_by_sources_and_by_evaluations(finished):
    _, progress, _ = finished
    assert len(progress.records) == 4
    assert not progress.missing
    assert not progress.failures
    for record in progress.records.values():
        assert {"rtd_auc.unigram", "rtd_auc_masked.unigram", "pairs", "loss", "spikes", "doctor"} <= record[
            "scores"
        ].keys()
        assert record["updates"] == 12
        assert len(record["curve"]) == 3
        assert record["scores"]["updates_to.rtd_auc.1"] == 4
        assert record["flops_with_stages"] > record["flops"]
        assert record["baselines"]["pairs"]


def test_a_finished_study_trains_nothing_again_even_if_only_its_small_files_are_left(finished, tmp_path, monkeypatch):
    found, progress, folder = finished
    monkeypatch.setattr(running, "pretrain", lambda *_: pytest.fail("a run was trained again"))
    shutil.copytree(folder / "cells", tmp_path / "cells")
    again = run_study(found, tmp_path / "out", tmp_path / "cells", Listener())
    assert again.records == progress.records
    assert sum(file.stat().st_size for file in (tmp_path / "cells").iterdir()) < 60_000


def test_a_change_trains_only_what_it_changes(finished, monkeypatch):
    found, _, folder = finished
    more = found.model_copy(
        update={"methods": {**found.methods, "wider": {"auxiliary.model": "$auxiliary", "optimizer.weight_decay": 0.3}}}
    )
    missing = read_progress(more, folder / "cells").missing
    assert {cell.row for cell in missing} == {"wider"}
    assert all((folder / "out" / node.name).exists() for cell in missing for node in stages_of(cell.node))


def test_another_evaluation_measures_the_finished_runs_again_and_trains_none(finished, tmp_path, monkeypatch):
    found, _, folder = finished
    shutil.copytree(folder, tmp_path / "study")
    monkeypatch.setattr(running, "pretrain", lambda *_: pytest.fail("a run was trained again"))
    more = found.model_copy(update={"thresholds": {"rtd_auc": [2.0]}, "evaluate": {}})
    again = run_study(more, tmp_path / "study/out", tmp_path / "study/cells", Listener())
    assert all("updates_to.rtd_auc.2" in record["scores"] for record in again.records.values())
    elsewhere = found.model_copy(update={"evaluate": {"pairs": found.evaluate["pairs"] | {"data": ["/x/pairs.jsonl"]}}})
    assert elsewhere.measures_digest == found.measures_digest


def test_a_wrong_evaluation_is_refused_before_anything_is_trained(text, tmp_path):
    found = study(text, evaluate={"entities": {"train": "absent.tsv"}})
    with pytest.raises(ConfigError, match=r"evaluation entities: --train absent\.tsv is no file"):
        run_study(found, tmp_path / "out", tmp_path / "cells", Listener())
    assert not (tmp_path / "out").exists()


def test_a_damaged_result_is_made_again(finished, tmp_path):
    found, progress, folder = finished
    shutil.copytree(folder / "cells", tmp_path / "cells")
    file = tmp_path / "cells" / progress.plan.cells[0].file
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    assert [cell.file for cell in read_progress(found, tmp_path / "cells").missing] == [file.name]


def test_a_run_that_diverges_is_a_result_and_other_errors_are_tried_again(text, tmp_path, monkeypatch):
    found = study(
        text,
        seeds=[0],
        stages={"text": study(text).stages["text"]},
        methods={"a": {"auxiliary.kind": "unigram", "main.start": "fresh", "corruption.schedule.initial": 1.0}},
    )
    said = []

    def fail(error):
        monkeypatch.setattr(running, "pretrain", lambda *_: (_ for _ in ()).throw(error))
        return run_study(found, tmp_path / "out", tmp_path / "cells", Listener(said.append))

    failed = fail(DataError("the disk of the text is gone."))
    assert [*failed.failures.values()] == ["the disk of the text is gone."]
    assert len(failed.missing) == 1
    diverged = fail(TrainingError("the loss was not finite."))
    assert not diverged.missing
    assert not diverged.failures
    results = results_of(found, diverged, tmp_path, "")
    assert results["rows"][0]["diverged"] == 1
    assert any("not finite" in sentence for sentence in sentences_of(results))


def test_a_run_that_another_process_trains_is_left_to_it(text, tmp_path, monkeypatch):
    found = study(text)
    cells = plan(found, {}).cells
    taken = []
    monkeypatch.setattr(
        running._Work,
        "_result",
        lambda self, cell: taken.append(cell.node.name) or {"scores": {}},
    )
    with folder_lock(tmp_path / "out", name=f".{cells[0].node.name}.cell.lock"):
        run_study(found, tmp_path / "out", tmp_path / "cells", Listener())
    assert taken == [cell.node.name for cell in cells[1:]]


def test_shares_of_a_study_are_disjoint_and_together_everything(text, tmp_path, monkeypatch):
    found = study(text, seeds=[0, 1, 2])
    taken = []
    monkeypatch.setattr(
        running._Work,
        "_result",
        lambda self, cell: taken.append(cell.node.name) or {"scores": {}},
    )
    for number in (1, 2):
        run_study(found, tmp_path / "out", tmp_path / "cells", Listener(), (number, 2))
    assert sorted(taken) == sorted(cell.node.name for cell in plan(found, {}).cells)


@pytest.mark.parametrize(("lower", "best"), [(False, 2e-3), (True, 1e-3)])
def test_a_setting_is_chosen_for_each_method_by_trials_with_a_seed_of_their_own(lower, best, tmp_path, monkeypatch):
    tune = {
        "key": "optimizer.learning_rate",
        "values": [1e-3, 2e-3],
        "seed": 9,
        "by": ["absent", "loss"],
        "lower": lower,
    }
    found = study(tune=tune)
    monkeypatch.setattr(
        running._Work,
        "_result",
        lambda self, cell: {
            "scores": {"loss": cell.node.settings["optimizer.learning_rate"]},
            "findings": [],
            "remarks": [],
            "curve": [],
            "baselines": {},
            "uses": {},
        },
    )
    progress = run_study(found, tmp_path / "out", tmp_path / "cells", Listener())
    assert len(progress.plan.trials) == 4
    assert {trial.seed for trial in progress.plan.trials} == {9}
    assert {cell.node.settings["optimizer.learning_rate"] for cell in progress.plan.cells} == {best}
    results = results_of(found, progress, tmp_path, "")
    assert all(entry["chosen"] == best and entry["at_edge"] for entry in results["tuned"])


def test_a_budget_in_seconds_is_measured_once_and_kept(text, tmp_path, monkeypatch):
    found = study(text, budget={"seconds": 1.0}, seeds=[0])
    monkeypatch.setattr(running._Work, "_result", lambda self, cell: {"scores": {}})
    first = run_study(found, tmp_path / "out", tmp_path / "cells", Listener())
    assert not first.plan.unmeasured
    monkeypatch.setattr(running, "measure_rates", lambda *_: pytest.fail("measured again"))
    again = run_study(found, tmp_path / "out", tmp_path / "cells", Listener())
    assert [cell.node.name for cell in again.plan.cells] == [cell.node.name for cell in first.plan.cells]


def test_a_method_that_is_added_later_is_scaled_to_the_rates_that_are_kept(text, tmp_path, monkeypatch):
    monkeypatch.setattr(running._Work, "_result", lambda self, cell: {"scores": {}})
    alone = study(text, budget={"seconds": 1.0}, seeds=[0], methods={"joint": JOINT})
    run_study(alone, tmp_path / "out", tmp_path / "cells", Listener())
    kept = read_sealed_json(tmp_path / "cells" / FILE)
    assert kept is not None
    for rate in kept["rates"].values():
        rate["updates_per_second"]["median"] *= 1e4
    write_sealed_json(tmp_path / "cells" / FILE, kept)
    both = study(text, budget={"seconds": 1.0}, seeds=[0])
    run_study(both, tmp_path / "out", tmp_path / "cells", Listener())
    rates = known_rates(tmp_path / "cells")
    (added,) = rates.keys() - kept["rates"].keys()
    assert rates[added].updates_per_second > 1e4


# --- Measures and statistics ------------------------------------------------------------------------------------------


def test_a_loss_reaches_a_threshold_from_above_and_other_measures_from_below():
    curve = [{"update": n, "seconds": 2.0 * n, "loss": 5.0 - n, "rtd_auc": 50.0 + n} for n in (1, 2, 3)]
    assert reached(curve, "loss", [3.0, 0.5]) == {"updates_to.loss.3": 2.0, "seconds_to.loss.3": 4.0}
    assert reached(curve, "rtd_auc", [52.5]) == {"updates_to.rtd_auc.52.5": 3.0, "seconds_to.rtd_auc.52.5": 6.0}


def test_a_spike_of_the_loss_is_counted():
    losses = [2.0 + 0.01 * (n % 3) for n in range(60)]
    assert stability([{"loss": loss, "gradient_norm": 1.0} for loss in losses])["spikes"] == 0
    losses[40] = 4.0
    assert stability([{"loss": loss, "gradient_norm": 1.0} for loss in losses])["spikes"] == 1


def test_the_hidden_ratio_of_a_study_is_that_of_the_last_validation():
    records = [
        {"loss": 3.0, "internals": {"main": {"hidden_ratio": 1.5}}},
        {"loss": 2.0, "internals": {"main": {"hidden_ratio": 2.5}, "generator": {"hidden_ratio": 9.0}}},
        {"loss": 2.0},
    ]
    assert stability(records)["hidden_ratio"] == 2.5
    assert "hidden_ratio" not in stability(records[2:])


def test_p_values_are_those_of_scipy_and_holm_corrects_them():
    random = np.random.default_rng(0)
    own, base = random.normal(1, 1, 5), random.normal(0, 1, 5)
    scores = {"base": {"m": dict(enumerate(base))}, "own": {"m": dict(enumerate(own))}}
    (found,) = differences(scores, {"own": "base"}, "m")
    assert found["p"] == pytest.approx(stats.ttest_rel(own, base).pvalue)
    # Holm (1979): the smallest times 3, the next times 2, never smaller than the one before
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06], nan_ok=True)


def test_without_a_difference_at_most_five_percent_of_studies_decide_anything():
    random, studies = np.random.default_rng(1), 600
    wrong = 0
    for _ in range(studies):
        values = random.normal(size=(4, 3)) + random.normal(size=3)  # four rows, three seeds that they share
        scores = {str(row): {"m": dict(enumerate(values[row]))} for row in range(4)}
        wrong += any(each["decided"] for each in differences(scores, {"1": "0", "2": "0", "3": "0"}, "m"))
    # Below 5 % but for three standard deviations of the simulation.
    assert wrong / studies <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / studies)


def test_a_large_difference_is_decided_and_one_seed_or_equal_differences_never_are():
    base = {n: 50.0 + value for n, value in enumerate((0.0, 0.3, -0.2, 0.1))}
    scores = {
        "base": {"m": base},
        "far": {"m": {n: value + 10 + 0.1 * n for n, value in base.items()}},
        "equal": {"m": {n: value + 1 for n, value in base.items()}},
        "single": {"m": {0: 90.0}},
    }
    found = {each["row"]: each for each in differences(scores, dict.fromkeys(("far", "equal", "single"), "base"), "m")}
    assert found["far"]["decided"]
    assert not found["equal"]["decided"]
    assert not found["single"]["decided"]
    assert summary([3.0]) == {"mean": 3.0, "low": None, "high": None, "seeds": 1}


def test_a_method_is_compared_at_each_point_and_a_row_with_all(tmp_path):
    record = {"scores": {"loss": 1.0}, "baselines": {}, "findings": [], "remarks": [], "curve": [], "uses": {}}
    axes = {"optimizer.weight_decay": [0.1, 0.2]}
    for reference, pairs in (("joint", 2), ("joint, weight_decay=0.2", 3)):
        found = study(axes=axes, reference=reference)
        planned = plan(found, {})
        progress = running.Progress(planned, {cell.node.name: record for cell in planned.cells})
        results = results_of(found, progress, tmp_path, "")
        assert len({each["row"] for each in results["differences"]}) == pairs
    with pytest.raises(ConfigError, match="no method and no row"):
        results_of(study(reference="nobody"), progress, tmp_path, "")


# --- The page and the commands ----------------------------------------------------------------------------------------


def test_the_page_answers_first_and_every_number_links_to_its_run(finished):
    found, progress, folder = finished
    results = results_of(found, progress, folder / "out", "fast-electra study my.yaml")
    page = render_page(study_content(results))
    assert page.index("Answer") < page.index("Scores, mean") < page.index("fast-electra study my.yaml")
    for cell in progress.plan.cells:
        assert f'href="{cell.node.name}/report.html"' in page
        assert (folder / "out" / cell.node.name / "report.html").exists()
    headings = dict(study_content(results)["curves"])
    assert {"Every seed", "Over updates", "Over tokens", "Over FLOPs", "Over seconds of training"} <= headings.keys()


def test_two_axes_make_a_heat_map(finished, tmp_path):
    record = {"scores": {"loss": 1.5}, "baselines": {}, "findings": [], "remarks": [], "curve": [], "uses": {}}
    found = study(axes={"optimizer.weight_decay": [0.1, 0.2], "corruption.masking.rate": [0.1, 0.2]}, seeds=[0])
    planned = plan(found, {})
    results = results_of(found, running.Progress(planned, {c.node.name: record for c in planned.cells}), tmp_path, "")
    (chart,) = dict(study_content(results)["curves"])["Two settings"]
    assert len(chart.specification["data"]["values"]) == 8
    assert "1.500" in render_page(study_content(results))


def test_tables_are_markdown_latex_and_csv(finished):
    found, progress, folder = finished
    tables = tables_of(results_of(found, progress, folder / "out", ""))
    assert "| joint |" in as_text(tables, "markdown")
    latex = as_text(tables, "latex")
    assert latex.count("\\begin{tabular}") == latex.count("\\end{tabular}") == len(tables)
    assert "rtd\\_auc" in latex
    assert "rtd_auc" not in latex.replace("rtd\\_auc", "")
    rows = list(csv.reader(io.StringIO(as_text(tables[:1], "csv"))))
    assert rows[0][0] == "table"
    assert len({len(row) for row in rows}) == 1


def test_the_command_lists_runs_and_their_cost_before_it_trains(text, tmp_path, capsys):
    file = tmp_path / "s.yaml"
    file.write_text(json.dumps(study(text).model_dump(mode="json", exclude_none=True)))
    assert main(["study", str(file), "--dry-run", "--json", "--out", str(tmp_path / "out")]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert len(listed["runs"]) == 6
    assert all(run["flops"] > 0 and not run["done"] for run in listed["runs"])
    assert not (tmp_path / "out").exists()


def test_the_command_ends_with_a_sentence_if_runs_failed(text, tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise ResourceError("out can't be written: no space left on device; free space.")

    monkeypatch.setattr(running, "pretrain", fail)
    file = tmp_path / "s.yaml"
    file.write_text(json.dumps(study(text, seeds=[0]).model_dump(mode="json", exclude_none=True)))
    assert main(["study", str(file), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "failed: out can't be written: no space left on device; free space." in said
    assert said.splitlines()[-1].startswith("error: 2 of the runs failed, for the reasons above: run the same command")


def test_the_function_returns_what_the_command_prints(finished, tmp_path, capsys):
    found, progress, folder = finished
    file = tmp_path / "s.yaml"
    file.write_text(json.dumps(found.model_dump(mode="json", exclude_none=True)))
    results = fast_electra.study(file, folder / "out", cells=folder / "cells")
    assert len(results["runs"]) == len(progress.records)
    words = ["--out", str(folder / "out"), "--cells", str(folder / "cells")]
    assert main(["study", str(file), *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) | {"command": ""} == results


@pytest.mark.slow
def test_two_jobs_train_each_run_once(text, tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text(json.dumps(study(text).model_dump(mode="json", exclude_none=True)))
    command = [sys.executable, "-m", "fast_electra", "study", str(file), "--jobs", "2", "--json"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, env=os.environ, check=True
    )
    results = json.loads(done.stdout)
    assert len(results["runs"]) == 4
    assert not results["missing"]


def test_grid_of_pretrain_trains_a_run_for_each_value_in_one_folder(text, tmp_path, capsys, shards, auxiliary):
    settings = tiny.settings(shards, "fast_electra", auxiliary, training__updates=4)
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(settings.model_dump(mode="json", exclude_none=True)))
    command = [
        "pretrain",
        str(file),
        "--grid",
        "corruption.schedule.tau=[0.1,0.5]",
        "--run",
        str(tmp_path / "out"),
        "--json",
    ]
    assert main(command) == 0
    results = json.loads(capsys.readouterr().out)
    assert [row["row"] for row in results["rows"]] == ["tau=0.1", "tau=0.5"]
    assert sorted(path.name[:7] for path in (tmp_path / "out").glob("tau=*")) == ["tau=0.1", "tau=0.5"]
    assert (tmp_path / "out" / "study.html").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["corruption.schedule.tau=0.05,0.1"], "--grid 'corruption.schedule.tau=[0.05, 0.1]'"),
        (["optimizer.kind=[adamw,muon]"], "--grid 'optimizer.kind=[adamw, muon]'"),
        (["--grid", "corruption.schedule.tau=0.1"], "give a list of values"),
        (["--grid", "training.seed=[1]", "--extend", "9"], "--extend is for one run"),
    ],
)
def test_several_values_for_one_setting_are_refused_with_the_way_to_run_them(words, says, capsys, tmp_path):
    assert main(["pretrain", "text-hour", *words, "--run", str(tmp_path / "x")]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted((tiny.ROOT / "studies").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_study_of_the_project_can_be_planned_at_every_scale(file):
    for scale in (None, *read_study(file).scales):
        found = read_study(file, scale=scale)
        planned = plan(found, {})
        assert len(planned.all) >= {"gpu": 4, "presets": 5}.get(file.stem, 8) or scale == "paper-base"
        for cell in planned.all:
            assert stages_of(cell.node)


def test_a_grid_keeps_the_seed_and_the_settings_of_the_command():
    found = grid_study("quickstart", {"training.seed": 3, "main.layers": 2}, {"optimizer.weight_decay": [0.1]})
    assert found.seeds == [3]
    assert found.set == {"main.layers": 2}
