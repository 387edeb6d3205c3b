"""Checks that measure: the first update, a shape's steps, where a step's time goes, and the largest micro-batch."""

import dataclasses
import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile
from transformers import PreTrainedModel

from fast_electra.config.loading import load_config
from fast_electra.config.tree import Config
from fast_electra.data.batches import Batch
from fast_electra.data.tokenizer_training import SPECIAL_TOKENS
from fast_electra.models.build import build_model, transformers_config
from fast_electra.models.inputs import encoder_inputs
from fast_electra.studies.bench.bench import measured
from fast_electra.studies.bench.parts import build_part
from fast_electra.studies.bench.setup import Bench, prepare, with_settings
from fast_electra.training.assembly import assemble
from fast_electra.training.loop import make_update
from fast_electra.training.micro_batches import largest_micro_batches
from fast_electra.training.precision import Execution, apply_threads, choose_execution, synchronize
from fast_electra.training.setup import start
from tools.gpu.correctness import seconds_of
from tools.gpu.running import Skipped, Trial

TINY = {
    "main.layers": 2,
    "main.hidden_size": 32,
    "main.heads": 2,
    "main.intermediate_size": 48,
    "data.length": 32,
    "data.tokenizer.vocabulary_size": 320,
    "training.batch_size": 8,
    "execution.threads": 1,
}


@dataclass(frozen=True)
class Shape:
    """A shape of the bench."""

    name: str
    preset: str
    settings: Mapping[str, object]
    limit: float = 75.0
    left_out: tuple[str, ...] = ()
    """parts of the bench that are not timed"""

    def config(self, tiny: bool) -> Config:
        """Its configuration, not compiled unless its settings say so, or a tiny one of the same architecture."""
        settings = {"training.compile": "false", **self.settings, **(TINY if tiny else {})}
        if tiny and self.preset == "electra-small":  # its table of tokens is narrower than its layers
            settings["main.options"] = "{}"
        return load_config(self.preset, [f"{key}={value}" for key, value in settings.items()])


_ELECTRA_SMALL = {"training.batch_size": 128}
_PAPER_BASE = {"training.batch_size": 32, "training.micro_batch_size": "null"}
_COMPILED = {"training.compile": "true"}
BENCHES = (
    Shape("electra-small", "electra-small", _ELECTRA_SMALL),
    Shape("electra-small-compiled", "electra-small", _ELECTRA_SMALL | _COMPILED, 120.0),
    Shape("paper-base-compiled", "paper-base", _PAPER_BASE | _COMPILED, 120.0),
    Shape("modern-base-compiled", "modern-base", _PAPER_BASE | _COMPILED, 120.0, ("cached", "joint", "peer_best")),
    Shape("paper-base", "paper-base", _PAPER_BASE),
    Shape("modern-small-1024", "modern-small", {"data.length": 1024, "training.batch_size": 32}),
    Shape("modern-small", "modern-small", {"training.batch_size": 64}),
    Shape("electra-small-512", "electra-small", {"data.length": 512, "training.batch_size": 32}),
)


def bench_check(shape: Shape) -> Callable[[Trial], None]:
    """The check that runs the bench of a shape."""
    return partial(_bench, shape)


def _bench(shape: Shape, trial: Trial) -> None:
    """Tokens per second of each part, ratios, and the share of the matrix products."""
    if trial.tiny and shape.name not in ("electra-small", "modern-small"):
        raise Skipped("tiny checks bench one shape of each architecture")
    setup = prepare(shape.config(trial.tiny), trial.folder)
    setup = dataclasses.replace(setup, skipped=setup.skipped | dict.fromkeys(shape.left_out, "left out"))
    seconds = None if trial.tiny else 3.0
    measured(setup, updates=1, rounds=1 if trial.tiny else 3, seconds=seconds, say=print, report=trial.report)


