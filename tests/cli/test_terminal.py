"""Text of the user's, bytes and terminals: what is printed is what there is, on any output, by every command."""

import ast
import io
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.progress import Progress, TextColumn
from rich.table import Table
from transformers import AutoTokenizer

import fast_electra
from fast_electra.cli.main import main
from fast_electra.config import load_config
from fast_electra.config.reading import setting
from fast_electra.data.files import write_json_atomically
from fast_electra.data.tokenizer import load_tokenizer
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.terminal import Terminal, command, prepare_streams, spelled_out, split_settings
from tests import tiny

PACKAGE = Path(fast_electra.__file__).parent
# What rich, YAML, shells or terminals read as something else.
AWKWARD = [
    *(
        "runs/exp[lr=1e-3]",
        "x/[/v1]",
        "[bold red]x[/]",
        ":smile: :warning:",
        "exp #1",
        "#1",
        "a: b",
        "- a",
        "null",
        "1e3",
    ),
    *("a b", "it's", 'say "hi"', "$HOME `ls`", "*", "~x", "[a, b]", "{a: 1}", "&a", "!x", "%x", "@x", "C:\\x", "a\tb"),
    *(
        "e\u0301",
        "\u6f22\u5b57 \U0001f600",
        "\u200b",
        "\u202e",
        "x" * 300,
        "a\nb",
        "true",
        "",
        " x ",
        "\x85",
        "-",
        "--run",
    ),
]
texts = st.one_of(st.sampled_from(AWKWARD), st.text(st.characters(exclude_categories=["Cs"])))
plain = texts.map(spelled_out)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(autouse=True)
def _no_width(monkeypatch):
    """Programs that run tests in several processes may set a width for all of them."""
    monkeypatch.delenv("COLUMNS", raising=False)


def printed(show, **options) -> str:
    output = io.StringIO()
    show(Terminal(file=output, **options))
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", output.getvalue())


@quick
@given(st.lists(plain, min_size=1), st.booleans())
def test_any_text_is_printed_as_it_is(parts, on_a_terminal):
    shown = printed(lambda t: t.say(*parts, (parts[0], "bold")), force_terminal=on_a_terminal, width=20)
    assert shown == "".join(parts) + parts[0] + "\n"


@quick
@given(plain.filter(lambda text: text.strip() and not set(text) & set("\t\n")))
def test_any_name_in_a_table_is_printed_as_it_is(name):
    table = Table("name", title=name, title_justify="left", box=None)
    table.add_row(name)
    assert printed(lambda t: t.print(table)).count(name.strip()) >= 2 * max(1, name.count(name.strip()))


def test_a_progress_bar_shows_a_run_name_as_it_is():
    def show(terminal):
        with Progress(TextColumn("{task.description}", markup=False), console=terminal) as progress:
            progress.add_task("exp[lr=1e-3] [/v1] {x}")

    assert "exp[lr=1e-3] [/v1] {x}" in printed(show, force_terminal=True)


def test_control_characters_are_spelled_out():
    assert printed(lambda t: t.say("a\x1b[2Jb\r\x07")) == "a\\u001b[2Jb\\u000d\\u0007\n"
    table = Table("name", box=None)
    table.add_row("a\x1b[2Jb")
    assert "a\\u001b[2Jb" in printed(lambda t: t.print(table))


@quick
@given(st.lists(texts.filter(lambda text: "\0" not in text)))
def test_a_printed_command_is_what_a_shell_reads(words):
    assert shlex.split(command(*words)) == ["fast-electra", *words]


@quick
@given(texts.filter(lambda text: "\0" not in text))
def test_a_printed_setting_gives_its_value_again(text):
    (word,) = shlex.split(setting("auxiliary.model", text))
    assert load_config("quickstart", [word]).auxiliary.model == text
    (word,) = shlex.split(setting("data.sources", [Path(text), Path("b")]))
    assert load_config("quickstart", [word]).data.sources == [str(Path(text)), "b"]


def test_every_console_is_the_one_that_prints_text_as_it_is():
    for file in PACKAGE.rglob("*.py"):
        names = [node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Call)]
        called = [ast.unparse(node.func) for node in names]
        assert file.name == "terminal.py" or "Console" not in called, file
        for node in names:
            if ast.unparse(node.func) == "TextColumn" and "description" in ast.unparse(node):
                assert "markup=False" in ast.unparse(node), file
        assert "rich.markup" not in file.read_text("utf-8"), file
        assert not re.search(r'"[^"\n]*\[/\]', file.read_text("utf-8")), f"{file}: markup of rich"


