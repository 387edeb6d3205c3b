"""GLUE: files, hub, averages and the server's predictions."""

import sys
from types import ModuleType

import pytest

from fast_electra.errors import DataError
from fast_electra.evaluation.glue import GLUE, load_glue
from fast_electra.evaluation.glue_scores import AVERAGES, averages, write_server_predictions
from fast_electra.evaluation.tasks import Split
from tests.task_files import glue_folder, texts, write


@pytest.mark.parametrize("name", GLUE)
def test_the_folder_and_the_hub_lead_to_identical_examples(name, tmp_path):
    hub = glue_folder(tmp_path, name)
    from_folder, from_hub = load_glue(name, tmp_path), load_glue(name, None, hub)
    assert from_folder == from_hub
    assert from_folder.train.texts == [tuple(t.strip() for t in pair) for pair in texts(name, "train", 6)]
    assert len(from_folder.train.labels) == 6
    assert set(from_folder.dev) == ({"matched", "mismatched"} if name == "mnli" else {"dev"})
    assert all(len(split) == 2 and split.labels == [] for split in from_folder.test.values())
    assert len(from_folder.test) == len(from_folder.dev)
    if name == "stsb":
        assert from_folder.train.labels == [0.4, 3.8, 5.0, 1.2, 2.6, 0.0]


def test_the_hub_is_read_through_datasets(tmp_path, monkeypatch):
    asked = []
    module = ModuleType("datasets")
    module.load_dataset = lambda *arguments: asked.append(arguments) or glue_folder(tmp_path, "rte")
    monkeypatch.setitem(sys.modules, "datasets", module)
    assert len(load_glue("rte", None).train) == 6
    assert asked == [("nyu-mll/glue", "rte")]

    def unreachable(*_):
        raise ConnectionError("no route")

    module.load_dataset = unreachable
    with pytest.raises(DataError, match=r"cannot be loaded from the hub \(no route\); give the folder"):
        load_glue("rte", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="pip install datasets, or give the folder"):
        load_glue("rte", None)


def test_the_digest_follows_the_examples_and_nothing_else(tmp_path):
    glue_folder(tmp_path, "rte")
    first = load_glue("rte", tmp_path)
    path = tmp_path / "RTE" / "dev.tsv"
    path.write_text(path.read_text().replace("dev 1", "dev I", 1))
    assert load_glue("rte", tmp_path).digest != first.digest
    path.write_text(path.read_text().replace("dev I", "dev 1", 1).replace("fiction", "travel"))
    assert load_glue("rte", tmp_path).digest == first.digest


def test_mrpc_is_read_from_microsofts_files_and_the_list_of_dev_pairs(tmp_path):
    header = ("\ufeffQuality", "#1 ID", "#2 ID", "#1 String", "#2 String")
    rows = [(i % 2, i, 100 + i, f"first {i}", f'second "{i}') for i in range(8)]
    write(tmp_path / "MRPC" / "msr_paraphrase_train.txt", header, *rows)
    write(tmp_path / "MRPC" / "msr_paraphrase_test.txt", header, *rows[:3])
    with pytest.raises(DataError, match=r"MRPC/dev_ids.tsv is missing"):
        load_glue("mrpc", tmp_path)
    write(tmp_path / "MRPC" / "dev_ids.tsv", (2, 102), (5, 105), (3, 999))
    task = load_glue("mrpc", tmp_path)
    assert task.dev["dev"] == Split([("first 2", 'second "2'), ("first 5", 'second "5')], [0, 1])
    assert len(task.train) == 6
    assert task.test["test"].labels == []
    assert task.augment_swapped


