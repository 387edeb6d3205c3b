"""Messages lead somewhere: the settings, commands and options that they name exist, and what they advise works."""

import ast
import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import fast_electra
from fast_electra.cli.main import app, main
from fast_electra.config import load_config, preset_names
from fast_electra.config.keys import keys
from fast_electra.config.tree import Config
from fast_electra.evaluation.own_files import load_own
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.training.loop import Interrupted
from tests import tiny

PACKAGE = Path(fast_electra.__file__).parent
SECTIONS = "|".join(Config.model_fields)
SHAPE = [
    *("main.architecture=bert", "main.layers=1", "main.hidden_size=32", "main.heads=2", "main.intermediate_size=48"),
    *("main.options={}", "main.start=fresh", "data.length=32", "data.attention=packed", "training.batch_size=4"),
    *("training.updates=2", "execution.threads=1", "execution.precision=float32", "training.validation_sequences=8"),
]


def refused(arguments, capsys) -> str:
    """The sentence with which a command refuses."""
    assert main(list(map(str, arguments))) == 2
    return capsys.readouterr().err


def written(sentence: str, before: str = "write ") -> list[str]:
    """The words of a shell that stand behind "write " in a sentence."""
    advice = re.split(r", or | on the command line", sentence.rpartition(before)[2].strip())[0]
    return shlex.split(advice.rstrip("."))


# --- What every message names -----------------------------------------------------------------------------------------


def sentences():
    """Texts of the program that are no documentation: file and text, an f-string's values as {}."""
    for file in PACKAGE.rglob("*.py"):
        tree = ast.parse(file.read_text("utf-8"))
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        inside |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
                yield file, "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                yield file, node.value


def test_every_setting_that_a_text_names_exists():
    named = 0
    for file, text in sentences():
        for key in re.findall(rf"(?<![\w./-])(?:{SECTIONS})(?:\.[a-z_0-9]+)+", text) if " " in text else ():
            named += 1
            known = key in keys() or any(other.startswith(key + ".") for other in keys())
            assert known or key.startswith("main.options"), f"{file.name}: {text}"
    assert named > 50


def test_every_command_and_option_that_a_text_names_exists():
    options = {"--help", "--version", "--plugin", "--local-dir"}  # the last one is of `hf download`

    def collect(command) -> None:
        for name in command:
            if name.startswith("-"):
                continue
            below = command[name]
            if below.default_command is None:
                collect(below)
            else:
                options.update(flag for argument in below.assemble_argument_collection() for flag in argument.names)

    collect(app)
    for file, text in sentences():
        for name in re.findall(r"(?:`|: )fast-electra ([a-z]+)", text):
            assert name in app, f"{file.name}: {text}"
        if " " in text and "pip install" not in text and "python -c" not in text:
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text):
                assert option in options, f"{file.name}: {text}"


def test_every_suggestion_of_a_key_is_a_key():
    assert set(Config.synonyms.values()) <= keys().keys()


# --- Configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "override",
    [
        *("data.shards=5", "data.shards=[x]", "data.shards=a: b", "auxiliary.model=true", "data.tokenizer.path=1e3"),
        *(
            "data.sources=texts",
            "data.sources=a b",
            "data.sources=#1",
            "data.sources=[1]",
            "data.shards=*x",
            "corruption.race_interval=[1]",
        ),
        *("corruption.race_interval=1", "corruption.race_interval=[1,2,3]", "training.updates=1e3"),
        "training.batch_size=2.0",
    ],
)
def test_the_setting_that_a_refusal_writes_out_is_accepted(override, capsys):
    sentence = refused(["config", "show", "quickstart", override], capsys)
    (word,) = written(sentence)
    assert word.split("=")[0] == override.split("=")[0]
    load_config("quickstart", [word])


def test_what_a_file_should_hold_is_accepted_there(tmp_path, capsys):
    for value in ("[x]", "5", "true"):
        (tmp_path / "c.yaml").write_text(f"preset: quickstart\ndata:\n  shards: {value}\n")
        sentence = refused(["config", "show", tmp_path / "c.yaml"], capsys)
        (tmp_path / "c.yaml").write_text(
            f"preset: quickstart\ndata:\n  shards: {sentence.rpartition('write ')[2][:-2]}\n"
        )
        assert load_config(tmp_path / "c.yaml").data.shards == Path(value)


