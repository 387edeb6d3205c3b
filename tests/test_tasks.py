"""GLUE and one's own files: what is read, what is refused and in which words, baselines and overlap."""

import csv
import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sklearn.metrics import f1_score, matthews_corrcoef

from fast_electra.errors import DataError
from fast_electra.evaluation import baselines
from fast_electra.evaluation.baselines import bag_of_words, majority
from fast_electra.evaluation.glue import GLUE, load_glue
from fast_electra.evaluation.glue_scores import AVERAGES, averages, write_server_predictions
from fast_electra.evaluation.overlap import Overlap, count_overlap, without_train_texts
from fast_electra.evaluation.own_files import load_own
from fast_electra.evaluation.tasks import Split, Task, held_out, held_size, make_task, sample

PREMISE = ("premise 0", "premise 1")


def write(path: Path, *rows: tuple[object, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
    return path


def texts(name: str, split: str, count: int) -> list[tuple[str, ...]]:
    """Texts with what breaks careless readers: quotes, outer spaces, characters that splitlines takes for line ends."""
    sides = range(len(GLUE[name].texts))
    return [tuple(f' "{name} {split} {i}\x85 side {side} ' for side in sides) for i in range(count)]


def glue_folder(folder: Path, name: str) -> dict[str, dict[str, list]]:
    """Write a task as the GLUE download does; gives the same examples as the hub does."""
    task = GLUE[name]
    hub: dict[str, dict[str, list]] = {}
    classes = len(task.labels)
    for role, hub_role, count in (("train", "train", 6), ("dev", "validation", 3), ("test", "test", 2)):
        for ending in task.splits.values() if task.splits and role != "train" else [""]:
            pairs = texts(name, role + ending, count)
            numbers = [i % classes for i in range(count)] if classes else [0.4, 3.8, 5.0, 1.2, 2.6, 0.0][:count]
            written = [str(n) if task.numbered else task.labels[n] for n in numbers] if classes else numbers
            if not classes:
                written = [f"{n:.3f}" for n in numbers]
                numbers = [float(np.float32(n)) for n in numbers]  # 3.8 is 3.799999952316284 there
            if role == "test":
                numbers = [-1] * count
            columns = [list(side) for side in zip(*pairs, strict=True)]
            named = dict(zip(task.hub_texts or task.texts, columns, strict=True))
            hub[hub_role + ending] = {**named, "label": numbers, "idx": list(range(count))}
            path = folder / task.folder / f"{role}{ending}.tsv"
            if name == "cola" and role != "test":
                write(path, *(("gj04", label, "", text) for label, (text,) in zip(written, pairs, strict=True)))
                continue
            header = ["index", "genre", *task.texts] + ([task.label] if role != "test" else [])
            rows = [
                [i, "fiction", *pair] + ([label] if role != "test" else [])
                for i, (pair, label) in enumerate(zip(pairs, written, strict=True))
            ]
            write(path, header, *rows)
    return hub


def own(folder: Path, name: str, rows: list[dict]) -> Path:
    path = folder / name
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        with open(path, "w", encoding="utf-8", newline="") as file:
            quoting = {"quoting": csv.QUOTE_NONE, "delimiter": "\t"} if path.suffix == ".tsv" else {}
            writer = csv.DictWriter(file, rows[0].keys(), **quoting)
            writer.writeheader()
            writer.writerows(rows)
    return path


def sentiment(count: int = 40) -> list[dict]:
    words = ["good", "bad"]
    return [{"text": f"film {i} is {words[i % 2]} indeed", "label": ["pos", "neg"][i % 2]} for i in range(count)]


def task_of(train: Split, dev: Split, kind="classification", labels=("a", "b"), metrics=("accuracy",)) -> Task:
    return make_task("toy", kind, labels, train, {"dev": dev}, {}, metrics)


# --- GLUE -------------------------------------------------------------------------------------------------------------


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


# --- One's own files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["tsv", "csv", "jsonl", "parquet"])
def test_the_same_rows_are_the_same_task_in_every_format(ending, tmp_path):
    rows = [{"id": i, **row} for i, row in enumerate(sentiment(6))]
    if ending == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    else:
        own(tmp_path, f"train.{ending}", rows)
    path = tmp_path / f"train.{ending}"
    task = load_own(path, path, ["text"], "label")
    assert (task.name, task.kind, task.labels) == ("train", "classification", ("neg", "pos"))
    assert task.train == Split([(row["text"],) for row in rows], [1, 0, 1, 0, 1, 0])
    assert task.dev["dev"] == task.train


def test_a_csv_may_break_lines_inside_quotes_and_a_tsv_has_no_quotes(tmp_path):
    rows = [{"a": 'two\nlines, "quoted"', "b": "x", "label": "1"}, {"a": "plain", "b": "y", "label": "0"}]
    path = own(tmp_path, "pairs.csv", rows)
    assert load_own(path, path, ["a", "b"], "label").train.texts == [('two\nlines, "quoted"', "x"), ("plain", "y")]
    path.write_text(path.read_text() + 'p,q,1\n"never closed,q,0\n')
    with pytest.raises(DataError, match=r"pairs.csv, line 6: not CSV"):
        load_own(path, path, ["a", "b"], "label")
    path = write(tmp_path / "quotes.tsv", ("text", "label"), ('"open', 1), ('a "word"', 0))
    assert load_own(path, path, ["text"], "label").train.texts == [('"open',), ('a "word"',)]


def test_a_text_may_be_longer_than_the_csv_modules_limit(tmp_path):
    path = own(tmp_path, "long.csv", [{"text": "a" * 200_000, "label": "x"}, {"text": "b", "label": "y"}])
    limit = csv.field_size_limit()
    assert len(load_own(path, path, ["text"], "label").train.texts[0][0]) == 200_000
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("labels", "kind", "names"),
    [
        (["10", "2", "2", "10"], "classification", ("2", "10")),
        (["1.5", "2", "3", "-0.5"], "regression", ()),
        (["1e-3", "2", "3", "4"], "regression", ()),
        (["v1.5", "b", "b", "v1.5"], "classification", ("b", "v1.5")),
        ([0, 1, 1, 0], "classification", ("0", "1")),
        ([True, False, False, True], "classification", ("false", "true")),
        ([0.0, 1, 2, 1.0], "regression", ()),
    ],
)
def test_the_kind_is_read_off_the_labels(labels, kind, names, tmp_path):
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
    path = own(tmp_path, "a.csv" if isinstance(labels[0], str) else "a.jsonl", rows)
    task = load_own(path, path, ["text"], "label")
    assert (task.kind, task.labels) == (kind, names)
    if kind == "regression":
        assert task.train.labels == [float(label) for label in labels]
        assert task.metrics[0] == "pearson"


def test_lists_of_words_and_labels_are_a_token_task_with_o_first(tmp_path):
    rows = [{"words": ["Ada", "met", "Bob", "today"], "tags": ["PER", "O", "PER", "DAY"]}] * 2
    path = own(tmp_path, "names.jsonl", rows)
    task = load_own(path, path, ["words"], "tags")
    assert (task.kind, task.labels) == ("tokens", ("O", "B-DAY", "I-DAY", "B-PER", "I-PER"))
    assert task.metrics[0] == "entity_f1"
    assert task.train == Split([("Ada", "met", "Bob", "today")] * 2, [[3, 0, 3, 1]] * 2)
    path = own(tmp_path, "speech.jsonl", [{"words": ["a", "b"], "tags": ["X", "Y"]}])
    assert load_own(path, path, ["words"], "tags").metrics == ("token_accuracy",)


def test_without_a_dev_file_a_tenth_is_held_out_by_the_seed(tmp_path):
    rows = sentiment(100) + [{"text": f"rare {i}", "label": "rare"} for i in range(2)]
    rows += [{"text": "the same text", "label": "pos"}] * 30
    path = own(tmp_path, "train.csv", rows)
    task = load_own(path, None, ["text"], "label", seed=1)
    dev = task.dev["dev"]
    assert sorted(task.train.texts + dev.texts) == sorted((row["text"],) for row in rows)
    assert not set(task.train.texts) & set(dev.texts)
    counts = np.bincount([label for text, label in zip(dev.texts, dev.labels, strict=True) if "same" not in text[0]])
    assert counts.tolist() == [5, 5, 1] or counts.tolist() == [5, 4, 1]  # 50 and 51 distinct texts, and 2
    assert load_own(path, None, ["text"], "label", seed=1) == task
    assert load_own(path, None, ["text"], "label", seed=2).digest != task.digest
    path = own(tmp_path, "one.csv", [*sentiment(10), {"text": "alone", "label": "lonely"}])
    with pytest.raises(DataError, match="label lonely has only one distinct text, which is too few to split"):
        load_own(path, None, ["text"], "label")


def test_equal_texts_of_different_labels_are_held_out_without_taking_a_label_from_train(tmp_path):
    """Both of "b" have it as their second label; one of them is held out, and the other stays."""
    rows = [*sentiment(40), *({"text": f"odd {i}", "label": label} for label in ("pos", "b") for i in range(2))]
    path = own(tmp_path, "train.csv", rows)
    for seed in range(20):
        task = load_own(path, None, ["text"], "label", seed=seed)
        b = task.labels.index("b")
        assert (task.train.labels.count(b), task.dev["dev"].labels.count(b)) == (1, 1)
        assert not set(task.train.texts) & set(task.dev["dev"].texts)


def test_a_class_whose_texts_all_have_a_rarer_one_too_is_on_both_sides(tmp_path):
    """Two annotators: every Z is an M or an N to somebody else."""
    pairs = [("Z", "M"), ("Z", "N")] * 3 + [("M",), ("N",)] * 2
    rows = [{"text": f"t{i}", "label": label} for i, labels in enumerate(pairs) for label in labels]
    path = own(tmp_path, "train.csv", rows)
    for seed in range(40):
        task = load_own(path, None, ["text"], "label", seed=seed)
        assert set(task.train.labels) == set(task.dev["dev"].labels) == {0, 1, 2}
    rows = [{"text": f"t{i}", "label": label} for i in range(2) for label in "ab"] + [{"text": "x", "label": "a"}]
    path = own(tmp_path, "few.csv", rows)
    assert {len(load_own(path, None, ["text"], "label", seed=seed).dev["dev"]) for seed in range(9)} <= {2, 3}


def test_several_texts_of_a_class_are_held_out_and_never_the_last(tmp_path):
    rows = [{"text": f"t{i}", "label": label} for i in range(40) for label in ("a", "b")]
    path = own(tmp_path, "train.csv", [*rows, *({"text": f"c{i}", "label": "c"} for i in range(30))])
    for seed in range(5):
        dev = load_own(path, None, ["text"], "label", seed=seed).dev["dev"]
        assert np.bincount(dev.labels).tolist() == [4, 4, 3]  # a tenth of the texts of each class, both labels with it


def test_the_last_sentence_with_a_label_is_never_held_out(tmp_path):
    rows = [{"text": ["x", f"w{i}"], "label": ["O", f"RARE{i}" if i < 8 else "OFTEN"]} for i in range(12)]
    path = own(tmp_path, "train.jsonl", rows)
    for seed in range(20):
        task = load_own(path, None, ["text"], "label", seed=seed)
        assert len(task.dev["dev"]) == 1
        assert {label for labels in task.dev["dev"].labels for label in labels} == {0, 1}
    path = own(tmp_path, "rare.jsonl", rows[:8])
    with pytest.raises(DataError, match="there are too few texts for some labels to make a dev set; give a dev"):
        load_own(path, None, ["text"], "label")


def test_values_and_sentences_are_split_too(tmp_path):
    path = own(tmp_path, "a.csv", [{"text": f"t{i}", "label": i + 0.5} for i in range(20)])
    assert len(load_own(path, None, ["text"], "label").dev["dev"]) == 2
    rows = [{"text": [f"w{i}", "x"], "label": ["A", "O"]} for i in range(20)]
    path = own(tmp_path, "b.jsonl", rows)
    assert len(load_own(path, None, ["text"], "label").dev["dev"]) == 2


GOOD = "text,label\nfine,a\nbad,b\n"


@pytest.mark.parametrize(
    ("train", "dev", "columns", "sentence"),
    [
        (GOOD, GOOD, "txt:label", "train.csv: there is no column txt; did you mean text?"),
        (GOOD, GOOD, "text:zzz", "train.csv: there is no column zzz; the columns are text, label."),
        (GOOD, GOOD, "text:text", "give one text column, or two for pairs, and another column for the label"),
        (GOOD, GOOD, "a,b,c:label", "give one text column, or two for pairs"),
        ("text,text,label\n", GOOD, "text:label", "train.csv, line 1: two columns have the name text"),
        ("", GOOD, "text:label", "train.csv: there is no column text; the columns are (none)."),
        ("text,label\n", GOOD, "text:label", "train.csv has no examples"),
        (GOOD, "text,label\n", "text:label", "dev.csv has no examples"),
        (GOOD + "too,many,fields\n", GOOD, "text:label", "train.csv, line 4: 3 columns, but the first line has 2"),
        (GOOD + "nothing,\n", GOOD, "text:label", 'train.csv, line 4: label is "", not a label'),
        (GOOD, GOOD + "x,c\n", "text:label", "dev.csv, line 4: label c is not in train"),
        (
            "text,label\nx,pos\ny,neg\n",
            "text,label\nx,poz\n",
            "text:label",
            "line 2: label poz is not in train; did",
        ),
        (GOOD + "x,c\n", GOOD, "text:label", "train: train has the label 'c', which is not in dev"),
        ("text,label\nfine,a\n", "text,label\nfine,a\n", "text:label", "all of train has the label 'a'"),
        ("text,label\nx,1.5\ny,n/a\n", GOOD, "text:label", "train.csv, line 3: label n/a is not a finite number"),
        (b"text,label\nfine,a\nb\xff,b\n", GOOD, "text:label", "train.csv, line 3: not UTF-8"),
        (
            "text,label\nx,0\ny,1\nz,-100\n",
            GOOD,
            "text:label",
            "train.csv, line 4: label -100 means no label in training",
        ),
        ("text,label\nx,O\ny z,O B\n", GOOD, "text:label", "train.csv, line 3: label is one string of tags (O B)"),
        (
            "text,label\ny z,\"['O', 'B-PER']\"\n",
            GOOD,
            "text:label",
            "line 2: label is one string of tags (['O', 'B-PER']); give words and tags as lists in JSON lines",
        ),
    ],
)
def test_bad_tables_are_refused_in_one_sentence_that_says_where(train, dev, columns, sentence, tmp_path):
    for name, content in (("train.csv", train), ("dev.csv", dev)):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    text, _, label = columns.partition(":")
    with pytest.raises(DataError) as error:
        load_own(tmp_path / "train.csv", tmp_path / "dev.csv", text.split(","), label)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "a.jsonl, line 2: not JSON"),
        ("[1]", "a.jsonl, line 2: not a JSON object"),
        ('{"text": "x"}', "a.jsonl, line 2: there is no column label; the columns are text."),
        ('{"text": 5, "label": "a"}', "a.jsonl, line 2: text is 5, not text"),
        ('{"text": "x", "label": null}', "a.jsonl, line 2: label is null, not a label"),
        ('{"text": "x", "label": NaN}', "a.jsonl, line 2: label is NaN, not a label"),
        ('{"text": ["x", "y"], "label": ["a"]}', 'a.jsonl, line 1: text is "fine", not a list of words'),
    ],
)
def test_bad_json_lines_are_refused_in_one_sentence_that_says_where(line, sentence, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine", "label": "a"}\n' + line + "\n")
    with pytest.raises(DataError) as error:
        load_own(path, None, ["text"], "label")
    assert sentence in str(error.value)


def test_sentences_whose_labels_do_not_fit_are_refused(tmp_path):
    good = {"words": ["x", "y"], "tags": ["A", "O"], "other": ["p", "q"]}
    path = own(tmp_path, "a.jsonl", [good, {**good, "tags": ["A"]}])
    with pytest.raises(DataError, match=r"a.jsonl, line 2: 1 labels for 2 words; give each word one"):
        load_own(path, None, ["words"], "tags")
    path = own(tmp_path, "a.jsonl", [good, {**good, "words": []}])
    with pytest.raises(DataError, match=r"line 2: words is \[\], not a list of words"):
        load_own(path, None, ["words"], "tags")
    path = own(tmp_path, "a.jsonl", [good])
    with pytest.raises(DataError, match="token labels need one text column"):
        load_own(path, path, ["words", "other"], "tags")
    dev = own(tmp_path, "dev.jsonl", [{**good, "tags": ["C", "O"]}])
    with pytest.raises(DataError, match=r"dev.jsonl, line 1: label C is not in train"):
        load_own(path, dev, ["words"], "tags")


def test_a_word_labelled_as_ignored_is_refused_and_a_value_of_minus_100_is_a_value(tmp_path):
    path = own(tmp_path, "a.jsonl", [{"words": ["x", "y"], "tags": [1, -100]}, {"words": ["z"], "tags": [0]}])
    with pytest.raises(DataError, match=r"a.jsonl, line 1: label -100 means no label in training programs"):
        load_own(path, None, ["words"], "tags")
    path = own(tmp_path, "b.jsonl", [{"text": f"word {n}", "degrees": v} for n, v in enumerate((-100, 1.5, 2.5, 3.5))])
    assert -100.0 in load_own(path, path, ["text"], "degrees").train.labels


def test_labels_of_several_words_that_are_no_tags_are_classes(tmp_path):
    path = own(tmp_path, "a.jsonl", [{"text": f"word {n}", "size": s} for n, s in enumerate(["S M", "L", "S M", "L"])])
    assert load_own(path, path, ["text"], "size").labels == ("L", "S M")


def test_files_of_other_kinds_are_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"none.csv is not a file; give one \(.tsv .csv .jsonl .ndjson .parquet\)"):
        load_own(tmp_path / "none.csv", None, ["text"], "label")
    (tmp_path / "a.xlsx").write_text(GOOD)
    with pytest.raises(DataError, match="the ending of the name is not known"):
        load_own(tmp_path / "a.xlsx", None, ["text"], "label")
    (tmp_path / "a.parquet").write_text(GOOD)
    if "pyarrow" in sys.modules:
        with pytest.raises(DataError, match="can't be read as Parquet"):
            load_own(tmp_path / "a.parquet", None, ["text"], "label")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="reading Parquet needs pyarrow: pip install pyarrow"):
        load_own(tmp_path / "a.parquet", None, ["text"], "label")


