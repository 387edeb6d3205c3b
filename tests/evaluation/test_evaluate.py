"""`fast-electra evaluate` and `compare`: what they promise of cells, baselines, bad input and differences."""

import contextlib
import json
import random
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from sklearn.metrics import matthews_corrcoef

from fast_electra import distributed
from fast_electra.cli.main import main
from fast_electra.data import workers
from fast_electra.data.files import write_sealed_json
from fast_electra.data.python_corpus import Corpus, SourceFile
from fast_electra.errors import ConfigError
from fast_electra.evaluation import detector, evaluations, facts, recipes, runner, side_by_side, subject
from fast_electra.evaluation.baselines import bag_of_words
from fast_electra.evaluation.evaluations import Evaluation, find_evaluation, load, results_folder, store
from fast_electra.evaluation.glue import load_glue
from fast_electra.evaluation.own_files import load_own
from fast_electra.evaluation.recipes import Recipe, recipe_for
from fast_electra.evaluation.remarks import remarks
from fast_electra.evaluation.settings import EvaluationConfig, setup_name
from fast_electra.evaluation.tasks import Split, held_out, make_task, sample, without_tests
from fast_electra.models.build import build_model, transformers_config
from fast_electra.models.export import write_model
from fast_electra.models.shapes import ModelConfig
from fast_electra.pipelines import evaluate as recipe
from fast_electra.report import page
from fast_electra.report.evaluation_tables import score_tables
from fast_electra.terminal import command
from fast_electra.training import precision
from tests import processes, tiny
from tests.evaluation.test_results import result

WORDS = ["value", "total", "count", "items", "name", "limit"]


def text(draw: random.Random, extra: str, longest: int = 6) -> str:
    words = [draw.choice(WORDS) for _ in range(draw.randint(2, longest))]
    words.insert(draw.randint(0, len(words)), extra)
    return " ".join(words)


@pytest.fixture
def _forked_workers(monkeypatch):
    """Workers are forked, which takes no seconds of imports."""
    for module in (workers, side_by_side):
        monkeypatch.setattr(module, "SPAWN", processes.context())


@pytest.fixture(scope="module")
def glue(tmp_path_factory) -> Path:
    """CoLA and RTE as the GLUE download has them, each a few words long; CoLA with a test set."""
    folder, draw = tmp_path_factory.mktemp("data") / "glue", random.Random(0)
    (folder / "CoLA").mkdir(parents=True)
    (folder / "RTE").mkdir()
    for split, count in (("train", 48), ("dev", 30)):
        sides = [number % 2 for number in range(count)]
        rows = [f"x\t{side}\t\t{text(draw, ('left', 'right')[side])}\n" for side in sides]
        (folder / "CoLA" / f"{split}.tsv").write_text("".join(rows))
        names = [("entailment", "not_entailment")[side] for side in sides]
        rows = [f"{i}\t{text(draw, 'left')}\t{text(draw, n[:3])}\t{n}\n" for i, n in enumerate(names)]
        (folder / "RTE" / f"{split}.tsv").write_text("index\tsentence1\tsentence2\tlabel\n" + "".join(rows))
    rows = [f"{i}\t{text(draw, 'left')}\n" for i in range(5)]
    (folder / "CoLA" / "test.tsv").write_text("index\tsentence\n" + "".join(rows))
    return folder


def make_model(folder: Path, tokenizer, head: str, seed: int) -> Path:
    config = ModelConfig(layers=1, hidden_size=32, heads=2, intermediate_size=48)
    write_model(build_model(transformers_config(config, 320, tiny.SPECIAL, 64), head, seed), tokenizer, folder, "")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory, tokenizer) -> tuple[Path, Path]:
    home = tmp_path_factory.mktemp("models")
    return make_model(home / "first", tokenizer, "rtd", 1), make_model(home / "second", tokenizer, "mlm", 2)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, models, glue) -> tuple[Path, Path]:
    """Both models on CoLA and RTE, two seeds each."""
    home = tmp_path_factory.mktemp("results")
    for model in models:
        options = ["--tasks", "cola,rte", "--data", str(glue), "--recipe", "fast", "--seeds", "0", "1"]
        assert main(["evaluate", str(model), *options, "--out", str(home / model.name)]) == 0
    return home / "first", home / "second"


def again(folder: Path, model: Path, glue: Path, *more: str) -> list[str]:
    options = ["--data", str(glue), "--recipe", "fast", "--out", str(folder), *more]
    for name, values in {"--tasks": ["cola,rte"], "--seeds": ["0", "1"]}.items():
        options += [] if name in more else [name, *values]
    return ["evaluate", str(model), *options]


def forbid(monkeypatch, module, *names: str) -> None:
    def fail(*_, **__):
        raise AssertionError("computed again")

    for name in names:
        monkeypatch.setattr(module, name, fail)


def test_the_json_holds_every_seeds_score_beside_its_baselines(evaluated, models, glue, capsys):
    assert main(again(evaluated[0], models[0], glue, "--json")) == 0
    content = json.loads(capsys.readouterr().out)
    assert list(content["tasks"]) == ["cola", "rte"]
    cola = content["tasks"]["cola"]
    assert (cola["metric"], content["tasks"]["rte"]["metric"]) == ("matthews", "accuracy")
    assert (cola["n_train"], cola["n_dev"], len(cola["scores"])) == (48, 30, 2)
    assert {"majority", "bag_of_words", "untrained"} <= set(cola["baselines"])
    assert cola["baselines"]["majority"] == 0.0
    assert cola["baselines"]["bag_of_words"] == 1.0  # one word decides
    assert all(isinstance(task["baselines"]["untrained"], float) for task in content["tasks"].values())
    labels = [number % 2 for number in range(30)]
    cells = [json.loads(path.read_text()) for path in (evaluated[0] / "cells").glob("cola-fast-[01]-*.json")]
    trained = sorted((cell["seed"], cell["predictions"]["dev"]) for cell in cells if not cell["untrained"])
    expected = [float(matthews_corrcoef(labels, predictions)) for _, predictions in trained]
    assert cola["scores"] == pytest.approx(expected)
    assert cola["median"] == pytest.approx(np.median(expected))
    assert cola["mean"] == pytest.approx(np.mean(expected))
    assert cola["std"] == pytest.approx(np.std(expected, ddof=1))


def test_a_second_run_computes_nothing_and_prints_the_same(evaluated, models, glue, capsys, monkeypatch):
    main(again(evaluated[0], models[0], glue, "--json"))
    before = capsys.readouterr().out
    forbid(monkeypatch, runner, "fine_tune", "probe_record")
    forbid(monkeypatch, facts, "bag_of_words", "majority")
    assert main(again(evaluated[0], models[0], glue, "--json")) == 0
    assert capsys.readouterr().out == before


