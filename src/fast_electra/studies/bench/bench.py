"""Compares the speed of training steps: with given, cached and on-the-fly replacements, joint, and other programs.

| part           | its training step                                                                           |
| -------------- | ------------------------------------------------------------------------------------------- |
| `rtd_only`     | the main model on replacements in memory: the limit                                         |
| `cached`       | replacements read from a corruption cache                                                   |
| `online`       | replacements by the frozen auxiliary, on the fly                                            |
| `joint`        | joint ELECTRA                                                                               |
| `peer_best`    | joint ELECTRA as a short, plain program, with this project's settings (peer.py)             |
| `peer_default` | txtai's token detection with Transformers' Trainer, at their defaults (peer.py; extra `bench`) |

Notable:
- the parts take turns, and each round begins with another part, so a machine that becomes slower slows all parts;
  ratios compare times of the same round;
- the first update of a turn is not timed, because it fills caches and compiles;
- the time is that of whole steps with the loader; on a GPU, the clock is read after the device has finished;
- what was measured is printed at once, so a bench that is stopped has shown something;
- on a CPU, memory is measured for each part in a separate process; on a GPU by the peak of PyTorch's allocations while
  the part makes its first updates, in this process;
- intervals are 95 % bootstrap intervals of the median.
"""

import dataclasses
import importlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from math import ceil
from pathlib import Path
from typing import Any, cast

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

from fast_electra.config import Config
from fast_electra.data.encoding import peak_memory
from fast_electra.data.shards import open_shards
from fast_electra.data.workers import worker_pool
from fast_electra.errors import ConfigError
from fast_electra.objectives.fast_electra import FastElectra
from fast_electra.studies.bench.parts import PARTS, BenchPart, Timing, build_part, given
from fast_electra.studies.bench.rates import (
    Products,
    data_sheet_rate,
    interval,
    large_product_rate,
    median_seconds,
    rates,
)
from fast_electra.studies.bench.setup import Bench, generator_shape, prepare, transformers_config_of
from fast_electra.terminal import Say
from fast_electra.training.assembly import assemble
from fast_electra.training.flops import MatrixProduct, matrix_products
from fast_electra.training.outlook import flops_per_update
from fast_electra.training.precision import Execution, apply_threads, synchronize

_COUNTED = {"rtd_only": "rtd_only", "cached": "rtd_only", "online": "online", "joint": "joint", "peer_best": "joint"}
"""whose FLOPs a part has"""


def bench(
    config: Config, folder: Path, updates: int, rounds: int, seconds: float | None = None, say: Say = lambda _: None
) -> dict[str, Any]:
    """Measure the speed and the memory of every part.

    Args:
        config: gives main model, auxiliary, batch and precision. Without `data.shards` the tokens are random; without
            `auxiliary.model` the auxiliary has random weights (`cost.auxiliary_shape` gives its shape).
        folder: folder for temporary files.
        updates: number of timed updates in a part's turn.
        rounds: number of turns of each part.
        seconds: of all turns of a part together; replaces `updates`.
        say: called with one sentence at a time.

    Returns:
        the object that `fast-electra bench --json` prints (docs/speed.md).

    Raises:
        ConfigError, DataError, ModelError: the shape cannot be trained.
    """
    say("making data, an auxiliary and a cache")
    setup = prepare(config, folder)
    found = measured(setup, updates, rounds, seconds, say)
    if setup.execution.device.type != "cuda":
        for name in (name for name in PARTS if found[name]):
            found[name] |= in_a_process(name, setup)
            say(f"{name}: {_first_update(found[name])} (a separate process)")
    return found


