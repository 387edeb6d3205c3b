"""Checks that training on this device gives right results: losses, resuming, documents apart, `torchrun`, FSDP2."""

import copy
import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel

from fast_electra.config.loading import load_config
from fast_electra.config.tree import Config
from fast_electra.models.inputs import encoder_inputs, model_inputs
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.runs.checkpoints import checkpoint_at
from fast_electra.runs.metrics import read_metrics
from fast_electra.stopping import Interrupted
from fast_electra.training.assembly import assemble
from fast_electra.training.checkpoint_models import read_model
from fast_electra.training.loop import make_update
from fast_electra.training.optimizer import GroupOptimizer
from fast_electra.training.parallel import Alone, Sharded
from fast_electra.training.precision import Execution, apply_threads, choose_execution, synchronize
from fast_electra.training.setup import plan_of, start
from fast_electra.training.state import State
from tests import golden, tiny
from tools.gpu.running import Failed, Figures, Trial

ROOT = Path(__file__).resolve().parent.parent.parent
_UPDATES = 20
"""updates that are made of the golden runs' 40"""
_BY_KERNEL = ("electra", "bert", "roberta", "distilbert", "modernbert", "nomic_bert", "eurobert")
"""architectures whose documents the flash kernel keeps apart"""
# On a CPU bfloat16 moved a loss by up to 4.8 %, since other replacements are drawn; float16 has more bits. Float32 has
# other kernels only.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.15, "bfloat16_autocast": 0.15, "float16_autocast": 0.15}


def environment(trial: Trial) -> None:
    """Versions, the device, and the rate of its large matrix products."""
    names = ("torch", "transformers", "tokenizers", "triton", "numpy", "fast-electra")
    trial.report({"python": sys.version.split()[0], **{name: _version(name) for name in names}})
    trial.report({"compiler": shutil.which("gcc") or shutil.which("cc") or "none"})
    execution = choose_execution()
    device = execution.device
    trial.report({"device": device.type, "precision": execution.precision, "cores": os.cpu_count()})
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        trial.report(
            {
                "name": properties.name,
                "memory_gb": properties.total_memory / 1e9,
                "capability": list(torch.cuda.get_device_capability(device)),
                "cuda": torch.version.cuda,
                "cudnn": torch.backends.cudnn.version(),
                "flash": torch.backends.cuda.is_flash_attention_available(),
            }
        )
    size = 256 if trial.tiny else 8192
    first, second = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = seconds_of(lambda: torch.matmul(first, second), device)
    trial.report({"matmul_tflops": 2 * size**3 / seconds / 1e12, **_host(device)})


def _host(device: torch.device) -> Figures:
    """How fast the host is: a million additions in Python, and launches of short kernels, one by one and as a graph.

    `launch_system_us` is the part in the system's kernel.
    """
    began = time.perf_counter()
    sum(number for number in range(1_000_000))
    figures: Figures = {"python_million_ms": 1e3 * (time.perf_counter() - began)}
    counter, count = torch.zeros(16, device=device), 2000
    system = os.times().system
    seconds = seconds_of(lambda: counter.add_(1.0), device, count)
    figures |= {"launch_us": 1e6 * seconds, "launch_system_us": 1e6 * (os.times().system - system) / count}
    if device.type == "cuda":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(500):
                counter.add_(1.0)
        figures["launch_in_graph_us"] = 1e6 * seconds_of(graph.replay, device) / 500
    return figures


