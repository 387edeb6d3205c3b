"""The stages of a quickstart: announced, timed, and kept over several sessions."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fast_electra.config.tree import Config
from fast_electra.data.files import write_json_atomically
from fast_electra.report import duration
from fast_electra.terminal import Terminal
from fast_electra.training.telemetry import QuietObserver

# What a quickstart of --minutes spends besides training: corpus, tokenizer, shards, downstream and report.
OTHER_SECONDS = 75.0


_ESTIMATE_AFTER = 20


class Stages:
    """Says what is being done, and keeps the seconds of each stage over several sessions."""

    TITLES: Mapping[str, tuple[str, str]] = {
        "corpus": ("Corpus", "collect the text; seconds"),
        "tokens": ("Tokens", "train a tokenizer and write token shards; about half a minute"),
        "auxiliary": ("Auxiliary", "train a small masked language model, which will propose replacements; minutes"),
        "main": ("Main model", "learn to detect replaced tokens, easy ones first; minutes"),
        "downstream": ("Downstream", "what does it find as it is, without fine-tuning? about a minute"),
        "task": ("Your task", "fine-tune on your examples, beside an encoder without pre-training; minutes"),
        "report": ("Report", "write the page; seconds"),
    }

    def __init__(self, folder: Path, console: Terminal, own_text: bool, has_task: bool = False):
        self._console = console
        self._names = [name for name in self.TITLES if has_task or name != "task"]
        self._file = folder / "stages.json"
        self._stages: dict[str, dict[str, Any]] = json.loads(self._file.read_text()) if self._file.exists() else {}
        self._began = time.perf_counter()
        source = "your text" if own_text else "this machine's Python code"
        console.say(("fast-electra quickstart", "bold"), f" on {source}, into {folder}")

    @property
    def besides(self) -> str:
        """What a forecast leaves out."""
        return " besides your task" if "task" in self._names else ""

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each stage so far."""
        return {name: stage["seconds"] for name, stage in self._stages.items()}

    def elapsed(self) -> float:
        """Seconds of this session."""
        return time.perf_counter() - self._began

    def found(self) -> list[dict[str, Any]]:
        """Name, seconds and finding of each stage."""
        return [{"name": self.TITLES[name][0], **self._stages[name]} for name in self._names if name in self._stages]

    def note(self, text: str) -> None:
        """A sentence below the stage's title."""
        self._console.say(f"      {text}")

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[str], None]]:
        """Announce a stage, time it, and say what it found."""
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
            if self._file.parent.is_dir():
                write_json_atomically(self._file, self._stages)
        self._console.say("      ", (duration(seconds), "green"), f"  {' '.join(findings)}")


class Outlook(QuietObserver):
    """After some updates of the auxiliary, says how long the whole will take."""

    def __init__(self, console: Terminal, stages: Stages, main: Config):
        self._console, self._stages, self._main = console, stages, main
        self._first = self._updates = 0
        self._began = 0.0

    def started(self, update: int, updates: int) -> None:
        """Note where the run begins."""
        self._first, self._updates, self._began = update, updates, time.perf_counter()

    def updated(self, update: int) -> None:
        """Speak once."""
        if update - self._first != _ESTIMATE_AFTER or self._main.training.updates is None:
            return
        each = (time.perf_counter() - self._began) / _ESTIMATE_AFTER
        # An update of the main model takes about as long as one of the auxiliary's.
        seconds = each * (self._updates - update + self._main.training.updates) + OTHER_SECONDS
        self._console.say(
            f"      the whole{self._stages.besides} will take about {duration(self._stages.elapsed() + seconds)} on "
            "this machine; --minutes N rescales it"
        )
