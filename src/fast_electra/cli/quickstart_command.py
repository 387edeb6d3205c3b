"""`fast-electra quickstart`: runs the whole pipeline, small, on this machine, in minutes."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def quickstart(
    *overrides: str,
    run: Path = Path("runs/quickstart"),
    text: Annotated[list[Path] | None, Parameter(consume_multiple=True)] = None,
    task: Path | None = None,
    dev: Path | None = None,
    task_text: str | None = None,
    task_label: str | None = None,
    minutes: float | None = None,
    seed: int = 0,
    time_limit: str | None = None,
    json: bool = False,
) -> None:
    """Pre-train on this machine's Python code or on your own text, evaluate, and write a report.

    With --task the command also says whether pre-training paid on your task. If a quickstart is stopped, the same
    command continues it.

    Parameters
    ----------
    overrides
        Settings of both models, each as section.key=value.
    run
        The folder for all results.
    text
        Your own text files or folders, instead of Python code.
    task
        Labelled examples of your task (TSV, CSV, JSON lines, Parquet, or entities as CoNLL), to measure whether
        pre-training paid.
    dev
        Labelled examples to score the task on; default: a tenth of --task.
    task_text
        The column with the task's text, or two columns separated by a comma; needed if there are several choices.
    task_label
        The column to predict; needed if there are several choices.
    minutes
        Scale the number of updates so that everything except the task takes about this many minutes on this machine.
    seed
        Seed of the data order, masks, noise and weights.
    time_limit
        Save and stop before this time has passed, such as 2h, 90m or 5400 (seconds); the exit status is then 75, and
        the same command continues.
    json
        Print the summary as one JSON object on standard output instead of text.
    """
    from fast_electra.errors import ConfigError
    from fast_electra.stopping import asked, limit_time

    limit_time(time_limit)
    if minutes is not None and not minutes > 0:
        raise ConfigError(f"--minutes {minutes:g} is not a duration: give a number above 0.")
    own_seed = [override for override in overrides if override.partition("=")[0].strip() == "training.seed"]
    if own_seed and seed:
        raise ConfigError(f"--seed {seed} and {own_seed[0]} both set the seed; keep one.")
    from fast_electra.data.locks import folder_lock
    from fast_electra.pipelines.own_task import own_task
    from fast_electra.pipelines.quickstart import quickstart as run_quickstart
    from fast_electra.terminal import Terminal, print_json
    from fast_electra.training.precision import say_shared

    words = tuple(word.strip() for word in (task_text or "").split(",") if word.strip())
    own = own_task(task, dev, words, task_label)
    console = Terminal(stderr=json)
    say_shared(console.say)
    given = overrides if own_seed else (f"training.seed={seed}", *overrides)
    with folder_lock(run):
        summary = run_quickstart(run, console, text or (), minutes, given, asked, own)
    if json:
        print_json(summary)
