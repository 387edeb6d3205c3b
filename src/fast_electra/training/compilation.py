"""Compilation of the models by `torch.compile`: whether a run compiles, what, and where no compiler works.

Notable:
- compilation changes rounding alone, so `training.compile` may change between two commands of a run;
- `auto` compiles on a CUDA GPU, and only if a compiler works there: a small function is compiled before the run starts;
- layers are compiled, not whole models: equal layers share one graph, so more layers take no more time before the first
  update (docs/speed.md has the times);
- models are compiled after they were cast, and only the steps of training are: checks and validations before and
  between them have other shapes and types, each of which would take a compilation of its own.

With `training.compile=graphs` whole updates are recorded as CUDA graphs too (graphs.py).
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
from fast_electra.errors import ConfigError, ResourceError, first_line
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
    """Whether the models are compiled, and whether updates are recorded as CUDA graphs.

    Args:
        config: `training.compile` is what the user asks for.
        execution: the device.
        say: called with a sentence if `auto` would compile and cannot, or if graphs cannot be recorded.

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
    if asked != "graphs":
        return True
    if reason := next(filter(None, map(_needs_the_host, config.each_phase)), None):
        say(f"training.compile=graphs: models are compiled, but no CUDA graph is recorded, because {reason}.")
        return True
    return "graphs"


def _needs_the_host(config: Config) -> str | None:
    """Why an update cannot be recorded as a CUDA graph, as a clause; None if it can."""
    corruption, objective = config.corruption, config.objective
    optimizers = [config.optimizer, objective.optimizer_of("generator", config.optimizer)]
    if distributed.size() > 1:
        return "several processes exchange gradients"
    parts = [("objective", objective), *(("optimizer", optimizer) for optimizer in optimizers)]
    parts += [("auxiliary", config.auxiliary)] if objective.uses_auxiliary else []
    if other := next((f"{name}.kind={part.kind}" for name, part in parts if not part.can_be_recorded()), None):
        return f"{other} may need the host"
    if config.training.activation_checkpointing:
        return "training.activation_checkpointing keeps the random state on the host"
    if not all(optimizer.bias_correction for optimizer in optimizers):
        return "optimizer.bias_correction=false changes AdamW's epsilon in every update"
    if not objective.uses_auxiliary:
        return None
    if corruption.sampler != "inverse_cdf":
        return f"corruption.sampler={corruption.sampler} reads the temperature on the host"
    if corruption.schedule.follows_run:
        return f"corruption.schedule.kind={corruption.schedule.kind} reads the metrics of every update"
    if corruption.augmentation.acts_inside:
        return f"corruption.augmentation.kind={corruption.augmentation.kind} changes a rate inside the auxiliary"
    return None


@functools.cache
def missing_compiler(device: str) -> str | None:
    """Why PyTorch cannot compile for a kind of device here, in a few words; None if it can."""
    try:
        torch.compile(lambda values: values.sin() + 1)(torch.zeros(8, device=device))
    except Exception as error:  # of many classes: of PyTorch, Triton and the system
        return first_line(error)
    return None


def compile_models(models: Iterable[nn.Module], compilation: Compilation) -> None:
    """Let the layers of models be compiled at their next call, if they are to be."""
    if not compilation:
        return
    import torch._dynamo.config as dynamo  # here, since it takes a second

    # PyTorch counts the graphs of all models and layers together, and runs what is beyond its limit of 8 as it is.
    dynamo.recompile_limit = max(dynamo.recompile_limit, 64)
    for model in models:
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
