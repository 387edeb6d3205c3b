"""Times the step of a shape with every precision, with and without compilation.

Notable:
- a run takes its precision from a fixed table (training/precision.py), never from a measurement; the result here is a
  proposal for a configuration;
- compilation costs time before the first update, so the result says after how many updates it pays.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fast_electra.config import Config
from fast_electra.errors import first_line
from fast_electra.studies.bench.parts import BenchPart, Timing, build_part
from fast_electra.studies.bench.rates import interval
from fast_electra.studies.bench.setup import prepare, with_settings
from fast_electra.training.compilation import Compilation
from fast_electra.training.precision import Execution, apply_threads, choose_execution, cpu_has_bfloat16

_WORDS: dict[Compilation, str] = {False: "", True: ", compiled", "graphs": ", compiled, as CUDA graphs"}


def tune(
    config: Config, folder: Path, updates: int, rounds: int, say: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Time a step with replacements on the fly in each precision, compiled and not compiled, in turns.

    Args:
        config: see `bench`.
        folder: folder for temporary files.
        updates: number of timed updates in a turn.
        rounds: number of turns of each choice.
        say: called with one sentence at a time.

    Returns:
        a dict for each choice, that of the fixed table first: `precision`, `compile`, `chosen`,
        `first_update_seconds`, `tokens_per_second`, `ratio` (its time divided by that of the chosen one in the same
        round; both have `median`, `low` and `high`) and `pays_after_updates` (None: never); or `failed`, the reason
        why it cannot run.

    Raises:
        ConfigError, DataError, ModelError: the shape cannot be trained.
    """
    say("making data and an auxiliary")
    setup = prepare(config, folder)
    apply_threads(setup.execution)
    chosen = (setup.execution.precision, setup.online.training.compile)
    on_gpu = setup.execution.device.type == "cuda"
    compilations: tuple[Compilation, ...] = (False, True, "graphs") if on_gpu else (False, True)
    choices = [(precision, compiled) for precision in _precisions(setup.execution) for compiled in compilations]
    found: list[dict[str, Any]] = []
    parts: dict[int, BenchPart] = {}
    for precision, compiled in sorted(choices, key=lambda choice: choice != chosen):
        row: dict[str, Any] = {"precision": precision, "compile": compiled, "chosen": (precision, compiled) == chosen}
        say(f"first update: precision {precision}{', compiled' if compiled else ''}")
        online = with_settings(setup.online, training={"compile": compiled}, execution={"precision": precision})
        began = time.perf_counter()
        try:
            part = build_part(
                "online", dataclasses.replace(setup, online=online, execution=choose_execution(online.execution))
            )
            part.run(2 if compiled == "graphs" else 0)  # the third update of a shape is recorded
            parts[len(found)] = part
        except Exception as error:  # if a compiler is missing or fails, the other choices can still be timed
            if row["chosen"]:
                raise
            row["failed"] = first_line(error)
        row["first_update_seconds"] = time.perf_counter() - began
        found.append(row)
    turns: dict[int, list[Timing]] = {number: [] for number in parts}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for place, part in parts.items():
            turns[place].append(part.run(updates))
    for place, timed in turns.items():
        found[place] |= _measures(found[place], timed, found[0], turns[0])
    return found


def _precisions(execution: Execution) -> tuple[str, ...]:
    if execution.device.type == "cuda":
        has_bfloat16 = torch.cuda.get_device_capability() >= (8, 0)
        return ("bfloat16_autocast", "bfloat16", "float32") if has_bfloat16 else ("float16_autocast", "float32")
    native = execution.device.type == "cpu" and cpu_has_bfloat16()
    return ("bfloat16", "bfloat16_autocast", "float32") if native else ("float32",)


def _measures(
    row: dict[str, Any], timed: list[Timing], chosen: dict[str, Any], chosen_timed: list[Timing]
) -> dict[str, Any]:
    seconds = [turn.seconds / turn.updates for turn in timed]
    base = [turn.seconds / turn.updates for turn in chosen_timed]
    ratio = interval([one / other for one, other in zip(seconds, base, strict=True)])
    saved = interval(base)["median"] * (1 - ratio["median"])
    later = row["first_update_seconds"] - chosen["first_update_seconds"]
    return {
        "tokens_per_second": interval([turn.tokens / turn.seconds for turn in timed]),
        "ratio": ratio,
        "pays_after_updates": max(0, round(later / saved)) if saved > 0 else None,
    }