@pytest.mark.parametrize("value", ["[1.5, 2, 3]", "[1.5,2,x]"])
def test_a_list_in_the_wrong_place_is_shown_whole(value, capsys):
    sentence = refused(["config", "show", "quickstart", f"corruption.schedule.initial={value}"], capsys)
    assert "must be a number or auto, not [1.5, 2, " in sentence


@pytest.mark.parametrize("text", ["exp #1", "#1", "a\t#b"])
def test_a_number_sign_in_a_path_is_no_comment(text):
    assert load_config("quickstart", [f"data.shards={text}"]).data.shards == Path(text)
    assert load_config("quickstart", [f'data.shards="{text}" # why']).data.shards == Path(text)


def test_an_empty_configuration_is_completed_by_what_its_refusal_writes(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("")
    arguments = ["config", "show", tmp_path / "c.yaml"]
    arguments += written(refused(arguments, capsys), "example ")
    assert main(list(map(str, arguments))) == 0


@pytest.mark.parametrize("preset", [name for name in preset_names() if name != "electra-2020"])
def test_joint_electra_on_any_preset_says_what_is_missing(preset, capsys):
    sentence = refused(["config", "show", preset, "objective.kind=electra"], capsys)
    assert "objective.generator must be given" in sentence
    arguments = ["config", "show", preset, "objective.kind=electra", *written(sentence, "example ")]
    for _ in range(2):  # what these presets take from an auxiliary, one message each
        if main(arguments) != 0:
            arguments += re.findall(r"set (main\.\w+=\w+)", capsys.readouterr().err)
    assert main(arguments) == 0


def test_joint_electra_trains_with_the_generator_that_the_message_proposes(shards, tmp_path, capsys):
    arguments = ["pretrain", "quickstart", *SHAPE, f"data.shards={shards}", "--run", tmp_path / "run"]
    sentence = refused([*arguments, "objective.kind=electra"], capsys)
    proposed = written(sentence, "example ")
    assert "objective.generator.hidden_size=32" in proposed
    assert main([str(word) for word in (*arguments, "objective.kind=electra", *proposed)]) == 0


# --- Data -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def little(tmp_path, monkeypatch):
    """A folder to work in, with a text that supports few tokens."""
    monkeypatch.chdir(tmp_path)
    draw = "".join(f"the {word} is number {n}\n\n" for n in range(60) for word in tiny.WORDS[n % 8 :][:1])
    Path("text.txt").write_text(draw)
    return tmp_path


def build(*more: str, sources: str = "text.txt", format: str = "text") -> list[str]:
    words = ["data", "build", "quickstart", f"data.sources=[{sources}]", f"data.format={format}"]
    return [*words, "data.workers=1", "data.length=32", *more, "--out", "out"]


def test_the_vocabulary_and_the_share_that_a_build_advises_work(little, capsys):
    sentence = refused(build("data.validation_fraction=0.2"), capsys)
    size = re.search(r"set it to (\d+) or less", sentence)
    assert size, sentence
    assert main(build("data.validation_fraction=0.2", f"data.tokenizer.vocabulary_size={size[1]}")) == 0
    other = [*build("data.tokenizer.vocabulary_size=262")[:-1], "other"]
    share = re.search(r"set (\S+) or more", refused([*other, "data.validation_fraction=0.0001"], capsys))
    assert share
    assert main([*other, share[1]]) == 0


def test_a_quickstart_takes_the_vocabulary_that_its_refusal_names(little, capsys):
    arguments = ["quickstart", "--text", "text.txt", "--run", "q"]
    size = re.search(r"set it to (\d+) or less", refused(arguments, capsys))
    assert size
    more = [f"data.tokenizer.vocabulary_size={size[1]}", "data.validation_fraction=0.0001"]
    assert "documents fell to validation" in refused([*arguments, *more], capsys)  # one stage further
    assert "--seed 1 and training.seed=2 both set the seed" in refused(
        ["quickstart", "--seed", "1", "training.seed=2"], capsys
    )
    for key, remedy in (("data.sources=[x]", "give your text with --text"), ("data.shards=x", "leave it out")):
        assert remedy in refused([*arguments, key], capsys)


def test_shards_that_are_missing_are_written_by_the_command_of_the_message(little, capsys):
    arguments = ["pretrain", "quickstart", *SHAPE, "objective.kind=mlm", "data.shards=my shards", "--run", "r"]
    sentence = refused(arguments, capsys)
    assert f"my shards holds no token shards: it is not a folder in {os.getcwd()}" in sentence
    words = shlex.split(re.search(r"`fast-electra (.*?)`", sentence)[1])
    real = {"CONFIG": "quickstart", "data.sources=[TEXTS]": "data.sources=[text.txt]"}
    settings = ["data.tokenizer.vocabulary_size=270", "data.validation_fraction=0.2", "data.length=32"]
    assert main([*(real.get(word, word) for word in words), *settings, "data.workers=1", "data.format=text"]) == 0
    assert main(arguments) == 0


def test_links_in_a_folder_can_be_named_themselves(little, capsys):
    Path("links").mkdir()
    Path("links/a.txt").symlink_to(Path("text.txt").resolve())
    settings = ["data.tokenizer.vocabulary_size=270", "data.validation_fraction=0.2"]
    settings = ["data.tokenizer.vocabulary_size=270", "data.validation_fraction=0.2"]
    assert "1 links, which are not followed" in refused(build(*settings, sources="links"), capsys)
    assert main(build(*settings, sources="links/a.txt")) == 0


def test_a_nested_text_is_read_by_the_key_that_the_message_lists(little, capsys):
    lines = [json.dumps({"id": n, "data": {"text": f"a text {n} of {n * 7}"}}) for n in range(60)]
    Path("text.txt").write_text("\n".join(lines))
    arguments = build("data.tokenizer.vocabulary_size=262", "data.validation_fraction=0.2", format="jsonl")
    key = re.search(r"strings are under '(\S+)'\)", refused(arguments, capsys))
    assert key
    assert main([*arguments, f"data.text_field={key[1]}"]) == 0


# --- Tables -----------------------------------------------------------------------------------------------------------

ROWS = [(f"text {n}, {'good' if n % 2 else 'bad'}", f"c{n % 2}") for n in range(40)]


@pytest.mark.parametrize(("divider", "name"), [(";", "a.csv"), ("\t", "a.csv"), ("|", "a.csv"), (",", "it's a.tsv")])
def test_a_table_with_other_dividers_is_written_anew_by_the_command_of_the_message(divider, name, tmp_path):
    path = tmp_path / name
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=divider).writerows([("text", "label"), *ROWS])
    with pytest.raises(fast_electra.errors.DataError) as refusal:
        load_own(path, None, ["text"], "label")
    command = re.search(r"`python (.*)`", str(refusal.value), re.S)[1]
    subprocess.run(f"{shlex.quote(sys.executable)} {command}", shell=True, cwd=tmp_path, check=True)
    assert load_own(tmp_path / "NEW.csv", None, ["text"], "label").labels == ("c0", "c1")


