"""The stages of a quickstart: they are announced, timed and recorded, over several sessions."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fast_electra.config.tree import Config
from fast_electra.data.files import read_kept_json, write_sealed_json
from fast_electra.report.figures import duration
from fast_electra.terminal import Terminal
from fast_electra.training.telemetry import QuietObserver

OTHER_SECONDS = 75.0
"""seconds that `--minutes` reserves for stages without training: corpus, tokenizer, shards, downstream and report"""

_ESTIMATE_AFTER = 20  # updates of the auxiliary


class Stages:
    """Prints the stages and stores their seconds and findings in `stages.json`, over several sessions."""

    TITLES: Mapping[str, tuple[str, str]] = {
        "corpus": ("Corpus", "collect the text; seconds"),
        "tokens": ("Tokens", "train a tokenizer and write token shards; about half a minute"),
        "auxiliary": ("Auxiliary", "train a small masked language model, which will propose replacements; minutes"),
        "main": ("Main model", "learn to detect replaced tokens, easy ones first; minutes"),
        "downstream": ("Downstream", "test the main model without fine-tuning; about a minute"),
        "task": ("Your task", "fine-tune on your examples, and compare with an encoder without pre-training; minutes"),
        "report": ("Report", "write the page; seconds"),
    }

    def __init__(self, folder: Path, console: Terminal, own_text: bool, has_task: bool = False):
        self._console = console
        self._names = [name for name in self.TITLES if has_task or name != "task"]
        self._file = folder / "stages.json"
        self._stages: dict[str, dict[str, Any]] = read_kept_json(
            self._file, "delete it, and run the same command again; only the times of earlier stages are lost"
        )
        self._began = time.perf_counter()
        source = "your text" if own_text else "this machine's Python code"
        console.say(("fast-electra quickstart", "bold"), f" on {source}, into {folder}")

    @property
    def left_out(self) -> str:
        """The words that say what the forecast leaves out; empty if it leaves out nothing."""
        return " without your task" if "task" in self._names else ""

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each stage so far."""
        return {name: stage["seconds"] for name, stage in self._stages.items()}

    def elapsed(self) -> float:
        """Seconds of this session."""
        return time.perf_counter() - self._began

    def found(self) -> list[dict[str, Any]]:
        """The title (as `name`), `seconds` and finding (`found`) of each stage so far."""
        return [{"name": self.TITLES[name][0], **self._stages[name]} for name in self._names if name in self._stages]

    def note(self, text: str) -> None:
        """Print a sentence below the stage's title."""
        self._console.say(f"      {text}")

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[str], None]]:
        """Announce a stage, time it, and print what it found.

        The context's value is a function; call it with the stage's finding.
        """
        title, does = self.TITLES[name]
        place = f"{self._names.index(name) + 1}/{len(self._names)}"
        self._console.say((f"\n{place} {title}", "bold"), f": {does}")
        began = time.perf_counter()
        findings: list[str] = []
        try:
            yield findings.append
        finally:
            seconds = time.perf_counter() - began
            before = self._stages.get(name, {"seconds": 0.0, "found": ""})
            self._stages[name] = {
                "seconds": before["seconds"] + seconds,
                "found": findings[0] if findings else before["found"],
            }
            if (self._file.parent / "shards").is_dir():  # a first command that fails leaves no folder
                write_sealed_json(self._file, self._stages)
        self._console.say("      ", (duration(seconds), "green"), f"  {' '.join(findings)}")


class Outlook(QuietObserver):
    """After 20 updates of the auxiliary, prints how long the whole quickstart will take."""

    def __init__(self, console: Terminal, stages: Stages, main: Config):
        self._console, self._stages, self._main = console, stages, main
        self._first = self._updates = 0
        self._began = 0.0

    def started(self, update: int, updates: int) -> None:
        """Store the run's first update, its number of updates and the time."""
        self._first, self._updates, self._began = update, updates, time.perf_counter()

    def updated(self, update: int) -> None:
        """Print the forecast after the 20th update."""
        if update - self._first != _ESTIMATE_AFTER or self._main.training.updates is None:
            return
        each = (time.perf_counter() - self._began) / _ESTIMATE_AFTER
        # An update of the main model takes about as long as one of the auxiliary's.
        seconds = each * (self._updates - update + self._main.training.updates) + OTHER_SECONDS
        self._console.say(
            f"      the whole command{self._stages.left_out} will take about "
            f"{duration(self._stages.elapsed() + seconds)} on this machine; --minutes N changes this"
        )
