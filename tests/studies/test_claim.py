import copy
import json
import lzma
import random
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from fast_electra.cli.main import main
from fast_electra.config.loading import load_config
from fast_electra.errors import ConfigError, DataError, TrainingError
from fast_electra.report import claim_page
from fast_electra.runs.metrics import read_metrics
from fast_electra.studies.claim import study as study_module
from fast_electra.studies.claim import trial as trials
from fast_electra.studies.claim.corpora import Code, Text
from fast_electra.studies.claim.findings import differences, summarise
from fast_electra.studies.claim.methods import METHODS, REFERENCE, Contestant, Study, plan, updates_of
from fast_electra.studies.claim.runs import Material, helper_shape, identity_of
from fast_electra.studies.claim.speed import time_updates
from fast_electra.studies.claim.study import claim
from fast_electra.studies.claim.trial import Listener, Trial, best_factor, remark, seconds_of
from fast_electra.training.loop import Interrupted
from fast_electra.training.precision import Execution
from fast_electra.training.telemetry import QuietObserver
from tests import tiny

CPU = Execution(torch.device("cpu"), "float32", torch.float32, 1)
TINY = (
    *(
        "data.length=32",
        "data.tokenizer.vocabulary_size=320",
        "data.workers=1",
        "training.batch_size=8",
        "execution.precision=float32",
    ),
    *("main.layers=2", "main.hidden_size=32", "main.heads=2", "main.intermediate_size=48", "execution.threads=1"),
    "main.options={layer_types: [sliding_attention, full_attention], local_attention: 8}",
    *("training.log_every=3", "training.checkpoint_every=100", "training.validation_sequences=8"),
)
RATES = {"auxiliary": 12.0, "joint": 6.0, "exponential": 8.0}
STUDY = Study(seconds=1.5, seeds=(1, 2), methods=("joint", "exponential"), factors=(1.0, 2.0), overrides=TINY)


def code() -> Code:
    held_out = tiny.documents(90, seed=1)
    return Code("code", tiny.documents(60), held_out, held_out[:20], pairs=(20, 10), examples=20, scored=10)


class Watch:
    """Notes every run that is trained, and stops the study after so many updates of one."""

    def __init__(self, stop_in: str = "", after: int = 0):
        self.trained: list[str] = []
        self._stop_in, self._after, self._now = stop_in, after, False

    def display(self, name):
        self.trained.append(name)
        watch = self

        class Updates(QuietObserver):
            def updated(self, update):
                watch._now |= bool(watch._stop_in) and watch._stop_in in name and update >= watch._after

        return Updates()

    def listener(self) -> Listener:
        return Listener(display=self.display, stop=lambda: self._now)


