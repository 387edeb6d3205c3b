"""`fast-electra study`: trains and compares a grid of methods, settings and seeds that a YAML file describes."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from fast_electra.studies.grid.findings import Results
    from fast_electra.studies.grid.running import Progress
    from fast_electra.studies.grid.settings import StudyConfig
    from fast_electra.terminal import Terminal

PAGE = "study.html"
_WORKER = "FAST_ELECTRA_STUDY_WORKER"
"""variable of the environment of the processes that --jobs starts: their number of threads"""


def study(
    file: str,
    /,
    *overrides: str,
    out: Path | None = None,
    cells: Path | None = None,
    scale: str | None = None,
    jobs: int = 1,
    shard: str = "1/1",
    dry_run: bool = False,
    format: Literal["text", "markdown", "latex", "csv"] = "text",
    time_limit: str | None = None,
    json: bool = False,
) -> None:
    """Train and compare a grid of methods, settings and seeds.

    Shared stages are made once, and finished runs are kept: if the study is stopped, the same command continues it; if
    it is finished, the command only prints the tables and writes the page.

    Parameters
    ----------
    file
        The study, a YAML file (docs/studies.md).
    overrides
        Changes of the file, each as key=value, such as seeds=[0,1] or budget.seconds=60.
    out
        The folder for shards, caches, runs and the page; default: runs/NAME, by the name of the file.
    cells
        The folder of the results, a small file for each run; default: that of the file, or cells/ in --out.
    scale
        One of the scales that the file describes, such as paper-base.
    jobs
        Number of processes that train runs at the same time; they share the cores.
    shard
        i/n: train only every n-th run, from the i-th on, for example in an array of jobs.
    dry_run
        List the runs with their length and cost, and train nothing.
    format
        How tables are printed: text, markdown, latex or csv.
    time_limit
        Save and stop before this time has passed, such as 2h, 90m or 5400 (seconds); the exit status is then 75, and
        the same command continues.
    json
        Print one JSON object on standard output instead of tables.
    """
    from fast_electra.cli.shares import share_of
    from fast_electra.errors import ConfigError
    from fast_electra.stopping import limit_time
    from fast_electra.studies.grid.settings import read_study
    from fast_electra.terminal import Terminal, command_given

    limit_time(time_limit)
    found = read_study(file, overrides, scale)
    out = out or Path("runs") / Path(file).stem
    cells = cells or found.cells or out / "cells"
    if jobs < 1:
        raise ConfigError(f"--jobs {jobs}: give a number from 1.")
    if dry_run:
        print_plan(found, cells, json)
        return
    console = Terminal(stderr=True)
    is_worker = _WORKER in os.environ
    progress = work(found, out, cells, console, share_of(shard), 1 if is_worker else jobs)
    if not is_worker:
        finish(found, progress, out, command_given(), console, format, json)


def work(
    found: "StudyConfig", out: Path, cells: Path, console: "Terminal", share: tuple[int, int] = (1, 1), jobs: int = 1
) -> "Progress":
    """Train and measure what is missing, in this process and in `jobs` - 1 others that run the same command."""
    from fast_electra.data.encoding import available_cores
    from fast_electra.stopping import asked
    from fast_electra.studies.grid.running import Listener, read_progress, run_study
    from fast_electra.training.telemetry import ProgressDisplay

    read_progress(found, cells)  # refuses what can't be before any work starts
    listener = Listener(console.say, lambda name: ProgressDisplay(console, name), asked)
    threads = os.environ.get(_WORKER) or (max(1, available_cores() // jobs) if jobs > 1 else None)
    if threads is not None:
        found = found.model_copy(update={"shared": {"execution.threads": int(threads)} | found.shared})
    environment = os.environ | {_WORKER: str(threads)}
    command = [sys.executable, "-m", "fast_electra", *sys.argv[1:]]
    others = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(jobs - 1)]
    try:
        progress = run_study(found, out, cells, listener, share)
        for other in others:
            other.wait()
        if others:  # runs that were chosen by the others' trials, and those that failed there
            progress = run_study(found, out, cells, listener, share)
    finally:
        for other in others:
            other.terminate()
        for other in others:
            other.wait()
    return progress


def finish(
    found: "StudyConfig",
    progress: "Progress",
    out: Path,
    command: str,
    console: "Terminal",
    form: str = "text",
    json: bool = False,
) -> None:
    """Write the page and print the tables.

    Raises:
        TrainingError: runs failed.
    """
    from fast_electra.data.files import write_json_atomically, write_text_atomically
    from fast_electra.errors import TrainingError
    from fast_electra.report.page import render_page
    from fast_electra.report.study_page import as_text, notes_of, sentences_of, study_content, tables_of
    from fast_electra.report.text_tables import print_table
    from fast_electra.studies.grid.findings import results_of
    from fast_electra.terminal import Terminal, print_json

    results: Results = results_of(found, progress, out, command)
    if results["runs"]:
        write_json_atomically(out / "results.json", results)
        write_text_atomically(out / PAGE, render_page(study_content(results)))
    if json:
        print_json(results)
    elif form == "text":
        terminal = Terminal()
        for table in tables_of(results):
            print_table(table, terminal)
            terminal.print()
        for sentence in [*sentences_of(results), *notes_of(results)]:
            terminal.say(sentence)
    else:
        Terminal().say(as_text(tables_of(results), form).rstrip("\n"))
    if results["runs"]:
        console.say(f"page     {out / PAGE}\nresults  {out / 'results.json'}")
    if progress.failures:
        raise TrainingError(
            f"{len(progress.failures)} of the runs failed, for the reasons above: run the same command again when "
            "these are gone; it keeps what is finished."
        )


def print_plan(found: "StudyConfig", cells: Path, json: bool) -> None:
    """Print the runs of a study, their length and cost, and which are done."""
    from rich.table import Table

    from fast_electra.report.figures import decimal, duration, power
    from fast_electra.studies.grid.cost import planned_costs
    from fast_electra.terminal import Terminal, print_json

    plan = planned_costs(found, cells)
    if json:
        print_json(plan)
        return
    table = Table(box=None)
    for name in ("run", "updates", "tokens", "FLOPs", "time, about", ""):
        table.add_column(name, justify="left" if name in ("run", "") else "right")
    for row in plan["runs"]:
        figures = (decimal(row["updates"], 0), decimal(row["tokens"], 0), power(row["flops"]), duration(row["seconds"]))
        table.add_row(row["run"], *figures, "done" if row["done"] else "")
    console = Terminal()
    console.print(table)
    for sentence in plan["sentences"]:
        console.say(sentence)


def grid_of(given: Sequence[str]) -> dict[str, list[Any]]:
    """The axes of `pretrain --grid key=[…]`.

    Raises:
        ConfigError: one is no list of values.
    """
    from fast_electra.config.reading import flat, read_overrides
    from fast_electra.errors import ConfigError

    axes: dict[str, list[Any]] = {}
    for each in given:
        for key, values in flat(read_overrides([each]).tree).items():
            if not isinstance(values, list) or not values:
                raise ConfigError(f"--grid {each}: give a list of values, such as '{key}=[0.05,0.1]'.")
            if key in axes:
                raise ConfigError(f"--grid: {key} is there twice; put all values into one list.")
            axes[key] = values
    return axes