# --- Every command on every output ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory, auxiliary, shards):
    """A folder with a run whose name is markup, a text, minimal pairs and what two evaluations found."""
    folder = tmp_path_factory.mktemp("home") / "caf\u00e9 [b]:x:[" / "v1]"
    folder.mkdir(parents=True)
    run = tiny.settings(shards, "fast_electra", auxiliary, training__updates=4, training__checkpoint_every=2)
    pretrain(run, folder / "[/run]")
    (folder / "text.py").write_bytes(b"\xef\xbb\xbfe\xcc\x81 = 1 # [MASK] \xe6\xbc\xa2\r\nx = caf\xe9\r\n")
    (folder / "text.txt").write_bytes(b"caf\xe9\r\n\r\n" + b"".join(b"a [MASK] %d\n\n" % n for n in range(60)))
    pairs = [{"sentence_good": f"a {n} \u00e9", "sentence_bad": f"b {n}", "UID": "[/x]"} for n in range(6)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    for name, model in (("one", folder / "[/run]"), ("two", auxiliary)):
        out = str(folder / name)
        assert (
            main(["evaluate", str(model), "--tasks", "blimp", "--data", str(folder / "pairs.jsonl"), "--out", out]) == 0
        )
    return folder


COMMANDS = {
    "config show": "config show quickstart data.sources=[\u00e9\u00d7] auxiliary.model='[/v1]'",
    "config show --json": "config show quickstart data.sources=[\u00e9\u00d7] --json",
    "config schema": "config schema",
    "config plot": "config plot quickstart",
    "cost": "cost electra-small main.layers=1 main.hidden_size=32 main.heads=2 main.intermediate_size=48 "
    "main.options.embedding_size=16 --vocabulary 300 --length 16",
    "data build": "data build electra-small data.sources=[text.txt] data.tokenizer.vocabulary_size=261 data.length=32 "
    "data.validation_fraction=0.2 data.workers=1 --out [/shards]",  # from the second time on they are there
    "pretrain": "pretrain RUN/config.yaml --run RUN",
    "doctor": "doctor RUN",
    "doctor --json": "doctor RUN --json",
    "report": "report RUN --out [page].html",
    "inspect": "inspect RUN text.py",
    "inspect --json": "inspect RUN text.py --json",
    "export": "export RUN OUT --checkpoint 2",
    "evaluate": "evaluate RUN --tasks blimp --data pairs.jsonl --out one",
    "compare": "compare one two",
    "compare --json": "compare one two --json",
    "help": "pretrain --help",
    "unknown": "pretain \u00e9\u00d7[/v1]",
    "missing": "doctor \u00e9\u00d7[/v1]",
}


@pytest.fixture
def run_command(home, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.setattr("transformers.utils.logging._tqdm_active", False)  # as `main` does where it comes first

    def run(name: str) -> int:
        shutil.rmtree(home / "OUT", ignore_errors=True)
        words = [word.replace("RUN", "[/run]") for word in COMMANDS[name].split(" ")]
        return main(words)

    return run


def captured(monkeypatch, encoding: str):
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    errors = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "stderr", errors)
    return output, errors


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_works_on_every_output(name, run_command, monkeypatch):
    results = {}
    for encoding in ("utf-8", "ascii"):
        with monkeypatch.context() as patch:
            output, errors = captured(patch, encoding)
            status = run_command(name)
            texts = []
            for stream in (output, errors):
                stream.flush()
                texts.append(stream.buffer.getvalue().decode(encoding))
        results[encoding] = (status, *texts)
    status, shown, said = results["utf-8"]
    assert status == (2 if name in ("unknown", "missing") else status if name.startswith("doctor") else 0)
    assert status in (0, 1) or said.startswith("error: ")
    for other, others_shown, _ in results.values():
        assert other == status
        if name.endswith("--json"):
            assert json.loads(others_shown) == json.loads(shown)
    with monkeypatch.context() as patch:  # >&- 2>&-
        patch.setattr(sys, "stdout", None)
        patch.setattr(sys, "stderr", None)
        assert run_command(name) == status
    for name_of_stream in ("stdout", "stderr"):  # | head -1, and 2>&1 | head -1
        with monkeypatch.context() as patch:
            captured(patch, "utf-8")
            reading, writing = os.pipe()
            os.close(reading)
            with os.fdopen(writing, "w", encoding="utf-8") as pipe:
                patch.setattr(sys, name_of_stream, pipe)
                assert run_command(name) == status


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252", "koi8-r"])
def test_what_an_output_cannot_spell_is_an_escape_and_the_bytes_of_a_path_are_bytes(encoding, monkeypatch):
    output, _ = captured(monkeypatch, encoding)
    prepare_streams()
    Terminal().say("\u00d7 \u6f22 \U0001f600 ", os.fsdecode(b"\xff"), " \ud800")
    expected = "\u00d7 \u6f22 \U0001f600 ".encode(encoding, "backslashreplace") + b"\xff \\ud800\n"
    assert output.buffer.getvalue() == expected


def test_a_path_that_is_not_utf8_is_refused_with_its_bytes(monkeypatch, tmp_path):
    _, errors = captured(monkeypatch, "utf-8")
    assert main(["doctor", os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")]) == 2
    errors.flush()
    said = errors.buffer.getvalue()
    assert said.endswith(b"/caf\xe9 contains bytes that are not UTF-8; rename the file or folder.\n")


def test_half_of_a_surrogate_pair_is_printed_and_written(monkeypatch, tmp_path):
    output, _ = captured(monkeypatch, "utf-8")
    prepare_streams()
    Terminal().say("label \ud800")
    output.flush()
    assert output.buffer.getvalue() == b"label \\ud800\n"
    write_json_atomically(tmp_path / "a.json", {"label": "\ud800", "other": "\u00e9"})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"label": "\ud800", "other": "\u00e9"}


# --- Bytes that are inspected -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"x = 1\r\nif x:\r\n\r\n    y = x\r\n",
        b"\xef\xbb\xbfx = 1\r\n",
        b"x = 1\ry = 2\r\r\n",
        "e\u0301 = '\u6f22\u5b57 \U0001f600'\r\n".encode(),
        b"caf\xe9 = '\xff'\n",
        b"a \xef\xbb\xbf b\n",
        b"a [MASK] b [SEP] [PAD]\n",
        b"\r\n\r\n x",
    ],
)
def test_offsets_index_the_text_that_was_given(content, home, monkeypatch, tmp_path, capsys):
    (tmp_path / "text").write_bytes(content)
    given_text = content.decode("utf-8", "replace")
    assert main(["inspect", str(home / "[/run]"), str(tmp_path / "text"), "--json"]) == 0
    from_file = capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))
    assert main(["inspect", str(home / "[/run]"), "--json"]) == 0
    assert capsys.readouterr().out == from_file.out
    assert ("not UTF-8" in from_file.err) == ("\ufffd" in given_text)
    tokens = json.loads(from_file.out)["tokens"]
    assert "".join(token["text"] for token in tokens) == given_text
    for token in tokens:
        assert given_text[token["offset"] :].startswith(token["text"])
        assert token["line"] == given_text.count("\n", 0, token["offset"]) + 1