# --- Baselines --------------------------------------------------------------------------------------------------------


def test_the_majority_is_scored_as_a_model_is():
    dev = Split([("x",)] * 4, [0, 1, 1, 1])
    task = task_of(Split([("x",)] * 5, [1, 0, 1, 0, 1]), dev, metrics=("accuracy", "f1", "matthews"))
    assert majority(task) == {
        "dev": {"accuracy": 0.75, "f1": f1_score([0, 1, 1, 1], [1] * 4), "matthews": matthews_corrcoef([0, 1], [1, 1])}
    }
    values = task_of(Split([("x",)] * 2, [1.0, 4.0]), Split([("x",)] * 2, [0.5, 3.0]), "regression", (), ("pearson",))
    assert majority(values) == {"dev": {"pearson": 0.0}}
    words = Split([("a", "b", "c")], [[0, 0, 1]])
    tokens = task_of(words, words, "tokens", ("O", "B-X", "I-X"), ("entity_f1", "token_accuracy"))
    assert majority(tokens) == {"dev": {"entity_f1": 0.0, "token_accuracy": pytest.approx(2 / 3)}}


def test_a_bag_of_words_finds_what_words_tell(tmp_path):
    path = own(tmp_path, "train.csv", sentiment(80))
    assert bag_of_words(load_own(path, None, ["text"], "label"))["dev"]["accuracy"] == 1.0
    draw = np.random.default_rng(0)
    words = [f"w{i}" for i in range(30)]
    pairs, labels, values = [], [], []
    for _ in range(300):
        first = draw.choice(words, 5, replace=False)
        same = bool(draw.integers(2))
        second = draw.permutation(first) if same else draw.choice(words, 5, replace=False)
        pairs.append((" ".join(first), " ".join(second)))
        labels.append(int(same))
        values.append(len(set(first) & set(second)) / 5)
    paired = task_of(Split(pairs[:200], labels[:200]), Split(pairs[200:], labels[200:]))
    assert bag_of_words(paired)["dev"]["accuracy"] > 0.8  # what each text holds by itself tells nothing: 0.5
    similar = task_of(
        Split(pairs[:200], values[:200]), Split(pairs[200:], values[200:]), "regression", (), ("pearson",)
    )
    assert bag_of_words(similar)["dev"]["pearson"] > 0.8
    assert bag_of_words(similar) == bag_of_words(similar)


