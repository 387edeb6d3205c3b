"""`make torture`: tries out everything that a run may meet, and writes a table into docs/reliability.md.

`python -m tests.torture [--scale 0.05] [ROW …]` makes that share of the trials, of all rows or of those whose name
begins so. Each row runs in a process of its own, as many at a time as there are cores, and keeps its result in
`runs/torture/`. `--table` writes the table of rows that were made one by one. The exit status is 1 if a trial failed;
failures are printed.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from fast_electra.pipelines.pretrain import pretrain
from tests import tiny
from tests.torture import disks, files, numbers, several, stops
from tests.torture.inputs import make_inputs
from tests.torture.trial import FAILED, Row, Trial, cpu_seconds

ROWS = [
    Row("Kills", "SIGKILL to `pretrain` at random moments; the same command again until it ends", stops.kills),
    Row("Flipped bits", "one bit of each file that the program writes with a digest and reads again", files.flips),
    Row("Damaged input", "nine kinds of damage to everything that is parsed", files.mutations),
    Row("Hostile content", "pickles, code in models, paths and links to elsewhere, YAML tags", files.hostile),
    Row("Not finite", "NaN or infinity in a weight, a gradient or a batch", numbers.not_finite),
    Row("Signals", "SIGTERM, SIGINT, SIGUSR1 and a second signal to each command at random moments", stops.signals),
    Row("Two at once", "each command twice in one folder", stops.two_at_once),
    Row("Killed operations", "before and after those of `pretrain`, before those of others", stops.at_operations),
    Row("Full disk", "each command that writes, with more and more space until it ends", disks.full_disks),
    Row("Read-only folder", "each command that writes: without and with its earlier output", disks.read_only_folders),
    Row("Processes", "a run continued by 1, 2, 4 and 1 processes, with DDP and FSDP2", numbers.change_processes),
    Row(
        "Faults of one process",
        "of two: killed in a save or an export, stopped, a signal, a full disk, a damaged checkpoint, numbers that are "
        "not finite",
        several.faults_of_processes,
    ),
]
PAGE = tiny.ROOT / "docs" / "reliability.md"
RESULTS = tiny.ROOT / "runs" / "torture"


def processor() -> str:
    """The name of the processor, as the system gives it."""
    with contextlib.suppress(OSError):
        if found := re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()):
            return found[1]
    return platform.processor() or platform.machine()


def result_of(row: Row, scale: float) -> dict[str, Any]:
    """Make the trials of a row in a folder of tiny real files; returns its result, of which failures are printed."""
    outcomes = Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TMPDIR"] = str(folder)
        quiet = io.StringIO()
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            shards = tiny.make_shards(folder / "made")
            pretrain(tiny.settings(shards), folder / "auxiliary")
            (folder / "home").mkdir()
            make_inputs(folder / "home", shards, folder / "auxiliary")
        trials = row.trials(scale)
        while True:
            try:
                with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
                    trial = next(trials, None)
            except Exception:
                trial = Trial("the row ended", FAILED, traceback.format_exc())
            quiet.truncate(quiet.seek(0))
            if trial is None:
                break
            outcomes[trial.outcome] += 1
            if trial.outcome == FAILED:
                print(f"--- {row.name}: {trial.did}\n{trial.said[-2000:]}", flush=True)
        os.chdir("/")
    return {"scale": scale, "outcomes": dict(sorted(outcomes.items())), "cpu_minutes": cpu_seconds() / 60}


def make_row(row: Row, scale: float) -> int:
    """Make the trials of a row, and keep and print its result; returns 1 if a trial failed, otherwise 0."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    result = result_of(row, scale)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{row.name}.json").write_text(json.dumps(result))
    print(f"{row.name}: {said_of(result)}, {result['cpu_minutes']:.1f} minutes of one core", flush=True)
    return min(1, result["outcomes"].get(FAILED, 0))


def make_rows(rows: Iterable[Row], scale: float) -> int:
    """Make each row in a process of its own, as many at a time as there are cores; returns 1 if a trial failed."""
    command = [sys.executable, "-m", "tests.torture", "--scale", f"{scale:g}"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ends = pool.map(lambda row: subprocess.run([*command, row.name], cwd=tiny.ROOT).returncode, rows)
        return max(map(abs, ends))


def said_of(result: dict[str, Any]) -> str:
    """The outcomes of a row in words."""
    outcomes = result["outcomes"]
    return ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.items()) + (
        "" if FAILED in outcomes else "; none failed"
    )


def write_table() -> int:
    """Write the kept results of all rows into the page; returns 1 if a row has none, otherwise 0."""
    kept = {row: RESULTS / f"{row.name}.json" for row in ROWS}
    if missing := [row.name for row, file in kept.items() if not file.exists()]:
        print(f"no table is written: {', '.join(missing)} have no result")
        return 1
    write_page(PAGE, {row: json.loads(file.read_text()) for row, file in kept.items()})
    return 0


def write_page(page: Path, results: dict[Row, dict[str, Any]]) -> None:
    """Replace the table in the page."""
    lines = ["| test | trials | result | minutes |", "| --- | ---: | --- | ---: |"]
    for row, result in results.items():
        share = "" if result["scale"] >= 1 else f" ({result['scale']:.0%})"
        count = f"{sum(result['outcomes'].values()):,}{share}"
        lines.append(f"| **{row.name}**: {row.does} | {count} | {said_of(result)} | {result['cpu_minutes']:.1f} |")
    total, whole = 0.0, 0.0
    for result in results.values():
        total += result["cpu_minutes"]
        whole += result["cpu_minutes"] / result["scale"]
    machine = f"{processor()}; minutes are those of one core, {total:.0f} in all."
    if any(result["scale"] < 1 for result in results.values()):
        machine += f" In brackets: the share of the row's trials; all trials would take about {whole:.0f} minutes."
    text, begin, end = page.read_text(encoding="utf-8"), "<!-- table:start -->\n", "<!-- table:end -->"
    before, after = text.split(begin)[0], text.split(end)[1]
    page.write_text(f"{before}{begin}" + "\n".join([*lines, "", machine, ""]) + end + after, encoding="utf-8")


def run(arguments: list[str]) -> int:
    """The program; returns its exit status."""
    parser = argparse.ArgumentParser(prog="make torture")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--table", action="store_true", help="make no trials, write the table of those that were made")
    parser.add_argument("rows", nargs="*")
    given = parser.parse_args(arguments)
    scale = min(1.0, given.scale)
    rows = [row for row in ROWS if not given.rows or row.name.startswith(tuple(given.rows))]
    if given.table:
        return write_table()
    if len(rows) == 1:
        return make_row(rows[0], scale)
    began = time.monotonic()
    status = make_rows(rows, scale)
    print(f"{'failures' if status else 'no failures'}, {(time.monotonic() - began) / 60:.0f} minutes")
    return max(status, write_table()) if rows == ROWS else status


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
