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
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from fast_electra.config import Config, resolve
from fast_electra.corruption.augmentations import Difficulty
from fast_electra.corruption.masking import Masked
from fast_electra.corruption.sources import Corrupted, replace
from fast_electra.data.batches import Batch, Prefetcher, one_by_one
from fast_electra.data.encoding import peak_memory
from fast_electra.data.shards import TokenShards, build_shards, open_shards
from fast_electra.data.sources import Document
from fast_electra.data.tokenizer import SPECIAL_TOKENS, load_tokenizer
from fast_electra.errors import ConfigError
from fast_electra.models.build import build_model, stored_config, transformers_config
from fast_electra.models.shapes import ShapeConfig
from fast_electra.objectives.base import Objective, Prepared
from fast_electra.objectives.fast_electra import FastElectra
from fast_electra.pipelines.corrupt import build_cache
from fast_electra.runs.models import resolve_model
from fast_electra.studies.cost import auxiliary_shape
from fast_electra.studies.peer import PlainElectra, TxtaiElectra, plain_refusal, txtai_refusal
from fast_electra.training.assembly import Assembled, assemble, special_ids
from fast_electra.training.flops import MatrixProduct, matrix_products
from fast_electra.training.loop import make_update
from fast_electra.training.outlook import flops_per_update
from fast_electra.training.precision import Execution, apply_threads, choose_execution
from fast_electra.training.setup import start

PARTS = ("rtd_only", "cached", "online", "joint", "peer_best", "peer_default")

# Batches that are made, and used in turn: what a cache holds.
_BATCHES = 8
# Words of a document of random tokens.
_WORDS = 300

Say = Callable[[str], None]


@dataclass(frozen=True)
class Timing:
    """A turn of a part."""

    seconds: float
    updates: int
    tokens: int
    waited: float = 0.0
    """seconds that the step waited for the loader"""


class Part(Protocol):
    """Something that makes updates."""

    def run(self, updates: int) -> Timing:
        """Make one update, then time `updates` more."""
        ...


@dataclass(frozen=True)
class Bench:
    """The parts' configurations, and where they compute."""

    online: Config
    joint: Config
    cached: Config
    execution: Execution
    skipped: dict[str, str]
    """part → why it can't run"""


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


def prepare(config: Config, folder: Path) -> Bench:
    """Data, an auxiliary and a cache for the parts, in a folder."""
    shape = auxiliary_shape(config)
    config = _timed(config)
    execution = choose_execution(config.training)
    folder.mkdir(parents=True, exist_ok=True)
    if config.data.shards is None:
        config = with_settings(config, data={"shards": str(_random_shards(config, folder / "shards"))})
    assert config.data.shards is not None
    shards = open_shards(config.data.shards, verify=False)
    if config.auxiliary.model is None:
        _random_auxiliary(shape, config, shards, folder / "auxiliary")
        config = with_settings(config, auxiliary={"model": str(folder / "auxiliary"), "layers": None})
    main, generator = (_transformers(s, config, shards) for s in (config.main, shape))
    alike = _width(main) == _width(generator)
    joint = with_settings(
        config,
        main={"embeddings": "fresh"},
        auxiliary={"model": None, "layers": None},
        objective={
            "kind": "electra",
            "generator": shape.model_dump(mode="json", include=set(ShapeConfig.model_fields)),
            "sharing": "tied" if alike else "none",
        },
    )
    cached = with_settings(config, training={"updates": _BATCHES})
    build_cache(cached, folder / "cache")
    cached = with_settings(cached, corruption={"cache": str(folder / "cache")})
    if config.main.embeddings == "fresh":
        cached = with_settings(cached, auxiliary={"model": None, "layers": None})
    skipped = {"peer_best": plain_refusal(generator), "peer_default": txtai_refusal()}
    if not alike:
        skipped["peer_default"] = "txtai shares the embeddings, and their widths differ in this shape"
    return Bench(config, joint, cached, execution, {name: why for name, why in skipped.items() if why})


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
        _synchronize(execution.device)

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


