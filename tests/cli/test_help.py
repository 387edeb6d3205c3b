"""`--help` can be pasted and filtered, and long commands tell how far they are."""

import re
import shlex

import pytest

from fast_electra.cli.help import flowing, pastable
from fast_electra.cli.main import app, main
from fast_electra.terminal import ProgressLines, duration


@pytest.mark.parametrize("width", [50, 80])
@pytest.mark.parametrize("command", ["", "pretrain", "evaluate", "compare", "bench", "config plot"])
def test_commands_in_the_help_can_be_pasted(command, width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    examples = re.split("^Examples?:\n", shown, flags=re.MULTILINE)[1].split("\n\n")[0]
    examples = examples.replace(" \\\n", " ").splitlines()
    examples = [line for line in examples if "yaml-language-server" not in line]
    assert examples
    for line in examples:
        words = shlex.split(line)
        assert words[0] == "fast-electra", f"{line!r} is the rest of a line that was wrapped"
        if "--help" not in words:
            app.parse_args(words[1:], exit_on_error=False, print_error=False)


def test_only_commands_that_are_too_wide_are_broken():
    assert pastable("  fast-electra a b\n  a long line of text", 18) == "  fast-electra a b\n  a long line of text"
    assert pastable("  fast-electra one two three", 20) == "  fast-electra one \\\n      two three"


def test_pretrain_help_shows_the_settings_of_one_section(capsys):
    assert main(["pretrain", "--help", "corruption.schedule"]) == 0
    names = [line.split("=")[0] for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert "corruption.schedule.tau" in names
    assert all(name.startswith("corruption.schedule.") for name in names)
    assert main(["pretrain", "--help", "optimiser"]) == 2
    assert "did you mean optimizer?" in capsys.readouterr().err


def test_the_usage_has_the_names_of_the_table(capsys):
    for command, name in (("pretrain", "CONFIG [OVERRIDES...]"), ("inspect", "MODEL [FILE]"), ("report", "[RUNS...]")):
        assert main([command, "--help"]) == 0
        usage = capsys.readouterr().out.splitlines()[0]
        assert usage.endswith(name)
        assert "ARGS" not in usage


def test_lines_of_a_docstring_are_not_lines_of_the_help():
    sections = (
        "One\n    sentence.",
        "Parameters\n    ----------\n    run\n        A\n        folder.\n    out\n        B.",
    )
    shown = flowing("\n\n    ".join(sections))
    assert shown == "One sentence.\n\nParameters\n----------\nrun\n    A folder.\nout\n    B."


def test_a_long_command_says_now_and_then_how_far_it_is(monkeypatch):
    clock, said = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    tell = ProgressLines(said.append)
    for second in range(0, 3600, 10):
        clock[0] = float(second)
        tell(second, 500_000, "rte, seed 0")
    assert 110 <= len(said) <= 120  # a line every 30 seconds for an hour
    assert said[0] == "  rte, seed 0: 0 %, 5 d 18 h left"


def test_times_are_written_in_the_unit_that_a_person_thinks_in():
    assert [duration(seconds) for seconds in (3.44, 492, 3900, 86_400 * 143 + 7200)] == [
        "3.4 s",
        "8 min 12 s",
        "1 h 05 min",
        "143 d 02 h",
    ]
