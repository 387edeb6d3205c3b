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
- memory is measured for each part in a separate process;
- intervals are 95 % bootstrap intervals of the median.
"""

import dataclasses
import importlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

from fast_electra.config import Config
from fast_electra.data.encoding import peak_memory
from fast_electra.data.shards import open_shards
from fast_electra.data.workers import worker_pool
from fast_electra.errors import ConfigError
from fast_electra.objectives.fast_electra import FastElectra
from fast_electra.studies.bench.parts import PARTS, BenchPart, Timing, build_part, build_parts, given
from fast_electra.studies.bench.setup import Bench, generator_shape, prepare, transformers_config_of, with_settings
from fast_electra.terminal import Say
from fast_electra.training.assembly import assemble
from fast_electra.training.flops import MatrixProduct, matrix_products
from fast_electra.training.outlook import flops_per_update
from fast_electra.training.precision import Execution, apply_threads, synchronize


def bench(config: Config, folder: Path, updates: int, rounds: int, say: Say = lambda _: None) -> dict[str, Any]:
    """Measure the speed and the memory of every part.

    Args:
        config: gives main model, auxiliary, batch and precision. Without `data.shards` the tokens are random; without
            `auxiliary.model` the auxiliary has random weights (`cost.auxiliary_shape` gives its shape).
        folder: folder for temporary files.
        updates: number of timed updates in a part's turn.
        rounds: number of turns of each part.
        say: called with one sentence at a time.

    Returns:
        the object that `fast-electra bench --json` prints (docs/speed.md).

    Raises:
        ConfigError, DataError, ModelError: the shape cannot be trained.
    """
    say("making data, an auxiliary and a cache")
    setup = prepare(config, folder)
    apply_threads(setup.execution)
    facts, products = alone(setup)
    say(f"timing {rounds} rounds of {updates} updates")
    turns, product_seconds = measure(build_parts(setup), products, setup.execution, updates, rounds, say)
    found = summary(turns)
    for name in found:
        say(f"measuring the memory of {name}, in a separate process")
        found[name] |= in_a_process(name, setup)
    return {
        "shape": described(setup),
        "device": device_name(setup.execution),
        "dtype": setup.execution.precision,
        "threads": setup.execution.threads,
        "compiled": setup.online.training.compile,
        "updates": updates,
        "rounds": rounds,
        **{name: found.get(name) for name in PARTS},
        "skipped": setup.skipped,
        "ratios": ratios(turns),
        **rates(turns["rtd_only"], product_seconds, facts["flops_per_update"]["rtd_only"]),
        **facts,
    }


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
    execution, joint = setup.execution, with_settings(setup.joint, training={"compile": False})
    online = with_settings(setup.online, training={"compile": False})
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

    corruption = tokens / _seconds(corrupt)
    torch.set_num_threads(1)
    reader = tokens / _seconds(lambda: objective.prepare(parts.schedule.at(0), 0))
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
    updates: int,
    rounds: int,
    say: Say = lambda _: None,
) -> tuple[dict[str, list[Timing]], list[float]]:
    """Time the parts in turns.

    Returns:
        the timings of each part; and for each round the seconds of the matrix products of one update alone.
    """
    turns: dict[str, list[Timing]] = {name: [] for name in parts}
    seconds = []
    multiply = _Multiply(products, execution.device)
    names = list(parts)
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        first = number % len(names)
        for name in names[first:] + names[:first]:
            turns[name].append(parts[name].run(updates))
            if name == "rtd_only":
                seconds.append(multiply())
    return turns, seconds


def summary(turns: dict[str, list[Timing]]) -> dict[str, dict[str, Any]]:
    """Tokens per second of each part, and its share of time spent waiting for data."""
    return {
        name: {
            "tokens_per_second": interval([turn.tokens / turn.seconds for turn in timed]),
            "data_wait_share": sum(turn.waited for turn in timed) / sum(turn.seconds for turn in timed),
        }
        for name, timed in turns.items()
    }


def rates(limit: list[Timing], product_seconds: list[float], flops: int) -> dict[str, Any]:
    """FLOPs per second of a step with given replacements and of its matrix products alone; their share of the time."""
    seconds = [turn.seconds / turn.updates for turn in limit]
    shares = [alone / whole for alone, whole in zip(product_seconds, seconds, strict=True)]
    return {
        "flops_per_second": flops / float(np.median(seconds)),
        "matmul_flops_per_second": flops / float(np.median(product_seconds)),
        "matmul_share": float(np.median(shares)),
        "matmul_share_interval": interval(shares),
    }


def ratios(turns: dict[str, list[Timing]]) -> dict[str, dict[str, float]]:
    """The time of an update of each part, divided by that with given replacements in the same round."""
    limit = [turn.seconds / turn.updates for turn in turns["rtd_only"]]
    return {
        name: interval([turn.seconds / turn.updates / base for turn, base in zip(timed, limit, strict=True)])
        for name, timed in turns.items()
        if name != "rtd_only"
    }


def interval(values: Sequence[float]) -> dict[str, float]:
    """The median and its 95 % bootstrap interval, from 2,000 resamples with a fixed seed."""
    found = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(0).integers(len(found), size=(2000, len(found)))
    low, high = np.quantile(np.median(found[draws], axis=1), (0.025, 0.975))
    return {"median": float(np.median(found)), "low": float(low), "high": float(high)}


def in_a_process(name: str, setup: Bench) -> dict[str, float]:
    """Run a part in a separate process.

    Returns:
        `peak_memory_bytes`: on a CPU the growth of the resident size after all imports, else PyTorch's allocations;
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
    on_gpu = setup.execution.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else peak_memory() - before
    return {"peak_memory_bytes": peak, "first_update_seconds": seconds}


class _Multiply:
    """All matrix products of an update, one after the other, on operands that are in memory."""

    def __init__(self, products: Counter[MatrixProduct], device: torch.device) -> None:
        self._device = device
        self._products = [(*product.operands(device), count) for product, count in products.items()]
        self()

    def __call__(self) -> float:
        """Run the products and return the seconds."""
        synchronize(self._device)
        began = time.perf_counter()
        for first, second, count in self._products:
            for _ in range(count):
                torch.matmul(first, second)
        synchronize(self._device)
        return time.perf_counter() - began


def _seconds(function: Callable[[], Any]) -> float:
    """Median seconds of a call, over half a second of calls and at least three, after a call that is not timed."""
    function()
    times: list[float] = []
    while len(times) < 3 or sum(times) < 0.5:
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def device_name(execution: Execution) -> str:
    """The name of a GPU, or the instruction set of a CPU."""
    if execution.device.type == "cuda":
        return torch.cuda.get_device_name(execution.device)
    return f"{execution.device.type} {torch.backends.cpu.get_cpu_capability()}"


def described(setup: Bench) -> dict[str, Any]:
    """The shape of main model, auxiliary and batch, in a few numbers."""
    described: dict[str, Any] = {}
    shards = open_shards(setup.online.data.shards or "", verify=False)
    for name, shape in (("main", setup.joint.main), ("auxiliary", generator_shape(setup.joint))):
        config = transformers_config_of(shape, setup.joint, shards)
        described[name] = {
            "architecture": config.model_type,
            "layers": config.num_hidden_layers,
            "hidden_size": config.hidden_size,
        }
    return described | {
        "vocabulary": shards.vocabulary_size,
        "batch_size": setup.online.training.batch_size,
        "length": setup.online.data.length,
    }
