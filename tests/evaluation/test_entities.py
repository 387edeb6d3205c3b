"""Named entities: what is read from CoNLL files, how it is scored, and what a saved tagger finds."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

from fast_electra.cli.main import main
from fast_electra.data.files import read_sealed_json
from fast_electra.errors import DataError
from fast_electra.evaluation.baselines import word_crf
from fast_electra.evaluation.comparison import Runs, compare, weighted_entity_f1
from fast_electra.evaluation.conll import is_conll
from fast_electra.evaluation.encoding import encode
from fast_electra.evaluation.entities import class_names, count_entities, spans_of
from fast_electra.evaluation.fine_tuning import fine_tune
from fast_electra.evaluation.own_files import load_own
from fast_electra.evaluation.recipes import recipe_for
from fast_electra.evaluation.scores import entity_f1
from fast_electra.evaluation.tasks import Split, Task, make_task, with_examples
from fast_electra.training import precision
from tests.evaluation.test_fine_tuning import CPU, changed, tagger  # noqa: F401

IOB2 = """Ada B-PER
Lovelace I-PER
met O
Bob B-PER
Carl B-PER
in O
New B-LOC
York I-LOC

Paris B-LOC
sleeps O
"""
BIOES = {"Ada": "B-PER", "Lovelace": "E-PER", "Bob": "S-PER", "Carl": "S-PER", "New": "B-LOC", "York": "E-LOC"}
BILOU = {**BIOES, "Lovelace": "L-PER", "Bob": "U-PER", "Carl": "U-PER", "York": "L-LOC", "Paris": "U-LOC"}
IOB1 = {"Ada": "I-PER", "Bob": "I-PER", "New": "I-LOC", "Paris": "I-LOC"}  # Carl is B-, for he comes behind Bob
PLAIN = {"Bob": "PER", "Carl": "PER"}


@pytest.fixture(scope="module", autouse=True)
def _one_core():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "available_cores", lambda: 1)
        yield


def retagged(tags: dict[str, str]) -> str:
    lines = [line.split() for line in IOB2.splitlines()]
    return "".join(f"{line[0]} {tags.get(line[0], line[1])}\n" if line else "\n" for line in lines)


def written(folder: Path, text: str, name: str = "train.tsv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def load(path: Path) -> Task:
    return load_own(path, path)


# --- Files ------------------------------------------------------------------------------------------------------------


def test_every_way_to_write_entities_gives_the_same_task(tmp_path):
    task = load(written(tmp_path, IOB2))
    assert (task.kind, task.labels, task.metrics[0]) == (
        "tokens",
        ("O", "B-LOC", "I-LOC", "B-PER", "I-PER"),
        "entity_f1",
    )
    texts = [("Ada", "Lovelace", "met", "Bob", "Carl", "in", "New", "York"), ("Paris", "sleeps")]
    assert task.train == Split(texts, [[3, 4, 0, 3, 3, 0, 1, 2], [1, 0]])
    for tags in (BIOES, BILOU, IOB1):
        assert load(written(tmp_path, retagged(tags))).digest == task.digest
    document = "-DOCSTART- -X- -X- O\n\n"
    columns = IOB2.replace(" ", " NNP _ _ ")
    comments = "# id 17 domain=en\n" + IOB2.replace("\n\n", "\n\n# another comment\n")
    for text in (
        IOB2.replace(" ", "\t"),
        IOB2.replace("\n", "\r\n"),
        "\n  \n\n" + IOB2 + "\n\n",
        "\ufeff" + IOB2,
        document + columns.replace("\n\n", "\n" + document),
        comments,
    ):
        for name in ("train.tsv", "train.txt", "train.conll", "train"):
            path = written(tmp_path, text, name)
            assert is_conll(path)
            assert load(path).digest == task.digest


def test_types_without_a_prefix_are_read_as_runs(tmp_path):
    rows = [{"words": ["Ada", "Lovelace", "met", "Bob"], "tags": ["PER", "PER", "O", "PER"]}]
    (tmp_path / "a.jsonl").write_text(json.dumps(rows[0]) + "\n")
    path = tmp_path / "a.jsonl"
    assert load_own(path, path, ["words"], "tags").train.labels == [[1, 2, 0, 1]]


def test_the_word_that_begins_a_comment_elsewhere_is_a_word(tmp_path):
    task = load(written(tmp_path, "Take O\n# B-X\n#2 I-X\n# a comment of more words\n, O\n"))
    assert task.train == Split([("Take", "#", "#2", ",")], [[0, 1, 2, 0]])


def test_tables_are_not_taken_for_entities(tmp_path):
    assert not is_conll(written(tmp_path, "text\tlabel\nfine\tO\nbad\tB\ngood\tO\n", "blood.tsv"))
    assert not is_conll(written(tmp_path, "one two three\nfour five six\n", "a.txt"))
    assert not is_conll(written(tmp_path, "Ada,B-PER\n", "a.csv"))
    assert not is_conll(tmp_path / "none.tsv")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "Ada B-PER\nmet\nBob B-PER\n" * 9,
            "line 2: 1 column, but the lines before it have 2; write one word on each line",
        ),
        ("Ada B-PER\nmet a O\nBob B-PER\n" * 9, "line 2: 3 columns, but the lines before it have 2"),
        ("a b c d e O\n" * 9, "line 1: 6 columns, but two to five are needed"),
        ("Ada\tB-PER\nmet\t\n", "line 2: the last column is empty"),
        (
            "Ada B-PER\nmet O\nBob PER\n",
            "line 3: tag PER has no prefix, but B-PER has one; write all tags as O, B-… and I-…",
        ),
        ("Ada O\nmet O\n", "all tags are O; give examples with entities"),
    ],
)
def test_files_that_are_not_right_are_refused_with_the_line(text, sentence, tmp_path):
    with pytest.raises(DataError) as error:
        load(written(tmp_path, text, "train.conll"))
    assert sentence in str(error.value)


def test_files_that_do_not_fit_together_are_refused(tmp_path):
    train = written(tmp_path, IOB2)
    dev = written(tmp_path, "Ada B-PER\nmet O\nmice B-LOG\n", "dev.tsv")
    with pytest.raises(DataError, match=r"dev.tsv, line 3: label LOG is not in train; did you mean LOC\?"):
        load_own(train, dev)
    table = written(tmp_path, "text\tlabel\na\tb\n", "table.tsv")
    with pytest.raises(DataError, match=r"train.tsv is a CoNLL file \(a word .*\), and .*table.tsv is not"):
        load_own(train, table)
    with pytest.raises(DataError, match=r"dev.tsv is a CoNLL file .* and .*table.tsv is not"):
        load_own(table, dev, ["text"], "label")
    with pytest.raises(DataError, match=r"no.conll is not a file"):
        load_own(table, tmp_path / "no.conll", ["text"], "label")
    with pytest.raises(DataError, match="whose columns have no names: leave out the columns of text and label"):
        load_own(train, dev, ["word"], "tag")


def test_a_test_file_is_reported_first_and_may_lack_a_type(tmp_path):
    train, test = written(tmp_path, IOB2), written(tmp_path, "Bob B-PER\nsleeps O\n", "test.tsv")
    task = load_own(train, train, test=test)
    assert (list(task.dev), task.reported) == (["dev", "test"], ["test", "dev"])
    assert task.dev["test"] == Split([("Bob", "sleeps")], [[3, 0]])


# --- Scores -----------------------------------------------------------------------------------------------------------


def plain_entities(classes: list[int]) -> set[tuple[int, int, int]]:
    """By the rule of the CoNLL script: an entity goes on as long as tags of its type continue it."""
    found, place = set(), 0
    while place < len(classes):
        if classes[place] == 0:
            place += 1
            continue
        first, kind = place, (classes[place] - 1) // 2
        place += 1
        while place < len(classes) and classes[place] == 2 * kind + 2:
            place += 1
        found.add((kind, first, place - 1))
    return found


def random_sentences(seed: int) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.choice([0, 0, 1, 2, 3, 4]) for _ in range(draw.randint(1, 9))] for _ in range(60)]


def plain_f1(labels: list[list[int]], predictions: list[list[int]]) -> float:
    right = there = named = 0
    for one, other in zip(labels, predictions, strict=True):
        true, found = plain_entities(one), plain_entities(other)
        right, there, named = right + len(true & found), there + len(true), named + len(found)
    return 2 * right / (there + named)


def test_f1_is_that_of_a_plain_count_of_whole_entities():
    labels, predictions = random_sentences(0), random_sentences(1)
    sizes = [min(map(len, pair)) for pair in zip(labels, predictions, strict=True)]
    labels = [sentence[:size] for sentence, size in zip(labels, sizes, strict=True)]
    predictions = [sentence[:size] for sentence, size in zip(predictions, sizes, strict=True)]
    assert 0 < plain_f1(labels, predictions) < 0.9
    assert entity_f1(labels, predictions) == pytest.approx(plain_f1(labels, predictions), abs=1e-12)
    for sentence in labels:
        assert {(int(span.type), span.first, span.last) for span in spans_of(sentence)} == plain_entities(sentence)
    assert entity_f1([[1, 2, 0]], [[1, 0, 0]]) == 0.0  # half an entity is none
    assert entity_f1([[0]], [[0]]) == 0.0
    with pytest.raises(ValueError, match="different lengths"):
        entity_f1([[1, 2]], [[1]])


def test_resampled_f1_is_that_of_the_drawn_sentences():
    labels = [[1, 2, 0, 3]] * 10 + [[0, 1]] * 10
    predictions = [[1, 2, 0, 0]] * 5 + [[1, 0, 0, 3]] * 5 + [[1, 1]] * 10
    drawn = np.random.default_rng(0).integers(20, size=(8, 20))
    weights = np.stack([np.bincount(row, minlength=20) for row in drawn]).astype(float)
    expected = [[plain_f1([labels[i] for i in row], [predictions[i] for i in row])] for row in drawn]
    np.testing.assert_allclose(weighted_entity_f1([count_entities(labels, predictions)], weights), expected)
    better = Runs("A", {0: labels, 1: labels})
    found = compare(better, Runs("B", {0: predictions, 1: predictions}), labels, "entity_f1")
    assert found.difference == pytest.approx(100 * (1 - plain_f1(labels, predictions)))
    assert 0 < found.low < found.difference < found.high


def test_a_crf_learns_from_neighbours_and_from_the_examples_it_is_given():
    draw = random.Random(0)

    def split(count: int) -> Split:
        texts, labels = [], []
        for _ in range(count):
            title = draw.random() < 0.5
            name = "".join(draw.choices("abcdefgh", k=6))
            texts.append(("then", "Dr" if title else "the", name, "left"))
            labels.append([0, 0, int(title), 0])
        return Split(texts, labels)

    task = make_task(
        "titles", "tokens", class_names(["PER"]), split(60), {"dev": split(30)}, {}, ("entity_f1", "token_accuracy")
    )
    assert word_crf(task)["dev"]["entity_f1"] > 0.9  # the names are new: their neighbours tell
    assert word_crf(task) == word_crf(task)
    few = with_examples(task, 2)
    assert len(few.train) == 2
    assert set(few.train.texts) <= set(with_examples(task, 20).train.texts)
    assert few.digest != task.digest


# --- Tokens -----------------------------------------------------------------------------------------------------------


def test_words_are_tokenised_as_they_stand_in_running_text(tokenizer):
    words = ("value", "function_7", "total")
    found = encode(Split([words], [[0, 1, 0]]), "tokens", tokenizer, 48, entities=True)
    assert found.ids.tolist() == tokenizer("value function_7 total")["input_ids"]
    assert len(found.ids) > 2 + 3
    first, behind = found.words[1], found.words[2]
    assert found.token_labels[first:behind].tolist() == [1] + [2] * (behind - first - 1)
    assert found.token_labels[[0, -1]].tolist() == [-100, -100]
    assert behind - first > 1


def test_entities_beyond_the_end_are_counted_and_missed(tagger, tokenizer):  # noqa: F811
    words = ("value",) * 20
    labels = [1, 2] + [0] * 16 + [1, 2]
    found = encode(Split([words, words[:2]], [labels, [1, 2]]), "tokens", tokenizer, 12, entities=True)
    assert (found.truncated, found.cut_entities) == (1, 1)
    split = Split([words] * 3, [labels] * 3)
    task = make_task("long", "tokens", class_names(["X"]), split, {"dev": split}, {}, ("entity_f1", "token_accuracy"))
    cell = fine_tune(tagger, task, changed(length=12, epochs=1), 0, CPU)
    assert cell.cut_entities == {"dev": 3}
    assert all(sentence[-2:] == [0, 0] for sentence in cell.predictions["dev"])


def test_a_word_without_a_token_is_outside(tagger, tokenizer):  # noqa: F811
    split = Split([("left", "", "left")] * 8, [[1, 2, 2]] * 8)
    task = make_task("empty", "tokens", class_names(["X"]), split, {"dev": split}, {}, ("entity_f1", "token_accuracy"))
    cell = fine_tune(tagger, task, changed(epochs=1), 0, CPU)
    assert all(sentence[1] == 0 for sentence in cell.predictions["dev"])


# --- The command ------------------------------------------------------------------------------------------------------


def sentences(count: int, seed: int) -> str:
    """Names of one or two words behind "value" (a place) or "total" (a person)."""
    draw, made = random.Random(seed), []
    for _ in range(count):
        lines = []
        for _ in range(draw.randint(1, 3)):
            sign, kind = draw.choice([("value", "LOC"), ("total", "PER")])
            lines += [f"{draw.choice(['count', 'items'])} O", f"{sign} O"]
            names = draw.sample(["function_7", "limit_12", "result_3", "index_9"], draw.randint(1, 2))
            lines += [f"{name} {'BI'[place]}-{kind}" for place, name in enumerate(names)]
            lines.append("name O")
        made.append("\n".join(lines))
    return "\n\n".join(made) + "\n"


@pytest.fixture(scope="module")
def evaluated(tagger, tmp_path_factory):  # noqa: F811
    """Files of entities, and a command that fine-tunes on 120 of 160 sentences with one of two rates."""
    home = tmp_path_factory.mktemp("entities")
    for name, count in (("train", 160), ("dev", 30), ("test", 40)):
        written(home, sentences(count, len(name)), f"{name}.tsv")
    return home, [
        *("evaluate", str(tagger), "--train", str(home / "train.tsv"), "--dev", str(home / "dev.tsv")),
        *("--test", str(home / "test.tsv"), "--examples", "120", "--seeds", "1", "--save"),
        *("--learning-rates", "1e-7,2e-2", "--out", str(home / "out"), "--json"),
    ]


def test_a_tagger_is_reported_on_test_and_its_entities_are_found_by_a_pipeline(evaluated, capsys):
    home, command = evaluated
    assert main(command) == 0
    output = capsys.readouterr()
    found = json.loads(output.out)["tasks"][home.name]
    assert f"{home.name}, 120 examples, seed 0: test entity_f1 {100 * found['scores'][0]:.1f}, " in output.err
    assert (found["metric"], found["n_train"], found["n_dev"]) == ("entity_f1", 120, 40)
    assert list(found["all"]) == ["test", "dev"]
    assert found["setup"] == "small, learning rate 1e-07 or 0.02, 120 examples"
    assert found["recipe"]["learning_rate"] == 2e-2
    assert found["selection"]["examples"] == 30  # a part of train
    assert set(found["baselines"]) >= {"majority", "word_crf", "untrained"}
    assert found["baselines"]["majority"] == 0.0
    assert found["baselines"]["word_crf"] > 0.9
    task = with_examples(load_own(home / "train.tsv", home / "dev.tsv", test=home / "test.tsv"), 120)
    assert word_crf(task)["test"]["entity_f1"] == found["baselines"]["word_crf"]  # of the encoder's own examples

    cells = [read_sealed_json(path) for path in (home / "out" / "cells").glob("*.json")]
    (cell,) = [c for c in cells if c and not c["untrained"] and "test" in c["predictions"]]
    predictions = cell["predictions"]["test"]
    test = task.dev["test"]
    assert found["scores"] == [pytest.approx(plain_f1(test.labels, predictions))]
    assert found["scores"][0] > 0.7

    (folder,) = (home / "out" / "models").iterdir()
    model = AutoModelForTokenClassification.from_pretrained(folder)
    assert [model.config.id2label[number] for number in range(5)] == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    agreed = {}
    for strategy in ("simple", "first"):
        find = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy=strategy)
        agreed[strategy] = 0
        for words, classes in zip(test.texts, predictions, strict=True):
            text = " ".join(words)
            expected = [
                (("LOC", "PER")[int(span.type)], " ".join(words[span.first : span.last + 1]))
                for span in spans_of(classes)
            ]
            entities = [(e["entity_group"], text[e["start"] : e["end"]].strip()) for e in find(text)]
            agreed[strategy] += entities == expected
    assert agreed["first"] == len(test)  # as the score reads a word
    assert agreed["simple"] >= 0.95 * len(test)  # a word's other tokens were trained too, and differ rarely


def test_the_recipe_for_words_passes_over_few_examples_more_often():
    recipe = recipe_for("small", 256, "tokens")
    assert [recipe.epochs_of("any", batches) for batches in (170, 16, 1)] == [3, 10, 160]