def documents_speed(trial: Trial) -> None:
    """The time of an update with documents apart, relative to the same rows packed; a goal is 1.05."""
    for name in ("electra-small-512", "modern-small-1024"):
        setup = prepare(next(shape for shape in BENCHES if shape.name == name).config(trial.tiny), trial.folder / name)
        apply_threads(setup.execution)
        parts = {
            attention: build_part(
                "rtd_only",
                dataclasses.replace(setup, online=with_settings(setup.online, data={"attention": attention})),
            )
            for attention in ("packed", "document")
        }
        rounds, updates = (1, 2) if trial.tiny else (5, 20)
        seconds = [{attention: part.run(updates).seconds for attention, part in parts.items()} for _ in range(rounds)]
        trial.report(
            {
                f"{name}_document_to_packed": median(turn["document"] / turn["packed"] for turn in seconds),
                f"{name}_packed_milliseconds": 1e3 * median(turn["packed"] for turn in seconds) / updates,
            }
        )


def padding(trial: Trial) -> None:
    """The time of a forward and a backward pass over the tokens of padded rows alone, relative to the padded rows.

    Lengths are those of examples that were sorted by length and padded to a multiple of 8, short ones and long ones.
    """
    execution = choose_execution()
    special = {role: number for number, role in enumerate(SPECIAL_TOKENS)}
    for preset in ("electra-small",) if trial.tiny else ("electra-small", "paper-base"):
        shape = next(shape for shape in BENCHES if shape.name == preset).config(trial.tiny).main
        model = build_model(transformers_config(shape, 30_522, special, 128), "rtd", seed=0)
        model.to(execution.device, execution.weights_dtype)  # type: ignore[arg-type]
        for least, most in ((17, 24),) if trial.tiny else ((17, 24), (97, 128)):
            lengths = torch.linspace(least, most, 32).long().tolist()
            positions_BS = torch.arange(most).expand(len(lengths), -1)
            is_padding = positions_BS >= torch.tensor(lengths)[:, None]
            ids_BS = torch.full_like(positions_BS, len(special))
            padded = Batch.of(ids_BS, is_padding).to(execution.device)
            joined = Batch.of(ids_BS[~is_padding][None], is_padding[~is_padding][None])
            joined = dataclasses.replace(
                joined,
                documents=torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[None],
                positions=positions_BS[~is_padding][None],
                documents_in_rows=torch.tensor([len(lengths)]),
            ).to(execution.device)

            def step(batch: Batch, by_document: bool, model: PreTrainedModel = model) -> None:
                inputs = encoder_inputs(model, batch.ids, batch, by_document)
                model(**inputs).logits.float().square().mean().backward()

            seconds = {
                name: seconds_of(partial(step, batch, name == "joined"), execution.device, 2 if trial.tiny else 50)
                for name, batch in (("padded", padded), ("joined", joined))
            }
            trial.report(
                {
                    f"{preset}_{most}_joined_to_padded": seconds["joined"] / seconds["padded"],
                    f"{preset}_{most}_padded_milliseconds": 1e3 * seconds["padded"],
                }
            )


def start_up(trial: Trial) -> None:
    """Seconds to the end of the first update of a process, after all imports, and of the second."""
    clock = _Clock(trial)
    torch.zeros(1, device="cuda" if torch.cuda.is_available() else "cpu")
    clock.report("device")
    execution, update = _updates("electra-small", trial, clock)
    for name in ("first_update", "second_update", "third_update"):
        update()
        synchronize(execution.device)
        clock.report(name)


def profile_step(trial: Trial) -> None:
    """Where an update's time goes: the device's busy share, kernels, launches and waits."""
    execution, update = _updates("electra-small", trial)
    count = 3 if trial.tiny else 20
    for _ in range(3):
        update()
    synchronize(execution.device)
    began = time.perf_counter()
    for _ in range(count):
        update()
    synchronize(execution.device)
    wall = (time.perf_counter() - began) / count
    on_gpu = execution.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    profiled = 2 if trial.tiny else 5
    with torch_profile(activities=activities) as found:
        for _ in range(profiled):
            update()
        synchronize(execution.device)
    averages = found.key_averages()
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    (trial.folder / "profile.txt").write_text(averages.table(sort_by=order, row_limit=60, max_name_column_width=80))
    kernels = [one for one in averages if one.device_type.name == "CUDA"] if on_gpu else list(averages)
    total = sum(getattr(one, order) for one in kernels)
    top = sorted(kernels, key=lambda one: -getattr(one, order))[:10]
    waits = sum(one.count for one in averages if "Synchronize" in one.key)
    trial.report(
        {
            "milliseconds_per_update": 1e3 * wall,
            "kernels_per_update": sum(one.count for one in kernels) / profiled,
            "synchronizations_per_update": waits / profiled,
            "top_ten": {one.key[:60]: getattr(one, order) / total for one in top},
        }
    )
    if on_gpu:
        trial.report({"device_idle_share": max(0.0, 1.0 - total / profiled / 1e6 / wall)})


