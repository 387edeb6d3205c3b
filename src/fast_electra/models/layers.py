"""The layers of a model: found without a table of classes, cut to the first few, and with dropout for a difficulty.

Notable:
- a stack is an outermost `ModuleList` of modules of one class, as many as the configuration has layers. BERT, GPT-2 and
  Llama have one, T5 has one for the encoder and one for the decoder;
- dropout here does not depend on the configuration's dropout or on the model's mode: it is a difficulty of the
  replacements (corruption/augmentations.py), not a regulariser;
- the noise is drawn from PyTorch's generator, which the training loop seeds by (seed, update).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel

from fast_electra.errors import ModelError
from fast_electra.models.attention import attention_dropping
from fast_electra.models.shapes import is_list_of_layers

_COUNTS = ("num_hidden_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")


def layer_stacks(model: PreTrainedModel) -> list[nn.ModuleList]:
    """The layers of the encoder, and those of the decoder if there is one; empty if layers share weights (ALBERT)."""
    sizes = {getattr(model.config, name, None) for name in _COUNTS}
    found: dict[str, nn.ModuleList] = {}
    for name, module in cast(nn.Module, model.base_model).named_modules():
        if any(name.startswith(f"{outer}.") for outer in found) or not isinstance(module, nn.ModuleList):
            continue
        if len(module) in sizes and len({type(layer) for layer in module}) == 1:
            found[name] = module
    return list(found.values())


def layer_modules(model: PreTrainedModel) -> list[nn.Module]:
    """The modules that a forward pass calls as layers, in order; shared ones (ALBERT) are called repeatedly.

    They are the first stack, or without a stack the members of the outermost `ModuleList`s.
    """
    if stacks := layer_stacks(model):
        return list(stacks[0])
    lists = {n: m for n, m in cast(nn.Module, model.base_model).named_modules() if isinstance(m, nn.ModuleList)}
    inner = {name for name in lists if any(name.startswith(f"{outer}.") for outer in lists)}
    return [layer for name, stack in lists.items() if name not in inner for layer in stack]


def truncate(model: PreTrainedModel, layers: int) -> None:
    """Keep the first `layers` layers of each stack, in place. The head and a norm after the last layer stay.

    Raises:
        ModelError: the model has fewer layers, or no stack is found.
    """
    stacks = layer_stacks(model)
    if not stacks:
        raise ModelError(
            f"auxiliary.layers={layers}: no layers can be removed from this {model.config.model_type}; leave it out."
        )
    fewest = min(len(stack) for stack in stacks)
    if layers > fewest:
        raise ModelError(f"auxiliary.layers={layers}, but the auxiliary has {fewest}: give {fewest} or less.")
    for stack in stacks:
        del stack[layers:]
    keep_layers(model.config, layers)


def keep_layers(config: PreTrainedConfig, layers: int) -> None:
    """Set the number of layers in a configuration, and shorten its per-layer lists to it."""
    counts = {getattr(config, name, None) for name in _COUNTS} - {None}
    for name, value in list(vars(config).items()):
        if is_list_of_layers(name, value, counts):
            setattr(config, name, value[:layers])
    for name in _COUNTS:
        if getattr(config, name, None) is not None:
            setattr(config, name, layers)


@contextmanager
def dropping(model: PreTrainedModel, dropout: float, attention: float) -> Iterator[None]:
    """Within the block, the model's forward pass drops hidden states and attention weights; with rates of 0 nothing.

    Args:
        model: in any mode.
        dropout: rate on the input of the first layer (the embeddings) and the output of every layer.
        attention: share of attention weights that is dropped, in classes that use our attention.
    """

    def before(_module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if arguments:
            return (drop(arguments[0]), *arguments[1:]), named
        return arguments, named | {"hidden_states": drop(named["hidden_states"])}

    def after(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        return drop(output) if isinstance(output, Tensor) else (drop(output[0]), *output[1:])

    def drop(hidden_BSd: Tensor) -> Tensor:
        return nn.functional.dropout(hidden_BSd, dropout)

    hooks = []
    if dropout:
        for stack in layer_stacks(model):
            hooks.append(stack[0].register_forward_pre_hook(before, with_kwargs=True))
            hooks += [layer.register_forward_hook(after) for layer in stack]
    try:
        with attention_dropping(attention):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def cast_weights(model: nn.Module, dtype: Any) -> None:
    """Cast parameters in place, but not buffers: rotary frequencies in bfloat16 give wrong angles at far positions."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Let each layer keep only its input for the backward pass, which computes the layer again; in place.

    The results are the same, with dropout too: the second time starts from the random state of the first. Hooks of the
    layer, FSDP2's among them, are outside and run once. It works for every class whose layers `layer_modules` finds,
    while Transformers' own switch is missing in some, such as MPNet.
    """
    for layer in {id(layer): layer for layer in layer_modules(model)}.values():
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


@contextmanager
def weights_in(models: Iterable[nn.Module], dtype: torch.dtype) -> Iterator[None]:
    """Within the block, parameters have another type; afterwards they are what they were before, bit for bit."""
    parameters = {id(p): p for model in models for p in model.parameters() if p.dtype != dtype}.values()
    before = [parameter.data.cpu() for parameter in parameters]  # memory of the device is what the block measures
    try:
        for parameter in parameters:
            parameter.data = parameter.data.to(dtype)
        yield
    finally:
        for parameter, weights in zip(parameters, before, strict=True):
            parameter.data = weights.to(parameter.device)
