"""Kills, signals, and two commands at once."""

import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from fast_electra.config.printing import dump_config
from fast_electra.data.locks import LOCK
from tests import tiny
from tests.runs.test_kills import Kill, Killed, killed_and_continued, settings
from tests.torture.trial import FAILED, SHORT, Started, Trial, content, judged, left_over, main, some, words_of
from tests.training.test_training import run, weights, without_clock

KINDS = ("mlm", "fast_electra", "electra")
KILLS, SIGNALLED, TWICE, FEW = 100, 20, 10, 40
"""`FEW` operations of a command that takes seconds are killed"""
SENT = {
    "SIGTERM": ((signal.SIGTERM,), {75}),
    "SIGINT": ((signal.SIGINT,), {130}),
    "SIGUSR1": ((signal.SIGUSR1,), {75}),
    "SIGTERM twice": ((signal.SIGTERM, signal.SIGTERM), {75}),
    "SIGINT twice": ((signal.SIGINT, signal.SIGINT), {130}),
    # If both are pending, Python handles the one with the smaller number first.
    "SIGTERM, then SIGINT": ((signal.SIGTERM, signal.SIGINT), {75, 130}),
}
STOPPED = (
    "pretrain",
    "data build",
    "data merge",
    "corrupt",
    "export",
    "export of a checkpoint",
    "evaluate",
    "compare",
    "report",
    "study",
    "quickstart",
)


def names_in(folder: Path) -> list[str]:
    """The names of all files, sorted; a run that was stopped has a checkpoint of another update."""
    return sorted(re.sub(r"checkpoints/\d+", "checkpoints/N", name) for name in content(folder))


def unequal(folder: Path, whole: Path) -> str:
    """What differs between a run and the unbroken run; empty if nothing does."""
    if weights(folder) != weights(whole):
        return "the weights differ"
    if without_clock(folder) != without_clock(whole):
        return "the records differ"
    names = [names_in(one) for one in (folder, whole)]
    return "" if names[0] == names[1] else f"{set(names[0]) ^ set(names[1]) or names} differ"


def kills(scale: float) -> Iterator[Trial]:
    """Kill a `pretrain` at random moments until it has finished, again and again."""
    draw, left = random.Random(0), some(KILLS, scale)
    for number in count():
        folder, whole = Path(f"killed-{number}"), Path(f"whole-{number}")
        kind = KINDS[number % len(KINDS)]
        few = {"updates": 60, "checkpoint_every": 4, "log_every": 2, "keep_checkpoints": 2, "seed": number}
        changes = {f"training__{key}": value for key, value in few.items()}
        model = Path("model") if kind == "fast_electra" else None
        if kind == "electra":
            changes["objective__generator"] = {"layers": 1, "hidden_size": 32, "heads": 2, "intermediate_size": 32}
        Path("killed.yaml").write_text(dump_config(tiny.settings(Path("shards"), kind, model, **changes)))
        words = ["pretrain", "killed.yaml", "--run"]
        began = time.monotonic()
        status = Started([*words, str(whole)], Path("log")).end()
        seconds = time.monotonic() - began
        assert status == 0, Path("log").read_text()
        pending: list[Trial] = []
        while True:
            process = Started([*words, str(folder)], Path("log"))
            after = draw.random() * min(2.0, seconds)
            if left:
                process.wait(after)
                process.send(signal.SIGKILL)
            status = process.end()
            if status == 0:
                break
            if status != -signal.SIGKILL:
                pending.append(Trial(f"run {number}", FAILED, process.said()))
                break
            left -= 1
            pending.append(Trial(f"{kind}, run {number}, killed after {after:.2f} s", "continued, equal bit for bit"))
        differs = unequal(folder, whole) if status == 0 else ""
        yield from (Trial(trial.did, FAILED, differs) for trial in pending) if differs else pending
        for path in (folder, whole):
            shutil.rmtree(path, ignore_errors=True)
        if not left:
            return