def test_a_bag_of_words_of_one_class_says_that_class():
    """A curve over examples begins with so few that all may be of one class: no point of it is missing."""
    task = task_of(Split([("a b",), ("c d",)], [0, 1]), Split([("a",), ("b",), ("c",)], [0, 1, 1]))
    task = replace(task, train=task.train.at([1]))
    assert bag_of_words(task)["dev"]["accuracy"] == pytest.approx(2 / 3)


def test_the_bag_of_words_takes_neighbours_where_a_part_of_train_says_so():
    """Here the order of two words decides, which words alone do not tell."""
    order = [(("left right",), 0) if i % 2 else (("right left",), 1) for i in range(60)]
    ordered = [((f"{text} {i}",), label) for i, ((text,), label) in enumerate(order)]
    split = Split([texts for texts, _ in ordered], [label for _, label in ordered])
    assert bag_of_words(task_of(split, split))["dev"]["accuracy"] == 1.0
    chosen = []
    linear = baselines._linear

    def spied(task, neighbours):
        chosen.append((list(task.dev), neighbours))
        return linear(task, neighbours)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "_linear", spied)
        bag_of_words(task_of(split, split))
    assert chosen == [(["held"], 1), (["held"], 2), (["dev"], 2)]


def test_a_part_of_train_is_held_out_by_text_and_drawn_alike():
    texts = [(f"text {i // 2}",) for i in range(400)]  # each twice
    task = task_of(Split(texts, [i % 2 for i in range(400)]), Split([("x",), ("y",)], [0, 1]))
    held = held_out(task)
    assert held == held_out(task)
    assert list(held.dev) == ["held"]
    assert len(held.train) + len(held.dev["held"]) == 400
    assert len(held.dev["held"]) == 100  # a quarter of few
    assert not {*held.train.texts} & {*held.dev["held"].texts}
    assert [held_size(n) for n in (4, 500, 1_000, 5_000, 67_349)] == [1, 125, 200, 500, 2_000]


