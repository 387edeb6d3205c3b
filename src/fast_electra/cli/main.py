"""The command line: names, help and exit statuses. Every command has its own module.

Notable:
- commands are import strings, imported only to run them or to show their own help: `--help` stays fast, and only
  commands that compute load torch;
- exit statuses are decided here only. 0: done; 1: failed; 2: wrong use or refused input; 130: a person interrupted it;
  75: SIGTERM, SIGUSR1 or the time limit stopped it. After 130 and 75, finished work is kept;
- `cli/help.py` completes what `--help` shows, only when it is asked for.
"""

import difflib
import os
import re
import shutil
import sys
from collections.abc import Sequence

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError, UnknownCommandError

from fast_electra import __version__, distributed, stopping, terminal
from fast_electra.cli.help import complete_help, settings_of_section
from fast_electra.data.disk import not_written
from fast_electra.errors import OtherProcessError, UserError
from fast_electra.terminal import Terminal, command_given, discard, prepare_streams, split_settings

app = App(
    name="fast-electra",
    version=f"fast-electra {__version__}",
    help="Pre-train text encoders with Fast-ELECTRA: replaced token detection against a frozen auxiliary model.",
    help_format="plaintext",
    help_epilogue="""Examples:
  fast-electra quickstart
  fast-electra data build modern-small data.sources=[texts] --out shards
  fast-electra pretrain quickstart-auxiliary data.shards=shards --run runs/a
  fast-electra pretrain quickstart data.shards=shards auxiliary.model=runs/a --run runs/b
  fast-electra export runs/b model

COMMAND --help explains a command. pretrain --help lists every setting, pretrain --help optimizer those of a
section.""",
    default_parameter=Parameter(negative=()),  # no --no-OPTION and no --empty-OPTION
    suppress_keyboard_interrupt=False,
    # `app --help` and errors go through `main`, which decides on the exit status.
    exit_on_error=False,
    print_error=False,
    result_action="return_value",
)

data = App(name="data", help="Make a tokenizer and token shards from text.", help_epilogue="")
data.command(
    "fast_electra.cli.data_commands:build",
    name="build",
    help="Read text, train or load the tokenizer, and write token shards.",
    help_epilogue="""Examples:
  fast-electra data build modern-small data.sources=[texts] --out shards
  fast-electra data build my.yaml --out shards --json
  fast-electra data build my.yaml --dry-run
  fast-electra data build my.yaml --out parts --shard 1/8""",
)
data.command(
    "fast_electra.cli.data_commands:merge",
    name="merge",
    help="Join the parts that data build --shard wrote.",
    help_epilogue="""Examples:
  fast-electra data merge parts --out shards""",
)

config = App(name="config", help="Show and plot configurations.", help_epilogue="")
config.command(
    "fast_electra.cli.config_commands:show",
    name="show",
    help="Print a resolved configuration: every key with its value and meaning.",
    help_epilogue="""Examples:
  fast-electra config show quickstart
  fast-electra config show modern-small training.hours=8 > my.yaml
  fast-electra config show my.yaml --json""",
)
config.command(
    "fast_electra.cli.config_commands:plot",
    name="plot",
    help="Draw or print the temperature and learning rate of a configuration over the updates.",
    help_epilogue="""Examples:
  fast-electra config plot quickstart
  fast-electra config plot quickstart --out curves.svg --beside corruption.schedule.kind=cosine
  fast-electra config plot runs/main/config.yaml --run runs/main --out run.png""",
)
config.command(
    "fast_electra.cli.config_commands:schema",
    name="schema",
    help="Print the JSON Schema of a configuration file, for completion in editors.",
    help_epilogue="""Example:
  fast-electra config schema > schema.json
  and in the first line of a YAML file: # yaml-language-server: $schema=schema.json""",
)