def test_a_run_killed_after_its_first_cell_goes_on(tmp_path, models, glue, monkeypatch, capsys):
    calls = []
    fine_tune = runner.fine_tune

    def dies(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fine_tune(*arguments, **options)

    monkeypatch.setattr(runner, "fine_tune", dies)
    assert main(again(tmp_path, models[0], glue)) == 130
    assert len(list((tmp_path / "cells").iterdir())) == 1
    assert main(again(tmp_path, models[0], glue)) == 0
    assert len(calls) == 2 + 7  # of eight cells the first was there
    assert len(list((tmp_path / "cells").iterdir())) == 8


@pytest.mark.usefixtures("_forked_workers")
def test_workers_side_by_side_compute_what_one_process_does(evaluated, tmp_path, models, glue, capsys, monkeypatch):
    options = again(tmp_path, models[0], glue, "--workers", "2")
    with monkeypatch.context() as patch:
        forbid(patch, runner, "fine_tune")  # in this process
        assert main(options) == 0
    assert capsys.readouterr().err.count(" s\n") == 8  # said of each cell
    for path in sorted((evaluated[0] / "cells").iterdir()):
        ours, others = (json.loads((folder / "cells" / path.name).read_text()) for folder in (tmp_path, evaluated[0]))
        assert ours["predictions"] == others["predictions"]


def evaluate_twice(first: list[str], second: list[str], folder: Path) -> None:
    """In a process of a launcher: run two commands, and write what they say to a file."""
    precision.available_cores = lambda: 1
    with (folder / f"said-{distributed.rank()}").open("w") as file, contextlib.redirect_stderr(file):
        assert main(first) == main(second) == 0


def test_processes_of_a_launcher_share_the_fine_tunings_of_one(evaluated, tmp_path, models, glue):
    rates = ["--tasks", "cola", "--learning-rates", "1e-3,1e-2"]
    several = [again(tmp_path / name, models[0], glue, *more) for name, more in (("plain", []), ("rates", rates))]
    assert main(again(tmp_path / "rates-1", models[0], glue, *rates)) == 0
    assert processes.run(2, evaluate_twice, *several, tmp_path) == [0, 0]
    said = [(tmp_path / f"said-{rank}").read_text() for rank in (0, 1)]
    assert said[0].count(" s\n") == 8 + 8  # of each cell, also of those of the other process
    assert not said[1]
    for one, other in ((evaluated[0], tmp_path / "plain"), (tmp_path / "rates-1", tmp_path / "rates")):
        names = [sorted(path.name for path in (folder / "cells").iterdir()) for folder in (one, other)]
        assert names[0] == names[1]
        results = [[replace(result, seconds=0.0) for result in load(folder).results] for folder in (one, other)]
        assert results[0] == results[1]


@pytest.mark.usefixtures("_forked_workers")
def test_what_a_worker_cannot_do_is_told_as_without_workers(tmp_path, models, glue, capsys):
    model = tiny.unsealed(shutil.copytree(models[0], tmp_path / "model"))
    weights = load_file(model / "model.safetensors")
    for tensor in weights.values():
        tensor[:1] = float("nan")  # found when a cell is computed
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    said = []
    for number in ("1", "2"):
        assert main(again(tmp_path / number, model, glue, "--workers", number)) == 2
        said.append(capsys.readouterr().err.splitlines()[-1])
    assert "hold NaN" in said[0]
    assert said[0] == said[1]


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(tmp_path, models, glue):
    words = again(tmp_path / "out", models[0], glue, "--workers", "2", "--seeds", "300")
    command = [sys.executable, "-c", "import sys; from fast_electra.cli.main import main; sys.exit(main(sys.argv[1:]))"]
    with subprocess.Popen([*command, *words], stderr=subprocess.DEVNULL, start_new_session=True) as parent:
        while not list((tmp_path / "out").glob("cells/*.json")):
            time.sleep(0.2)
            assert parent.poll() is None
        parent.kill()
    deadline = time.monotonic() + 20
    while _of_session(parent.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert _of_session(parent.pid) == []


def _of_session(session: int) -> list[int]:
    """Processes of a session that live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, of = path.read_text().rpartition(")")[2].split()[:4]
            found += [int(path.parent.name)] * (int(of) == session and state != "Z")
    return found


def test_a_cell_belongs_to_its_weights_task_recipe_and_seed(tmp_path, evaluated, models, glue, tokenizer, monkeypatch):
    """Other weights in the same folder, other examples or more seeds are computed; the rest is read."""
    folder = shutil.copytree(evaluated[0], tmp_path / "results")
    model = shutil.copytree(models[0], tmp_path / "model")
    calls = []
    fine_tune = runner.fine_tune
    monkeypatch.setattr(runner, "fine_tune", lambda *a, **o: calls.append(a[1].name) or fine_tune(*a, **o))
    assert main(again(folder, model, glue)) == 0  # the same weights elsewhere
    assert calls == []
    assert main(again(folder, model, glue, "--seeds", "1", "2")) == 0
    assert calls == ["cola", "cola", "rte", "rte"]  # seed 2, and the untrained one's
    calls.clear()
    other = shutil.copytree(glue, tmp_path / "glue")
    path = other / "RTE" / "dev.tsv"
    path.write_text(path.read_text().replace("left", "right", 1))
    assert main(again(folder, model, other)) == 0
    assert calls == ["rte"] * 4
    calls.clear()
    shutil.rmtree(model)
    make_model(model, tokenizer, "rtd", 9)
    before = (folder / "results.json").read_text()
    assert main(again(folder, model, glue, "--tasks", "rte")) == 2  # other weights' results are not written over
    assert (calls, (folder / "results.json").read_text()) == ([], before)
    (folder / "results.json").unlink()
    assert main(again(folder, model, glue, "--tasks", "rte")) == 0
    assert calls == ["rte"] * 4
    content = json.loads((folder / "results.json").read_text())
    assert [result["task"] for result in content["results"]] == ["rte"]  # of these weights alone
    assert {cell["identity"]["model"] for cell in content["cells"]} == {content["digest"]}


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_a_cell_belongs_to_what_its_model_and_start_are_read_with(file, tmp_path, models, glue, monkeypatch, capsys):
    """A shorter row is cut, a configuration computes otherwise: the weights alone do not say what comes out."""
    model, start = (tiny.unsealed(shutil.copytree(models[0], tmp_path / name)) for name in ("model", "start"))
    plain = again(tmp_path / "plain", model, glue, "--tasks", "rte", "--seeds", "1")
    started = again(tmp_path / "started", model, glue, "--tasks", "rte", "--seeds", "1", "--start", str(start))
    for options, changed, cells in ((plain, model, "2 cells"), (started, start, "1 cell")):
        assert main(options) == 0
        content = json.loads((changed / file).read_text())
        content |= {"model_max_length": 6} if file == "tokenizer_config.json" else {"norm_eps": 1e-3}
        (changed / file).write_text(json.dumps(content))
        (Path(options[options.index("--out") + 1]) / "results.json").unlink()
        capsys.readouterr()
        assert main(options) == 0
        assert f"{cells} " in capsys.readouterr().err
        assert main(options) == 0
        assert "to be computed" not in capsys.readouterr().err


def test_a_damaged_cell_is_computed_again(tmp_path, evaluated, models, glue):
    folder = shutil.copytree(evaluated[0], tmp_path / "results")
    path = next((folder / "cells").glob("cola-fast-1-*.json"))
    whole = json.loads(path.read_text())
    path.write_text(path.read_text()[:100])
    assert main(again(folder, models[0], glue)) == 0
    assert json.loads(path.read_text())["predictions"] == whole["predictions"]


def test_what_was_changed_by_hand_is_not_believed(tmp_path, evaluated, models, glue, capsys):
    """A score that its predictions do not give, labels cut short: valid JSON, and not what was computed."""
    folder = shutil.copytree(evaluated[0], tmp_path / "results")
    cell = next(path for path in (folder / "cells").glob("cola-fast-1-*.json") if "untrained" not in path.name)
    task = next((folder / "tasks").glob("cola-*.json"))
    whole = [path.read_text() for path in (cell, task)]
    for path, change in ((cell, {"scores": {"dev": {"matthews": 0.99}}}), (task, {"dev": {"dev": [0, 1]}})):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        assert main(["compare", str(folder), str(evaluated[1])]) == 2
        assert f"{path} is missing or damaged: evaluate" in capsys.readouterr().err
        assert main(again(folder, models[0], glue)) == 0
    restored = [json.loads(path.read_text()) for path in (cell, task)]
    assert restored[0]["scores"] == json.loads(whole[0])["scores"]
    assert restored[1] == json.loads(whole[1])
    path = folder / "results.json"
    path.write_text(path.read_text().replace('"seeds": [', '"seeds": [7, ', 1))
    assert main(["compare", str(folder), str(evaluated[1])]) == 2
    assert "results.json is damaged: delete it" in capsys.readouterr().err


def store_thirty(folder: Path, name: str) -> None:
    """In a process: store thirty tasks, together with the other one."""
    (folder / name).touch()
    while not all((folder / other).exists() for other in "ab"):
        time.sleep(0.001)
    for n in range(30):
        store(Evaluation("m", "w", folder, [result([0.5], task=f"{name}{n}")], []))


def test_two_commands_at_once_lose_no_result(tmp_path):
    """Each stores its own tasks, reading and writing what the other one does."""
    started = [processes.context().Process(target=store_thirty, args=(tmp_path, name)) for name in "ab"]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0]
    assert {found.task for found in load(tmp_path).results} == {f"{name}{n}" for name in "ab" for n in range(30)}


def test_a_task_may_have_as_long_a_name_as_a_file(tmp_path, models):
    path = tmp_path / f"{'n' * 240}.csv"
    path.write_text("text,label\n" + "".join(f"value {i},{'ab'[i % 2]}\n" for i in range(40)))
    own = ["--train", str(path), "--text", "text", "--label", "label", "--probe"]
    assert main(["evaluate", str(models[0]), *own, "--out", str(tmp_path / "out")]) == 0
    assert load(tmp_path / "out").results[0].task == "n" * 240


def test_results_hold_what_repeats_every_cell_and_tell_the_command(evaluated):
    content = json.loads((evaluated[0] / "results.json").read_text())
    assert len(content["cells"]) == 8
    for cell in content["cells"]:
        assert cell["recipe"]["learning_rate"] > 0
        assert {"seed", "identity", "execution", "versions", "scores", "truncated"} <= set(cell)
        assert "predictions" not in cell
    assert all("--tasks cola,rte" in command and "--seeds 0 1" in command for command in content["commands"])
    assert content["commands"][0].endswith(f"--recipe fast --seeds 0 1 --out {evaluated[0]}")


def test_the_table_and_page_show_scores_baselines_and_what_was_cut(evaluated, models, glue, capsys):
    assert main(again(evaluated[0], models[0], glue)) == 0
    shown = capsys.readouterr().out
    for word in ("fast, 2 seeds", "mean ±", "std", "majority", "bag of words", "untrained", "cut, train"):
        assert word in " ".join(shown.split()), word
    assert "does not beat a bag of words (100.0)" in " ".join(shown.split())
    page = (evaluated[0] / "report.html").read_text()
    assert "<svg" in page
    assert "fast-electra evaluate" in page
    assert "cut, train" in page
    assert page.count("<script") == 1  # the tables'
    assert "http://" not in page.replace("http://www.w3.org/", "")


def test_texts_longer_than_the_model_takes_are_counted(tmp_path, models, capsys):
    rows = "".join(f"{'value ' * (90 if i == 0 else 3)}{('left', 'right')[i % 2]} {i},{i % 2}\n" for i in range(40))
    (tmp_path / "long.csv").write_text("text,label\n" + rows)
    options = ["--train", str(tmp_path / "long.csv"), "--text", "text", "--label", "label", "--seeds", "1"]
    options += ["--recipe", "fast"]
    assert main(["evaluate", str(models[0]), *options, "--out", str(tmp_path / "out"), "--json"]) == 0
    task = json.loads(capsys.readouterr().out)["tasks"]["long"]
    assert sum(task["truncated"].values()) == 1
    assert task["std"] is None  # of one seed
    assert task["n_train"] + task["n_dev"] == 40


def test_a_task_of_ones_own_may_have_line_breaks_pairs_and_values(tmp_path, models, capsys):
    rows = "".join(f'"value\nleft {i}","total, {i}",{i}.5\n' for i in range(30))
    (tmp_path / "own.csv").write_text("a,b,score\n" + rows)
    (tmp_path / "dev.csv").write_text("a,b,score\n" + rows)
    options = ["--train", str(tmp_path / "own.csv"), "--dev", str(tmp_path / "dev.csv"), "--text", "a,b"]
    options += ["--label", "score", "--recipe", "fast", "--seeds", "1", "--out", str(tmp_path / "out"), "--json"]
    assert main(["evaluate", str(models[0]), *options]) == 0
    task = json.loads(capsys.readouterr().out)["tasks"]["own"]
    assert (task["metric"], task["n_train"], task["n_dev"]) == ("pearson", 30, 30)


def test_of_several_learning_rates_one_is_chosen_on_a_part_of_train_and_never_on_dev(tmp_path, models, glue, capsys):
    rates = ["--learning-rates", "1e-9,3e-3", "--tasks", "rte", "--recipe", "fast"]
    assert main(["evaluate", str(models[0]), *rates, "--data", str(glue), "--out", str(tmp_path), "--seeds", "2"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    (result,) = load(tmp_path).results
    cells = [json.loads(path.read_text()) for path in (tmp_path / "cells").iterdir()]
    held = held_out(load_glue("rte", glue))
    for untrained in (False, True):
        of = [cell for cell in cells if cell["untrained"] == untrained]
        trials = {c["recipe"]["learning_rate"]: c for c in of if "held" in c["scores"]}
        assert trials.keys() == {1e-9, 3e-3}
        assert {len(cell["predictions"]["held"]) for cell in trials.values()} == {len(held.dev["held"])}
        assert {cell["n_train"] for cell in trials.values()} == {len(held.train)}
        best = max(trials, key=lambda rate: trials[rate]["scores"]["held"]["accuracy"])
        on_dev = [cell for cell in of if "dev" in cell["scores"]]
        assert {cell["recipe"]["learning_rate"] for cell in on_dev} == {best}  # no other rate ever saw dev
        assert [cell["n_train"] for cell in on_dev] == [48, 48]  # all of train, each seed
    assert result.selection["examples"] == 12
    assert "was chosen on 12 training examples held out (1e-09: " in shown
    other = shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-other")
    assert main(["compare", str(tmp_path), str(other)]) == 0
    assert "rte (fast, learning rate 1e-09 or 0.003)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("_forked_workers")
def test_workers_train_at_the_rate_that_was_chosen(tmp_path, models, glue, capsys, monkeypatch):
    forbid(monkeypatch, runner, "fine_tune")  # in this process
    rates = ["--learning-rates", "1e-9,3e-3", "--tasks", "rte", "--seeds", "1", "--workers", "2"]
    assert main(again(tmp_path, models[0], glue, *rates)) == 0
    assert "6 cells (a task and a seed each) are to be computed" in capsys.readouterr().err
    assert len(list((tmp_path / "cells").iterdir())) == 6
    (found,) = load(tmp_path).results
    tried = found.selection["scores"]
    assert tried[f"{found.recipe['learning_rate']:g}"] == max(tried.values())


def test_train_too_small_to_choose_a_rate_on_is_refused(tmp_path, models, capsys):
    (tmp_path / "own.csv").write_text("text,label\nleft,a\nright,b\n")
    own = ["--train", str(tmp_path / "own.csv"), "--dev", str(tmp_path / "own.csv"), "--text", "text"]
    own += ["--label", "label", "--learning-rates", "1e-3,1e-4", "--out", str(tmp_path / "out")]
    assert main(["evaluate", str(models[0]), *own]) == 2
    assert "train has too few different texts to choose a learning rate" in capsys.readouterr().err


def test_the_untrained_encoder_has_as_many_seeds_and_an_interval(evaluated, models, glue, capsys):
    assert main(again(evaluated[0], models[0], glue, "--json")) == 0
    task = json.loads(capsys.readouterr().out)["tasks"]["rte"]
    cells = [json.loads(path.read_text()) for path in (evaluated[0] / "cells").glob("rte-fast-*.json")]
    scores = {c["seed"]: c["scores"]["dev"]["accuracy"] for c in cells if c["untrained"]}
    assert task["untrained"]["scores"] == [scores[0], scores[1]]
    assert task["baselines"]["untrained"] == pytest.approx(np.mean(list(scores.values())))
    found = task["against_untrained"]
    assert found["difference"] == pytest.approx(100 * (task["mean"] - task["baselines"]["untrained"]))
    assert found["low"] <= found["difference"] <= found["high"]
    assert any("an untrained one" in sentence and "decided" in sentence for sentence in task["remarks"])


@pytest.mark.parametrize(
    "how", [["--recipe", "fast", "--seeds", "1", "--learning-rates", "1e-4,1e-3"], ["--probe"]], ids=["tuned", "probed"]
)
def test_without_the_untrained_encoder_the_models_scores_are_the_same(how, tmp_path, models, glue, capsys):
    options = [*("evaluate", str(models[0]), "--tasks", "cola", "--data", str(glue), "--json"), *how]
    tasks = []
    for folder, more in (("whole", []), ("part", ["--skip-untrained"])):
        assert main([*options, "--out", str(tmp_path / folder), *more]) == 0
        tasks.append(json.loads(capsys.readouterr().out)["tasks"]["cola"])
        assert any("untrained" in path.name for path in (tmp_path / folder / "cells").iterdir()) is not bool(more)
    whole, part = tasks
    assert part["scores"] == whole["scores"]
    assert whole["baselines"].pop("untrained") > 0
    assert part["baselines"].pop("untrained") is None
    assert part["baselines"] == whole["baselines"]
    assert part["against_untrained"] is None
    assert not any("untrained" in sentence for sentence in part["remarks"])


def test_baselines_learn_from_the_encoders_own_examples(tmp_path, models, monkeypatch):
    """A rare word that only left-out examples have tells the bag of words nothing."""
    monkeypatch.setattr(
        recipes, "_fast", lambda width: Recipe(name="fast", learning_rate=1e-4, epochs=1, train_examples=40)
    )
    seen = []
    monkeypatch.setattr(facts, "bag_of_words", lambda task: seen.append(task) or bag_of_words(task))
    rows = [f"value {i},{'left' if i % 3 else 'right'}\n" for i in range(90)]
    (tmp_path / "own.csv").write_text("text,label\n" + "".join(rows))
    own = ["--train", str(tmp_path / "own.csv"), "--dev", str(tmp_path / "own.csv"), "--text", "text", "--label"]
    options = [*own, "label", "--recipe", "fast", "--seeds", "1", "--out", str(tmp_path / "out")]
    assert main(["evaluate", str(models[0]), *options]) == 0
    (task,) = seen
    whole = load_own(tmp_path / "own.csv", tmp_path / "own.csv", ["text"], "label")
    assert task.train == sample(whole.train, 40)
    (result,) = load(tmp_path / "out").results
    assert result.n_train == 40
    assert "own: 40 of 90 training examples were used, by the encoder and every baseline." in remarks(result)


def test_a_curve_over_examples_has_nested_parts_for_the_encoder_and_every_baseline(
    tmp_path, models, glue, monkeypatch, capsys
):
    trained, told = [], []
    fine_tune = runner.fine_tune
    monkeypatch.setattr(runner, "fine_tune", lambda *a, **o: trained.append(a[1].train.texts) or fine_tune(*a, **o))
    monkeypatch.setattr(facts, "bag_of_words", lambda task: told.append(task.train.texts) or bag_of_words(task))
    options = again(
        tmp_path, models[0], glue, "--tasks", "cola", "--examples", "32,12,24,900", "--seeds", "1", "--json"
    )
    assert main(options) == 0
    out, err = capsys.readouterr()
    assert "8 cells (a task and a seed each) are to be computed" in err
    whole = load_glue("cola", glue).train
    parts = [sample(whole, examples).texts for examples in (12, 24, 32, 48)]  # 48 is all that there are
    assert told == parts
    assert trained == [part for part in parts for _ in range(2)]  # encoder, untrained
    task = json.loads(out)["tasks"]["cola"]
    assert [point["examples"] for point in task["curve"]] == [12, 24, 32, 48]
    assert [point["setup"] for point in task["curve"]][:2] == ["fast, 12 examples", "fast, 24 examples"]
    for point in task["curve"]:
        assert len(point["scores"]) == len(point["untrained"]["scores"]) == 1
        assert {"majority", "bag_of_words"} <= point["baselines"].keys()
    assert (task["n_train"], task["scores"]) == (48, task["curve"][-1]["scores"])
    assert "Score against labelled examples" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "examples.svg").read_text().startswith("<svg")
    (table,) = score_tables(load(tmp_path).results)
    assert [row[0] for row in table.rows] == [f"cola, {examples} examples" for examples in (12, 24, 32, 48)]


def test_small_encoders_have_a_recipe_with_rates_to_choose_from(tmp_path, models, glue, monkeypatch):
    """Nobody is asked for a recipe: by the width. Few examples are passed over until there are 160 updates."""
    calls = []

    def fake(source, task, recipe, seed, execution, **_):
        calls.append((recipe.name, recipe.learning_rate, next(iter(task.dev)), len(task.train)))
        scores = {name: {"matthews": recipe.learning_rate} for name in task.dev}
        found = {"scores": scores, "predictions": {}, "failed": None, "degenerate": [], "truncated": {}}
        return SimpleNamespace(record=lambda: found | {"timing": {"seconds": 0.0}})

    monkeypatch.setattr(runner, "fine_tune", fake)
    options = ["--tasks", "cola", "--data", str(glue), "--out", str(tmp_path), "--seeds", "1"]
    assert main(["evaluate", str(models[0]), *options]) == 0
    rates = [("small", rate, "held", 36) for rate in (1e-4, 3e-4, 1e-3)]
    assert sorted(calls) == sorted([*rates, ("small", 1e-3, "dev", 48)] * 2)
    assert [recipes.default_recipe(width) for width in (128, 512, 768)] == ["small", "small", "electra"]
    small, words = (recipe_for("small", 256, kind) for kind in ("classification", "tokens"))
    assert [small.epochs_of("x", -(-examples // 32)) for examples in (100, 500, 5_424)] == [40, 10, 3]
    assert (small.train_examples, words.length) == (10_000, 256)
    assert words.rates == [3e-4, 1e-3]
    assert recipe_for("bert", 256).rates == [5e-5]


def test_a_probes_baselines_are_of_the_examples_that_it_sees(tmp_path, models, capsys):
    rows = [f"value {i},{'left' if i % 3 else 'right'}\n" for i in range(2_600)]
    (tmp_path / "own.csv").write_text("text,label\n" + "".join(rows))
    own = [
        "--train",
        str(tmp_path / "own.csv"),
        "--dev",
        str(tmp_path / "own.csv"),
        "--text",
        "text",
        "--label",
        "label",
    ]
    assert main(["evaluate", str(models[0]), *own, "--probe", "--out", str(tmp_path / "out"), "--json"]) == 0
    task = json.loads(capsys.readouterr().out)["tasks"]["own"]
    assert (task["n_train"], task["n_dev"]) == (2_000, 2_000)
    seen = sample(load_own(tmp_path / "own.csv", tmp_path / "own.csv", ["text"], "label").dev["dev"], 2_000)
    assert task["baselines"]["majority"] == seen.labels.count(0) / 2_000


def test_settings_of_the_recipe_and_of_the_execution_are_given_as_those_of_a_run(tmp_path, models, glue, capsys):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("name: fast\nepochs: 1\nlength: 32\n")
    common = ["evaluate", str(models[0]), "--tasks", "rte", "--data", str(glue), "--out", str(tmp_path), "--seeds", "1"]
    given = ["recipe.batch_size=16", "execution.threads=1", "execution.precision=float32", "--recipe", str(recipe)]
    assert main([*common, *given, "--json"]) == 0
    (result,) = load(tmp_path).results
    assert result.setup == "fast, epochs 1, batch size 16, length 32"
    fast = recipe_for("fast", 32).model_copy(update={"epochs": 1, "batch_size": 16, "length": 32})
    assert result.recipe == json.loads(json.dumps(fast.values()))
    cell = json.loads((tmp_path / "cells" / result.cells["0"]).read_text())
    assert (cell["updates"], cell["execution"]["precision"], cell["execution"]["threads"]) == (3, "float32", 1)
    assert load(tmp_path).commands == [command(*common, *given[3:], *given[:3])]  # settings last
    capsys.readouterr()
    recipe.write_text("name: fast\nepoch: 1\n")
    for wrong, sentence in (
        (["--recipe", str(recipe)], f"{recipe}, line 2: unknown key epoch; did you mean epochs?"),
        (["recipe.epochs=0"], "override recipe.epochs=0: recipe.epochs must be at least 1, not 0."),
        (["recipe.learning_rate=[]"], "recipe.learning_rate must be a number, not []."),
        (["recipe.length=1"], "recipe.length must be at least 8, not 1."),
        (["recipe.lr=1"], "override recipe.lr=1: unknown key recipe.lr; did you mean recipe.learning_rate?"),
        (["training.threads=1"], "unknown key training.threads; did you mean execution.threads?"),
        (["--recipe", "elektra"], "elektra is neither a recipe (electra, bert, small, fast) nor a file"),
    ):
        assert main([*common, *wrong]) == 2
        assert sentence in capsys.readouterr().err


def test_progress_ends_at_what_there_is_to_do(tmp_path, models, glue, monkeypatch):
    """48 examples are a batch and a half."""
    told = []
    options = {"model": models[0], "tasks": "cola", "data": glue, "recipe": "fast", "seeds": [0], "out": tmp_path}
    asked = EvaluationConfig.of(options)
    recipe.evaluate_model(asked, lambda _: None, lambda *progress: told.append(progress))
    done, total, _ = told[-1]
    assert done == pytest.approx(total)
    assert all(done <= total * (1 + 1e-9) for done, total, _ in told)


def test_a_probe_scores_the_frozen_encoder_once(tmp_path, models, glue, capsys):
    options = ["--tasks", "cola", "--data", str(glue), "--probe", "--out", str(tmp_path), "--json"]
    assert main(["evaluate", str(models[0]), *options]) == 0
    task = json.loads(capsys.readouterr().out)["tasks"]["cola"]
    assert (task["setup"], len(task["scores"])) == ("probe", 1)
    assert isinstance(task["baselines"]["untrained"], float)
    assert [len(layers) for layers in task["layers"].values()] == [2, 2]  # embeddings and one layer; untrained too
    assert task["layers"]["model"][-1]["dev"]["matthews"] == task["scores"][0]


def test_a_probe_of_pairs_with_numbers_shows_their_cosine_by_layer(tmp_path, models, capsys):
    rows = "".join(f"value left {i},{'value' if i % 2 else 'total right'} {i},{i % 2}.5\n" for i in range(40))
    (tmp_path / "own.csv").write_text("a,b,score\n" + rows)
    own = ["--train", str(tmp_path / "own.csv"), "--text", "a,b", "--label", "score", "--probe"]
    assert main(["evaluate", str(models[0]), *own, "--out", str(tmp_path / "out")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "own: score of each layer (probe), in points" in shown
    assert "spearman" in shown
    assert "score of each layer" in (tmp_path / "out" / "report.html").read_text()
    (result,) = load(tmp_path / "out").results
    assert list(result.layers) == ["model", "model, cosine", "untrained", "untrained, cosine"]
    assert [len(scores) for scores in result.layers.values()] == [2, 2, 2, 2]


def test_dev_texts_of_train_are_counted_and_left_out_where_asked(tmp_path, models, capsys):
    """Equal but for white space; a pair is a pair, so its halves elsewhere are none."""
    rows = [f"value {i},total {i},{'ab'[i % 2]}" for i in range(24)]
    dev = [" value   3,total 3,b", "value 4,total 5,a", *(f"limit {i},total 1,{'ab'[i % 2]}" for i in range(6))]
    for name, lines in (("own", rows), ("dev", dev)):
        (tmp_path / f"{name}.csv").write_text("\n".join(["a,b,label", *lines]) + "\n")
    own = ["--train", str(tmp_path / "own.csv"), "--dev", str(tmp_path / "dev.csv"), "--text", "a,b"]
    own += ["--label", "label", "--recipe", "fast", "--seeds", "1", "--out", str(tmp_path / "out"), "--json"]
    assert main(["evaluate", str(models[0]), *own]) == 0
    task = json.loads(capsys.readouterr().out)["tasks"]["own"]
    assert (task["repeated"], task["n_dev"]) == ({"dev": 1}, 8)
    assert any(
        "1 dev example is also in train, which makes the scores too good" in sentence for sentence in task["remarks"]
    )
    assert main(["evaluate", str(models[0]), *own, "--drop-overlap"]) == 0
    task = json.loads(capsys.readouterr().out)["tasks"]["own"]
    assert (task["repeated"], task["n_dev"]) == ({"dev": 1}, 7)
    assert any("1 dev example is left out of the scores" in sentence for sentence in task["remarks"])
    cells = [json.loads(path.read_text()) for path in (tmp_path / "out" / "cells").iterdir()]
    assert sorted(len(cell["predictions"]["dev"]) for cell in cells) == [7, 7, 8, 8]


def test_a_saved_model_is_where_another_task_starts_from(tmp_path, models, glue):
    common = ["--data", str(glue), "--recipe", "fast", "--seeds", "1", "--out", str(tmp_path)]
    assert main(["evaluate", str(models[0]), "--tasks", "cola", "--save", *common]) == 0
    (saved,) = (tmp_path / "models").iterdir()
    assert main(["evaluate", str(models[0]), "--tasks", "rte", "--start", str(saved), *common]) == 0
    found = {result.task: result for result in load(tmp_path).results}
    electra = recipe_for("electra", 256)

    def name(**options) -> str:
        return setup_name(EvaluationConfig.of({"model": "m", "tasks": "rte", **options}), electra)

    assert name(start="google/electra") == "electra, started from google/electra"
    (tmp_path / "run" / "model").mkdir(parents=True)
    assert name(start=tmp_path / "run" / "model") == "electra, started from run"
    assert name(learning_rates="1e-4,3e-4", recipe={"epochs": 5}) == "electra, learning rate 0.0001 or 0.0003, epochs 5"
    # Not the folder's whole name, whose digest is the model's: another one that starts from its own can be compared.
    assert found["rte"].setup == "fast, started from cola-fast-0"
    assert len(found["rte"].recipe["start"]) == 64  # the digest is kept here
    cell = json.loads((tmp_path / "cells" / found["rte"].cells["0"]).read_text())
    untrained = json.loads((tmp_path / "cells" / found["rte"].cells["untrained-0"]).read_text())
    assert (cell["start"], untrained["start"]) == (str(saved), None)


def test_predictions_for_the_server_are_the_median_seeds(tmp_path, models, glue, monkeypatch):
    options = [
        "--tasks",
        "cola",
        "--data",
        str(glue),
        "--recipe",
        "fast",
        "--seeds",
        "3",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["evaluate", str(models[0]), *options]) == 0  # without test predictions: they are made up for
    assert main(["evaluate", str(models[0]), *options, "--predictions", str(tmp_path / "server")]) == 0
    forbid(monkeypatch, runner, "fine_tune")
    assert main(["evaluate", str(models[0]), *options, "--predictions", str(tmp_path / "server")]) == 0
    assert main(["evaluate", str(models[0]), *options]) == 0
    lines = (tmp_path / "server" / "CoLA.tsv").read_text().splitlines()
    (result,) = load(tmp_path / "out").results
    scores = result.scores["dev"]["matthews"]
    seed = sorted(range(3), key=lambda seed: (scores[seed], seed))[1]
    cell = json.loads((tmp_path / "out" / "cells" / result.cells[str(seed)]).read_text())
    assert lines == ["index\tprediction", *(f"{i}\t{p}" for i, p in enumerate(cell["test_predictions"]["test"]))]
    assert len(lines) == 6


def test_another_test_set_is_predicted_anew(tmp_path, models, glue, capsys):
    data = shutil.copytree(glue, tmp_path / "glue")
    server = tmp_path / "server"
    options = again(tmp_path / "out", models[0], data, "--tasks", "cola", "--predictions", str(server))
    assert main(options) == 0
    capsys.readouterr()
    path = data / "CoLA" / "test.tsv"
    path.write_text("index\tsentence\n" + "".join(f"{i}\tright value {i}\n" for i in range(7)))
    assert main(options) == 0
    assert "2 cells (a task and a seed each) are to be computed" in capsys.readouterr().err
    assert len((server / "CoLA.tsv").read_text().splitlines()) == 8


def test_the_digest_of_a_task_does_not_depend_on_its_test_sets():
    split = Split([("a",), ("b",)], [0, 1])
    bare = make_task("x", "classification", ("a", "b"), split, {"dev": split}, {}, ("accuracy",))
    tested = make_task("x", "classification", ("a", "b"), split, {"dev": split}, {"test": split}, ("accuracy",))
    assert tested.digest != bare.digest == without_tests(tested).digest


def test_a_corpus_without_text_is_no_corpus(tmp_path, models, glue, capsys):
    (tmp_path / "empty.txt").write_text("\n")
    options = again(tmp_path / "out", models[0], glue, "--overlap", str(tmp_path / "empty.txt"))
    assert main(options) == 2
    assert "empty.txt holds no text; name token shards, or a file or folder of text" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["text", "shards"])
def test_texts_of_pre_training_are_counted(kind, tmp_path, models, capsys, shards):
    seen = tiny.documents()[3].text  # one of the shards'
    labelled = [f"left {' '.join(WORDS)} {WORDS[i % 6]} {i}" for i in range(20)]
    rows = [*labelled, seen, "too short"]
    lines = [json.dumps({"text": text, "label": i % 2}) for i, text in enumerate(rows)]
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_bytes(seen.encode() + b" \xff")
    (tmp_path / "corpus" / "b.pdf").write_bytes(b"%PDF-")
    corpus = shards if kind == "shards" else tmp_path / "corpus"
    options = ["--train", str(tmp_path / "own.jsonl"), "--dev", str(tmp_path / "own.jsonl"), "--text", "text"]
    options += ["--label", "label", "--recipe", "fast", "--seeds", "1", "--out", str(tmp_path / "out"), "--json"]
    assert main(["evaluate", str(models[0]), *options, "--overlap", str(corpus)]) == 0
    output = capsys.readouterr()
    said = "files left out: 1 (links, or names" in output.err and "not UTF-8: 1 characters in 1 files" in output.err
    assert said == (kind == "text")
    found = json.loads(output.out)["tasks"]["own"]
    assert found["overlap"]["counts"]["dev"] == {"texts": 22, "checked": 21, "seen": 1}
    assert any("1 of 21 dev texts" in sentence for sentence in found["remarks"])
    assert main(["evaluate", str(models[0]), *options]) == 0
    assert load(tmp_path / "out").results[0].overlap == found["overlap"]  # kept where it is not counted again


def test_results_lie_in_the_run_or_under_the_models_name(tmp_path, auxiliary, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert results_folder(str(auxiliary)) == auxiliary / "evaluation"
    assert results_folder(str(auxiliary / "model")) == auxiliary / "evaluation"
    checkpoint = sorted((auxiliary / "checkpoints").iterdir())[-1]
    assert results_folder(str(checkpoint)) == auxiliary / "evaluation" / checkpoint.name
    (tmp_path / "home" / "all-MiniLM").mkdir(parents=True)
    assert results_folder("home/all-MiniLM") == results_folder("home/../home/all-MiniLM/")
    assert results_folder("home/all-MiniLM") == Path("evaluations/home--all-MiniLM")
    monkeypatch.chdir(tmp_path / "home")
    assert results_folder("all-MiniLM") == Path("evaluations/all-MiniLM")
    assert results_folder("..") == Path("evaluations") / str(tmp_path).strip("/").replace("/", "--")
    assert results_folder("google/electra-small") == Path("evaluations/google--electra-small")


def test_a_run_and_its_checkpoint_are_evaluated_and_reported(tmp_path, auxiliary, glue, capsys, monkeypatch):
    monkeypatch.setattr(page, "_bundle", str)  # the charts' script takes a second, and is not looked at
    run = shutil.copytree(auxiliary, tmp_path / "run")
    last = sorted((run / "checkpoints").iterdir())[-1]
    options = ["--tasks", "rte", "--data", str(glue), "--probe", "--json"]
    found = []
    for model in (run, last):
        assert main(["evaluate", str(model), *options]) == 0
        found.append(json.loads(capsys.readouterr().out)["tasks"]["rte"])
    assert found[0]["scores"] == found[1]["scores"]  # the last checkpoint has the run's weights
    assert (run / "evaluation" / last.name / "results.json").exists()
    assert main(["report", str(run)]) == 0
    written = (run / "report.html").read_text()
    assert 'id="evaluation"' in written
    assert "probe, 1 seed: scores on dev" in written


def test_bugs_are_found_with_and_without_fine_tuning(tmp_path, models, monkeypatch, capsys):
    for number, document in enumerate(tiny.documents(60)):
        (tmp_path / f"{number}.py").write_text(document.text)
    files = [SourceFile(tmp_path / f"{n}.py", "p", f"p/{n}.py") for n in range(60)]
    corpus = Corpus(files[:40], files[40:], files[40:], {}, {})
    monkeypatch.setattr(recipe, "_corpus", lambda: corpus)
    monkeypatch.setattr(detector, "_UNTRAINED", 2)
    options = ["--tasks", "bugs", "--recipe", "fast", "--seeds", "1", "--json"]
    assert main(["evaluate", str(models[0]), *options, "--out", str(tmp_path / "a")]) == 0
    found = json.loads(capsys.readouterr().out)["tasks"]
    assert list(found) == ["bugs", "bugs-operator", "bugs-variable"]
    zero_shot = found["bugs-operator"]
    assert (zero_shot["metric"], zero_shot["setup"]) == ("pair", "zero-shot")
    assert (zero_shot["baselines"]["majority"], zero_shot["n_dev"], zero_shot["n_train"]) == (0.5, 20, 0)
    assert 0 <= zero_shot["baselines"]["frequency_table"] <= 1
    cells = [json.loads(path.read_text()) for path in (tmp_path / "a" / "cells").glob("bugs-*-zero-shot-*.json")]
    places = [[place for place, _ in cell["predictions"]["dev"]] for cell in cells]
    # Each function has a place among all, whichever of them a tokenizer leaves out.
    assert sorted(place for of_kind in places for place in of_kind) == list(range(sum(map(len, places))))
    assert {cell["identity"]["recipe"]["longest"] for cell in cells} == {512}
    monkeypatch.setattr(recipe, "_judge", lambda *_: pytest.fail("judged again"))
    assert main(["evaluate", str(models[0]), *options, "--out", str(tmp_path / "a")]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(models[1]), *options, "--out", str(tmp_path / "b")]) == 0
    out, err = capsys.readouterr()
    assert list(json.loads(out)["tasks"]) == ["bugs"]
    assert "are left out" in err
    assert "masked language model" in err


@pytest.mark.parametrize("architecture", ["modernbert", "roberta"])
def test_a_text_longer_than_the_model_takes_is_inspected_in_windows(architecture, tmp_path, tokenizer):
    """RoBERTa counts its positions from two, so that it takes two tokens fewer than it has positions."""
    shape = ModelConfig(architecture=architecture, layers=1, hidden_size=32, heads=2, intermediate_size=48)
    config = transformers_config(shape, 320, tiny.SPECIAL, 64)
    tokenizer.model_max_length, before = 66, tokenizer.model_max_length
    write_model(build_model(config, "rtd", 0), tokenizer, tmp_path / "model", "")
    tokenizer.model_max_length = before
    found = detector.Detector(tmp_path / "model")
    assert found.length == 64
    tokens = found.inspect("value total " * 100)
    assert len(tokens) >= 200
    assert all(0 < token.probability < 1 for token in tokens)


BAD = [
    (["--tasks", "cloa"], "--tasks: cloa is no task; did you mean cola?"),
    (["--tasks", "bug"], "--tasks: bug is no task; did you mean bugs?"),
    (["--tasks", "cola,cola"], "cola is there twice"),
    ([], "nothing to evaluate on: give --tasks, or --train with --text and --label."),
    (["--tasks", "sst2"], "SST-2/train.tsv is missing; give the folder of the GLUE download, where sst2 is SST-2/"),
    (["--tasks", "rte", "--predictions", "p"], "RTE/test.tsv is missing, which --predictions needs"),
    (["--tasks", "bugs", "--predictions", "p"], "GLUE's server, which has no task bugs"),
    (["--tasks", "cola", "--recipe", "electro"], "electro is neither a recipe"),
    (["--tasks", "cola", "--learning-rates", "fast"], "--learning-rates fast: give numbers such as 1e-4,3e-4"),
    (["--tasks", "cola", "--examples", "100,x"], "--examples 100,x: give whole numbers from 1, such as 100,300,1000"),
    (["--tasks", "cola", "--examples", "0"], "--examples 0: give whole numbers from 1"),
    (["--tasks", "cola", "--examples", "9", "--probe"], "--examples is about fine-tuning"),
    (["--tasks", "cola", "--examples", "9,10", "--predictions", "p"], "give one number to --examples"),
    (["--tasks", "cola", "--seeds", "0"], "--seeds 0 is not a number of seeds"),
    (["--tasks", "cola", "--seeds", "1", "1"], "--seeds 1 1: give different whole numbers"),
    (
        ["--tasks", "cola", "--probe", "--recipe", "bert"],
        "--recipe is about fine-tuning, and --probe trains no encoder",
    ),
    (["--tasks", "cola", "--label", "x"], "--label is about a task of your own: give --train too"),
    (["--train", "own.csv"], "--train needs --text and --label"),
    (["--train", "own.csv", "--text", "txt", "--label", "label"], "no column txt; did you mean text?"),
    (
        ["--train", "own.csv", "--text", "text", "--label", "label", "--dev", "unknown.csv"],
        "label c is not in train",
    ),
    (["--train", "own.csv", "--text", "text", "--label", "label", "--dev", "one.csv"], "which is not in dev"),
    (["--train", "own.csv", "--text", "text", "--label", "label", "--dev", "empty.csv"], "empty.csv has no examples"),
    (["--train", "nowhere.csv"], "--train nowhere.csv is no file; name a table or a CoNLL file"),
    (["--train", "."], "--train . is no file"),
    (["--train", "own.csv", "--text", "text", "--label", "label", "--test", "no.csv"], "--test no.csv is no file"),
    (
        ["--train", "own.csv", "--text", "text", "--label", "label", "--dev", "own.csv", "--drop-overlap"],
        "own: --drop-",
    ),
    (["--train", "nowhere.csv", "--text", "text", "--label", "label"], "nowhere.csv is no file"),
    (["--train", "rte.csv", "--text", "text", "--label", "label"], "rte.csv is called like the task rte; rename"),
    (["--tasks", "cola", "--learning-rates", ","], "--learning-rates ,: give numbers such as 1e-4,3e-4"),
    (["--tasks", "cola", "--probe", "--seeds", "5"], "--seeds is about fine-tuning, and --probe trains no encoder"),
    (["--train", "same.csv", "--text", "text", "--label", "label"], "all of train has the value 1.5; give two values"),
    (["--tasks", "cola", "--out", "n" * 300], f"{'n' * 300}: File name too long; give another path"),
    (["--tasks", "cola", "--overlap", "nowhere"], "nowhere does not exist: name token shards"),
]


@pytest.mark.parametrize(("options", "sentence"), BAD, ids=[" ".join(options) or "nothing" for options, _ in BAD])
def test_bad_input_is_refused_before_a_model_is_looked_at(
    options, sentence, tmp_path, glue, models, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.csv").write_text("text,label\n" + "".join(f"word {i},{'ab'[i % 2]}\n" for i in range(20)))
    (tmp_path / "unknown.csv").write_text("text,label\nx,a\ny,c\n")
    (tmp_path / "one.csv").write_text("text,label\nx,a\n")
    (tmp_path / "empty.csv").write_text("text,label\n")
    (tmp_path / "same.csv").write_text("text,label\n" + "".join(f"word {i},1.5\n" for i in range(20)))
    forbid(monkeypatch, subject, "open_subject")
    assert main(["evaluate", str(models[0]), "--data", str(glue), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert sentence in error


def test_probes_of_pre_training_are_refused_by_their_own_options(tmp_path, glue, capsys):
    for options, sentence in (
        (["--probe-data", str(glue)], "--probe-data needs --probe: give --probe too"),
        (["--probe", "rte", "--probe-data", str(tmp_path)], "RTE/train.tsv is missing"),
    ):
        assert main(["pretrain", "quickstart", "--run", str(tmp_path / "run"), *options]) == 2
        assert sentence in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_a_model_without_a_tokenizer_or_none_at_all_is_refused(tmp_path, models, glue, capsys):
    bare = tiny.unsealed(shutil.copytree(models[0], tmp_path / "bare"))
    for path in bare.glob("token*"):
        path.unlink()
    for model, sentence in ((bare, "holds no tokenizer"), (tmp_path / "x y", "is not a folder")):
        assert main(["evaluate", str(model), "--tasks", "cola", "--data", str(glue)]) == 2
        assert sentence in capsys.readouterr().err


def test_compare_says_in_words_whether_a_difference_is_decided(evaluated, capsys, tmp_path):
    page = tmp_path / "compare.html"
    assert main(["compare", *map(str, evaluated), "--page", str(page)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "mean ± std over seeds" in shown
    for task in ("cola (fast): ", "rte (fast): "):
        sentence = shown.partition(task + str(tmp_path.parent)[:1])[2].partition(" cola")[0]
        assert "interval" in sentence
        assert "2 seeds: " in sentence
    assert "<svg" in page.read_text()
    assert main(["compare", *map(str, evaluated), "--json"]) == 0
    contests = json.loads(capsys.readouterr().out)["comparisons"]
    assert [contest["task"] for contest in contests] == ["cola", "rte"]
    for contest in contests:
        (comparison,) = contest["comparisons"]
        assert comparison["paired"]
        assert comparison["examples"] == 30
        means = [statistics.fmean(model["scores"]) for model in contest["models"].values()]
        assert comparison["difference"] == pytest.approx(100 * (means[0] - means[1]))
        assert comparison["low"] <= comparison["difference"] <= comparison["high"]
        assert contest["detectable"] == comparison["detectable"]
    for ending in ("svg", "png"):
        assert main(["compare", *map(str, evaluated), "--page", str(tmp_path / f"plot.{ending}")]) == 0
        assert (tmp_path / f"plot.{ending}").stat().st_size > 1_000


def test_probes_and_zero_shot_results_are_compared_and_never_decided(tmp_path, models, glue, capsys):
    folders = []
    for model in models:
        folders.append(tmp_path / model.name)
        options = ["--tasks", "rte", "--data", str(glue), "--probe", "--out", str(folders[-1])]
        assert main(["evaluate", str(model), *options]) == 0
    assert main(["compare", *map(str, folders)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "not decided; no interval, because there are no predictions of the same examples" in shown
    assert "Each interval is" not in shown  # there is none
    # One tokenizer leaves out functions 0 to 9, the other one the last 50: by place 100 functions are there twice.
    judged = {**dict.fromkeys(range(10, 100), 1.0), **dict.fromkeys(range(100, 160), 0.0)}
    others = dict.fromkeys(range(110), 0.5)
    for folder, pairs in zip(folders, (judged, others), strict=True):
        values = list(pairs.values())
        write_sealed_json(folder / "cells" / "pairs.json", {"predictions": {"dev": list(pairs.items())}})
        scores = {"dev": {"pair": [statistics.fmean(values)]}}
        found = replace(
            result([0.0]), task="bugs-operator", setup="zero-shot", scores=scores, cells={"0": "pairs.json"}
        )
        before = load(folder)
        store(Evaluation(before.model, before.digest, folder, [found], []))
    assert main(["compare", *map(str, folders)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "by 40.0 points, interval 34.0 to 45.0, 1 seed (over examples only): not decided" in shown
    assert "not decided. On the 100 pairs that both models judged." in shown
    write_sealed_json(folders[1] / "cells" / "pairs.json", {"predictions": {"dev": [[999, 1.0]]}})
    assert main(["compare", *map(str, folders), "--json"]) == 0
    (probe, pairs) = json.loads(capsys.readouterr().out)["comparisons"]
    assert (probe["comparisons"], pairs["comparisons"]) == ([], [])


def test_what_cannot_be_compared_is_said(evaluated, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", str(evaluated[0])]) == 2
    assert "two models or more" in capsys.readouterr().err
    assert main(["compare", str(evaluated[0]), "nowhere"]) == 2
    assert "nowhere has no results (looked for evaluations/nowhere/results.json): run" in capsys.readouterr().err
    other = shutil.copytree(evaluated[1], tmp_path / "other")
    found = load(other)
    store(replace(found, results=[replace(r, digest="x") for r in found.results if r.task == "rte"]))
    assert main(["compare", str(evaluated[0]), str(other)]) == 0
    assert "rte (fast) is not compared" in capsys.readouterr().err
    shutil.rmtree(other / "cells")
    assert main(["compare", str(evaluated[0]), str(other)]) == 2
    assert "evaluate" in capsys.readouterr().err
    store(replace(found, digest="other weights", results=[replace(found.results[0], setup="bert")]))
    assert main(["compare", str(evaluated[0]), str(other)]) == 2
    assert "the models share no task under one setup" in capsys.readouterr().err
    (other / "results.json").write_text("{")
    assert main(["compare", str(evaluated[0]), str(other)]) == 2
    assert "is damaged: delete it" in capsys.readouterr().err


def test_comparing_loads_no_torch(evaluated):
    import subprocess
    import sys

    code = (
        "import sys; from fast_electra.cli.main import main; "
        f"main(['compare', {str(evaluated[0])!r}, {str(evaluated[1])!r}]); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_a_results_file_of_somebody_else_is_left_alone(evaluated, models, glue, tmp_path, monkeypatch, capsys):
    """Trainers put a results.json of their own beside a model, and so does `study`."""
    monkeypatch.chdir(tmp_path)
    model = shutil.copytree(models[0], tmp_path / "model")
    (model / "results.json").write_text('{"eval_accuracy": 0.9}')
    shutil.copytree(evaluated[0], results_folder("model"))
    assert find_evaluation("model").digest == load(evaluated[0]).digest
    assert main(again(model, model, glue)) == 2
    assert "model/results.json exists and was not written by evaluate: give another folder" in capsys.readouterr().err
    assert (model / "results.json").read_text() == '{"eval_accuracy": 0.9}'


def test_two_models_of_one_last_name_have_results_of_their_own(evaluated, models, glue, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for place, model in zip("ab", models, strict=True):
        shutil.copytree(model, tmp_path / place / "encoder")
        shutil.copytree(evaluated["ab".index(place)], results_folder(f"{place}/encoder"))
    assert main(["compare", "a/encoder", "b/encoder", "--json"]) == 0
    named = json.loads(capsys.readouterr().out)["comparisons"][0]["models"]
    assert named["a/encoder"]["scores"] == load(evaluated[0]).results[0].of()
    assert named["b/encoder"]["scores"] == load(evaluated[1]).results[0].of()
    assert main(["compare", "a/encoder", str(tmp_path / "a" / "encoder")]) == 2
    assert "have the same results" in capsys.readouterr().err
    held = results_folder("a/encoder")
    before = (held / "results.json").read_text()
    assert main(["evaluate", "b/encoder", "--tasks", "cola", "--data", str(glue), "--out", str(held)]) == 2
    assert (
        f"{held} holds the results of other weights, given as {models[0]}; give another folder"
        in capsys.readouterr().err
    )
    assert (held / "results.json").read_text() == before


def test_a_file_where_a_folder_should_be_is_refused_in_one_sentence(
    evaluated, models, glue, tmp_path, monkeypatch, capsys
):
    file = tmp_path / "file"
    file.write_text("x")
    forbid(monkeypatch, subject, "open_subject")
    for option in ("--out", "--predictions"):
        for path in (file, file / "deeper" / "still"):
            assert main(["evaluate", str(models[0]), "--tasks", "cola", "--data", str(glue), option, str(path)]) == 2
            error = capsys.readouterr().err
            assert error == f"error: {option} {path}: {file} is a file; name a folder.\n"
    (tmp_path / "a.html").mkdir()
    assert main(["compare", *map(str, evaluated), "--page", str(tmp_path / "a.html")]) == 2
    assert f"--page {tmp_path}/a.html is a folder; name a file, such as" in capsys.readouterr().err
    assert main(["compare", *map(str, evaluated), "--page", str(tmp_path / "compare.pdf")]) == 2
    assert "compare.pdf: give a name that ends in .html, .svg or .png" in capsys.readouterr().err
    assert main(["compare", *map(str, evaluated), "--page", str(file / "compare.html")]) == 2
    sentence = f"compare.html can't be written: {file} is a file and no folder; give another path."
    assert sentence in capsys.readouterr().err


def test_results_are_found_by_the_models_name(evaluated, monkeypatch, tmp_path):
    monkeypatch.setattr(evaluations, "results_folder", lambda model: evaluated[0])
    assert find_evaluation("anything").digest == load(evaluated[0]).digest


def test_a_single_number_is_taken_from_python_as_from_the_command_line():
    one = EvaluationConfig.of({"model": "m", "tasks": "cola", "examples": 50, "learning_rates": 1e-3})
    assert (one.examples, one.learning_rates) == ([50], [1e-3])
    for seeds in (None, 1.5, "3"):
        with pytest.raises(ConfigError, match="give the number of seeds, or a list of seeds"):
            EvaluationConfig.of({"model": "m", "tasks": "cola", "seeds": seeds})
