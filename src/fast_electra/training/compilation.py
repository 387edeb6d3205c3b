"""Compilation of the models by `torch.compile`: whether a run compiles, what, and where no compiler works.

Notable:
- compilation changes rounding alone, so `training.compile` may change between two commands of a run;
- `auto` compiles on a CUDA GPU, and only if a compiler works there: a small function is compiled before the run starts;
- layers are compiled, not whole models: equal layers share one graph, so more layers take no more time before the first
  update (docs/speed.md has the times);
- models are compiled after they were cast, and only the steps of training are: checks and validations before and
  between them have other shapes and types, each of which would take a compilation of its own.

CUDA graphs (`training.compile=graphs`): PyTorch records the kernels of a compiled model and replays them at once
(`torch.compile(mode="reduce-overhead")`). `parallel.Graphed` keeps gradients out of their memory.
"""

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from fast_electra import distributed
from fast_electra.config.tree import Config
from fast_electra.errors import ConfigError, ResourceError
from fast_electra.models.layers import layer_modules
from fast_electra.terminal import Say
from fast_electra.training.precision import Execution

Compilation = bool | Literal["graphs"]


class CompilationFailed(ResourceError):
    """PyTorch cannot compile a model of the run."""

    def __init__(self, reason: str):
        """Store the reason, a clause."""
        super().__init__(f"{reason}: the same command with training.compile=false continues without.")
        self.reason = reason


def choose_compilation(config: Config, execution: Execution, say: Say = lambda _: None) -> Compilation:
    """Whether the models are compiled, and whether they run as CUDA graphs.

    Args:
        config: `training.compile` is what the user asks for.
        execution: the device.
        say: called with a sentence if `auto` would compile and cannot, or if several processes leave graphs out.

    Raises:
        ConfigError: the configuration asks for what is not possible here.
    """
    asked, device = config.training.compile, execution.device.type
    if asked == "graphs" and device != "cuda":
        raise ConfigError(f"training.compile=graphs needs a CUDA GPU, and the device is {device}: set it to auto.")
    if asked is False or (asked == "auto" and device != "cuda"):
        return False
    if reason := missing_compiler(device):
        if asked != "auto":
            raise ConfigError(
                f"training.compile={str(asked).lower()}, but PyTorch cannot compile here ({reason}): install a C++ "
                "compiler, on a GPU also Triton, or set training.compile=false."
            )
        say(f"models are not compiled, because PyTorch cannot compile here ({reason}).")
        return False
    if asked == "graphs" and distributed.size() > 1:
        say("training.compile=graphs is for one process: with several, models are compiled without CUDA graphs.")
        return True
    return "graphs" if asked == "graphs" else True


@functools.cache
def missing_compiler(device: str) -> str | None:
    """Why PyTorch cannot compile for a kind of device here, in a few words; None if it can."""
    try:
        torch.compile(lambda values: values.sin() + 1)(torch.zeros(8, device=device))
    except Exception as error:  # of many classes: of PyTorch, Triton and the system
        return first_line(error)
    return None


def compile_models(models: Iterable[nn.Module], compilation: Compilation) -> None:
    """Let models be compiled at their next call, if they are to be: by layers, as CUDA graphs as a whole."""
    if not compilation:
        return
    import torch._dynamo.config as dynamo  # here, since it takes a second

    # PyTorch counts the graphs of all models and layers together, and runs what is beyond its limit of 8 as it is.
    dynamo.recompile_limit = max(dynamo.recompile_limit, 64)
    for model in models:
        if compilation == "graphs":
            model.compile(dynamic=False, mode="reduce-overhead")
            continue
        layers = layer_modules(cast(PreTrainedModel, model))
        # Checkpointed layers (`checkpoint_activations`) can only be compiled from outside.
        are_replaced = any("forward" in vars(layer) for layer in layers)
        for module in [model] if are_replaced or not layers else layers:
            module.compile(dynamic=False)


@contextmanager
def naming_failures() -> Iterator[None]:
    """Within the block, an error of PyTorch while it compiles becomes `CompilationFailed`."""
    try:
        yield
    except RuntimeError as error:
        from torch._dynamo.exc import TorchDynamoException  # here, since it takes a second

        if not isinstance(error, TorchDynamoException):
            raise
        raise CompilationFailed(f"PyTorch cannot compile a model of this run ({first_line(error)})") from None


def first_line(error: Exception) -> str:
    """The first line of an error's message that says something, shortened; without a message, its class."""
    lines = (" ".join(line.split()).rstrip(".:") for line in str(error).splitlines())
    return next((line[:200] for line in lines if line and not line.startswith("backend=")), type(error).__name__)