def largest_micro_batch(trial: Trial) -> None:
    """The micro-batch that `auto` finds, with and without activation checkpointing: its memory, and updates with it."""
    for preset in ("electra-small", "paper-base"):
        shape = next(shape for shape in BENCHES if shape.name == preset)
        setup = prepare(shape.config(trial.tiny), trial.folder / preset)
        apply_threads(setup.execution)
        for name, checkpointing in ((f"{preset}_plain", False), (f"{preset}_checkpointed", True)):
            _largest(name, setup, checkpointing, trial)
            gc.collect()
            if setup.execution.device.type == "cuda":
                torch.cuda.empty_cache()


def _largest(name: str, setup: Bench, checkpointing: bool, trial: Trial) -> None:
    device = setup.execution.device
    config = with_settings(setup.online, training={"activation_checkpointing": checkpointing})
    parts = assemble(config, setup.execution)
    rows = 4 * config.training.batch_size if trial.tiny else 2**14
    large = with_settings(config, training={"batch_size": rows, "micro_batch_size": "auto"})
    repeated: Any = _Repeated(parts.schedule.at(0), rows)
    began = time.monotonic()
    (found,) = largest_micro_batches(large, dataclasses.replace(parts, schedule=repeated), setup.execution)
    trial.report({f"{name}_rows": found, f"{name}_search_seconds": time.monotonic() - began})
    state, plan = start(config, parts, setup.execution)
    plan = dataclasses.replace(plan, micro_batch_size=found)
    prepared = parts.objective.prepare(_Repeated(parts.schedule.at(0), 2 * found).at(0), plan.seed)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(2):
        synchronize(device)
        began = time.monotonic()
        make_update(state, plan, prepared, setup.execution)
        synchronize(device)
    trial.report({f"{name}_tokens_per_second": prepared.tokens / (time.monotonic() - began)})
    if device.type == "cuda":
        trial.report({f"{name}_gb": torch.cuda.max_memory_allocated(device) / 1e9})


class _Repeated:
    """A schedule of one batch, which repeats the rows of another."""

    def __init__(self, batch: Batch, rows: int) -> None:
        times = -(-rows // len(batch.ids))
        tensors = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
        repeated = {name: torch.cat([one] * times)[:rows] for name, one in tensors.items() if torch.is_tensor(one)}
        self._batch = dataclasses.replace(batch, **repeated)
        self.phases = [self]

    def at(self, _update: int) -> Batch:
        """The batch."""
        return self._batch


class _Clock:
    """Reports the seconds since its last report."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._since = time.monotonic()

    def report(self, name: str) -> None:
        now = time.monotonic()
        self._trial.report({f"{name}_seconds": now - self._since})
        self._since = now


def _updates(preset: str, trial: Trial, clock: _Clock | None = None) -> tuple[Execution, Callable[[], None]]:
    """The precision of a preset with replacements on the fly, and a function that makes an update."""
    shape = next(shape for shape in BENCHES if shape.name == preset)
    setup = prepare(shape.config(trial.tiny), trial.folder / preset)
    apply_threads(setup.execution)
    if clock:
        clock.report("random_data")
    parts = assemble(setup.online, setup.execution)
    state, plan = start(setup.online, parts, setup.execution)
    if clock:
        clock.report("models")
    prepared = parts.objective.prepare(parts.schedule.at(0), plan.seed)

    def update() -> None:
        make_update(state, plan, prepared, setup.execution)

    return setup.execution, update