def test_fewer_examples_are_a_part_of_more():
    split = Split([(f"text {i}",) for i in range(300)], [i % 2 for i in range(300)])
    parts = [{*sample(split, most).texts} for most in (10, 100, 300, 1_000)]
    assert [len(part) for part in parts] == [10, 100, 300, 300]
    assert all(few < more or few == more for few, more in itertools.pairwise(parts))


# --- Texts of train in dev --------------------------------------------------------------------------------------------


def test_dropping_texts_of_train_is_refused_where_too_little_is_left():
    train = Split([("a",), ("b",), ("c",)], [0, 1, 0])
    for dev, sentence in (
        (Split([("a",), (" b",)], [0, 1]), "leaves no example in dev, because train has the texts of all of them"),
        (Split([("a",), ("x",)], [0, 1]), "leaves no example of one label in dev"),
    ):
        with pytest.raises(DataError, match=f"{sentence}.*or leave out --drop-overlap"):
            without_train_texts(task_of(train, dev))
    # Nobody chooses the examples of a test set, so it may lose a label.
    task = task_of(train, Split([("y",), ("z",)], [0, 1]))
    task.dev["test"] = Split([("a",), ("x",)], [0, 1])
    assert without_train_texts(task).dev["test"] == Split([("x",)], [1])