def smoke(trial: Trial) -> None:
    """Train every objective: its losses are those of a CPU, and a resumed run equals an unbroken one.

    The CPU's are computed here too, since other versions of the libraries initialise models otherwise.
    """
    torch.set_num_threads(1)
    shards = tiny.make_shards(trial.folder / "shards")
    execution = choose_execution()
    precision = execution.precision
    tried = ["float32", precision, *(["float16_autocast"] if execution.device.type == "cuda" else [])]
    auxiliary = trial.folder / "mlm-cpu" / "model"
    wrong = []
    for kind in golden.KINDS:
        runs: list[tuple[str, str, tuple[int, ...]]]
        runs = [(f"{kind}-{name}", name, ()) for name in dict.fromkeys(tried)]
        runs.append((f"{kind}-resumed", precision, (_UPDATES // 2,)))
        train_until(_golden_config(kind, "float32", shards, auxiliary, "cpu"), trial.folder / f"{kind}-cpu", _UPDATES)
        expected = _losses_in(trial.folder / f"{kind}-cpu")
        for name, used, stops in runs:
            config = _golden_config(kind, used, shards, auxiliary)
            for until in (*stops, _UPDATES):
                train_until(config, trial.folder / name, until)
            losses = _losses_in(trial.folder / name)
            moved = max(abs(loss - right) / right for loss, right in zip(losses, expected, strict=True))
            trial.report({f"{name}_moved": moved})
            if not moved <= _TOLERANCE[used]:
                wrong.append(f"losses of {name} are {moved:.1%} from the CPU's")
        apart = _apart(*(trial.folder / f"{kind}-{name}" for name in (precision, "resumed")))
        trial.report({f"{kind}_resumed_differs_by": apart})
        if kind == "mlm":
            pretrain(_golden_config(kind, "float32", shards, auxiliary, "cpu"), trial.folder / "mlm-cpu")  # to its end
    trial.require(not wrong, "; ".join(wrong))


def modern(trial: Trial) -> None:
    """`fast-electra pretrain modern-small` starts, with documents apart; `command_seconds` are of the whole command."""
    shards = tiny.make_shards(trial.folder / "shards", count=120 if trial.tiny else 400)
    common = ["training.updates=3", "training.batch_size=8", "training.log_every=1", f"data.shards={shards}"]
    if trial.tiny:
        common += ["data.length=64", "main.hidden_size=32", "main.heads=2", "main.intermediate_size=48"]
    auxiliary, main = trial.folder / "auxiliary", trial.folder / "main"
    pretrain(load_config("modern-small", (*common, "objective.kind=mlm", "main.layers=2")), auxiliary)
    began = time.monotonic()
    more = ("main.layers=4", f"auxiliary.model={auxiliary}", "--run", str(main))
    _program("fast_electra", "pretrain", "modern-small", *common, *more)
    trial.report({"command_seconds": time.monotonic() - began})
    device = json.loads((main / "run.json").read_text())["environment"]["device"]
    trial.require(device == choose_execution().device.type, f"it ran on {device}")


def documents(trial: Trial) -> None:
    """Documents apart by the flash kernel give hidden states and gradients that are as exact as with a mask.

    Errors, of states and of gradients, are relative to float32 with the same weights and a mask. Those of packed rows
    show how much the documents matter.
    """
    shards = tiny.make_shards(trial.folder / "shards", count=120 if trial.tiny else 400)
    execution = choose_execution()
    by_kernel = execution.device.type == "cuda"
    wrong = []
    for architecture in _BY_KERNEL:
        config = tiny.settings(
            shards,
            data__length=64 if trial.tiny else 512,
            data__attention="document",
            main__architecture=architecture,
            main__options={"local_attention": 32} if architecture == "modernbert" else {},
            main__hidden_size=128,
            main__heads=2,
        )
        parts = assemble(config, execution)
        batch = parts.schedule.at(0).to(execution.device)
        model = cast(PreTrainedModel, parts.objective.models()["main"].eval().bfloat16())
        with torch.no_grad():
            for parameter in model.parameters():  # the attention of fresh weights is nearly uniform
                parameter.mul_(5.0 if parameter.ndim == 2 else 1.0)
        inputs = {
            "packed": model_inputs(model.config, batch.ids, batch, by_document=False),
            "mask": model_inputs(model.config, batch.ids, batch, by_document=True),
            "kernel": encoder_inputs(model, batch.ids, batch, by_document=True),
        }
        exact = _states_and_gradients(copy.deepcopy(model).float(), inputs["mask"])
        errors: dict[str, list[float]] = {}
        for what, given in inputs.items():
            found = _states_and_gradients(model, given)
            errors[what] = [float((one - right).norm() / right.norm()) for one, right in zip(found, exact, strict=True)]
            trial.report({f"{architecture}_{what}": errors[what]})
        if not all(one <= 1.5 * other for one, other in zip(errors["kernel"], errors["mask"], strict=True)):
            wrong.append(architecture)
        if (inputs["kernel"]["attention_mask"].ndim == 1) != by_kernel:
            wrong.append(f"{architecture} (the kernel was {'not ' if by_kernel else ''}used)")
    trial.require(not wrong, f"documents apart are wrong in {', '.join(wrong)}")


def torchrun(trial: Trial) -> None:
    """One process under `torchrun` trains as the plain command does, bit for bit."""
    shards = tiny.make_shards(trial.folder / "shards")
    config = tiny.settings(shards, "mlm", execution__precision="auto")
    path = trial.folder / "config.yaml"
    path.write_text(config.model_dump_json())
    pretrain(config, trial.folder / "plain")
    launcher = ("torch.distributed.run", "--nproc-per-node", "1", "--master-port", "0", "-m", "--", "fast_electra")
    _program(*launcher, "pretrain", str(path), "--run", str(trial.folder / "launched"))
    apart = _apart(trial.folder / "plain", trial.folder / "launched")
    trial.report({"differs_by": apart})
    trial.require(apart == 0.0, f"weights differ by {apart:.2g}")


def fsdp(trial: Trial) -> None:
    """FSDP2 on one device gives the losses of one process without it, in float32."""
    torch.set_num_threads(1)
    config = tiny.settings(tiny.make_shards(trial.folder / "shards"), "mlm")
    execution = choose_execution(config.execution)
    backend = "nccl" if execution.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    try:
        plain, sharded = (_losses(config, execution, sharded=sharded) for sharded in (False, True))
    finally:
        dist.destroy_process_group()
    moved = max(abs(one - other) / one for one, other in zip(plain, sharded, strict=True))
    trial.report({"loss_moved": moved})
    trial.require(moved <= 1e-4, f"losses under FSDP2 differ by {moved:.2%}")


def train_until(config: Config, folder: Path, update: int) -> None:
    """Begin a run or continue it, and stop after an update; its checkpoint is written."""
    done = max((int(path.name) for path in folder.glob("checkpoints/*")), default=0)
    updates = iter(range(done + 1, update + 1))
    try:
        pretrain(config, folder, stop=lambda: next(updates) == update)
    except Interrupted:
        return
    raise Failed(f"{folder.name} did not stop after update {update}")


def seconds_of(function: Any, device: torch.device, calls: int = 20) -> float:
    """Mean seconds of a call, after three that are not timed."""
    for _ in range(3):
        function()
    synchronize(device)
    began = time.perf_counter()
    for _ in range(calls):
        function()
    synchronize(device)
    return (time.perf_counter() - began) / calls


def _golden_config(kind: str, precision: str, shards: Path, auxiliary: Path, device: str = "auto") -> Config:
    """A golden run's configuration; the auxiliary of one is the run of masked language modelling."""
    changes = {"objective__generator": golden.GENERATOR} if kind == "electra" else {}
    return tiny.settings(
        shards,
        kind,
        auxiliary if kind == "fast_electra" else None,
        training__updates=40,
        training__log_every=1,
        execution__precision=precision,
        execution__device=device,
        **changes,
    )


def _losses_in(run: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(run / "metrics.jsonl")]


def _states_and_gradients(model: PreTrainedModel, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The last hidden states, and the gradients of all weights by the sum of their sines, in float32."""
    model.zero_grad()
    states = cast(nn.Module, model.base_model)(**inputs).last_hidden_state.float()
    states.sin().sum().backward()
    gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    return states.detach(), torch.cat(gradients).float()


def _apart(first: Path, second: Path) -> float:
    """The largest difference between weights of two runs' newest checkpoints; 0.0 if they are equal bit for bit."""
    weights: list[dict[str, Tensor]] = []
    for run in (first, second):
        newest = max(int(path.name) for path in (run / "checkpoints").iterdir())
        weights.append(read_model(checkpoint_at(run / "checkpoints", newest), "main").state_dict())
    one, other = weights
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def _losses(config: Config, execution: Execution, sharded: bool) -> list[float]:
    """The losses of five updates."""
    apply_threads(execution)
    parts = assemble(config, execution)
    if sharded:
        parallel: Alone = Sharded(parts.objective, execution)
        optimizers = [GroupOptimizer(group) for group in parts.objective.parameter_groups()]
        state, plan = State(parts.objective, optimizers, parallel), plan_of(config, parts)
    else:
        state, plan = start(config, parts, execution)
    losses = []
    for update in range(5):
        state.sums = {}
        make_update(state, plan, parts.objective.prepare(parts.schedule.at(update), plan.seed), execution)
        losses.append(float(state.sums["loss"][0] / state.sums["loss"][1]))
    return losses


def _program(*words: str) -> None:
    """Run a Python module with arguments, with this folder's packages.

    Raises:
        Failed: it ended with an error; the message has its last line.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    run = partial(subprocess.run, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    done = run([sys.executable, "-m", *words], text=True, check=False)
    print(done.stdout, flush=True)
    if done.returncode:
        raise Failed(f"{words[0]} {words[1]}: {(done.stdout.strip().splitlines() or ['no output'])[-1][:300]}")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
