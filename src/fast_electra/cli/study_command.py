"""`fast-electra study`: studies that train several methods and compare them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from fast_electra.studies.claim.corpora import StudyCorpus

_Several = Parameter(negative="", consume_multiple=True)


def claim(
    *overrides: str,
    out: Path,
    seconds: float = 120.0,
    seeds: Annotated[tuple[int, ...], _Several] = (1, 2, 3),
    corpus: Annotated[tuple[str, ...], _Several] = ("python",),
    glue: Path | None = None,
    methods: Annotated[tuple[str, ...], _Several] = ("mlm", "joint", "exponential", "constant-1"),
    auxiliary_share: float = 1 / 3,
    factors: Annotated[tuple[float, ...], _Several] = (0.5, 1.0, 2.0),
    examples: int = 4_000,
    time_limit: str | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Pre-train with several methods for equal seconds and compare them: Fast-ELECTRA against joint ELECTRA.

    If the study is stopped, the same command continues it; if it is finished, the command only prints the tables.

    Parameters
    ----------
    overrides
        Settings of every run, each as section.key=value; they override those of the preset quickstart.
    out
        The folder of the study, for token shards, runs, results.json, claim.md and claim.html.
    seconds
        Seconds of training per run. The study measures the speed first and converts them to a number of updates.
    seeds
        Seeds of pre-training.
    corpus
        python (this machine's Python source, evaluated by finding bugs), or files and folders of English text
        (evaluated on CoLA, SST-2 and MRPC), also compressed.
    glue
        The folder of the GLUE download; needed for English text.
    methods
        Methods to compare: mlm, joint, exponential, constant-1, constant-2, slow, adaptive, copied, delta, started,
        unigram, uniform.
    auxiliary_share
        Training time of the auxiliary as a share of --seconds.
    factors
        Factors of the preset's learning rates. Each is tried for a third of --seconds, and each method uses its best.
    examples
        Largest number of training examples for fine-tuning; of functions, which are longer, a quarter as many.
    time_limit
        Save and stop before this time has passed, such as 2h, 90m or 5400 (seconds); the exit status is then 75, and
        the same command continues.
    dry_run
        List the runs with their seconds, and train nothing.
    json
        Print one JSON object on standard output instead of text.
    """
    from fast_electra.config.loading import load_config
    from fast_electra.stopping import asked, limit_time
    from fast_electra.studies.claim.methods import Study, plan
    from fast_electra.terminal import Terminal, command_given, print_json

    limit_time(time_limit)

    console = Terminal(stderr=True)
    say = console.say
    study = Study(seconds, seeds, methods, auxiliary_share, factors=factors, overrides=overrides)
    load_config("quickstart", overrides)  # refuses a misspelt key before any work starts
    corpora = _corpora(corpus, glue, examples, say)
    if dry_run:
        steps = plan(study, corpora)
        print_json(steps) if json else _print_plan(steps)
        return 0
    from fast_electra.studies.claim.study import claim as run_claim
    from fast_electra.studies.claim.trial import Listener
    from fast_electra.training.telemetry import ProgressDisplay

    listener = Listener(say, lambda name: ProgressDisplay(console, name), asked)
    results = run_claim(study, corpora, out, command_given(), listener)
    if json:
        print_json(results)
        return 0
    _print(results)
    say(f"results  {out / 'results.json'}\npage     {out / 'claim.html'}, {out / 'claim.md'}")
    return 0


def _corpora(
    given: tuple[str, ...], glue: Path | None, examples: int, say: Callable[[str], object]
) -> "list[StudyCorpus]":
    """Return the corpora; tasks are read now, before any work starts."""
    import re

    from fast_electra.errors import ConfigError

    if examples < 1:
        raise ConfigError(f"--examples {examples}: give a number from 1.")
    names = [re.sub(r"[^\w-]+", "-", Path(each).name.split(".")[0]) for each in given]
    for each, name in zip(given, names, strict=True):
        if each != "python" and glue is None:
            raise ConfigError(f"--corpus {each} is evaluated on tasks of GLUE: give its folder by --glue.")
        if names.count(name) > 1:
            raise ConfigError(f"--corpus: two have the name {name}; rename one.")
    from fast_electra.data.python_corpus import collect
    from fast_electra.studies.claim.corpora import Code, Text

    found: list[StudyCorpus] = []
    for each, name in zip(given, names, strict=True):
        if each == "python":
            files = collect()
            found.append(Code(name, files.train, files.held_out, files.validation, examples=-(-examples // 4)))
        else:
            assert glue is not None
            found.append(Text.open(name, Path(each), glue, say, examples))
    return found


def _print_plan(steps: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from fast_electra.report.figures import duration
    from fast_electra.terminal import Terminal

    table = Table(box=None)
    table.add_column("corpus")
    table.add_column("step")
    for name in ("training", "other, about"):
        table.add_column(name, justify="right")
    seconds = ("seconds", "other_seconds")
    for step in steps:
        table.add_row(step["corpus"], step["what"], *(duration(step[key]) if step[key] else "" for key in seconds))
    sums = [sum(step[key] for step in steps) for key in seconds]
    table.add_row("", "total, if nothing exists yet", *map(duration, sums))
    console = Terminal()
    console.print(table)
    console.say(f"together about {duration(sum(sums))}")


def _print(results: dict[str, Any]) -> None:
    from fast_electra.report.claim_page import notes_of, sentences_of, tables_of
    from fast_electra.report.text_tables import print_table
    from fast_electra.terminal import Terminal

    console = Terminal()
    for corpus in results["corpora"]:
        for table in tables_of(corpus):
            print_table(table, console)
            console.print()
        for sentence in sentences_of(corpus):
            console.say(sentence)
        console.print()
    for note in notes_of(results):
        console.say(note)