def test_rows_of_qqp_with_missing_columns_are_skipped_and_counted(tmp_path):
    glue_folder(tmp_path, "qqp")
    whole = load_glue("qqp", tmp_path)
    with open(tmp_path / "QQP" / "train.tsv", "a") as file:
        file.write("7\tfiction\tonly one question\n\n8\n")
    said: list[str] = []
    assert load_glue("qqp", tmp_path, say=said.append) == whole
    assert said == [f"{tmp_path / 'QQP'}: 2 rows with missing columns were skipped."]


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("sst-2", None, "sst-2 is not a task of GLUE; did you mean sst2?"),
        ("CoLA", None, "did you mean cola?"),
        ("squad", None, "squad is not a task of GLUE; the tasks are cola, sst2, mrpc"),
        (
            "mnli",
            ("MNLI/dev_mismatched.tsv", None),
            "MNLI/dev_mismatched.tsv is missing; give the folder of the GLUE download, where mnli is MNLI/dev_mism",
        ),
        (
            "rte",
            ("RTE/dev.tsv", "1\ta\tb\n"),
            "RTE/dev.tsv, line 1: there is no column sentence1; it is not GLUE's file",
        ),
        ("cola", ("CoLA/dev.tsv", "gj04\t1\t\tfine\ngj04\t1\tno\n"), "CoLA/dev.tsv, line 2: 3 columns instead of 4"),
        ("cola", ("CoLA/train.tsv", "gj04\tyes\t\tfine\n"), "CoLA/train.tsv, line 1: label 'yes' is not one of 0, 1"),
        ("cola", ("CoLA/dev.tsv", ""), "cola: dev is empty"),
        (
            "cola",
            ("CoLA/dev.tsv", "gj04\t1\t\tfine\n"),
            "cola: train has the label 'unacceptable', which is not in dev",
        ),
        (
            "stsb",
            ("STS-B/dev.tsv", "sentence1\tsentence2\tscore\na\tb\tnan\n"),
            "line 2: score 'nan' is not a finite",
        ),
    ],
)
def test_glue_in_the_wrong_layout_is_refused_in_one_sentence(name, change, sentence, tmp_path):
    if change:
        glue_folder(tmp_path, name)
        path, content = tmp_path / change[0], change[1]
        path.unlink() if content is None else path.write_text(content)
    with pytest.raises(DataError) as error:
        load_glue(name, tmp_path)
    assert sentence in str(error.value)


def test_averages_reproduce_the_published_rows():
    # BERT's table 1 (test sets), in percent; the official score of the large one stands on the leaderboard as 80.5.
    def row(cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte):
        return {
            "cola": {"dev": {"matthews": cola}},
            "sst2": {"dev": {"accuracy": sst2}},
            "mrpc": {"dev": dict(zip(("f1", "accuracy"), mrpc, strict=True))},
            "stsb": {"dev": dict(zip(("spearman", "pearson"), stsb, strict=True))},
            "qqp": {"dev": dict(zip(("f1", "accuracy"), qqp, strict=True))},
            "mnli": {"matched": {"accuracy": mnli[0]}, "mismatched": {"accuracy": mnli[1]}},
            "qnli": {"dev": {"accuracy": qnli}},
            "rte": {"dev": {"accuracy": rte}},
        }

    base = row(52.1, 93.5, (88.9, 84.8), (85.8, 87.1), (71.2, 89.2), (84.6, 83.4), 90.5, 66.4)
    large = row(60.5, 94.9, (89.3, 85.4), (86.5, 87.6), (72.1, 89.3), (86.7, 85.9), 92.7, 70.1)
    assert averages(base)["BERT"] == pytest.approx(79.6, abs=0.05)
    assert averages(large)["BERT"] == pytest.approx(82.1, abs=0.05)
    assert "GLUE" not in averages(large)  # WNLI is missing
    assert averages({**large, "wnli": {"dev": {"accuracy": 65.1}}})["GLUE"] == pytest.approx(80.5, abs=0.05)
    # ELECTRA-Base's dev row in its repository, summed by hand: 699.7 / 8.
    electra = row(67.7, 95.1, (0, 89.5), (91.2, 0), (0, 91.5), (88.8, 0), 93.2, 82.7)
    assert averages(electra)["ELECTRA"] == pytest.approx(699.7 / 8)
    assert averages({name: scores for name, scores in large.items() if name != "qnli"}) == {}
    assert all(average.of and average.source for average in AVERAGES.values())


def test_predictions_are_written_as_the_server_takes_them(tmp_path):
    out = tmp_path / "server"
    for name in GLUE:
        glue_folder(tmp_path, name)
        task = load_glue(name, tmp_path)
        values = [2.34567, 7.0] if name == "stsb" else [1, 0]
        write_server_predictions(task, dict.fromkeys(task.test, values), out)
    files = {path.name: path.read_text().splitlines() for path in out.iterdir()}
    names = "CoLA SST-2 MRPC STS-B QQP MNLI-m MNLI-mm QNLI RTE WNLI"
    assert set(files) == {f"{name}.tsv" for name in names.split()}
    assert files["CoLA.tsv"] == ["index\tprediction", "0\t1", "1\t0"]
    assert files["WNLI.tsv"] == files["QQP.tsv"] == files["MRPC.tsv"] == files["SST-2.tsv"] == files["CoLA.tsv"]
    assert files["MNLI-mm.tsv"] == ["index\tprediction", "0\tneutral", "1\tentailment"]
    assert files["RTE.tsv"] == files["QNLI.tsv"] == ["index\tprediction", "0\tnot_entailment", "1\tentailment"]
    assert files["STS-B.tsv"] == ["index\tprediction", "0\t2.346", "1\t5.000"]
    with pytest.raises(ValueError, match="1 predictions for 2 examples"):
        write_server_predictions(task, {"test": [1]}, out)