app.command(
    "fast_electra.cli.quickstart_command:quickstart",
    name="quickstart",
    help="Run the whole pipeline in minutes: corpus, tokenizer, auxiliary, main model, evaluation, report.",
    help_epilogue="""Examples:
  fast-electra quickstart
  fast-electra quickstart --minutes 20
  fast-electra quickstart --text notes/ --run runs/notes
  fast-electra quickstart --text notes/ --task labelled.csv --run runs/notes""",
)
app.command(data)
app.command(
    "fast_electra.cli.pretrain_command:pretrain",
    name="pretrain",
    help="Train an auxiliary (objective.kind=mlm) or a main model, or continue a stopped run.",
)
app.command(
    "fast_electra.cli.corrupt_command:corrupt",
    name="corrupt",
    help="Compute a run's replacements ahead of time, for every schedule at once.",
    help_epilogue="""Examples:
  fast-electra corrupt electra-small data.shards=shards auxiliary.model=runs/a --out cache
  fast-electra corrupt my.yaml --out cache --shard 1/4
  fast-electra pretrain my.yaml corruption.cache=cache --run runs/b""",
)
app.command(
    "fast_electra.cli.cost_command:cost",
    name="cost",
    help="Count operations and memory of joint ELECTRA and of Fast-ELECTRA, on the fly and cached.",
    help_epilogue="""Examples:
  fast-electra cost paper-base --vocabulary 30522
  fast-electra cost my.yaml auxiliary.model=runs/a --head masked --json""",
)
app.command(
    "fast_electra.cli.bench_command:bench",
    name="bench",
    help="Measure training steps: given replacements, cached, on the fly, joint ELECTRA, other programs.",
    help_epilogue="""Examples:
  fast-electra bench
  fast-electra bench --shape paper-base training.micro_batch_size=32 --json
  fast-electra bench --shape my.yaml data.shards=shards --rounds 15
  fast-electra bench --profile online
  fast-electra bench --tune --shape modern-small""",
)
app.command(
    "fast_electra.cli.evaluate_command:evaluate",
    name="evaluate",
    help="Evaluate a model on GLUE, your own task, bug finding or minimal pairs, with baselines.",
)
app.command(
    "fast_electra.cli.compare_command:compare",
    name="compare",
    help="Compare evaluated models: one table, one plot, and whether a difference is decided.",
    help_epilogue="""Examples:
  fast-electra compare runs/a runs/b
  fast-electra compare runs/a runs/b sentence-transformers/all-MiniLM-L6-v2 --page compare.html""",
)
app.command(
    "fast_electra.cli.study_command:study",
    name="study",
    help="Train and compare a grid of methods, settings and seeds that a YAML file describes.",
    help_epilogue="""Examples:
  fast-electra study studies/schedules.yaml --dry-run
  fast-electra study studies/schedules.yaml --jobs 2
  fast-electra study my.yaml seeds=[0,1,2] budget.updates=500 --out runs/my
  fast-electra study my.yaml --format latex > tables.tex""",
)
app.command(
    "fast_electra.cli.inspect_command:inspect",
    name="inspect",
    help="Shade the tokens of a file by how suspicious the main model finds them.",
    help_epilogue="""Examples:
  fast-electra inspect runs/quickstart/model FILE
  fast-electra inspect runs/quickstart/model FILE --json""",
)
app.command(
    "fast_electra.cli.doctor_command:doctor",
    name="doctor",
    help="Say whether a run is learning: examine its curves, settings, weights, auxiliary and data.",
    help_epilogue="""Examples:
  fast-electra doctor runs/quickstart/main
  fast-electra doctor runs/quickstart/main --json""",
)
app.command(
    "fast_electra.cli.report_command:report",
    name="report",
    help="Write a page with the curves and results of a run, or compare several runs.",
    help_epilogue="""Examples:
  fast-electra report runs/quickstart
  fast-electra report runs/a runs/b runs/c""",
)
app.command(
    "fast_electra.cli.export_command:export",
    name="export",
    help="Write a run's model as a Transformers folder with a model card.",
    help_epilogue="""Examples:
  fast-electra export runs/main model
  fast-electra export runs/main vectors --to sentence-transformers""",
)
app.command(config)
app.register_install_completion_command()


_PARALLEL = ("pretrain", "corrupt", "evaluate", "bench")
"""commands that several processes may run together"""
_CONTINUED = ("quickstart", "pretrain", "corrupt", "evaluate", "study")
"""commands that keep what they have finished when they are stopped"""
_MICRO_BATCH = "lower training.micro_batch_size, which changes a result by no more than rounding"
_LESS_MEMORY = {
    "evaluate": "lower recipe.batch_size or recipe.length, or give fewer processes by --workers",
    "data": "set data.workers=1",
    **dict.fromkeys(("compare", "report", "doctor", "inspect", "export", "config"), "use a machine with more memory"),
}
_AGAIN = "no partial files are left; start it again with"


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's) and return its exit status.

    A command returns None or its exit status. Errors of the package and of the system (a path that cannot be read or
    written) become one sentence. Other exceptions pass through: Python prints the traceback and exits with status 1.
    """
    arguments = sys.argv[1:] if argv is None else argv
    terminal.arguments[:] = arguments
    prepare_streams()
    # We display progress ourselves; progress bars and messages of libraries would break the display.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    # How long a thread waits actively for the others: beside another busy process the default costs two thirds of the
    # speed (docs/speed.md). OpenMP reads it when torch is imported.
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "2500"
    with stopping.listening():
        try:
            return _run_until_stopped(arguments)
        except KeyboardInterrupt as error:  # a second Ctrl-C, just before the first is answered
            return _stopped(error, arguments)


def _run_until_stopped(arguments: Sequence[str]) -> int:
    """Run a command and return its exit status, also if it is stopped."""
    try:
        return _run(arguments)
    except (stopping.Interrupted, KeyboardInterrupt) as error:
        return _stopped(error, arguments)
    except ImportError as error:  # what a module in C makes of a signal while it is imported
        if stopping.requested() is None:
            raise
        return _stopped(error, arguments)


def _run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit status; exceptions of a stop pass through."""
    try:
        _refuse_bytes(arguments)
        arguments = _settings_first(import_plugins(arguments))
        if {"--help", "-h"} & set(arguments):
            if (settings := settings_of_section(arguments)) is not None:
                Terminal().say(settings)
                return 0
            complete_help(app, arguments)
        elif distributed.size() > 1 and arguments[:1] and arguments[0] not in _PARALLEL:
            raise UserError(f"{arguments[0]} runs in one process: start it without torchrun.")
        result = app(arguments, console=Terminal(width=shutil.get_terminal_size().columns))
    except OtherProcessError as error:
        return _failed(str(error), error.status) if distributed.is_main() else error.status
    except UserError as error:
        return _failed(str(error), error.status)
    except CycloptsError as error:
        return _failed(_sentence(error))
    except Exception as error:
        if _is_out_of_memory(error):
            reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
            return _failed(f"memory ran out ({reason}): {_LESS_MEMORY.get(arguments[0], _MICRO_BATCH)}.", 1)
        if (full := not_written(None, error)) is not None:
            if getattr(error, "filename", None) is None:
                discard(sys.stdout)  # `> /dev/full`: buffered output would fail again when Python exits
            return _failed(str(full), full.status)
        if not isinstance(error, OSError) or error.filename is None:
            raise
        return _failed(f"{error.filename}: {error.strerror}; give another path.")
    return result if isinstance(result, int) else 0