# --- the parts -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """A corruption source whose replacements lie in memory: nothing is left to do but write them."""

    tokens_RM: Tensor
    """int64: for each row of the split"""

    def corrupt(self, batch: Batch, masked: Masked, difficulty: Difficulty, seed: int) -> Corrupted:
        """Write them."""
        ids_BS, replaced_BS = replace(batch, masked, self.tokens_RM[batch.indices])
        nothing = torch.zeros((), device=batch.ids.device)
        return Corrupted(ids_BS, replaced_BS, masked, expected_replaced=nothing, entropy=None)


class Trained:
    """An objective of ours in the training loop's own step."""

    def __init__(self, config: Config, parts: Assembled, objective: Objective, execution: Execution) -> None:
        self._parts, self._execution = parts, execution
        self._state, self._plan = start(config, dataclasses.replace(parts, objective=objective), execution)

    def run(self, updates: int) -> Timing:
        """Make one update, then time `updates` more, with the loader that `training.loop.train` takes."""
        began, tokens, waited_in_all = 0.0, 0, 0.0
        first = self._state.update
        load = one_by_one if self._execution.device.type == "cpu" else Prefetcher
        loader = load(self._prepared, first, first + updates + 1)
        for number, (prepared, waited) in enumerate(loader):
            seen = make_update(self._state, self._plan, prepared, self._execution)
            if number == 0:
                _synchronize(self._execution.device)
                began = time.perf_counter()
            else:
                tokens, waited_in_all = tokens + seen, waited_in_all + waited
        _synchronize(self._execution.device)
        return Timing(time.perf_counter() - began, updates, tokens, waited_in_all)

    def _prepared(self, update: int) -> Prepared:
        return self._parts.objective.prepare(self._parts.schedule.at(update % _BATCHES), self._plan.seed)


class Plain:
    """`peer.PlainElectra`."""

    def __init__(self, peer: PlainElectra) -> None:
        self._peer = peer

    def run(self, updates: int) -> Timing:
        """Make one update, then time `updates` more."""
        self._peer.update()
        _synchronize(self._peer.execution.device)
        began = time.perf_counter()
        tokens = sum(self._peer.update() for _ in range(updates))
        _synchronize(self._peer.execution.device)
        return Timing(time.perf_counter() - began, updates, tokens)


class Txtai:
    """`peer.TxtaiElectra`; its Trainer makes its own batches."""

    def __init__(self, peer: TxtaiElectra) -> None:
        self._peer = peer

    def run(self, updates: int) -> Timing:
        """Make one update, then time `updates` more."""
        return Timing(self._peer.run(updates), updates, updates * self._peer.tokens)


def build_parts(setup: Bench) -> dict[str, Part]:
    """All parts that can run."""
    return {name: build_part(name, setup) for name in PARTS if name not in setup.skipped}


def build_part(name: str, setup: Bench) -> Part:
    """One of `PARTS`, ready to make updates."""
    execution = setup.execution
    if name in ("peer_best", "peer_default"):
        return _build_peer(name, setup)
    configs = {"joint": setup.joint, "cached": setup.cached}
    parts = assemble(configs.get(name, setup.online), execution)
    objective = given(parts, execution) if name == "rtd_only" else parts.objective
    # The cache holds a few updates, and they are used in turn: no schedule is to end with them.
    return Trained(setup.online, parts, objective, execution)


def _build_peer(name: str, setup: Bench) -> Part:
    parts = assemble(setup.online, setup.execution)
    rows = [parts.schedule.at(update).ids for update in range(_BATCHES)]
    shapes = (setup.joint.main, _generator(setup.joint))
    main, generator = (_transformers(shape, setup.joint, parts.shards) for shape in shapes)
    if name == "peer_default":
        return Txtai(TxtaiElectra(main, generator, parts.tokenizer, rows, setup.execution))
    compiled = setup.joint.training.compile
    return Plain(PlainElectra(main, generator, parts.tokenizer, rows, setup.execution, compiled))


def given(parts: Assembled, execution: Execution) -> FastElectra:
    """The objective with replacements drawn evenly from the vocabulary, once."""
    objective = cast(FastElectra, parts.objective)
    masked = objective.prepare(parts.schedule.at(0), 0).masked
    draw = torch.Generator().manual_seed(0)
    size = (parts.schedule.rows.count, masked.positions_BM.shape[1])
    tokens_RM = torch.randint(len(SPECIAL_TOKENS), parts.shards.vocabulary_size, size, generator=draw)
    return dataclasses.replace(objective, source=Given(tokens_RM.to(execution.device)))


