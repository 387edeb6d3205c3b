"""`make torture`: tries out everything that a run may meet, and writes a table into docs/reliability.md.

`python -m tests.torture [--scale 0.05] [--page FILE] [ROW …]` makes that share of the trials, of all rows or of those
whose name begins so. The exit status is 1 if a trial failed; failures are printed.
"""

import argparse
import contextlib
import io
import os
import platform
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import torch
from transformers.utils import logging

from fast_electra.pipelines.pretrain import pretrain
from tests import tiny
from tests.torture import disks, files, numbers, stops
from tests.torture.inputs import make_inputs
from tests.torture.trial import FAILED, Row, Trial

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
]
PAGE = tiny.ROOT / "docs" / "reliability.md"


def processor() -> str:
    """The name of the processor, as the system gives it."""
    with contextlib.suppress(OSError):
        if found := re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()):
            return found[1]
    return platform.processor() or platform.machine()


def table(scale: float, names: list[str]) -> tuple[list[str], int]:
    """Make the trials in a folder of tiny real files; returns the table's lines, and the number of failures."""
    lines, failures = ["| test | trials | result |", "| --- | ---: | --- |"], 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TMPDIR"] = str(folder)
        quiet = io.StringIO()
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            shards = tiny.make_shards(folder / "made")
            pretrain(tiny.settings(shards), folder / "auxiliary")
            (folder / "home").mkdir()
            make_inputs(folder / "home", shards, folder / "auxiliary")
        for row in ROWS:
            if names and not row.name.startswith(tuple(names)):
                continue
            began, outcomes, trials = time.monotonic(), Counter[str](), row.trials(scale)
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
                    failures += 1
                    print(f"--- {row.name}: {trial.did}\n{trial.said[-2000:]}", flush=True)
            result = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items()))
            print(f"{row.name}: {result}, {time.monotonic() - began:.0f} s", flush=True)
            result += "" if outcomes[FAILED] else "; none failed"
            lines.append(f"| **{row.name}**: {row.does} | {outcomes.total():,} | {result} |")
        os.chdir("/")
    return lines, failures


def write_page(page: Path, lines: list[str], scale: float) -> None:
    """Replace the table in the page."""
    share = "all trials" if scale >= 1 else f"{scale:.0%} of the trials (`make torture SCALE={scale:g}`)"
    machine = f"{os.cpu_count()} cores, {processor()}; {share}."
    text, begin, end = page.read_text(encoding="utf-8"), "<!-- table:start -->\n", "<!-- table:end -->"
    before, after = text.split(begin)[0], text.split(end)[1]
    page.write_text(f"{before}{begin}" + "\n".join([*lines, "", machine, ""]) + end + after, encoding="utf-8")


def run(arguments: list[str]) -> int:
    """The program; returns its exit status."""
    parser = argparse.ArgumentParser(prog="make torture")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--page", type=Path, default=None, help=f"write the table here, by default {PAGE}")
    parser.add_argument("rows", nargs="*")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    began = time.monotonic()
    lines, failures = table(min(1.0, given.scale), given.rows)
    if not given.rows:
        write_page((given.page or PAGE).absolute(), lines, given.scale)
    print(f"{failures} failures, {(time.monotonic() - began) / 60:.0f} minutes")
    return min(1, failures)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