def test_spaces_behind_commas_belong_to_no_name_and_no_text(tmp_path):
    lines = ["text, label", *(f'"{text}", {label}' for text, label in ROWS)]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    task = load_own(tmp_path / "a.csv", None, ["text"], "label")
    assert task.labels == ("c0", "c1")
    assert ("text 0, bad",) in [*task.train.texts, *task.dev["dev"].texts]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"text": "a", "label": ["x", "y"]}, r'label is \["x", "y"\], but a text has one label: write one'),
        ({"text": "a", "label": None}, "label is null, not a label; write a name or a finite number"),
        ({"text": 3, "label": "x"}, "text is 3, not text; write it as a string"),
        ({"text": "a\ud800", "label": "x"}, "text has half of a surrogate pair"),
        ({"data": {"text": "a"}, "label": "x"}, r"no column text; did you mean data\.text\?"),
    ],
)
def test_a_row_that_cannot_be_read_says_what_it_is_and_what_to_write(row, sentence, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(fast_electra.errors.DataError, match=sentence):
        load_own(tmp_path / "a.jsonl", None, ["text"], "label")


def test_a_nested_column_is_read_by_its_dotted_name(tmp_path):
    rows = [{"data": {"text": text}, "meta": {"label": label}} for text, label in ROWS]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert load_own(tmp_path / "a.jsonl", None, ["data.text"], "meta.label").labels == ("c0", "c1")


# --- Runs and models --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with shards, an auxiliary and a main model that were made with relative paths from inside it."""
    folder = tmp_path_factory.mktemp("project")
    before = os.getcwd()
    os.chdir(folder)
    try:
        tiny.make_shards(Path("shards"))
        few = {"training__updates": 4, "training__checkpoint_every": 2}
        pretrain(tiny.settings(Path("shards"), **few), Path("runs/auxiliary"))
        pretrain(tiny.settings(Path("shards"), "fast_electra", Path("runs/auxiliary"), **few), Path("runs/main"))
    finally:
        os.chdir(before)
    return folder


def test_a_run_is_used_from_any_folder_and_after_its_project_was_moved(project, tmp_path, monkeypatch, capsys):
    moved = tmp_path / "moved"
    project.rename(moved)
    try:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        run = "../moved/runs/main"
        assert main(["export", run, "all", "--checkpoint", "all"]) == 0
        assert (Path("all/auxiliary/config.json")).exists()
        assert main(["doctor", run, "--json"]) in (0, 1)
        findings = json.loads(capsys.readouterr().out.splitlines()[-1])["findings"]
        assert not any("no shards" in finding["measured"] for finding in findings)
        pairs = [json.dumps({"sentence_good": "value total", "sentence_bad": "total value"})]
        Path("pairs.jsonl").write_text("\n".join(pairs))
        assert main(["evaluate", run, "--tasks", "blimp", "--data", "pairs.jsonl", "--out", "e"]) == 0
        assert "left out" not in capsys.readouterr().err
        assert main(["pretrain", f"{run}/config.yaml", "--run", run]) == 0
        assert "is finished" in capsys.readouterr().err
        there = [f"data.shards={tmp_path}/moved/shards", "auxiliary.model=../moved/runs/auxiliary"]
        assert main(["pretrain", f"{run}/config.yaml", *there, "--run", run, "--extend", "6"]) == 0
    finally:
        moved.rename(project)


def test_a_run_that_has_not_finished_is_exported_by_the_command_of_the_message(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = iter([False, False, True])
    with pytest.raises(Interrupted):
        pretrain(tiny.settings(shards, training__checkpoint_every=2), Path("a run"), stop=lambda: next(asked))
    sentence = refused(["export", "a run", "x"], capsys)
    words = shlex.split(re.search(r"`fast-electra (.*?)`", sentence)[1])
    assert main(["2" if word == "UPDATE" else word for word in words]) == 0
    assert (tmp_path / "OUT" / "config.json").exists()


def test_rows_longer_than_the_auxiliary_takes_are_set_to_the_length_of_the_message(shards, auxiliary, tmp_path, capsys):
    arguments = ["pretrain", "quickstart", *SHAPE, f"data.shards={shards}", f"auxiliary.model={auxiliary}"]
    arguments = [word for word in arguments if word != "data.length=32"]
    sentence = refused([*arguments, "data.length=64", "--run", tmp_path / "r"], capsys)
    length = re.search(r"set (data\.length=\d+) or less", sentence)
    assert length, sentence
    assert main([*map(str, arguments), length[1], "--run", str(tmp_path / "r")]) == 0


def test_a_schedule_outside_of_the_interval_fits_the_one_that_the_message_writes(shards, auxiliary, tmp_path, capsys):
    settings = [*SHAPE, f"data.shards={shards}", f"auxiliary.model={auxiliary}"]
    assert main(["corrupt", "quickstart", *settings, "--out", str(tmp_path / "cache")]) == 0
    settings += ["corruption.schedule.initial=5.0"]
    run = ["pretrain", "quickstart", *settings, "--run", str(tmp_path / "run")]
    sentence = refused([*run, f"corruption.cache={tmp_path}/cache"], capsys)
    (word,) = shlex.split(sentence.rpartition(" give ")[2].rpartition(" and another cache")[0])
    assert main(["corrupt", "quickstart", *settings, word, "--out", str(tmp_path / "other")]) == 0
    assert main([*run, word, f"corruption.cache={tmp_path}/other"]) == 0


def test_settings_of_fine_tuning_are_refused_where_nothing_is_fine_tuned(tmp_path, capsys):
    (tmp_path / "pairs.jsonl").write_text('{"sentence_good": "a", "sentence_bad": "b"}')
    arguments = ["evaluate", "model", "--tasks", "blimp", "--data", tmp_path / "pairs.jsonl"]
    for option in ("--seeds", "--workers"):
        sentence = refused([*arguments, option, "2"], capsys)
        assert f"{option} is for tasks with training examples: leave it out, or add such a task." in sentence
