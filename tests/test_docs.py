"""The documentation tells the truth where a program can tell: links, commands, keys, configurations, errors.

Commands are parsed, not run, except those whose error is shown beside them, which take milliseconds.
"""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from fast_electra.cli.help import settings_of_section
from fast_electra.cli.main import app, import_plugins, main
from fast_electra.config import Config, load_config
from fast_electra.config.keys import Key, keys
from fast_electra.config.phases import Phase
from fast_electra.evaluation.settings import EvaluationConfig
from fast_electra.studies.grid.plan import plan
from fast_electra.studies.grid.settings import read_study

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "benchmarks").glob("*.md"))
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
NO_COMMANDS = ("fast-electra token shards",)  # the format's name in a manifest
SECTIONS = "|".join([*Config.model_fields, "recipe"])

pages = pytest.mark.parametrize("page", PAGES, ids=NAMES)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of every fenced block; indented blocks as language ''."""
    text = page.read_text(encoding="utf-8")
    fence = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
    found = [(match[1], match[2]) for match in fence.finditer(text)]
    indented = re.compile(r"(?<=\n\n)(?: {4}.*\n)+")
    return found + [("", match[0].replace("\n    ", "\n").lstrip()) for match in indented.finditer(fence.sub("", text))]


def known_keys() -> dict[str, Key]:
    """The keys of a run, of its phases and of an evaluation."""
    return keys(EvaluationConfig) | keys(Phase) | keys()


def prose(page: Path) -> str:
    """The page without its blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def in_code(page: Path) -> list[str]:
    """Every inline code of the prose."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def commands(page: Path) -> list[list[str]]:
    """Arguments of every `fast-electra …` line in a block, but for those whose error stands below."""
    found = []
    for _, text in blocks(page):
        lines = text.replace("\\\n", " ").splitlines()
        for line, after in zip(lines, [*lines[1:], ""], strict=True):
            words = re.match(r"\s*(?:\$ )?fast-electra (.*)", line)
            if words and not after.startswith("error:"):
                arguments = shlex.split(words[1], comments=True)
                found.append(arguments[: arguments.index(">")] if ">" in arguments else arguments)
    return found


def shown_errors() -> list[tuple[str, str]]:
    """Commands and the sentence that a page shows below each."""
    found = []
    for page in PAGES:
        for language, text in blocks(page):
            if language == "console":
                found += re.findall(r"^\$ fast-electra (.*)\n(error: .*)$", text, re.MULTILINE)
    return found


def configurations(page: Path) -> list[str]:
    return [text for language, text in blocks(page) if language == "yaml"]


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings: lower case, no punctuation, hyphens for spaces, -1 behind the second."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower()).replace(" ", "-")
        while anchor in found:
            anchor = re.sub(r"(?:-(\d+))?$", lambda number: f"-{int(number[1] or 0) + 1}", anchor, count=1)
        found.add(anchor)
    return found


@pages
def test_every_relative_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        destination = (page.parent / path).resolve() if path else page
        assert destination.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(destination), f"{target}: no such heading"


@pages
def test_every_import_in_a_block_of_python_exists(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for module, names in re.findall(r"^from (fast_electra[\w.]*) import ([\w, ]+)$", block, re.MULTILINE):
            for name in names.split(", "):
                assert hasattr(import_module(module), name.split(" as ")[0]), f"{module} has no {name}"


@pages
def test_examples_show_words_of_the_text_and_never_pieces_of_a_tokenizer(page):
    """A piece of a byte-level tokenizer reads `Ġgelösch`; `text[start:end]` is the word."""
    assert not [text for _, text in blocks(page) if re.search(r"""\[["']word["']\]|convert_ids_to_tokens""", text)]


@pages
def test_every_command_in_a_block_exists_with_its_options_and_settings(page):
    for arguments in map(import_plugins, commands(page)):
        if "--help" in arguments:
            if settings_of_section(arguments):
                continue
            _, _, rest = app.parse_commands([word for word in arguments if word != "--help"])
            assert not rest, arguments
            continue
        command, bound, *_ = app.parse_args(arguments, exit_on_error=False, print_error=False)
        assert command.__module__.startswith("fast_electra.cli."), f"{arguments} names no command"
        for setting in bound.arguments.get("overrides", ()):
            assert "=" in setting, f"{setting!r} of {arguments} is no setting"
            assert setting.partition("=")[0] in known_keys(), f"{setting!r} of {arguments} is unknown"


@pages
def test_every_command_in_the_prose_exists(page):
    for code in in_code(page):
        words = re.match(r"(?:\w+=\S+ )?fast-electra (.*)", code)
        if words and code not in NO_COMMANDS:
            chain, _, _ = app.parse_commands(shlex.split(words[1]))
            assert chain, f"{code} names no command"


@pages
def test_every_make_target_exists(page):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    text = "\n".join([*in_code(page), *(text for language, text in blocks(page) if language == "sh")])
    for target in re.findall(r"^make ([a-z-]+)", text, re.MULTILINE):
        assert target in targets, f"make {target}"


@pages
def test_every_key_that_is_mentioned_exists(page):
    text = re.sub(r"^ *```console\n.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    mentioned = set(re.findall(rf"(?<![\w.-])((?:{SECTIONS})\.[\w.]+)=", text))
    mentioned |= {code for code in in_code(page) if re.fullmatch(rf"(?:{SECTIONS})\.[\w.]+", code)}
    for arguments in commands(page):
        import_plugins(arguments)
    for key in mentioned:
        assert key in known_keys() or any(known.startswith(f"{key}.") for known in known_keys()), f"{key} is no setting"


@pages
def test_every_file_of_the_repository_that_is_named_exists(page):
    folders = ("", "src/fast_electra/")
    for code in in_code(page):
        if re.fullmatch(r"(src|tests|docs|requirements|fast_electra|[a-z]+)/[\w/.]+\.(py|json|txt|yaml)", code):
            name = code.removeprefix("fast_electra/")
            assert any((ROOT / folder / name).exists() for folder in folders), f"{code} is not there"


@pages
def test_every_configuration_is_valid_or_shows_its_error(page, tmp_path):
    shown = " ".join(sentence for _, sentence in shown_errors())
    for text in configurations(page):
        name = re.match(r"# (\S+\.yaml)\n", text)
        if name and f"error: {name[1]}, line" in shown:
            continue
        (tmp_path / "a.yaml").write_text(text)
        if re.search(r"^name:", text, re.MULTILINE):  # a fine-tuning recipe
            EvaluationConfig.of({"model": "m", "tasks": "rte", "recipe": tmp_path / "a.yaml"})
        elif re.search(r"^title:", text, re.MULTILINE):  # a study
            assert plan(read_study(tmp_path / "a.yaml"), {}).cells
        else:
            load_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(("command", "sentence"), shown_errors())
def test_every_shown_error_is_what_the_command_says(command, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for page in PAGES:
        for text in configurations(page):
            if name := re.match(r"# (\S+\.yaml)\n", text):
                Path(name[1]).write_text(text)
    assert main(shlex.split(command)) == 2
    assert capsys.readouterr().err.strip() == sentence


def test_every_error_that_troubleshooting_explains_is_one_that_the_program_says():
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    # A sentence may stand in several literals, and holds braces where the page shows nothing.
    said = re.sub(r'"\s*\n\s*f?r?"', "", source)
    text = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    section = text.partition("## What the sentences mean")[2].partition("\n## ")[0]
    parts = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    assert parts
    missing = [part for part in parts if part not in said]
    assert not missing


def test_every_preset_is_in_the_configuration_page():
    from fast_electra.config import preset_names

    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)) >= set(preset_names())