def test_a_text_may_come_out_of_a_pipe(home, tmp_path, capsys):
    reading, writing = os.pipe()
    os.write(writing, b"x = 1\n")
    os.close(writing)
    assert main(["inspect", str(home / "[" / "run]"), f"/dev/fd/{reading}", "--json"]) == 0
    os.close(reading)
    assert json.loads(capsys.readouterr().out)["tokens"][0]["text"] == "x"


def test_a_width_of_nothing_hides_nothing(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "0")
    assert main(["config", "plot", "quickstart"]) == 0
    assert "learning rate" in capsys.readouterr().out


def test_line_ends_and_a_mark_at_the_start_change_no_suspicion(home, tmp_path, capsys):
    found = []
    for content in (b"x = 1\nif x:\n\n    y\n", b"\xef\xbb\xbfx = 1\r\nif x:\r\n\r\n    y\r\n"):
        (tmp_path / "text").write_bytes(content)
        assert main(["inspect", str(home / "[/run]"), str(tmp_path / "text"), "--json"]) == 0
        tokens = json.loads(capsys.readouterr().out)["tokens"]
        found.append([token["suspicion"] for token in tokens if token["text"] != "\ufeff"])
    assert found[0] == found[1]


def test_the_name_of_a_special_token_in_a_text_is_text(home, tmp_path):
    tokenizer = load_tokenizer(home / "[/run]" / "model")
    special = set(tokenizer.all_special_ids)
    assert not special & set(tokenizer("a [MASK] b [SEP]", add_special_tokens=False)["input_ids"])
    tokenizer.save_pretrained(tmp_path)  # for others it is as it was
    assert AutoTokenizer.from_pretrained(tmp_path)("[MASK]", add_special_tokens=False)["input_ids"] == [
        tokenizer.mask_token_id
    ]


def test_settings_are_distinguished_from_the_values_of_options():
    words = [
        "evaluate",
        "m",
        "--seeds",
        "1",
        "2",
        "recipe.epochs=5",
        "--run",
        "exp.lr=1e-3",
        "training.seed=1",
        "--probe",
    ]
    others = shlex.split("evaluate m --seeds 1 2 --run exp.lr=1e-3 --probe")
    assert split_settings(words) == (others, ["recipe.epochs=5", "training.seed=1"])
