"""Checks that no update waits for the device, and that compiled models are not compiled again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch._dynamo.utils
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fast_electra.config.tree import Config
from fast_electra.pipelines.corrupt import build_cache
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.training.assembly import assemble
from fast_electra.training.loop import loader_of, make_update
from fast_electra.training.precision import Execution, apply_threads, choose_execution, synchronize
from fast_electra.training.setup import batches_of, start
from tests import golden, tiny
from tools.gpu.running import Skipped, Trial

_JOINT = {"kind": "electra", "objective__generator": golden.GENERATOR}
SETTINGS: dict[str, dict[str, Any]] = {
    "mlm": {"kind": "mlm"},
    "mlm by BERT's rule": {"kind": "mlm", "objective__random": 0.1, "objective__kept": 0.1},
    "on the fly": {"kind": "fast_electra", "training__micro_batch_size": 2},
    "cached": {"kind": "fast_electra"},
    "corrective": {"kind": "fast_electra", "objective__corrective_weight": 0.2},
    "muon": {"kind": "fast_electra", "optimizer__kind": "muon"},
    "bfloat16": {"kind": "fast_electra", "execution__precision": "bfloat16"},
    "float16": {"kind": "fast_electra", "execution__precision": "float16_autocast"},
    "activation checkpointing": {"kind": "fast_electra", "training__activation_checkpointing": True},
    "spikes": {"kind": "fast_electra", "training__spike": 6.0},
    "whole words": {"kind": "fast_electra", "corruption__masking": {"kind": "whole_word"}},
    "tied": _JOINT | {"objective__sharing": "tied"},
    "disentangled": _JOINT | {"objective__sharing": "disentangled"},
    **{
        f"{architecture}, documents apart": {
            "kind": "mlm",
            "main__architecture": architecture,
            "data__attention": "document",
        }
        for architecture in ("electra", "bert", "modernbert", "deberta-v2")
    },
}
"""settings of runs whose updates must not wait; an adaptive curriculum and the sampler `race` do"""
_WAITING = {
    *("aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero", "aten::masked_select"),
    *("aten::equal", "aten::bincount", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive"),
}


class Waited(AssertionError):
    """An operation that waits for a GPU."""


class NoWaiting(TorchDispatchMode):
    """Within the block, an operation whose result the host must know raises `Waited`: on a GPU it would wait."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Look at the operation, and run it."""
        name = func._schema.name
        if name in _WAITING or (name == "aten::repeat_interleave" and func._overloadname == "Tensor"):
            raise Waited(f"{name} waits for the device")
        if name in ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"):
            chosen = [index for index in args[1] if isinstance(index, Tensor)]
            if any(index.dtype in (torch.bool, torch.uint8) for index in chosen):
                raise Waited(f"{name} by a mask waits for the device")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """Within the block, waiting for the device is an error; on a CPU, what would wait for a GPU is."""
    if device.type != "cuda":
        with NoWaiting():
            yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def material(folder: Path) -> None:
    """Shards, an auxiliary and a cache, for `settings_of`."""
    tiny.make_shards(folder / "shards")
    pretrain(tiny.settings(folder / "shards", training__updates=2), folder / "auxiliary")
    build_cache(settings_of("on the fly", folder), folder / "cache")


def settings_of(name: str, folder: Path, **changes: Any) -> Config:
    """The configuration of one of `SETTINGS`, with a row that has padding in some batches."""
    settings = {**SETTINGS[name], **changes}
    kind = settings.pop("kind")
    auxiliary = None
    if name == "cached":
        settings["corruption__cache"] = folder / "cache"
    elif kind == "fast_electra":
        auxiliary = folder / "auxiliary"
    return tiny.settings(folder / "shards", kind, auxiliary, **settings)


def updates(config: Config, execution: Execution, count: int) -> Iterator[None]:
    """Make updates of a run, from its start; one before each time that it yields.

    Waiting is an error, but for the first update, for the first half of those of compiled models, which meet all shapes
    there, and in compiled models on a CPU, where the guard cannot be compiled.
    """
    apply_threads(execution)
    compiled = config.training.compile is True
    warm = count // 2 if compiled else 1
    parts = assemble(config, execution)
    state, plan = start(config, parts, execution)
    loader = loader_of(batches_of(parts, plan), 0, count, execution.device)
    try:
        for number, (prepared, _) in enumerate(loader):
            if number < warm or (compiled and execution.device.type != "cuda"):
                make_update(state, plan, prepared, execution)
            else:
                with no_waiting(execution.device):
                    make_update(state, plan, prepared, execution)
            yield
    finally:
        loader.close()
    synchronize(execution.device)


def compiled_updates(config: Config, execution: Execution, count: int) -> list[int]:
    """Make updates of a compiled run; returns the number of graphs that were compiled until after each of them.

    Raises:
        Exception: Dynamo cannot compile a model into one graph.
    """
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    made = torch._dynamo.utils.counters["stats"]
    return [made["unique_graphs"] for _ in updates(config, execution, count)]


def waits(trial: Trial) -> None:
    """No update of any objective waits for the device, except for the first."""
    torch.set_num_threads(1)
    material(trial.folder)
    waiting = []
    names = ("on the fly", "tied") if trial.tiny else SETTINGS
    for name in names:
        config = settings_of(name, trial.folder, execution__device="auto")
        try:
            for _ in updates(config, choose_execution(config.execution), 4):
                pass
        except (Waited, RuntimeError) as error:
            waiting.append(name)
            trial.report({name: " ".join(str(error).split())[:200]})
    trial.report({"settings": len(names), "waiting": len(waiting)})
    trial.require(not waiting, f"updates wait for the device: {', '.join(waiting)}")


def recompilations(trial: Trial) -> None:
    """Compiled models are compiled once for each shape, and the graph does not break."""
    torch.set_num_threads(1)
    if trial.tiny:
        raise Skipped("tests/training/test_waiting.py counts compilations on a CPU")
    material(trial.folder)
    for name in ("on the fly", "tied", "modernbert, documents apart"):
        config = settings_of(name, trial.folder, execution__device="auto", training__compile=True)
        graphs = compiled_updates(config, choose_execution(config.execution), 50)
        breaks = sum(torch._dynamo.utils.counters["graph_break"].values())
        trial.report({f"{name}_graphs": graphs[-1], f"{name}_later": graphs[-1] - graphs[24], f"{name}_breaks": breaks})
        # The first updates read the whole text, whose last row has padding.
        trial.require(graphs[-1] == graphs[24] and not breaks, f"{name}: {graphs} graphs, {breaks} breaks")
