"""Training steps side by side: replacements given, cached, on the fly, joint, and what people would run instead.

| part           | a step of it                                                                                |
| -------------- | ------------------------------------------------------------------------------------------- |
| `rtd_only`     | the main model on replacements that lie in memory: the limit                                |
| `cached`       | replacements read from a corruption cache                                                   |
| `online`       | replacements by the frozen auxiliary, on the fly                                            |
| `joint`        | joint ELECTRA                                                                               |
| `peer_best`    | joint ELECTRA written plainly, with this project's settings (peer.py)                       |
| `peer_default` | txtai's token detection under Transformers' Trainer, as shipped (peer.py; extra `bench`)    |

Notable:
- rounds are interleaved and begin with another part each time, so that a machine that slows down slows all; ratios are
  of times of the same round;
- the first update of a turn is not timed: it fills caches, and compiles;
- a whole step is timed, with the loader; on a GPU it has ended before the clock is read;
- memory is each part's alone, in a process of its own;
- intervals are 95 % bootstrap intervals of the median.
"""

import dataclasses
import importlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

from fast_electra.config import Config
from fast_electra.data.encoding import peak_memory
from fast_electra.data.shards import open_shards
from fast_electra.errors import ConfigError
from fast_electra.objectives.fast_electra import FastElectra
from fast_electra.studies.bench.parts import PARTS, Part, Timing, build_part, build_parts, given
from fast_electra.studies.bench.setup import Bench, generator_shape, prepare, transformers_config_of, with_settings
from fast_electra.training.assembly import assemble
from fast_electra.training.flops import MatrixProduct, matrix_products
from fast_electra.training.outlook import flops_per_update
from fast_electra.training.precision import Execution, apply_threads, synchronize

Say = Callable[[str], None]


def bench(config: Config, folder: Path, updates: int, rounds: int, say: Say = lambda _: None) -> dict[str, Any]:
    """Time and weigh every part of a shape.

    Args:
        config: main model, auxiliary, batch, precision. Without `data.shards` random tokens are made; without
            `auxiliary.model` one of random weights (`cost.auxiliary_shape`).
        folder: scratch.
        updates: timed in a part's turn.
        rounds: turns of each part.
        say: is told what is being done.

    Returns:
        what `fast-electra bench --json` prints (docs/speed.md).

    Raises:
        ConfigError, DataError, ModelError: a shape that can't be trained.
    """
    say("making data, an auxiliary and a cache")
    setup = prepare(config, folder)
    apply_threads(setup.execution)
    facts, products = alone(setup)
    say(f"timing {rounds} rounds of {updates} updates")
    turns, product_seconds = measure(build_parts(setup), products, setup.execution, updates, rounds, say)
    found = summary(turns)
    for name in found:
        say(f"memory of {name}, in a process of its own")
        found[name] |= in_a_process(name, setup)
    return {
        "shape": _described(setup),
        "device": _device(setup.execution),
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
    """PyTorch's profile of some updates of a part: a table of its operations, by their own time.

    Raises:
        ConfigError: there is no such part, or it can't run here.
    """
    if part not in PARTS:
        raise ConfigError(f"{part} is no part of the bench; they are {', '.join(PARTS)}.")
    setup = prepare(config, folder)
    if part in setup.skipped:
        raise ConfigError(f"{part} can't run: {setup.skipped[part]}.")
    apply_threads(setup.execution)
    built = build_part(part, setup)
    built.run(1)
    on_gpu = setup.execution.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    # `run` makes one update that is not timed before those that are.
    with torch_profile(activities=activities) as found:
        built.run(updates - 1)
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return found.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=60)


def alone(setup: Bench) -> tuple[dict[str, Any], Counter[MatrixProduct]]:
    """What is not a step.

    Returns:
        operations of each part by count, the speed of loader and corruption by themselves; and the matrix products of
        an update with replacements given.
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
    parts: dict[str, Part],
    products: Counter[MatrixProduct],
    execution: Execution,
    updates: int,
    rounds: int,
    say: Say = lambda _: None,
) -> tuple[dict[str, list[Timing]], list[float]]:
    """Interleaved turns of the parts, and in each round the matrix products of one update alone, in seconds."""
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
    """Tokens a second and the share of time waited for data, of each part."""
    return {
        name: {
            "tokens_per_second": interval([turn.tokens / turn.seconds for turn in timed]),
            "data_wait_share": sum(turn.waited for turn in timed) / sum(turn.seconds for turn in timed),
        }
        for name, timed in turns.items()
    }


def rates(limit: list[Timing], product_seconds: list[float], flops: int) -> dict[str, Any]:
    """Operations a second with replacements given, and of the same matrix products alone; their share of the step."""
    seconds = [turn.seconds / turn.updates for turn in limit]
    shares = [alone / whole for alone, whole in zip(product_seconds, seconds, strict=True)]
    return {
        "flops_per_second": flops / float(np.median(seconds)),
        "matmul_flops_per_second": flops / float(np.median(product_seconds)),
        "matmul_share": float(np.median(shares)),
        "matmul_share_interval": interval(shares),
    }


def ratios(turns: dict[str, list[Timing]]) -> dict[str, dict[str, float]]:
    """Time of an update against one with replacements given in the same round."""
    limit = [turn.seconds / turn.updates for turn in turns["rtd_only"]]
    return {
        name: interval([turn.seconds / turn.updates / base for turn, base in zip(timed, limit, strict=True)])
        for name, timed in turns.items()
        if name != "rtd_only"
    }


def interval(values: Sequence[float]) -> dict[str, float]:
    """Median, and a 95 % bootstrap interval of it (2,000 resamples, always the same)."""
    found = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(0).integers(len(found), size=(2000, len(found)))
    low, high = np.quantile(np.median(found[draws], axis=1), (0.025, 0.975))
    return {"median": float(np.median(found)), "low": float(low), "high": float(high)}


def in_a_process(name: str, setup: Bench) -> dict[str, float]:
    """A part in a process of its own.

    Returns:
        `peak_memory_bytes`: on a CPU the growth of the resident size after all imports, else what PyTorch allocated;
        `first_update_seconds`: from the start of the process to the end of the first update.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
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
    """All matrix products of an update one behind the other, on operands that lie ready."""

    def __init__(self, products: Counter[MatrixProduct], device: torch.device) -> None:
        self._device = device
        self._products = [(*product.operands(device), count) for product, count in products.items()]
        self()

    def __call__(self) -> float:
        """Seconds."""
        synchronize(self._device)
        began = time.perf_counter()
        for first, second, count in self._products:
            for _ in range(count):
                torch.matmul(first, second)
        synchronize(self._device)
        return time.perf_counter() - began


def _seconds(function: Callable[[], Any]) -> float:
    """Median time of a call: as many as fit into half a second, three at least, behind one that isn't timed."""
    function()
    times: list[float] = []
    while len(times) < 3 or sum(times) < 0.5:
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def _device(execution: Execution) -> str:
    if execution.device.type == "cuda":
        return torch.cuda.get_device_name(execution.device)
    return f"{execution.device.type} {torch.backends.cpu.get_cpu_capability()}"


def _described(setup: Bench) -> dict[str, Any]:
    """The shape in a few numbers."""
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
