"""`fast-electra quickstart`: the whole pipeline, small, on this machine, in minutes."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def quickstart(
    *overrides: str,
    run: Path = Path("runs/quickstart"),
    text: Annotated[list[Path] | None, Parameter(negative="", consume_multiple=True)] = None,
    task: Path | None = None,
    dev: Path | None = None,
    task_text: str | None = None,
    task_label: str | None = None,
    minutes: float | None = None,
    seed: int = 0,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Pre-train, evaluate and report on this machine's Python code, or on your own text, and say if it pays.

    The same command goes on where a stopped quickstart left off.

    Parameters
    ----------
    overrides
        Settings of both models as section.key=value.
    run
        The folder for everything that is made.
    text
        Your own text files or folders instead of Python code.
    task
        Your labelled examples (TSV, CSV, JSON lines, Parquet, or entities as CoNLL): did pre-training pay on them?
    dev
        Labelled examples that the task is scored on; left out: a tenth of --task.
    task_text
        The task's column of text, or two, separated by a comma; needed where there are several choices.
    task_label
        The task's column to predict; needed where there are several choices.
    minutes
        Rescale the updates so that all but the task takes about this long on this machine.
    seed
        Seed of data order, masks, noise and weights.
    json
        Print the summary as one JSON object on standard output.
    """
    from fast_electra.errors import ConfigError

    if minutes is not None and not minutes > 0:
        raise ConfigError(f"--minutes {minutes:g} is no time: give a number above 0.")
    own_seed = [override for override in overrides if override.partition("=")[0].strip() == "training.seed"]
    if own_seed and seed:
        raise ConfigError(f"--seed {seed} and {own_seed[0]} both set the seed; keep one.")
    from fast_electra.cli.signals import stop_on_signals
    from fast_electra.pipelines.own_task import own_task
    from fast_electra.pipelines.quickstart import quickstart as run_quickstart
    from fast_electra.terminal import Terminal, print_json
    from fast_electra.training.loop import Interrupted
    from fast_electra.training.precision import say_shared

    words = tuple(word.strip() for word in (task_text or "").split(",") if word.strip())
    asked = own_task(task, dev, words, task_label)
    console = Terminal(stderr=json)
    say_shared(console.say)
    with stop_on_signals() as stop:
        try:
            settings = overrides if own_seed else (f"training.seed={seed}", *overrides)
            summary = run_quickstart(run, console, text or (), minutes, settings, stop, asked)
        except Interrupted as reason:
            console.say(f"{reason}; what was done is kept. The same command goes on.")
            return 130
    if json:
        print_json(summary)
    return 0
