"""What `--help` of a command shows beyond its options: examples, every setting, `--plugin`.

Notable:
- a command that is wider than the terminal is broken with a backslash, so that it can be pasted;
- `pretrain --help optimizer` shows the settings of one section only;
- a line of a docstring is no line of the help: the terminal's width decides.
"""

import difflib
import inspect
import shutil
from collections.abc import Callable, Sequence

from cyclopts import App
from cyclopts.help import format_usage

from fast_electra.errors import UserError

PLUGIN_HELP = """

--plugin FILE.py adds the parts (schedules and others) that a file defines; you can give it several times \
(docs/plugins.md)."""

PRETRAIN_EXAMPLES = """Examples:
  fast-electra pretrain quickstart-auxiliary data.shards=shards --run runs/a
  fast-electra pretrain quickstart data.shards=shards auxiliary.model=runs/a --run runs/b
  fast-electra pretrain my.yaml training.hours=8 --run runs/c
  fast-electra pretrain --help optimizer

CONFIG is a preset (PRESETS) or a YAML file, which may name a preset to start from (preset: NAME). \
--help SECTION lists the settings of one section only. Every setting, with its default:
"""

EVALUATE_EXAMPLES = """Examples:
  fast-electra evaluate runs/main --tasks cola,sst2,mrpc,rte --data GLUE
  fast-electra evaluate runs/main --train reviews.csv --text review --label stars
  fast-electra evaluate runs/main --tasks bugs --recipe fast --seeds 5
  fast-electra evaluate runs/main --tasks rte --data GLUE recipe.epochs=5 recipe.length=256
  fast-electra evaluate google/electra-small-discriminator --tasks rte --json

Settings of the recipe and of the execution. A value that you do not give is that of the recipe's name:
"""


def complete_help(app: App, arguments: Sequence[str]) -> None:
    """Complete the help of the command that the arguments name, which cyclopts then prints."""
    width = shutil.get_terminal_size().columns
    app.help_epilogue = pastable(str(app.help_epilogue), width)
    command, chain = app, list[str]()
    for word in arguments:
        if word in command and not word.startswith("-"):
            command = command[word]
            chain.append(word)
    if command is app:
        return
    more = {"pretrain": _pretrain_help, "evaluate": _evaluate_help}.get(arguments[0])
    text = more(width) if more else str(command.help_epilogue or "").split(PLUGIN_HELP)[0]
    command.help_epilogue = pastable(f"{text.rstrip()}{PLUGIN_HELP}", width)
    if callable(function := command.default_command):
        function.__doc__ = flowing(function.__doc__ or "")
        if name := _further_words(function):
            usage = str(format_usage(app, chain)).strip()
            command.usage = usage.replace("[ARGS...]", f"[{name}...]").replace("[ARGS]", f"[{name}]")


def settings_of_section(arguments: Sequence[str]) -> str | None:
    """The settings that `pretrain --help SECTION` lists; None if the arguments name no section.

    Raises:
        UserError: there is no such section.
    """
    words = [word for word in arguments if word not in ("--help", "-h")]
    if len(words) != 2 or words[0] != "pretrain":
        return None
    from fast_electra.config import help_for_keys
    from fast_electra.config.keys import keys

    section = words[1]
    parts = [name.split(".")[:-1] for name in keys()]
    sections = sorted({".".join(part[:end]) for part in parts for end in range(1, len(part) + 1)})
    if section not in sections:
        close = difflib.get_close_matches(section, sections, n=1)
        top = ", ".join(name for name in sections if "." not in name)
        raise UserError(
            f"pretrain --help {section}: there is no such section; "
            + (f"did you mean {close[0]}?" if close else f"the sections are {top}.")
        )
    return help_for_keys(shutil.get_terminal_size().columns, within=section).strip()


def pastable(text: str, width: int) -> str:
    """The text with commands (lines that begin with `  fast-electra`) broken by backslashes where they are too wide."""
    lines = []
    for line in text.replace(" \\\n      ", " ").split("\n"):
        if line.startswith("  fast-electra"):
            while len(line) > width and (end := line.rfind(" ", 8, width - 1)) > 8:
                lines.append(f"{line[:end]} \\")
                line = f"      {line[end + 1 :]}"
        lines.append(line)
    return "\n".join(lines)


def flowing(docstring: str) -> str:
    """A docstring with each paragraph, and each description of a parameter, on one line."""
    lines: list[str] = []
    for line in inspect.cleandoc(docstring).split("\n"):
        before = lines[-1] if lines else ""
        is_list = before == "Parameters" or line.startswith("---") or before.startswith("---")
        in_parameters = any(each.startswith("---") for each in lines)
        belongs = line and before and not is_list and line.startswith("    ") == before.startswith("    ")
        if belongs and (line.startswith("    ") or not in_parameters):
            lines[-1] = f"{before} {line.strip()}"
        else:
            lines.append(line)
    return "\n".join(lines)


def _further_words(function: Callable[..., object]) -> str:
    """The name of the words that cyclopts calls ARGS; "" if there are none."""
    for name, parameter in inspect.signature(function).parameters.items():
        is_optional = parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is not parameter.empty
        if parameter.kind is parameter.VAR_POSITIONAL or is_optional:
            return name.upper()
    return ""


def _pretrain_help(width: int) -> str:
    from fast_electra.config import help_for_keys, preset_names

    return PRETRAIN_EXAMPLES.replace("PRESETS", ", ".join(preset_names())) + "\n" + help_for_keys(width)


def _evaluate_help(width: int) -> str:
    from fast_electra.config import help_for_keys
    from fast_electra.evaluation.settings import EvaluationConfig

    return EVALUATE_EXAMPLES + "\n" + help_for_keys(width, EvaluationConfig, ("recipe", "execution"))