def measured(
    setup: Bench,
    updates: int,
    rounds: int,
    seconds: float | None = None,
    say: Say = lambda _: None,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """What `bench` returns, without the memory on a CPU.

    Args:
        setup: from `prepare`.
        updates: see `bench`.
        rounds: see `bench`.
        seconds: see `bench`.
        say: called with one sentence at a time.
        report: called with each part of the result as soon as it is known, and again when it is known better.
    """
    execution = setup.execution
    apply_threads(execution)
    facts, products = alone(setup)
    facts |= described(setup)
    facts |= {
        "rounds": rounds,
        "skipped": setup.skipped,
        "large_product_flops_per_second": large_product_rate(execution),
        "data_sheet_flops_per_second": None if execution.precision == "float32" else data_sheet_rate(facts["device"]),
    }
    report(facts)
    parts, firsts = first_updates(setup, say)
    counts = {name: updates for name in parts}
    if seconds is not None:
        counts = {name: updates_within(part, seconds / rounds) for name, part in parts.items()}
    turns: dict[str, list[Timing]] = {name: [] for name in parts}
    product_seconds: list[float] = []
    found: dict[str, Any] = {}
    for number, (timed, alone_seconds) in enumerate(measure(parts, products, execution, counts, rounds), start=1):
        for name, turn in timed.items():
            turns[name].append(turn)
        product_seconds.append(alone_seconds)
        found = _result(turns, firsts, product_seconds, facts) | {"updates": counts}
        report(found)
        speeds = (f"{name} {timed[name].tokens / timed[name].seconds:,.0f}" for name in parts)
        say(f"round {number} of {rounds}, tokens/s: {', '.join(speeds)}")
    return facts | found


def _result(
    turns: dict[str, list[Timing]],
    firsts: dict[str, dict[str, float]],
    product_seconds: list[float],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """The result of the rounds so far."""
    found = summary(turns)
    for name, measures in found.items():
        measures |= firsts[name]
        if name in _COUNTED:
            flops = facts["flops_per_update"][_COUNTED[name]]
            speed = flops / interval([turn.seconds / turn.updates for turn in turns[name]])["median"]
            measures["utilisation"] = {
                of: speed / facts[f"{of}_flops_per_second"]
                for of in ("large_product", "data_sheet")
                if facts[f"{of}_flops_per_second"]
            }
    limit = [turn.seconds / turn.updates for turn in turns["rtd_only"]]
    return {
        **{name: found.get(name) for name in PARTS},
        "ratios": ratios(turns),
        **rates(limit, product_seconds, facts["flops_per_update"]["rtd_only"]),
    }


def first_updates(setup: Bench, say: Say) -> tuple[dict[str, BenchPart], dict[str, dict[str, float]]]:
    """Build the parts that can run, and make their first updates.

    Returns:
        the parts by name; and on a GPU, for each part, `peak_memory_bytes` and `first_update_seconds`.
    """
    parts: dict[str, BenchPart] = {}
    measures: dict[str, dict[str, float]] = {}
    device = setup.execution.device
    for name in (name for name in PARTS if name not in setup.skipped):
        began = time.perf_counter()
        measures[name] = {}
        if device.type != "cuda":
            parts[name] = build_part(name, setup)
            continue
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        parts[name] = build_part(name, setup)
        parts[name].run(0)
        seconds = time.perf_counter() - began
        parts[name].run(1)
        peak = torch.cuda.max_memory_allocated(device) - before
        measures[name] = {"peak_memory_bytes": peak, "first_update_seconds": seconds}
        say(f"{name}: {_first_update(measures[name])}")
    return parts, measures


def updates_within(part: BenchPart, seconds: float) -> int:
    """The number of updates of a part that take `seconds`, at least 1, estimated from the speed of a few updates."""
    turn = part.run(1)
    if turn.seconds < seconds / 4:
        turn = part.run(4)
    return max(1, ceil(seconds * turn.updates / turn.seconds))


def _first_update(measures: dict[str, float]) -> str:
    seconds, memory = measures["first_update_seconds"], measures["peak_memory_bytes"] / 1e6
    return f"first update after {seconds:.1f} s, {memory:,.0f} MB"


def profile(config: Config, folder: Path, part: str, updates: int) -> str:
    """PyTorch's profile of some updates of a part: a table of its operations, sorted by their own time.

    Raises:
        ConfigError: there is no such part, or it cannot run here.
    """
    if part not in PARTS:
        raise ConfigError(f"{part} is no part of the bench: give one of {', '.join(PARTS)}.")
    setup = prepare(config, folder)
    if part in setup.skipped:
        raise ConfigError(f"{part} cannot run: {setup.skipped[part]}.")
    apply_threads(setup.execution)
    built = build_part(part, setup)
    built.run(1)
    on_gpu = setup.execution.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    # `run` makes one more update, which is not timed.
    with torch_profile(activities=activities) as found:
        built.run(updates - 1)
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return found.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=60)


def alone(setup: Bench) -> tuple[dict[str, Any], Counter[MatrixProduct]]:
    """Measure what is not a training step.

    Returns:
        the counted FLOPs of each part, the speed of the loader and of corruption alone; and the matrix products of an
        update with given replacements.
    """
    execution, joint, online = setup.execution, setup.joint, setup.online
    parts = assemble(online, execution)
    limit = dataclasses.replace(parts, objective=given(parts, execution))
    flops = {
        "rtd_only": flops_per_update(online, limit, execution),
        "online": flops_per_update(online, parts, execution),
        "joint": flops_per_update(joint, assemble(joint, execution), execution),
    }
    for model in parts.objective.models().values():
        model.to(execution.weights_dtype)
    prepared = parts.objective.prepare(parts.schedule.at(0), 0)
    on_device = prepared.to(execution.device)

    def step() -> None:
        with execution.autocast():
            terms = limit.objective.terms(on_device, 0.0, seed=0)
        torch.stack([total for total, _ in terms.losses.values()]).sum().backward()

    products = matrix_products(step)
    tokens = int((~prepared.batch.padding).sum())
    objective = cast(FastElectra, parts.objective)

    def corrupt() -> None:
        with execution.autocast():
            objective.source.corrupt(on_device.batch, on_device.masked, objective.curriculum.difficulty(0.0), 0)
        synchronize(execution.device)

    corruption = tokens / median_seconds(corrupt)
    torch.set_num_threads(1)
    reader = tokens / median_seconds(lambda: objective.prepare(parts.schedule.at(0), 0))
    torch.set_num_threads(execution.threads)
    return {
        "flops_ratio": {name: flops[name] / flops["rtd_only"] for name in ("online", "joint")},
        "flops_per_update": flops,
        "reader_tokens_per_second_per_core": reader,
        "corruption_tokens_per_second": corruption,
    }, products


def measure(
    parts: dict[str, BenchPart],
    products: Counter[MatrixProduct],
    execution: Execution,
    updates: dict[str, int],
    rounds: int,
) -> Iterator[tuple[dict[str, Timing], float]]:
    """Time the parts in turns, each with its number of updates.

    Yields:
        for each round, the timing of each part, and the seconds of the matrix products of one update alone.
    """
    multiply = Products(products, execution.device)
    names = list(parts)
    for number in range(rounds):
        timed: dict[str, Timing] = {}
        seconds = 0.0
        first = number % len(names)
        for name in names[first:] + names[:first]:
            timed[name] = parts[name].run(updates[name])
            if name == "rtd_only":
                seconds = multiply()
        yield timed, seconds


def summary(turns: dict[str, list[Timing]]) -> dict[str, dict[str, Any]]:
    """Tokens per second of each part, and its share of time spent waiting for data."""
    return {
        name: {
            "tokens_per_second": interval([turn.tokens / turn.seconds for turn in timed]),
            "data_wait_share": sum(turn.waited for turn in timed) / sum(turn.seconds for turn in timed),
        }
        for name, timed in turns.items()
    }


def ratios(turns: dict[str, list[Timing]]) -> dict[str, dict[str, float]]:
    """Ratios of times in the same round: of each part to given replacements, and of `joint` to `peer_best`.

    The last has the key `joint_to_peer_best`.
    """
    seconds = {name: [turn.seconds / turn.updates for turn in timed] for name, timed in turns.items()}
    pairs = {name: (name, "rtd_only") for name in turns if name != "rtd_only"}
    if {"joint", "peer_best"} <= turns.keys():
        pairs["joint_to_peer_best"] = ("joint", "peer_best")
    return {
        name: interval([one / base for one, base in zip(seconds[part], seconds[other], strict=True)])
        for name, (part, other) in pairs.items()
    }


def in_a_process(name: str, setup: Bench) -> dict[str, float]:
    """Run a part in a separate process, on a device that is no GPU.

    Returns:
        `peak_memory_bytes`: the growth of the resident size after all imports;
        `first_update_seconds`: from the start of the process to the end of the first update.
    """
    with worker_pool(1, f"measures {name}", "lower training.micro_batch_size") as pool:
        return pool.submit(_first_updates, name, setup, time.time()).result()


def _first_updates(name: str, setup: Bench, began: float) -> dict[str, float]:
    if name == "peer_default":
        importlib.import_module("txtai.models")
    apply_threads(setup.execution)
    before = peak_memory()
    part = build_part(name, setup)
    part.run(0)
    seconds = time.time() - began
    part.run(1)
    return {"peak_memory_bytes": peak_memory() - before, "first_update_seconds": seconds}


def _device_name(execution: Execution) -> str:
    """The name of a GPU, or the instruction set of a CPU."""
    if execution.device.type == "cuda":
        return torch.cuda.get_device_name(execution.device)
    return f"{execution.device.type} {torch.backends.cpu.get_cpu_capability()}"


def described(setup: Bench) -> dict[str, Any]:
    """What is timed, and where: the shape of main model, auxiliary and batch in a few numbers, and the execution."""
    shape: dict[str, Any] = {}
    shards = open_shards(setup.online.data.shards or "", verify=False)
    for name, model in (("main", setup.joint.main), ("auxiliary", generator_shape(setup.joint))):
        config = transformers_config_of(model, setup.joint, shards)
        shape[name] = {
            "architecture": config.model_type,
            "layers": config.num_hidden_layers,
            "hidden_size": config.hidden_size,
        }
    shape |= {
        "vocabulary": shards.vocabulary_size,
        "batch_size": setup.online.training.batch_size,
        "length": setup.online.data.length,
    }
    return {
        "shape": shape,
        "device": _device_name(setup.execution),
        "dtype": setup.execution.precision,
        "threads": setup.execution.threads,
        "compiled": setup.online.training.compile,
    }