def _stopped(error: BaseException, arguments: Sequence[str]) -> int:
    """Say in one sentence what stopped the command and what to do next; returns the exit status."""
    stopping.end()
    request = stopping.requested() or (
        stopping.Request("a request to another process", stopping.BY_SYSTEM)
        if isinstance(error, stopping.Interrupted) and distributed.size() > 1
        else stopping.Request("SIGINT", stopping.BY_PERSON)
    )
    if not distributed.is_main():
        return request.status
    by = "interrupted" if request.status == stopping.BY_PERSON else f"stopped by {request.reason}"
    if isinstance(error, stopping.Interrupted):
        by = f"{error} by {request.reason}"
    kept = "finished work is kept; continue with" if arguments[:1] and arguments[0] in _CONTINUED else _AGAIN
    under = " under the same launcher" if distributed.size() > 1 else ""
    Terminal(stderr=True).say(f"{by}; {kept}: {command_given()}{under}")
    return request.status


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an error of Python, NumPy or PyTorch says that there is no more memory, on a CPU or a GPU."""
    text = str(error) if isinstance(error, RuntimeError) else ""
    return isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text


def import_plugins(arguments: Sequence[str]) -> list[str]:
    """Import the plug-ins that `--plugin` names, and return the other arguments."""
    from fast_electra import plugins

    rest, names = [], []
    words = iter(arguments)
    for word in words:
        option, equals, name = word.partition("=")
        if option != "--plugin":
            rest.append(word)
            continue
        name = name if equals else next(words, "")
        if not name or name.startswith("-"):
            raise UserError("--plugin needs a Python file, or the name of an entry point: --plugin FILE.py.")
        names.append(name)
    plugins.requested[:] = names
    if plugins.requested:
        from fast_electra.config import tree  # noqa: F401 - the parts of the package come first

        plugins.load_plugins(plugins.requested)
    return rest


def _settings_first(arguments: Sequence[str]) -> list[str]:
    """The arguments with settings before the options, of which some, such as `--seeds`, take all words behind them."""
    others, settings = split_settings(arguments)
    first = next((place for place, word in enumerate(others) if word.startswith("-")), len(others))
    return [*others[:first], *settings, *others[first:]]


def _failed(message: str, status: int = 2) -> int:
    if distributed.is_said_by_main(message):
        return status
    by = f"process {distributed.rank()} of {distributed.size()}: " if distributed.size() > 1 else ""
    Terminal(stderr=True, quiet=False).say(f"error: {by}" + message.replace("\n", " "))
    return status


def _refuse_bytes(arguments: Sequence[str]) -> None:
    """Refuse arguments that are not text: configuration files cannot store them, and libraries refuse such paths."""
    for argument in arguments:
        if any("\udc80" <= character <= "\udcff" for character in argument):
            encoding = sys.getfilesystemencoding().upper()
            remedy = "rename the file or folder" if encoding == "UTF-8" else "set PYTHONUTF8=1"
            raise UserError(f"{argument} contains bytes that are not {encoding}; {remedy}.")


def _sentence(error: CycloptsError) -> str:
    """Return the error of cyclopts as one sentence that says what to do."""
    if isinstance(error, UnknownCommandError) and error.unused_tokens and error.app:
        # Its own message would import every command.
        given, known = error.unused_tokens[0], [name for name in error.app if not name.startswith("-")]
        close = difflib.get_close_matches(given, known, n=1)
        remedy = f"did you mean {close[0]}?" if close else f"the commands are {', '.join(sorted(known))}."
        return f"unknown command {given}; {remedy}"
    error.verbose = False
    message = " ".join(str(error).split())
    if setting := re.search(r"--([\w-]+(?:\.[\w-]+)+)", message):
        return f"{message.rstrip('.')}; write settings without dashes: {setting[1]}=value."
    return message
