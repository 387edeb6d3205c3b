"""Tasks from the user's own files."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from fast_electra.errors import DataError
from fast_electra.evaluation.own_files import load_own, task_name
from fast_electra.evaluation.tasks import Split
from tests.task_files import own, sentiment, write


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("reviews.csv", "reviews"),
        ("a/reviews.csv", "reviews"),
        ("BC5CDR/train.tsv", "BC5CDR"),
        ("train.tsv", "train"),
        ("../train.tsv", "train"),
    ],
)
def test_a_task_has_the_name_of_its_file_or_of_the_folder_of_a_file_called_train(path, name):
    assert task_name(Path(path)) == name


@pytest.mark.parametrize("ending", ["tsv", "csv", "jsonl", "parquet"])
def test_the_same_rows_are_the_same_task_in_every_format(ending, tmp_path):
    rows = [{"id": i, **row} for i, row in enumerate(sentiment(6))]
    if ending == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "own.parquet")
    else:
        own(tmp_path, f"own.{ending}", rows)
    path = tmp_path / f"own.{ending}"
    task = load_own(path, path, ["text"], "label")
    assert (task.name, task.kind, task.labels) == ("own", "classification", ("neg", "pos"))
    assert task.train == Split([(row["text"],) for row in rows], [1, 0, 1, 0, 1, 0])
    assert task.dev["dev"] == task.train


def test_a_tsv_is_read_with_its_quotes_if_the_whole_file_is_quoted(tmp_path):
    texts = ['a\ttab and "quotes"', "two\nlines", "plain", '"']

    def read(name, header, quoting, lines):
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file, delimiter="\t", quoting=quoting, lineterminator="\n").writerows([header, *lines])
        found = load_own(tmp_path / name, tmp_path / name, ["text"], "label").train
        return [text for (text,) in found.texts], found.labels

    lines = [(text, number % 2) for number, text in enumerate(texts)]
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        assert read(f"{quoting}.tsv", ("text", "label"), quoting, lines) == (texts, [0, 1, 0, 1])
        assert read("simple.tsv", ("text", "label"), quoting, lines[2:]) == (texts[2:], [0, 1])
    # Quotes of the text itself stay: nothing says that they belong to the format.
    path = write(tmp_path / "said.tsv", ("text", "label"), ('"Yes."', 1), ("No.", 0), ('"He said', 1), ('she did"', 0))
    assert load_own(path, path, ["text"], "label").train.texts == [('"Yes."',), ("No.",), ('"He said',), ('she did"',)]
    path.write_text('text\tlabel\n"never\tclosed\t1\nb\t0\n')
    with pytest.raises(DataError, match=r"said.tsv, line 2: 3 columns, but the first line has 2; .* as a .csv file"):
        load_own(path, path, ["text"], "label")


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
        (GOOD + "x,c\n", GOOD, "text:label", ": train has the label 'c', which is not in dev"),
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
    with pytest.raises(DataError, match="can't be read as Parquet"):
        load_own(tmp_path / "a.parquet", None, ["text"], "label")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="reading Parquet needs pyarrow: pip install pyarrow"):
        load_own(tmp_path / "a.parquet", None, ["text"], "label")