# --- Overlap ----------------------------------------------------------------------------------------------------------


def test_texts_that_the_corpus_holds_are_counted():
    long = "The quick brown fox jumps over the lazy dog, and then it sleeps."
    train = [(long,), ("Only seven words are in this text.",), ("one two three four five six seven ate",)]
    dev = [("the quick brown fox jumps over the lazy cat",), ("a b c d e f g h",), ("",)]
    task = task_of(Split(train, [0, 1, 0]), Split(dev, [0, 1, 0]))
    corpus = [
        "Once THE QUICK\nbrown fox — jumps over the 'lazy' dog and then it sleeps; only seven words are in this text",
        "a b c d",
        "e f g h: runs don't go from one document to the next. one two three four five six seven",
        "ate",
    ]
    found = count_overlap([task], corpus)
    assert found == {"toy": {"train": Overlap(3, 2, 1), "dev": Overlap(3, 2, 0)}}
    assert count_overlap([task], []) == {"toy": {"train": Overlap(3, 2, 0), "dev": Overlap(3, 2, 0)}}


def test_overlap_is_counted_by_split_and_for_both_texts(tmp_path):
    glue_folder(tmp_path, "mnli")
    sentence = "eight words stand here in one long row"
    task = load_glue("mnli", tmp_path)
    task.dev["matched"].texts[0] = (sentence, sentence)
    tokens = Split([tuple(sentence.split()), ("short",)], [[0, 1] * 4, [0]])
    other = make_task("words", "tokens", ("O", "X"), tokens, {"dev": tokens}, {}, ("token_accuracy",))
    found = count_overlap([task, other], [f"before {sentence} after"])
    assert list(found["mnli"]) == ["train", "dev matched", "dev mismatched", "test matched", "test mismatched"]
    assert found["mnli"]["dev matched"] == Overlap(6, 2, 2)
    assert found["mnli"]["train"] == Overlap(12, 0, 0)
    assert found["words"]["dev"] == Overlap(2, 1, 1)


def test_a_corpus_longer_than_what_is_looked_at_together_gives_the_same(monkeypatch):
    from fast_electra.evaluation import overlap

    draw = np.random.default_rng(0)
    documents = [" ".join(draw.choice(["a", "b", "c"], 40)) for _ in range(30)]
    texts = [(" ".join(draw.choice(["a", "b", "c"], 8)),) for _ in range(60)] + [(documents[3][10:40],)]
    task = task_of(Split(texts, [0, 1] * 30 + [0]), Split(texts, [0, 1] * 30 + [0]))
    # 8 words of 3 are 6,561 runs, 990 of them drawn: some texts are there, found by plain search.
    expected = sum(any(f" {text} " in f" {document} " for document in documents) for (text,) in texts[:60])
    assert expected
    found = count_overlap([task], documents)
    assert found["toy"]["train"].seen == expected + 1
    monkeypatch.setattr(overlap, "_HELD", 50)
    assert count_overlap([task], documents) == found