def at_operations(scale: float) -> Iterator[Trial]:
    """Kill a run before and after every file operation, and every other command before every one."""
    shards, whole = Path("shards"), Path("operations").absolute()
    with Kill(whole, None, False) as counted:
        run(settings(shards), whole)
    stride = max(1, round(1 / scale))
    for after in (False, True):
        for at in range(1 + after * stride // 2, counted.count + 1, stride):
            folder = Path("operation").absolute()
            yield attempted(
                f"pretrain {'after' if after else 'before'} operation {at}",
                partial(killed_and_continued, folder, shards, at, after, whole),
            )
            shutil.rmtree(folder, ignore_errors=True)
    for name in STOPPED[1:]:
        place = Path("command").absolute()
        with Kill(place, None, False) as counted:
            assert main(words_of(name, place / "out")) == 0
        names = set(names_in(place))
        shutil.rmtree(place)
        step = stride if name in SHORT else max(stride, counted.count // some(FEW, scale))
        for at in range(1, counted.count + 1, step):
            yield attempted(f"{name}, operation {at}", partial(_killed, name, place, at, names))
            shutil.rmtree(place, ignore_errors=True)


def _killed(name: str, place: Path, at: int, names: set[str]) -> None:
    words = words_of(name, place / "out")
    try:
        with Kill(place, at, False):
            main(words)
    except Killed:
        pass
    assert main(words) == 0
    # A kill at the last operation can leave an empty lock, which holds nothing.
    left = {name for name in names_in(place) if not name.endswith(LOCK)}
    assert left == {name for name in names if not name.endswith(LOCK)}, left ^ names


def attempted(did: str, function) -> Trial:
    """A trial that fails with any exception."""
    try:
        function()
    except pytest.fail.Exception:  # the number of operations differs by one or two from run to run
        return Trial(did, "finished before it")
    except Exception as error:
        return Trial(did, FAILED, f"{type(error).__name__}: {error}")
    return Trial(did, "continued, equal to the unbroken one")


def signals(scale: float) -> Iterator[Trial]:
    """Send signals to every command at random moments, then give the same command again."""
    draw = random.Random(1)
    for name in STOPPED:
        out = Path("signalled", "out").absolute()
        began = time.monotonic()
        assert Started(words_of(name, out), Path("log")).end() == 0, Path("log").read_text()
        seconds, names = time.monotonic() - began, set(names_in(out.parent))
        whole = out.parent.rename("signalled-whole")
        for sent, (numbers, expected) in SENT.items():
            for _ in range(some(SIGNALLED, scale, name)):
                did = f"{name}, {sent}"
                process = Started(words_of(name, out), Path("log"))
                process.wait(draw.random() * seconds)
                process.send(*numbers)
                trial = judged(
                    did, process.end(), process.said(), {0: "finished before it"} | dict.fromkeys(expected, "stopped")
                )
                if (
                    trial.outcome == "stopped"
                    and "again with: " not in trial.said
                    and "continue with: " not in trial.said
                ):
                    trial = Trial(did, FAILED, trial.said)
                if trial.outcome != FAILED:
                    trial = _again(trial, name, out, names, whole)
                yield trial
                shutil.rmtree(out.parent, ignore_errors=True)
        shutil.rmtree(whole)


def _again(trial: Trial, name: str, out: Path, names: set[str], whole: Path) -> Trial:
    """The same trial, if the same command then ends as one that nobody stopped does."""
    if out.parent.exists() and (left := left_over(out.parent)) and trial.outcome == "stopped":
        return Trial(trial.did, FAILED, f"left {left}: {trial.said}")
    if trial.outcome == "stopped":
        process = Started(words_of(name, out), Path("log"))
        if (status := process.end()) != 0:
            return Trial(trial.did, FAILED, f"the same command: status {status}: {process.said()}")
    if name == "pretrain" and (weights(out) != weights(whole / "out")):
        return Trial(trial.did, FAILED, "the weights differ from those of the unbroken run")
    if name != "pretrain" and (differ := set(names_in(out.parent)) ^ names):
        return Trial(trial.did, FAILED, f"files differ: {differ}")
    return trial


def two_at_once(scale: float) -> Iterator[Trial]:
    """Start every command twice at nearly the same time in one folder."""
    draw = random.Random(2)
    for name in STOPPED:
        out = Path("twice", "out").absolute()
        assert Started(words_of(name, out), Path("log")).end() == 0
        names = set(names_in(out.parent))
        whole = out.parent.rename("twice-whole")
        for _ in range(some(TWICE, scale, name)):
            both = []
            for number in range(2):
                both.append(Started(words_of(name, out), Path(f"log{number}")))
                time.sleep(draw.random() * 0.1)
            found = [
                judged(name, process.end(), process.said(), {0: "both ended well", 2: "the second was refused"})
                for process in both
            ]
            worst = sorted(found, key=lambda one: (one.outcome == FAILED, one.outcome != "both ended well"))[-1]
            refused = [one for one in found if one.outcome == "the second was refused"]
            if len(refused) == 2 or any(
                "another process" not in one.said and "exists" not in one.said for one in refused
            ):
                worst = Trial(name, FAILED, "\n".join(one.said for one in found))
            elif worst.outcome != FAILED and (differ := set(names_in(out.parent)) ^ names):
                worst = Trial(name, FAILED, f"files differ: {differ}")
            elif name == "pretrain" and weights(out) != weights(whole / "out"):
                worst = Trial(name, FAILED, "the weights differ")
            yield worst
            shutil.rmtree(out.parent, ignore_errors=True)
        shutil.rmtree(whole)