# --- memory and single operations ------------------------------------------------------------------------------------


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
        _synchronize(self._device)
        began = time.perf_counter()
        for first, second, count in self._products:
            for _ in range(count):
                torch.matmul(first, second)
        _synchronize(self._device)
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


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _device(execution: Execution) -> str:
    if execution.device.type == "cuda":
        return torch.cuda.get_device_name(execution.device)
    return f"{execution.device.type} {torch.backends.cpu.get_cpu_capability()}"


# --- what is timed ---------------------------------------------------------------------------------------------------


def _timed(config: Config) -> Config:
    """Against a frozen auxiliary; one micro-batch an update, and enough updates that no schedule moves.

    Weights are fresh, which changes no time; a table of the auxiliary's with a trained difference stays.
    """
    batch = config.training.micro_batch_size or config.training.batch_size
    budget = {"updates": 10**6, "tokens": None, "flops": None, "hours": None}
    training = {"batch_size": batch, "micro_batch_size": None, "validation_sequences": 8, **budget}
    is_delta = config.main.embeddings == "auxiliary_plus_delta"
    main = {"start": "fresh", "embeddings": config.main.embeddings if is_delta else "fresh"}
    return with_settings(config, training=training, main=main, objective={"kind": "fast_electra"})


def with_settings(config: Config, **sections: dict[str, Any]) -> Config:
    """A configuration with some settings changed, section by section; an objective is replaced whole."""
    tree = config.model_dump(mode="json")
    for name, changed in sections.items():
        tree[name] = changed if name == "objective" else tree[name] | changed
    return resolve(tree)


def _random_shards(config: Config, folder: Path) -> Path:
    """Shards of words drawn by Zipf's law, for as many rows as are used."""
    size = config.data.tokenizer.vocabulary_size
    special = {token: number for number, token in enumerate(SPECIAL_TOKENS.values())}
    words = {f"w{number}": number for number in range(len(special), size)}
    backend = Tokenizer(models.WordLevel({**special, **words}, unk_token=SPECIAL_TOKENS["unk"]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=config.data.length,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{name}_token": token for name, token in SPECIAL_TOKENS.items()},
    )
    frequencies = 1.0 / np.arange(1, len(words) + 1)
    # A tenth of the documents is left out for validation, so there must be some dozens.
    count = max(2 * _BATCHES * config.training.batch_size * config.data.length, 100 * _WORDS)
    drawn = np.random.default_rng(0).choice(len(words), count, p=frequencies / frequencies.sum()) + len(special)
    documents = [
        Document(" ".join(f"w{number}" for number in drawn[start : start + _WORDS]), f"random {start}")
        for start in range(0, count, _WORDS)
    ]
    build_shards(documents, tokenizer, folder, config.data.model_copy(update={"validation_fraction": 0.1}))
    return folder


def _random_auxiliary(shape: ShapeConfig, config: Config, shards: TokenShards, folder: Path) -> None:
    tokenizer = load_tokenizer(shards.folder / "tokenizer")
    build_model(_transformers(shape, config, shards), "mlm", seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(str(folder))


def _transformers(shape: ShapeConfig, config: Config, shards: TokenShards) -> PreTrainedConfig:
    if shape.model is not None:
        return stored_config(resolve_model(shape.model))
    special = special_ids(load_tokenizer(shards.folder / "tokenizer"))
    return transformers_config(shape, shards.vocabulary_size, special, config.data.length)


def _width(config: PreTrainedConfig) -> int:
    return getattr(config, "embedding_size", config.hidden_size)


def _generator(config: Config) -> ShapeConfig:
    shape = config.objective.generator_shape
    assert shape is not None
    return shape


def _described(setup: Bench) -> dict[str, Any]:
    """The shape in a few numbers."""
    described: dict[str, Any] = {}
    shards = open_shards(setup.online.data.shards or "", verify=False)
    for name, shape in (("main", setup.joint.main), ("auxiliary", _generator(setup.joint))):
        config = _transformers(shape, setup.joint, shards)
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
