"""`fast-electra quickstart --task`: whether pre-training paid on one's own labelled examples."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForTokenClassification

from fast_electra.cli.main import main
from fast_electra.config.loading import load_config
from fast_electra.errors import DataError
from fast_electra.evaluation import recipes, runner
from fast_electra.evaluation.comparison import Comparison
from fast_electra.evaluation.own_files import choose_columns
from fast_electra.evaluation.results import Result
from fast_electra.pipelines import quickstart as quickstart_module
from fast_electra.pipelines.own_task import task_summary
from fast_electra.training import precision
from tests import tiny
from tests.evaluation.test_entities import sentences

TINY = [
    *("main.hidden_size=32", "main.heads=2", "main.intermediate_size=48"),
    *("training.updates=6", "training.batch_size=8", "training.micro_batch_size=8", "training.validation_sequences=16"),
    *("execution.precision=float32", "data.length=32", "data.tokenizer.vocabulary_size=320"),
]


def rows(path: Path, content: list[dict]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    else:
        lines = ["\t".join(content[0]), *("\t".join(map(str, row.values())) for row in content)]
        path.write_text("\n".join(lines) + "\n")
    return path


def sentiment(count: int) -> list[dict]:
    return [{"text": f"item {i} is {('good', 'bad')[i % 2]}", "label": ("pos", "neg")[i % 2]} for i in range(count)]


# --- Columns ----------------------------------------------------------------------------------------------------------


def test_columns_are_chosen_where_there_is_one_choice(tmp_path):
    table = rows(tmp_path / "a.tsv", sentiment(20))
    assert choose_columns(table, (), None) == (("text",), "label")
    assert choose_columns(table, ("label",), None) == (("label",), "text")
    assert choose_columns(table, (), "text") == (("label",), "text")
    values = rows(tmp_path / "b.tsv", [{"score": i / 7, "said": f"text {i}"} for i in range(9)])
    assert choose_columns(values, (), None) == (("said",), "score")
    tagged = rows(tmp_path / "c.jsonl", [{"tags": ["O", "B-X"], "words": ["a", "b"]}] * 3)
    assert choose_columns(tagged, (), None) == (("words",), "tags")
    entities = tmp_path / "d.txt"
    entities.write_text(sentences(5, 0))
    assert choose_columns(entities, (), None) == ((), None)


@pytest.mark.parametrize(
    ("content", "text", "label", "sentence"),
    [
        (
            [{"a": "x", "b": "y", "c": "z"}] * 3,
            (),
            "c",
            "has the columns a, b, c: say with --task-text which column to read",
        ),
        ([{"a": "x", "b": "y", "c": "z"}] * 3, (), None, "say with --task-text and --task-label which column to read"),
        ([{"a": "x", "b": "y"}] * 3, (), None, "say with --task-text and --task-label"),  # both repeat
    ],
)
def test_several_choices_are_refused(content, text, label, sentence, tmp_path):
    with pytest.raises(DataError, match=sentence):
        choose_columns(rows(tmp_path / "a.tsv", content), text, label)


# --- What is said -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("difference", "low", "high", "decided", "paid", "verdict"),
    [
        (20.0, 15.0, 25.0, True, True, "Pre-training paid: entity_f1 60.0 in place of 40.0 without it, +20.0 points"),
        (-2.0, -3.0, -1.0, True, False, "Pre-training did not pay: "),
        (1.0, -1.0, 3.0, False, None, "It is not decided whether pre-training paid: "),
    ],
)
def test_pre_training_pays_only_where_a_difference_is_decided(difference, low, high, decided, paid, verdict):
    result = Result(
        task="names",
        setup="small",
        digest="",
        recipe={},
        seeds=[0, 1],
        scores={"dev": {"entity_f1": [0.59, 0.61]}},
        baselines={"majority": {"dev": {"entity_f1": 0.0}}, "word_crf": {"dev": {"entity_f1": 0.65}}},
        untrained={"dev": {"entity_f1": [0.4, 0.4]}},
        against={"difference": difference, "low": low, "high": high, "decided": decided},
        n_train=500,
        n_dev={"dev": 50},
        truncated={},
        cells={},
        seconds=1.0,
    )
    auxiliary = replace(result, scores={"dev": {"entity_f1": [0.5, 0.54]}})
    against = Comparison("the main model", "its auxiliary", "entity_f1", 8.0, 6.0, 10.0, 3.0, (2, 2), True, 50)
    found = task_summary(result, auxiliary, against)
    assert found["paid"] is paid
    assert found["sentences"][0].startswith(verdict)
    assert found["sentences"][1] == (
        "The encoder is below a linear model over words and neighbours (65.0), which learned from the same 500 "
        "examples."
    )
    assert found["sentences"][2] == (
        "The main model is ahead of its auxiliary by 8.0 points, interval 6.0 to 10.0, 2 seeds: decided."
    )
    assert found["encoder"]["mean"] == pytest.approx(0.6)
    assert found["auxiliary"]["mean"] == pytest.approx(0.52)
    json.dumps(found, allow_nan=False)


# --- The command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_fine_tuning(monkeypatch):
    """One rate and few updates, so that a test takes seconds."""
    monkeypatch.setattr(precision, "available_cores", lambda: 1)
    for name, rate in (("_SMALL_WORDS", 1e-3), ("_SMALL", 3e-4)):
        few = {"least_updates": 4, "epochs": 1, "learning_rate": rate}
        monkeypatch.setattr(recipes, name, getattr(recipes, name).model_copy(update=few))


@pytest.fixture
def text(tmp_path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "all.txt").write_text("\n\n".join(document.text for document in tiny.documents(300)))
    return folder


def command(tmp_path: Path, text: Path, *options: str) -> list[str]:
    return ["quickstart", *TINY, "--run", str(tmp_path / "run"), "--text", str(text), *options, "--json"]


def test_one_command_says_whether_pre_training_paid(tmp_path, text, small_fine_tuning, capsys, monkeypatch):
    entities = tmp_path / "names.txt"
    entities.write_text(sentences(60, 0))
    assert main(command(tmp_path, text, "--task", str(entities))) == 0
    output = capsys.readouterr()
    task = json.loads(output.out)["task"]
    assert (task["name"], task["metric"], task["n_train"], task["n_dev"]) == ("names", "entity_f1", 54, 6)
    assert set(task["baselines"]) == {"majority", "word_crf", "untrained"}
    assert [len(task[side]["scores"]) for side in ("encoder", "untrained", "auxiliary")] == [3, 3, 3]
    assert "its auxiliary" in task["sentences"][-1]
    assert task["sentences"][0] in output.err
    assert "6/7 Your task" in output.err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["task"] == task
    trained = load_config(tmp_path / "run" / "main" / "config.yaml")
    assert trained.optimizer == load_config("text-hour").optimizer
    assert trained.corruption.schedule.tau == load_config("text-hour").corruption.schedule.tau
    page = (tmp_path / "run" / "report.html").read_text()
    assert "linear model over words and neighbours" in page
    assert 'id="evaluation"' in page
    assert AutoModelForTokenClassification.from_pretrained(task["model"]).config.num_labels == 5

    def fail(*_, **__):
        raise AssertionError("computed again")

    # What is done is not done again.
    monkeypatch.setattr(runner, "fine_tune", fail)
    assert main(command(tmp_path, text, "--task", str(entities))) == 0
    assert json.loads(capsys.readouterr().out)["task"] == task


def test_minutes_and_a_budget_of_its_own_are_refused_together(tmp_path, text, capsys):
    assert main(command(tmp_path, text, "--minutes", "1")) == 2
    assert "--minutes and training.updates both set how long to train: keep one of them." in capsys.readouterr().err


def test_a_stopped_fine_tuning_goes_on(tmp_path, text, small_fine_tuning, capsys, monkeypatch):
    table = rows(tmp_path / "reviews.tsv", sentiment(40))
    calls = []
    whole = quickstart_module.judge_on_task

    def stopped(request, auxiliary, say, stop):
        return whole(request, auxiliary, say, lambda: len(calls) >= 2 or stop())

    fine_tune = runner.fine_tune
    with monkeypatch.context() as patch:
        patch.setattr(quickstart_module, "judge_on_task", stopped)
        patch.setattr(runner, "fine_tune", lambda *a, **k: (calls.append(1), fine_tune(*a, **k))[1])
        assert main(command(tmp_path, text, "--task", str(table))) == 130
    assert "stopped while fine-tuning" in capsys.readouterr().err
    kept = list((tmp_path / "run" / "evaluation" / "cells").glob("*.json"))
    assert len(kept) == 1
    assert main(command(tmp_path, text, "--task", str(table))) == 0
    task = json.loads(capsys.readouterr().out)["task"]
    assert (task["metric"], set(task["baselines"])) == ("accuracy", {"chance", "majority", "bag_of_words", "untrained"})


def test_a_quickstart_that_is_stopped_while_it_tokenises_ends_at_once_and_continues(
    tmp_path, text, capsys, monkeypatch
):
    def stopped(*_, **__):
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("fast_electra.data.shard_building.write_manifest", stopped)
        assert main(command(tmp_path, text)) == 75
    assert (
        "stopped by SIGTERM; finished work is kept; continue with: fast-electra quickstart" in capsys.readouterr().err
    )
    assert not list(tmp_path.rglob("*.partial"))
    assert main(command(tmp_path, text)) == 0


def test_bad_task_files_are_refused_before_anything_is_trained(tmp_path, text, capsys):
    good = rows(tmp_path / "a.tsv", sentiment(20))
    bad = rows(tmp_path / "dev.tsv", [{"text": "x", "label": "odd"}])
    broken = tmp_path / "e.txt"
    broken.write_text("Ada B-PER\nmet O\nBob PER\n")
    for options, sentence in (
        (["--task", str(tmp_path / "none.csv")], "none.csv is not a file"),
        (["--task", str(good), "--task-label", "labl"], "no column labl; did you mean label?"),
        (["--task", str(good), "--dev", str(bad)], "label odd is not in train"),
        (["--task", str(broken)], "line 3: tag PER has no prefix, but B-PER has one"),
        (["--dev", str(good)], "--dev is about a task of your own: give --task too"),
    ):
        assert main(command(tmp_path, text, *options)) == 2
        assert sentence in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