@pytest.fixture(scope="module")
def given_speed():
    """Every method's speed is given, so that the numbers of updates are known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            trials,
            "time_updates",
            lambda configs, *_: {name: {"median": RATES[name], "low": 1.0, "high": 20.0} for name in configs},
        )
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory, given_speed):
    """A study that was stopped in the middle of a run, and what was trained before and after."""
    out = tmp_path_factory.mktemp("claim")
    first = Watch(stop_in="joint-code-2", after=5)
    with pytest.raises(Interrupted, match="stopped"):
        claim(STUDY, [code()], out, "fast-electra study claim", first.listener())
    kept = {path.parent.name for path in out.glob("runs/*/run.json") if "finished" in path.read_text()}
    second = Watch()
    results = claim(STUDY, [code()], out, "fast-electra study claim", second.listener())
    return SimpleNamespace(out=out, first=first, second=second, kept=kept, results=results)


# --- A whole study ----------------------------------------------------------------------------------------------------


def test_every_method_and_seed_is_trained_for_its_seconds(done):
    corpus = done.results["corpora"][0]
    found = {(run["contestant"], run["seed"]): run for run in corpus["runs"]}
    assert {run["run"].split("-code-")[0] for run in corpus["runs"]} == {"joint", "exponential"}
    updates = {"joint ELECTRA, tied": 9, "Fast-ELECTRA, exponential": 12}
    updates["Fast-ELECTRA, exponential, auxiliary counted"] = 8  # a third of 1.5 s is the auxiliary's
    for (contestant, seed), run in found.items():
        records = read_metrics(done.out / "runs" / run["run"] / "metrics.jsonl")
        assert records[-1]["update"] == run["updates"] == updates[contestant]
        config = load_config(done.out / "runs" / run["run"] / "config.yaml")
        assert (config.training.seed, config.main.start) == (seed, "fresh")
        logged = sum(record["timing"]["seconds"] for record in records)
        assert run["seconds"] >= round(logged, 1)
        assert run["seconds"] == round(logged, 1) or done.first.trained[-1] == run["run"]
    assert len(found) == 6
    assert {found["seed"]: found["updates"] for found in corpus["auxiliaries"]} == {99: 6, 1: 6, 2: 6}


def test_a_stopped_study_goes_on_and_repeats_no_run(done):
    assert done.first.trained[-1].startswith("joint-code-2-")
    assert done.second.trained[0] == done.first.trained[-1]
    assert not done.kept & set(done.second.trained)
    everything = [*done.first.trained, *done.second.trained[1:]]
    assert len(everything) == len(set(everything)) == len(list((done.out / "runs").iterdir()))


def test_a_second_call_trains_nothing_and_says_the_same_wherever_the_folder_lies(done, tmp_path, monkeypatch):
    shutil.copytree(done.out, tmp_path / "moved")

    def refuse(*_, **__):
        raise AssertionError("computed again")

    for name in ("pretrain", "time_updates", "keep_cell", "examine"):
        monkeypatch.setattr(trials, name, refuse)
    assert claim(STUDY, [code()], tmp_path / "moved", "fast-electra study claim", Listener()) == done.results


def test_each_run_is_against_the_auxiliary_of_its_seed(done):
    for run in done.results["corpora"][0]["runs"]:
        model = load_config(done.out / "runs" / run["run"] / "config.yaml").auxiliary.model
        if run["method"] == "joint":
            assert model is None
        else:
            assert f"auxiliary-code-{run['seed']}-" in str(model)


def test_scores_are_of_the_cells_in_the_runs(done):
    for run in copy.deepcopy(done.results)["corpora"][0]["runs"]:
        cells = [json.loads(p.read_text()) for p in (done.out / "runs" / run["run"] / "evaluation/cells").iterdir()]
        scores = {round(100 * cell["score"], 2) for cell in cells if "score" in cell and not cell.get("untrained")}
        assert run["scores"].keys() == {"operators", "variables", "bugs", "rtd_auc"}
        assert run["scores"].pop("rtd_auc") == round(100 * run["rtd_auc"], 2)
        assert set(run["scores"].values()) == scores
        assert 0.3 < run["rtd_auc"] < 1.0
        assert run["temperature"] == 1.0 if run["method"] == "joint" else 1.0 < run["temperature"] < 2.0


def test_learning_rates_are_kept_and_chosen_by_the_best_score(done):
    records = json.loads((done.out / "lr.json").read_text())["records"]
    assert [record["method"] for record in records] == ["joint", "exponential"]
    for record in records:
        assert all("-code-99-" in name for name in record["runs"])
        assert record["scores"][f"{record['factor']:g}"] == max(record["scores"].values())
    twice = load_config(done.out / "runs" / records[0]["runs"][1] / "config.yaml")
    preset = load_config("quickstart")
    assert twice.optimizer.learning_rate == 2 * preset.optimizer.learning_rate
    assert twice.training.updates == 3  # half a second
    assert [record["by"] for record in records] == ["rtd_auc", "rtd_auc"]
    assert all(0 < score < 1 for record in records for score in record["scores"].values())


def numbers(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for each in value for number in numbers(each)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def test_the_markdown_holds_every_number_of_the_results(done):
    markdown = (done.out / "claim.md").read_text().replace("−", "-").replace(",", "")
    written = {float(found) for found in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?", markdown)}
    stored = numbers(json.loads((done.out / "results.json").read_text()))
    assert len(stored) > 100
    assert not {number for number in stored if float(number) not in written}
    for corpus in done.results["corpora"]:
        lines = (done.out / "claim.md").read_text().splitlines()
        titles = {question["name"]: question["title"] for question in corpus["questions"]}
        for found in corpus["differences"]:
            told = f"{found['contestant']} {claim_page.number(found['difference'])}"
            undecided = [line for line in lines if line.startswith(f"- {titles[found['question']]}: not decided")]
            assert f"- {found['sentence']}" in lines if found["decided"] else told in undecided[0]


def test_the_page_and_the_plot_show_every_contestant(done):
    page, plot = (done.out / "claim.html").read_text(), (done.out / "claim.svg").read_text()
    for contestant in STUDY.contestants:
        assert contestant.title in page
        assert contestant.title in plot
    assert "http" not in re.sub(r"http://www\.w3\.org/\S+", "", page)


def test_a_method_that_comes_later_is_put_on_the_scale_of_those_that_are_there(done, tmp_path, monkeypatch):
    """The machine is half as fast today, and no finished run changes its number of updates."""
    shutil.copytree(done.out / "corpora", tmp_path / "corpora")
    shutil.copy(done.out / "calibration.json", tmp_path)
    slow = {"auxiliary": 6.0, "joint": 3.0, "exponential": 4.0, "mlm": 5.0}
    monkeypatch.setattr(
        trials,
        "time_updates",
        lambda configs, *_: {n: dict.fromkeys(("median", "low", "high"), slow[n]) for n in configs},
    )
    more = Study(seconds=1.5, seeds=(1, 2), methods=("mlm", "joint"), overrides=TINY)
    trial = Trial(more, code(), tmp_path, CPU, Listener())
    assert {name: rate["median"] for name, rate in trial.rates.items()} == {
        "auxiliary": 12.0,
        "mlm": 10.0,
        "joint": 6.0,
    }
    stored, _ = json.loads((tmp_path / "calibration.json").read_text()).values()
    assert (stored["corpus"], stored["rates"]["exponential"]["median"]) == ("code", 8.0)
    other = Study(seconds=1.5, seeds=(1, 2), methods=("mlm", "joint"), overrides=[*TINY, "main.dropout=0.1"])
    assert Trial(other, code(), tmp_path, CPU, Listener()).rates["joint"]["median"] == 3.0
    monkeypatch.setattr(trials, "time_updates", lambda *_: pytest.fail("timed again"))
    assert Trial(more, code(), tmp_path, CPU, Listener()).rates["joint"]["median"] == 6.0


def test_a_run_that_diverged_is_told_by_name_and_not_trained_again(done, tmp_path, monkeypatch):
    calls = []

    def diverges(config, folder, *_, **__):
        calls.append(folder.name)
        folder.mkdir(parents=True, exist_ok=True)
        raise TrainingError("the loss is nan at update 3.")

    shutil.copytree(done.out / "corpora", tmp_path / "corpora")
    shutil.copy(done.out / "calibration.json", tmp_path)
    monkeypatch.setattr(trials, "pretrain", diverges)
    for _ in range(2):
        trial = Trial(STUDY, code(), tmp_path, CPU, Listener())
        planned = trial.run("exponential", 1, 1.5, 1.0)
        for run in (planned, planned.auxiliary):
            with pytest.raises(TrainingError, match=rf"{planned.auxiliary.name}: the loss is nan at update 3"):
                trial.trained(run)
        assert trial._auxiliary_record(1) is None
    assert calls == [planned.auxiliary.name]


def test_a_choice_of_learning_rate_belongs_to_the_auxiliary_that_it_was_judged_by(done, tmp_path, monkeypatch):
    shutil.copytree(done.out / "corpora", tmp_path / "corpora")
    for name in ("calibration.json", "lr.json"):
        shutil.copy(done.out / name, tmp_path)
    file = tmp_path / "lr.json"
    file.write_text(json.dumps(json.loads(file.read_text())["records"]))  # as earlier versions wrote it
    before = Trial(STUDY, code(), tmp_path, CPU, Listener()).choices
    monkeypatch.setattr(Trial, "_choosing_score", lambda *_: 0.5)
    assert Trial(STUDY, code(), tmp_path, CPU, Listener()).choices == before
    monkeypatch.setattr(Trial, "_reference_name", "another")
    after = Trial(STUDY, code(), tmp_path, CPU, Listener()).choices
    assert set(after["joint"]["scores"].values()) == {0.5}
    assert set(before) == set(after) == set(STUDY.methods)


# --- Budgets and configurations ---------------------------------------------------------------------------------------


def test_budgets_add_up():
    study = Study(seconds=120, methods=("mlm", "joint", "exponential", "unigram"), auxiliary_share=0.25)
    assert [study.seconds_of(c) for c in study.contestants] == [120, 120, 120, 90, 120]
    assert study.auxiliary_seconds + study.seconds_of(Contestant("exponential", True)) == study.seconds
    assert (updates_of(120, 2.51), updates_of(90, 2.51), updates_of(0.01, 2.0)) == (301, 226, 1)


def test_the_plan_holds_every_run_once():
    steps = plan(Study(seconds=90), [code()])
    names = [step["what"] for step in steps]
    assert len(set(names)) == len(names) == 2 + 4 + 4 * 3 + 6 * 3 + 1
    assert sum("learning rates" in name for name in names) == 4 * 3
    assert sum(step["seconds"] for step in steps) == pytest.approx(4 * 30 + 12 * 30 + 3 * (4 * 90 + 2 * 60))


def test_all_methods_train_one_main_model(tmp_path):
    material = Material(Study(), code(), tmp_path, tmp_path / "shards", "f")
    configs = {name: material.method(name, 7, 3, 2.0, tmp_path / "a") for name in METHODS}
    preset = load_config("quickstart").main
    for name, config in configs.items():
        changed = {"started": {"start"}, "copied": {"embeddings"}, "delta": {"embeddings"}}.get(name, set())
        shape = config.main.model_dump(exclude={"start", *changed})
        assert shape == preset.model_dump(exclude={"start", *changed})
        assert (config.main.start == "fresh") == (name != "started")
        assert (config.training.updates, config.training.seed) == (7, 3)
        assert config.optimizer.learning_rate == 2 * load_config("quickstart").optimizer.learning_rate
    generator = configs["joint"].objective.generator
    auxiliary = material.auxiliary(5, 3).main
    same = {"architecture", "layers", "hidden_size", "heads", "intermediate_size", "options", "dropout"}
    assert generator.model_dump(include=same) == auxiliary.model_dump(include=same) == helper_shape(preset) | {}
    assert generator.layers == 2
    assert generator.options["layer_types"] == ["sliding_attention", "full_attention"]
    assert (configs["joint"].objective.sharing, configs["mlm"].objective.kind) == ("tied", "mlm")
    assert configs["constant-1"].corruption.schedule.initial == 1.0
    assert configs["exponential"].corruption.schedule.tau == 0.1


def test_the_names_of_runs_that_exist_hold_device_precision_and_threads_where_they_were_first():
    tree = identity_of(load_config("quickstart", ["execution.threads=3"]))
    assert "execution" not in tree
    assert tree["training"]["threads"] == 3


def test_a_run_is_named_after_what_it_depends_on_and_not_after_where_it_lies(tmp_path):
    def name(folder, fingerprint="f", updates=7, factor=1.0, auxiliary_updates=5):
        material = Material(Study(), code(), folder, folder / "shards", fingerprint)
        auxiliary = material.planned("auxiliary", material.auxiliary(auxiliary_updates, 3), 1.0)
        config = material.method("exponential", updates, 3, factor, folder / auxiliary.name)
        return material.planned("exponential", config, 1.0, auxiliary).name

    there = name(tmp_path / "a")
    assert there == name(tmp_path / "b")
    assert there.startswith("exponential-code-3-")
    others = [name(tmp_path, "g"), name(tmp_path, updates=8), name(tmp_path, factor=2.0)]
    assert len({there, *others, name(tmp_path, auxiliary_updates=6)}) == 5


def test_speed_is_measured_in_turns(shards, auxiliary):
    configs = {"mlm": tiny.settings(shards), "rtd": tiny.settings(shards, "fast_electra", auxiliary)}
    found = time_updates(configs, CPU, rounds=3, updates=2)
    assert found.keys() == configs.keys()
    assert all(0 < rate["low"] <= rate["median"] <= rate["high"] for rate in found.values())
    with pytest.raises(Interrupted, match="while measuring the speed"):
        time_updates(configs, CPU, rounds=3, updates=2, stop=lambda: True)


def test_updates_that_a_stop_left_unlogged_are_counted_at_the_others_speed():
    def record(tokens, updates, seconds):
        return {"tokens": tokens, "timing": {"seconds": seconds, "tokens_per_second": 100 * updates / seconds}}

    assert seconds_of([record(400, 4, 2.0), record(800, 4, 3.0)]) == pytest.approx(5.0)
    assert seconds_of([record(400, 4, 2.0), record(1000, 4, 2.0)]) == pytest.approx(5.0)  # two updates are missing


# --- Learning rates ---------------------------------------------------------------------------------------------------


def test_of_equal_scores_the_rate_nearest_to_the_presets_is_chosen():
    assert best_factor({"0.5": 0.6, "1": 0.6, "2": 0.6}, "x") == 1.0
    assert best_factor({"0.5": 0.6, "1": None, "2": 0.61}, "x") == 2.0
    with pytest.raises(TrainingError, match="x diverged"):
        best_factor({"0.5": None}, "x")


# --- Text -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glue")
    draw = random.Random(0)

    def words(label: int) -> str:
        return " ".join([("left", "right")[label], *(draw.choice(tiny.NAMES) for _ in range(3)), str(draw.random())])

    def write(task: str, header: str, row, count: int = 120):
        (folder / task).mkdir()
        for split, size in (("train", count), ("dev", 20)):
            lines = [header] * bool(header) + [row(number % 2) for number in range(size)]
            (folder / task / f"{split}.tsv").write_text("\n".join(lines) + "\n")

    write("CoLA", "", lambda label: f"x\t{label}\t\t{words(label)}")
    write("SST-2", "sentence\tlabel", lambda label: f"{words(label)}\t{label}", count=300)
    mrpc = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    write("MRPC", mrpc, lambda label: f"{label}\t1\t2\t{words(label)}\t{words(1)}")
    return folder


def test_english_text_is_unpacked_and_judged_by_three_tasks(glue, auxiliary, tmp_path):
    path = tmp_path / "english.txt.xz"
    path.write_bytes(lzma.compress(b"One document.\n\nAnother one.\n"))
    corpus = Text.open("english", path, glue, print)
    assert [document.text for document in corpus.documents()] == ["One document.", "Another one."]
    questions = corpus.questions(32)
    assert [(q.name, q.metric, q.zero_shot) for q in questions] == [
        ("cola", "matthews", False),
        ("sst2", "accuracy", False),
        ("mrpc", "f1", False),
    ]
    record = questions[1].answer(auxiliary, 1, CPU)
    assert record["score"] == record["scores"]["dev"]["accuracy"]
    assert record["n_train"] == 300
    assert questions[1].baselines()["majority"] == 0.5
    assert questions[1].answer(auxiliary, 1, CPU, untrained=True)["untrained"]


def test_a_damaged_xz_file_is_told(glue, tmp_path):
    path = tmp_path / "english.txt.xz"
    path.write_bytes(lzma.compress(b"One document.\n" * 1000)[:-20])
    with pytest.raises(DataError, match="can't be read"):
        list(Text.open("english", path, glue, print).documents())


# --- What it says -----------------------------------------------------------------------------------------------------


def runs_of(scores: dict[tuple[str, bool], list[float]], name: str = "bugs") -> list[dict]:
    return [
        {"method": method, "counted": counted, "seed": seed, "scores": {name: value}}
        for (method, counted), values in scores.items()
        for seed, value in enumerate(values)
    ]


QUESTION = SimpleNamespace(name="bugs", title="bugs", metric="accuracy", zero_shot=False)
FAST, JOINT = Contestant("exponential", False), Contestant(REFERENCE, False)


def test_differences_are_seed_by_seed_with_students_interval():
    scores = {("exponential", False): [61.0, 63.5, 62.0], ("joint", False): [60.0, 61.0, 61.5]}
    (found,) = differences([JOINT, FAST], [QUESTION], runs_of(scores))  # type: ignore[list-item]
    each = np.array([1.0, 2.5, 0.5])
    error = each.std(ddof=1) / 3**0.5
    assert found["difference"] == round(each.mean(), 2)
    assert (found["low"], found["high"]) == tuple(
        round(each.mean() + s * stats.t.ppf(0.975, 2) * error, 2) for s in (-1, 1)
    )
    assert found["detectable"] == round((stats.t.ppf(0.975, 2) + stats.t.ppf(0.8, 2)) * error, 2)
    assert not found["decided"]
    assert found["sentence"] == (
        "bugs: Fast-ELECTRA, exponential is ahead of joint ELECTRA, tied by 1.3 points, interval −1.3 to 3.9, 3 seeds: "
        "not decided."
    )


def test_nothing_within_the_detectable_difference_is_marked():
    near = {("exponential", False): [61.0, 61.2, 60.8], ("joint", False): [60.0, 60.0, 60.0]}
    far = {("exponential", False): [66.0, 66.1, 65.9], ("joint", False): [60.0, 60.0, 60.0]}
    near_by = {("exponential", False): [60.5, 60.8, 60.4], ("joint", False): [60.0, 60.0, 60.0]}
    for scores, decided in ((near, True), (far, True), (near_by, False)):
        (found,) = differences([JOINT, FAST], [QUESTION], runs_of(scores))  # type: ignore[list-item]
        assert found["decided"] is decided
        assert found["low"] > 0  # all three leave 0 out
        assert ("not decided" in found["sentence"]) is not decided


def test_one_seed_decides_nothing_and_has_no_interval():
    runs = runs_of({("exponential", False): [58.0], ("joint", False): [60.0]})
    (found,) = differences([JOINT, FAST], [QUESTION], runs)  # type: ignore[list-item]
    assert (found["low"], found["high"], found["detectable"], found["decided"]) == (None, None, None, False)
    assert found["sentence"] == (
        "bugs: joint ELECTRA, tied is ahead of Fast-ELECTRA, exponential by 2.0 points, 1 seed: not decided."
    )
    assert summarise(FAST, [QUESTION], runs)["scores"]["bugs"] == {"mean": 58.0, "low": None, "high": None, "seeds": 1}  # type: ignore[list-item]


def test_fine_tuning_that_taught_nothing_is_told():
    assert remark({"score": 0.5, "failed": None, "degenerate": ["dev"]}) == "every example gets the same label"
    assert remark({"score": None, "failed": "diverged: …", "degenerate": []}) == "diverged: …"
    assert remark({"score": 0.5}) is None


def test_a_run_without_a_score_leaves_its_seed_out():
    runs = runs_of({("exponential", False): [61.0, 62.0, 63.0], ("joint", False): [60.0, 61.0]})
    (found,) = differences([JOINT, FAST], [QUESTION], runs)  # type: ignore[list-item]
    assert (found["seeds"], found["difference"]) == (2, 1.0)


def test_masked_language_models_are_compared_where_the_question_is_the_same():
    runs = runs_of({("mlm", False): [61.0, 62.0], ("joint", False): [60.0, 61.0]})
    mlm = Contestant("mlm", False)
    zero_shot = SimpleNamespace(**{**vars(QUESTION), "zero_shot": True})
    assert differences([mlm, JOINT], [QUESTION], runs)  # type: ignore[list-item]
    assert not differences([mlm, JOINT], [zero_shot], runs)  # type: ignore[list-item]


def test_a_run_that_diverged_is_told_on_every_page(done):
    results = copy.deepcopy(done.results)
    corpus = results["corpora"][0]
    kept = ("contestant", "method", "counted", "seed", "run", "given_seconds", "updates")
    corpus["runs"] = [
        {key: run[key] for key in kept} | {"scores": {}, "failed": "it diverged."} for run in corpus["runs"]
    ]
    corpus |= {"differences": [], "baselines": {}}
    corpus["contestants"] = [contestant | {"scores": {}} for contestant in corpus["contestants"]]
    told = "code: joint ELECTRA, tied, seed 1, has no score: it diverged."
    assert told in claim_page.markdown_of(results)
    assert told in claim_page.page_of(results)


def test_sentences_say_what_is_decided_and_gather_the_rest():
    scores = {("joint", False): [60.0, 61.0], ("exponential", False): [65.0, 66.1], ("mlm", False): [59.0, 64.0]}
    runs = runs_of(scores)
    for number, run in enumerate(runs):
        title = Contestant(run["method"], run["counted"]).title
        run |= {"contestant": title, "remarks": ["CoLA: all the same"] if number < 3 else []}
    contestants = [JOINT, FAST, Contestant("mlm", False)]
    found = {
        "corpus": "english",
        "questions": [vars(QUESTION)],
        "differences": differences(contestants, [QUESTION], runs),  # type: ignore[list-item]
        "runs": runs,
        "learning_rates": [],
    }
    decided, other, chance, remarked = claim_page.sentences_of(found)
    found["questions"] = [vars(QUESTION) | {"zero_shot": True}]
    assert "without fine-tuning, MLM answers another question" in claim_page.sentences_of(found)[-1]
    found["runs"] = [run for run in runs if run["method"] != "mlm"]
    assert "MLM" not in claim_page.sentences_of(found)[-1]
    assert decided.startswith("bugs: Fast-ELECTRA, exponential is ahead of joint ELECTRA, tied by 5.0 points")
    assert other == "bugs: not decided. Points ahead of joint ELECTRA: MLM 1.0."
    assert "of the 2 intervals" in chance
    assert remarked == (
        "english, CoLA: all the same (3 of 6 runs: joint ELECTRA, tied, seeds 0, 1; Fast-ELECTRA, exponential, seed 0)."
    )


def test_missing_numbers_read_as_a_dash():
    assert [claim_page.number(value) for value in (None, float("nan"), 1234, -1.5)] == ["–", "–", "1,234", "−1.5"]


# --- Command line -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--methods", "joint", "exponentail"], "did you mean exponential?"),
        (["--methods", "mlm"], "joint is missing"),
        (["--seeds", "1", "99"], "99 is the seed that chooses learning rates"),
        (["--seconds", "0"], "give a number above 0"),
        (["--auxiliary-share", "1"], "between 0 and 1"),
        (["--factors", "0", "1"], "different numbers above 0"),
        (["--examples", "0"], "give a number from 1"),
        (["main.layer=2"], "did you mean main.layers?"),
        (["--corpus", "english.txt.xz"], "give its folder by --glue"),
    ],
)
def test_wrong_use_is_told_in_a_sentence(words, sentence, tmp_path, capsys):
    assert main(["study", "claim", "--out", str(tmp_path / "out"), *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_task_is_told_before_anything_is_done(glue, tmp_path, capsys):
    (tmp_path / "english.txt").write_text("One.\n")
    shutil.copytree(glue / "SST-2", tmp_path / "glue/SST-2")
    words = ["--corpus", str(tmp_path / "english.txt"), "--glue", str(tmp_path / "glue")]
    assert main(["study", "claim", "--out", str(tmp_path / "out"), *words]) == 2
    assert "CoLA" in capsys.readouterr().err


def test_a_dry_run_lists_the_runs_and_their_seconds(glue, tmp_path, capsys):
    (tmp_path / "english.txt").write_text("One.\n")
    words = ["--corpus", str(tmp_path / "english.txt"), "--glue", str(glue), "--seconds", "90", "--dry-run"]
    assert main(["study", "claim", "--out", str(tmp_path / "out"), *words]) == 0
    shown = capsys.readouterr().out
    assert "Fast-ELECTRA, exponential, seed 3" in shown
    assert main(["study", "claim", "--out", str(tmp_path / "out"), *words, "--json"]) == 0
    steps = json.loads(capsys.readouterr().out)
    assert {step["seconds"] for step in steps if step["what"] == "joint ELECTRA, tied, seed 1"} == {90}
    assert not (tmp_path / "out").exists()


def test_the_command_prints_its_tables_or_json_and_says_how_to_go_on(done, tmp_path, monkeypatch, capsys):
    nothing = SimpleNamespace(train=[], held_out=[], validation=[])
    monkeypatch.setattr("fast_electra.data.python_corpus.collect", lambda: nothing)
    given = []

    def found(study, corpora, out, command, listener):
        given.append((study, [corpus.name for corpus in corpora], command))
        return done.results

    monkeypatch.setattr(study_module, "claim", found)
    words = ["study", "claim", "--out", str(tmp_path), "--seconds", "90", "--seeds", "4", "5", "--methods", "joint"]
    assert main(words) == 0
    shown = capsys.readouterr()
    unwrapped = " ".join(shown.out.split())
    assert all(sentence in unwrapped for sentence in claim_page.sentences_of(done.results["corpora"][0]))
    assert "claim.html" in shown.err
    study, names, command = given[0]
    assert (study.seconds, study.seeds, study.methods, names) == (90.0, (4, 5), ("joint",), ["python"])
    assert command == f"fast-electra study claim --out {tmp_path} --seconds 90 --seeds 4 5 --methods joint"
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == done.results

    def stopped(*_):
        raise Interrupted("stopped after update 3 of 9")

    monkeypatch.setattr(study_module, "claim", stopped)
    assert main(words) == 130
    assert "; finished work is kept; continue with: fast-electra study claim" in capsys.readouterr().err


def test_a_study_refuses_the_same_seed_twice():
    with pytest.raises(ConfigError, match="different"):
        Study(seeds=(1, 1))
